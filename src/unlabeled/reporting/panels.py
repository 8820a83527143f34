"""Panels of each run side by side: first-layer filters, and maps of the features."""

import math
from collections.abc import Sequence

from markupsafe import Markup
from torch import Tensor

from unlabeled.reporting import charts, embedding, pictures
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.strips import Panel

__all__ = ["filters", "maps"]


def filters(entries: Sequence[Entry]) -> list[Panel]:
    """First-layer filters of each run whose first layer sees pixels."""
    panels = []
    for entry in entries:
        weights = pictures.filters(entry.run.encoder)
        if weights is None:
            continue
        count, (height, width) = len(weights), weights.shape[-2:]
        columns = max(math.ceil(math.sqrt(count)), min(8, count))
        sheet = pictures.tile(weights, columns, gap=2, cell=32)
        caption = entry.label if len(entries) > 1 else f"{count} filters of {height} × {width} pixels"
        panels.append(Panel(caption, pictures.image(sheet, "first-layer filters", "pixels")))
    return panels


def maps(entries: Sequence[Entry]) -> tuple[list[Panel], list[str]]:
    """A map for each run and one for the raw input of each data set, and the names of the ways they were made."""
    usable = [entry for entry in entries if entry.samples is not None and len(entry.features) > 2]
    first_of: dict[int, Entry] = {}
    for entry in usable:
        first_of.setdefault(id(entry.samples), entry)
    layers = [(entry, entry.label if len(entries) > 1 else "features", entry.features) for entry in usable]
    layers += [(entry, "raw input", entry.raw) for entry in first_of.values()]
    panels, ways = [], []
    for entry, caption, features in layers:
        plane = embedding.flat(features)
        panels.append(Panel(caption, None if plane is None else _map(entry, plane[0])))
        ways += [] if plane is None else [plane[1]]
    return panels, list(dict.fromkeys(ways))


def _map(entry: Entry, points: Tensor) -> Markup:
    """Dots by label where labels are known, pictures where not, else plain dots."""
    assert entry.samples is not None
    labels, classes = entry.samples.labels, entry.samples.classes
    if labels is not None:
        rows = labels >= 0
        return charts.scatter(points[rows].tolist(), labels[rows].tolist(), classes)
    if len(entry.images):
        return pictures.image(pictures.mosaic(entry.images, points), "map of the images")
    return charts.scatter(points.tolist(), [0] * len(points), [entry.samples.unit])
