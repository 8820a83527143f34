"""The section of videos with masks: the first mask of each, carried to later frames by the encoder's features."""

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.video.films import VOID, Film, films
from unlabeled.evaluation.tracking import carry
from unlabeled.parts.augment import to_float
from unlabeled.reporting import pictures
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.strips import COLUMNS, Gallery, Strip

__all__ = ["galleries", "painted"]

FILMS, HIGHEST = 3, 120
OPACITY = 0.6
COLOURS = ((230, 40, 40), (40, 110, 240), (30, 170, 80), (240, 170, 20), (160, 60, 200), (20, 180, 190))


def galleries(entries: Sequence[Entry], device: str) -> list[Gallery]:
    """Masks of the first frames and where each run's features find them again; nothing where no masks are known."""
    result = []
    for entry in entries:
        encoder = entry.run.encoder
        if hasattr(getattr(encoder, "frame", encoder), "maps"):
            strips = [strip for film in _films(entry, device) for strip in _strips(entry, film)]
            result += [Gallery(entry.label, strips)] if strips else []
    return result


def _films(entry: Entry, device: str) -> list[Film]:
    """The first films of the data, none where their masks are not known."""
    if getattr(entry.data, "kind", None) != "video":
        return []
    try:
        first = list(islice(films(entry.data), FILMS))
    except ValueError:
        return []
    return [Film(film.name, film.frames.to(device), film.masks.to(device)) for film in first]


def _strips(entry: Entry, film: Film) -> list[Strip]:
    """Two rows of frames, evenly from the whole film: masks as they were carried and as they truly are."""
    network = entry.run.encoder
    home = next(network.parameters()).device
    propagated = carry(network.to(film.frames.device), film, layer=getattr(entry.method, "layer", None))
    network.to(home)
    rows = torch.linspace(0, len(film.frames) - 1, min(COLUMNS, len(film.frames))).round().long()
    strips = []
    for name, masks in (("propagated", propagated), ("true", film.masks)):
        objects = masks[rows].where(masks[rows] != VOID, 0)
        images = painted(film.frames[rows], objects).cpu()
        small = pictures.thumbnails(images, 2 * FILMS * COLUMNS, largest=HIGHEST)
        tiles = [
            pictures.image(picture, f"{film.name}, frame {number}, mask {name}")
            for picture, number in zip(small, rows.tolist(), strict=True)
        ]
        strips.append(Strip(f"{film.name}: {name}" if name == "propagated" else name, tiles))
    return strips


def painted(frames: Tensor, masks: Tensor) -> Tensor:
    """Frames in grey with each object in a colour of its own.

    Args:
        frames: uint8, shape (frames, channels, height, width), 1 or 3 channels.
        masks: Number of the object at each pixel, 0 for none, uint8, shape (frames, height, width).

    Returns:
        Float, shape (frames, 3, height, width), in 0..1.
    """
    palette = torch.tensor([(0, 0, 0), *COLOURS], device=masks.device) / 255
    number = torch.where(masks > 0, (masks.long() - 1) % len(COLOURS) + 1, 0)
    colours = F.embedding(number, palette).permute(0, 3, 1, 2)
    grey = to_float(frames).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return torch.lerp(grey, colours, OPACITY * (masks > 0)[:, None])
