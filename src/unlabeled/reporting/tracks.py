"""Videos with masks: the first mask of each, propagated to later frames by the encoder's features."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.video.films import VOID, Film, films
from unlabeled.evaluation.tracking import carry
from unlabeled.parts.augment import to_float
from unlabeled.reporting import pictures
from unlabeled.reporting.entry import Entry

__all__ = ["Track", "painted", "tracks"]

FILMS, COLUMNS, HIGHEST = 3, 8, 120
OPACITY = 0.6
COLOURS = ((230, 40, 40), (40, 110, 240), (30, 170, 80), (240, 170, 20), (160, 60, 200), (20, 180, 190))


class Track(NamedTuple):
    """Frames of one film, evenly from the whole of it, with masks as they were propagated and as they truly are."""

    film: str
    frames: list[int]
    propagated: Tensor
    true: Tensor


def tracks(entries: Sequence[Entry], device: str) -> list[tuple[str, list[Track]]]:
    """Tracks in the first films by each run, with its label; none where masks are not known."""
    usable = [e for e in entries if hasattr(getattr(e.run.encoder, "frame", e.run.encoder), "maps")]
    by_run = [(entry.label, [_track(entry, film) for film in _films(entry, device)]) for entry in usable]
    return [(label, tracks) for label, tracks in by_run if tracks]


def _films(entry: Entry, device: str) -> Iterator[Film]:
    """The first films of the data, none where their masks are not known."""
    if getattr(entry.data, "kind", None) != "video":
        return
    try:
        first = list(islice(films(entry.data), FILMS))
    except ValueError:
        return
    for film in first:
        yield Film(film.name, film.frames.to(device), film.masks.to(device))


def _track(entry: Entry, film: Film) -> Track:
    network = entry.run.encoder
    home = next(network.parameters()).device
    masks = carry(network.to(film.frames.device), film, layer=getattr(entry.method, "layer", None))
    network.to(home)
    rows = torch.linspace(0, len(film.frames) - 1, min(COLUMNS, len(film.frames))).round().long()

    def images(masks: Tensor) -> Tensor:
        objects = masks[rows].where(masks[rows] != VOID, 0)
        frames = painted(film.frames[rows], objects).cpu()
        return pictures.thumbnails(frames, 2 * FILMS * COLUMNS, largest=HIGHEST)

    return Track(film.name, rows.tolist(), images(masks), images(film.masks))


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
