"""The section of videos with masks: the first mask of each, carried to later frames by the encoder's features."""

from collections.abc import Sequence
from html import escape
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.video.films import VOID, Film, films
from unlabeled.evaluation.tracking import carry
from unlabeled.parts.augment import to_float
from unlabeled.reporting import pictures
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.sections import strip

__all__ = ["tracks"]

FILMS, COLUMNS, HIGHEST = 3, 8, 120
OPACITY = 0.6
COLORS = ((230, 40, 40), (40, 110, 240), (30, 170, 80), (240, 170, 20), (160, 60, 200), (20, 180, 190))


def tracks(entries: Sequence[Entry], device: str) -> tuple[str, str]:
    """Masks of the first frames and where each run's features find them again; nothing where no masks are known."""
    blocks = []
    for entry in entries:
        encoder = entry.run.encoder
        if not hasattr(getattr(encoder, "frame", encoder), "maps"):
            continue
        rows = "".join(_film(entry, film) for film in _films(entry, device))
        heading = f"<h3>{escape(entry.label)}</h3>" if len(entries) > 1 else ""
        blocks += [f'<div class="run">{heading}{rows}</div>'] if rows else []
    sentence = (
        "The first frame's mask is given, and carried to later frames by likeness of features alone: above what "
        "the features find, below the truth. Colours should stay on their things, even where these cross or turn."
    )
    return sentence, "".join(blocks)


def _films(entry: Entry, device: str) -> list[Film]:
    """The first films of the data that is shown, none where their masks are not known."""
    if getattr(entry.data, "kind", None) != "video":
        return []
    try:
        found = list(islice(films(entry.data), FILMS))
    except ValueError:
        return []
    return [Film(film.name, film.frames.to(device), film.masks.to(device)) for film in found]


def _film(entry: Entry, film: Film) -> str:
    """Two rows of frames, evenly from the whole film."""
    network = entry.run.encoder
    home = next(network.parameters()).device
    found = carry(network.to(film.frames.device), film, layer=getattr(entry.method, "layer", None))
    network.to(home)
    shown = torch.linspace(0, len(film.frames) - 1, min(COLUMNS, len(film.frames))).round().long()
    strips = []
    for name, masks in (("carried", found), ("true", film.masks)):
        things = masks[shown].where(masks[shown] != VOID, 0)
        images = painted(film.frames[shown], things).cpu()
        small = pictures.thumbnails(images, 2 * FILMS * COLUMNS, largest=HIGHEST)
        tiles = [
            pictures.image(picture, f"{film.name}, frame {number}, mask {name}")
            for picture, number in zip(small, shown.tolist(), strict=True)
        ]
        strips.append(strip(f"{film.name}: {name}" if name == "carried" else name, tiles))
    return "".join(strips)


def painted(frames: Tensor, masks: Tensor) -> Tensor:
    """Frames in grey with each thing in a colour of its own.

    Args:
        frames: uint8, shape (frames, channels, height, width), 1 or 3 channels.
        masks: Number of the thing at each pixel, 0 for none, uint8, shape (frames, height, width).

    Returns:
        Float, shape (frames, 3, height, width), in 0..1.
    """
    palette = torch.tensor([(0, 0, 0), *COLORS], device=masks.device) / 255
    number = torch.where(masks > 0, (masks.long() - 1) % len(COLORS) + 1, 0)
    colors = F.embedding(number, palette).permute(0, 3, 1, 2)
    grey = to_float(frames).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return torch.lerp(grey, colors, OPACITY * (masks > 0)[:, None])
