"""What the sections of the page show of each run: curves, predictions, neighbours, filters and maps."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from markupsafe import Markup
from torch import Tensor

from unlabeled.evaluation import geometry
from unlabeled.method import Pictures, Waveforms
from unlabeled.reporting import charts, pictures, sounds
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.samples import Samples

__all__ = [
    "Gallery",
    "Neighbours",
    "first_layers",
    "loss_chart",
    "maps",
    "metric_title",
    "neighbours",
    "predictions",
    "pretext",
    "series",
]

COLUMNS, TEXTS = 8, 3
NEIGHBOURS, TEXT_NEIGHBOURS = 7, 4
ROWS, TEXT_QUERIES = 12, 3
"""Rows of neighbours in all where they are pictures, and queries where they are texts."""
WIDE, STRIP = 1.5, 4.0
"""Pictures wider than these times their height get more room; the latter are strips, such as the frames of a video."""


def series(entries: Sequence[Entry], *keys: str) -> list[charts.Line]:
    """A line for each run: what it logged by epoch under some nested keys.

    Epochs whose log lacks the first of them leave no gap, as some numbers are not measured after each epoch.
    """

    def value(line: dict[str, Any]) -> Any:
        for key in keys:
            line = line.get(key, {})
        return line

    lines: list[charts.Line] = []
    for entry in entries:
        logged = [
            (epoch, value(line))
            for epoch, line in zip(entry.epochs, entry.history, strict=True)
            if keys[0] in line
        ]
        epochs, values = [epoch for epoch, _ in logged], [one for _, one in logged]
        lines.append(charts.Line(entry.label, entry.style, epochs, values))
    return lines


def metric_title(name: str) -> str:
    """The title of a chart, such as "PSNR (dB)" for psnr_db."""
    title = name.removesuffix("_db").replace("_", " ").capitalize().replace("Psnr", "PSNR")
    return f"{title} (dB)" if name.endswith("_db") else title


def loss_chart(entries: Sequence[Entry]) -> Markup:
    """The loss, its chance level, once where runs agree, and the loss on held-out samples."""
    chances = {
        str(line.y): replace(line, name=f"chance, {line.name}", style="chance", dashed=True)
        for line in series(entries, "chance")
        if _visible(line)
    }
    held_out = [
        charts.Line(f"held out, {entry.label}", entry.style, *entry.holdout, dotted=True) for entry in entries
    ]
    held_out = list(filter(_visible, held_out))
    marks = {"dashed: chance": chances, "dotted: held out": held_out}
    hint = ", ".join(mark for mark, lines in marks.items() if lines)
    return charts.lines("Loss", [*chances.values(), *series(entries, "loss"), *held_out], hint=hint)


def _visible(line: charts.Line) -> bool:
    return any(map(charts.finite, line.y))


class Gallery(NamedTuple):
    """What a method withheld and predicted: pictures, sounds and texts by name, `columns` samples of each."""

    label: str
    columns: int
    images: dict[str, Tensor]
    sounds: dict[str, list[Markup]]
    texts: dict[str, list[str]]

    @property
    def first_texts(self) -> list[list[tuple[str, str]]]:
        """The texts of the first few samples, each with its name."""
        columns = [[(name, text) for text in texts] for name, texts in self.texts.items()]
        return [list(sample) for sample in zip(*columns)][:TEXTS]


@torch.no_grad()
def pretext(entries: Sequence[Entry], device: str) -> list[Gallery]:
    """Predictions of each run whose method and data are at hand, on the same samples every time."""
    usable = [entry for entry in entries if entry.method is not None and entry.data is not None]
    predictions = [_predictions(entry, device) for entry in usable]
    total = sum(
        _layout(rows)[0] * sum(isinstance(row, Tensor) for row in rows.values()) for rows in predictions
    )
    galleries = []
    for entry, rows in zip(usable, predictions, strict=True):
        columns, side = _layout(rows)
        images = {
            name: pictures.thumbnails(row[:columns].float().cpu(), total, budget=330_000, largest=side)
            for name, row in rows.items()
            if isinstance(row, Tensor)
        }
        players = {
            name: _players(name, row)[:columns] for name, row in rows.items() if isinstance(row, Waveforms)
        }
        texts = {name: row[:columns] for name, row in rows.items() if isinstance(row, list)}
        galleries.append(Gallery(entry.label, columns, images, players, texts))
    return [gallery for gallery in galleries if any(gallery[2:])]


def _players(name: str, row: Waveforms) -> list[Markup]:
    """A player for each sound."""
    return [
        sounds.player(waveform[:length], row.sample_rate, f"{name}, sample {number}")
        for number, (waveform, length) in enumerate(zip(row.waveform, row.length.tolist(), strict=True), 1)
    ]


def _predictions(entry: Entry, device: str) -> Pictures:
    """The method's pictures; neither it nor torch's generator is changed."""
    trains = entry.method.training
    entry.method.to(device).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = entry.method.training_view(entry.data).sample(COLUMNS, seed=0)
        rows = entry.method.pictures({name: value.to(device) for name, value in batch.items()})
    entry.method.train(trains)
    return rows


def _layout(rows: Pictures) -> tuple[int, int]:
    """How many samples stand in a row, and the longest side of their pictures in pixels: strips need most room.

    A player has no room for its button in the narrowest column.
    """
    sizes = [row.shape[-2:] for row in rows.values() if isinstance(row, Tensor)]
    widest = max((width / height for height, width in sizes), default=1.0)
    if widest > STRIP:
        return 2, 480
    plays = any(isinstance(row, Waveforms) for row in rows.values())
    if plays or widest > WIDE or any(max(size) > 96 for size in sizes):
        return 4, 240
    return COLUMNS, 96


class Neighbours(NamedTuple):
    """Nearest neighbours of a few samples of one data set.

    Attributes:
        samples: The samples among which neighbours were sought.
        images: A picture of each; empty for texts.
        queries: Rows of the samples that are shown.
        rows: Neighbours of every sample, int64, shape (samples, count), by each run's features and by the raw input.
    """

    samples: Samples
    images: Tensor
    queries: list[int]
    rows: list[tuple[str, Tensor]]

    @property
    def agreement(self) -> list[tuple[str, float]]:
        """Fraction of neighbours with the label of their query, and of pairs by chance; empty without labels."""
        if self.samples.labels is None:
            return []
        frequencies = self.samples.labels[self.samples.labels >= 0].bincount().float()
        chance = (frequencies / frequencies.sum()).square().sum().item()
        rows = [(name, geometry.agreement(self.samples.labels, neighbours)) for name, neighbours in self.rows]
        return [*rows, ("chance", chance)]

    def tile(self, query: int, row: int) -> Markup:
        """A sample as picture or text, marked by whether its label is that of the query."""
        labels, style = self.samples.labels, ""
        if row != query and labels is not None and min(labels[query], labels[row]) >= 0:
            style = "right" if labels[query] == labels[row] else "wrong"
        description = "query" if row == query else f"neighbour {style}".strip()
        if len(self.images):
            return pictures.image(self.images[row], description, style)
        text = self.samples.captions[row] if self.samples.captions else str(row)
        return Markup('<span class="text {}">{}</span>').format(style or description, text)


def neighbours(entries: Sequence[Entry]) -> list[Neighbours]:
    """Neighbours in each data set."""
    groups: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.samples is not None and len(entry.features) > 2:
            groups.setdefault(id(entry.samples), []).append(entry)
    return [_neighbours(group, len(entries) > 1) for group in groups.values()]


def _neighbours(group: Sequence[Entry], several: bool) -> Neighbours:
    first, size = group[0], len(group[0].features)
    assert first.samples is not None
    as_text = not len(first.images)
    count = min(TEXT_NEIGHBOURS if as_text else NEIGHBOURS, size - 1)
    features = [(entry.label if several else "features", entry.features) for entry in group]
    rows = [(name, geometry.nearest(values, count)) for name, values in [*features, ("raw input", first.raw)]]
    query_count = TEXT_QUERIES if as_text else max(3, ROWS // len(rows))
    queries = geometry.queries(first.samples.labels, size, query_count)
    images = first.images
    if not as_text:
        images = pictures.thumbnails(images, len(queries) * len(rows) * (count + 1))
    return Neighbours(first.samples, images, queries, rows)


def predictions(entries: Sequence[Entry]) -> list[tuple[str, str, Tensor]]:
    """Pictures of what tasks predicted: label of the run, task, and float, shape (3, height, width), in 0..1."""
    return [
        (entry.label, task, pictures.decode(content))
        for entry in entries
        for task, content in entry.run.predictions.items()
    ]


def first_layers(entries: Sequence[Entry]) -> list[tuple[str, Markup]]:
    """First-layer filters of each run whose first layer sees pixels, with a caption."""
    panels = []
    for entry in entries:
        weights = pictures.filters(entry.run.encoder)
        if weights is not None:
            count, (height, width) = len(weights), weights.shape[-2:]
            sheet = pictures.tile(weights, max(math.ceil(math.sqrt(count)), min(8, count)), gap=2, cell=32)
            caption = entry.label if len(entries) > 1 else f"{count} filters of {height} × {width} pixels"
            panels.append((caption, pictures.image(sheet, "first-layer filters", "pixels")))
    return panels


def maps(entries: Sequence[Entry]) -> list[tuple[str, Markup | None, str]]:
    """A map for each run and one for the raw input of each data set: caption, map or None, and how it was made."""
    usable = [entry for entry in entries if entry.samples is not None and len(entry.features) > 2]
    first: dict[int, Entry] = {}
    for entry in usable:
        first.setdefault(id(entry.samples), entry)
    spaces = [(entry, entry.label if len(entries) > 1 else "features", entry.features) for entry in usable]
    spaces += [(entry, "raw input", entry.raw) for entry in first.values()]
    panels = []
    for entry, caption, features in spaces:
        points, method = geometry.flat(features) or (None, "")
        panels.append((caption, None if points is None else _map(entry, points), method))
    return panels


def _map(entry: Entry, points: Tensor) -> Markup:
    """Dots by label where labels are known, pictures where not, else plain dots."""
    assert entry.samples is not None
    labels = entry.samples.labels
    if labels is not None:
        rows = labels >= 0
        return charts.scatter(points[rows].tolist(), labels[rows].tolist(), entry.samples.classes)
    if len(entry.images):
        return pictures.image(pictures.mosaic(entry.images, points), "map of the images")
    return charts.scatter(points.tolist(), [0] * len(points), [entry.samples.unit])
