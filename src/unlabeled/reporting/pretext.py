"""What each method withheld and what it predicted, as pictures and texts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled.method import Pictures
from unlabeled.reporting import pictures
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.strips import COLUMNS, Gallery, Strip, text_tile

__all__ = ["galleries"]

TEXTS = 3
"""Samples of which texts are shown."""
WIDE, STRIP = 1.5, 4.0
"""Pictures wider than these times their height get more room; the latter are strips, such as the frames of a video."""


@torch.no_grad()
def galleries(entries: Sequence[Entry], device: str) -> list[Gallery]:
    """What each run whose method and data are at hand withheld and predicted of a few samples."""
    usable = [entry for entry in entries if entry.method is not None and entry.data is not None]
    predictions = [_predictions(entry, device) for entry in usable]
    images = [(rows, row) for rows in predictions for row in rows.values() if isinstance(row, Tensor)]
    total = sum(_layout(rows)[0] for rows, _ in images)
    shown = [_gallery(entry.label, rows, total) for entry, rows in zip(usable, predictions, strict=True)]
    return [gallery for gallery in shown if gallery.strips or gallery.texts]


def _predictions(entry: Entry, device: str) -> Pictures:
    """The method's pictures of the same samples every time; neither it nor torch's generator is changed."""
    trains = entry.method.training
    entry.method.to(device).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = entry.method.training_view(entry.data).sample(COLUMNS, seed=0)
        rows = entry.method.pictures({name: value.to(device) for name, value in batch.items()})
    entry.method.train(trains)
    return rows


def _gallery(label: str, rows: Pictures, total: int) -> Gallery:
    """Strips of pictures with words about them beneath; texts by sample where there are no pictures."""
    columns, side = _layout(rows)
    images = {name: row for name, row in rows.items() if isinstance(row, Tensor)}
    texts = {name: row for name, row in rows.items() if not isinstance(row, Tensor)}
    if not images:
        count = min(TEXTS, *map(len, texts.values())) if texts else 0
        return Gallery(
            label, texts=[[(name, row[sample]) for name, row in texts.items()] for sample in range(count)]
        )
    gallery = Gallery(label)
    for name, row in images.items():
        small = pictures.thumbnails(row[:columns].float().cpu(), total, budget=330_000, largest=side)
        tiles = [pictures.image(image, f"{name}, sample {number}") for number, image in enumerate(small, 1)]
        gallery.strips.append(Strip(name, tiles, columns))
    for name, row in texts.items():
        gallery.strips.append(Strip(name, [text_tile(text) for text in row[:columns]], columns))
    return gallery


def _layout(rows: Pictures) -> tuple[int, int]:
    """How many samples stand in a row, and the longest side of their pictures in pixels: strips need most room."""
    sizes = [row.shape[-2:] for row in rows.values() if isinstance(row, Tensor)]
    widest = max((width / height for height, width in sizes), default=1.0)
    if widest > STRIP:
        return 2, 480
    if widest > WIDE or any(max(size) > 96 for size in sizes):
        return 4, 240
    return COLUMNS, 96
