"""What does not belong in a balanced sample, or may not: copies of other samples, and samples far from all others."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.auditing import audit
from unlabeled.data import Data
from unlabeled.parts import approximate

__all__ = ["Copies", "copies", "fence", "isolation"]

NEIGHBOURS = 5
"""Neighbours whose mean distance says how isolated a sample is."""
FENCE = 3.0
"""Interquartile ranges above the upper quartile beyond which a value is far out (Tukey, 1977)."""
ENTRIES = 2**24
"""Most cosines in memory at once."""


class Copies(NamedTuple):
    """Samples of which an earlier one has the content.

    Attributes:
        of: Row of the first sample of the same content, its own where it is the first, int64, shape (samples,).
        reasons: Why a sample is a copy, by its row.
        threshold: Lowest score of near-duplicates; None where they were not sought.
    """

    of: Tensor
    reasons: dict[int, str]
    threshold: float | None


def copies(
    data: Data, *, near: bool = True, seed: int = 0, progress: Callable[[str], None] | None = None
) -> Copies:
    """Find equal samples and near-duplicates, as an audit of the data does; copies of copies are copies too.

    Args:
        data: The samples.
        near: Whether to look for near-duplicates of images and texts too.
        seed: As in `audit`.
        progress: As in `audit`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    findings = audit(data, kind=data.kind, near=near, seed=seed, progress=progress)
    equal = [(group[0], row) for group in findings.groups for row in group[1:]]
    similar = [(pair.first, pair.second) for pair in findings.near or []]
    edges = torch.tensor(equal + similar, dtype=torch.int64).view(-1, 2)
    graph = coo_matrix((torch.ones(len(edges)), (edges[:, 0], edges[:, 1])), (len(data), len(data)))
    _, numbers = connected_components(graph, directed=False)
    component = torch.from_numpy(numbers).long()
    rows = torch.arange(len(data))
    first = torch.full((int(component.max()) + 1,), len(data)).scatter_reduce(0, component, rows, "amin")
    of = first[component]
    original = {row: group for group, row in equal}
    scores = {frozenset((pair.first, pair.second)): pair for pair in findings.near or []}
    reasons = {}
    for row in (of != rows).nonzero().flatten().tolist():
        source = int(of[row])
        path = data.paths[source]
        if original.get(row) == source:
            reasons[row] = f"equal to {path}"
        elif pair := scores.get(frozenset((row, source))):
            mirrored = ", mirrored" if pair.mirrored else ""
            reasons[row] = f"near-duplicate of {path} ({pair.score:.3f}{mirrored})"
        else:  # through another copy
            reasons[row] = f"near-duplicate of a copy of {path}"
    return Copies(of, reasons, findings.thresholds.get(data.kind) if near else None)


def isolation(points: Tensor, neighbours: int = NEIGHBOURS, *, seed: int = 0) -> Tensor:
    """Mean distance of each sample to its nearest others, one minus the cosine.

    The search is approximate from a million samples on, where faiss is installed.

    Args:
        points: Float, of length 1, shape (samples, dim).
        neighbours: How many others; all where there are fewer.
        seed: Seed of the samples on which the recall of an approximate search is measured.

    Returns:
        Float, shape (samples,), in 0..2.
    """
    count = min(neighbours, len(points) - 1)
    if count < 1:
        return torch.zeros(len(points))
    if approximate.applies(len(points), "neighbours"):
        return 1 - approximate.nearest_others(points, count, seed=seed).cosines.mean(1).clamp(max=1)
    means = []
    for start, block in zip(
        range(0, len(points), size := max(1, ENTRIES // len(points))), points.split(size)
    ):
        cosines = block @ points.T
        cosines.diagonal(start).fill_(-torch.inf)
        means.append(1 - cosines.topk(count).values.mean(1))
    return torch.cat(means).clamp(min=0)


def fence(values: Tensor) -> float:
    """Value above which others are far out: three interquartile ranges above the upper quartile (Tukey, 1977)."""
    low, high = values.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return high + FENCE * (high - low)
