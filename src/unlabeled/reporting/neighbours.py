"""Nearest neighbours of a few samples, by each run's features and by the raw input."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from torch import Tensor

from unlabeled.reporting import embedding, pictures
from unlabeled.reporting.entry import Entry
from unlabeled.reporting.samples import Samples
from unlabeled.reporting.strips import Strip, text_tile

__all__ = ["Neighbours", "groups"]

NEIGHBOURS, TEXT_NEIGHBOURS = 7, 4
ROWS, TEXT_QUERIES = 12, 3
"""Strips of pictures in all, and queries of texts."""


@dataclass
class Neighbours:
    """The queries of one sample of data: of each, a strip by the features of each run and one by the raw input.

    Attributes:
        queries: Strips of each query.
        size: Samples among which neighbours were sought.
        unit: What they are.
        agreement: Fraction of neighbours with the label of their query, for each strip and by chance, with its name;
            empty where labels are not known.
    """

    queries: list[list[Strip]]
    size: int
    unit: str
    agreement: list[tuple[str, float]]


def groups(entries: Sequence[Entry]) -> list[Neighbours]:
    """Neighbours of a few samples of each data set."""
    by_sample: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.samples is not None and len(entry.features) > 2:
            by_sample.setdefault(id(entry.samples), []).append(entry)
    return [_neighbours(group, len(entries) > 1) for group in by_sample.values()]


def _neighbours(group: Sequence[Entry], several: bool) -> Neighbours:
    samples, images, size = group[0].samples, group[0].images, len(group[0].features)
    assert samples is not None
    as_text = not len(images)
    count = min(TEXT_NEIGHBOURS if as_text else NEIGHBOURS, size - 1)
    spaces = [(entry.label if several else "features", entry.features) for entry in group]
    spaces.append(("raw input", group[0].raw))
    rows = [(name, embedding.nearest(features, count)) for name, features in spaces]
    queries = embedding.queries(samples.labels, size, TEXT_QUERIES if as_text else max(3, ROWS // len(rows)))
    if not as_text:
        images = pictures.thumbnails(images, len(queries) * len(rows) * (count + 1))
    strips = [
        [
            Strip(name, [_tile(samples, images, query, row) for row in [query, *nearest[query].tolist()]])
            for name, nearest in rows
        ]
        for query in queries
    ]
    return Neighbours(strips, size, samples.unit, _agreement(samples.labels, rows))


def _tile(samples: Samples, images: Tensor, query: int, row: int) -> Markup:
    """A sample as picture or text, framed by whether its label is that of the query."""
    labels, style = samples.labels, ""
    if row != query and labels is not None and labels[query] >= 0 and labels[row] >= 0:
        style = "right" if labels[query] == labels[row] else "wrong"
    description = "query" if row == query else f"neighbour {style}".strip()
    if len(images):
        return pictures.image(images[row], description, style)
    text = samples.captions[row] if samples.captions else str(row)
    return text_tile(text, f"text {style or description}")


def _agreement(labels: Tensor | None, rows: Sequence[tuple[str, Tensor]]) -> list[tuple[str, float]]:
    if labels is None:
        return []
    frequencies = labels[labels >= 0].bincount() / (labels >= 0).sum()
    fractions = [(name, embedding.agreement(labels, nearest)) for name, nearest in rows]
    return [*fractions, ("chance", frequencies.square().sum().item())]
