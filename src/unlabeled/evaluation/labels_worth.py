"""How many labels pre-training is worth: with how many a network from scratch is as good as a pre-trained one with few.

The scores of the network from scratch, made monotone (isotonic regression), are interpolated over the logarithm of the
number of labels by a monotone cubic; where its curve reaches the score of the pre-trained network is the number looked
for. The interval is by bootstrap: test units are drawn with replacement, the same for all scores; draws of the labels
get random weights, the same for all scores too, whose spread is that of Student's t, as there are few draws.

Source: Fritsch, Carlson, "Monotone Piecewise Cubic Interpolation", 1980, https://doi.org/10.1137/0717021
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.spread import group_numbers

__all__ = ["Curve", "Worth", "curve", "labels_worth", "monotone"]

REPEATS, GRID = 1000, 400
"""Bootstrap samples, and points at which the curve is computed between the fewest and the most labels."""


class Curve(NamedTuple):
    """Scores for several numbers of labels.

    Attributes:
        by_draw: Of each draw of the labels, float64, shape (counts, draws).
        changes: How far each independent test unit moves the mean over draws, float64, shape (counts, units).
    """

    by_draw: Tensor
    changes: Tensor


class Worth(NamedTuple):
    """With how many labels a network from scratch is as good as a pre-trained one with `labels`.

    Numbers below the fewest labels measured are 0, those above the most are infinite: the curve says no more.
    """

    labels: int
    alike: float
    low: float
    high: float


def curve(measurements: Sequence[Measurement]) -> Curve:
    """The curve of measurements that differ in the number of labels; higher must be better."""
    changes = []
    for one in measurements:
        if one.left_out is not None:
            left = one.left_out
            change = (float(one.values.mean()) - left.values) * (1 - left.fractions)
            changes.append(change.nan_to_num(0.0).double())
        else:
            values = one.values.double().mean(0)
            number, sizes = group_numbers(len(values), one.groups)
            change = torch.zeros(len(sizes), dtype=torch.double)
            changes.append(change.index_add_(0, number, values - values.mean()) / len(values))
    return Curve(torch.stack([one.values.double().mean(1) for one in measurements]), torch.stack(changes))


def labels_worth(
    counts: Sequence[int], scratch: Curve, pretrained: Curve, *, seed: int = 0, repeats: int = REPEATS
) -> list[Worth]:
    """For each number of labels, with how many the network from scratch is as good as the pre-trained one.

    Args:
        counts: Numbers of labels, rising.
        scratch: Scores of the network from scratch, which should rise with them.
        pretrained: Scores of the pre-trained network, on the same draws and test units.
        seed: Seed of the bootstrap.
        repeats: Bootstrap samples.

    Raises:
        ValueError: There are fewer than two numbers of labels, or they do not rise.
    """
    if len(counts) < 2 or any(a >= b for a, b in itertools.pairwise(counts)):
        raise UserError(f"labels must be at least 2 rising numbers, got {', '.join(map(str, counts))}")
    generator = torch.Generator().manual_seed(seed)
    draws, units = scratch.by_draw.shape[1], scratch.changes.shape[1]
    weights = torch.zeros(repeats + 1, draws, dtype=torch.double)
    if draws > 1:
        normal = torch.randn(repeats, draws, generator=generator, dtype=torch.double)
        squares = torch.randn(repeats, draws - 1, generator=generator, dtype=torch.double).square().sum(1)
        weights[1:] = normal / math.sqrt(draws) / squares[:, None].sqrt()
    times = torch.zeros(repeats + 1, units, dtype=torch.double)
    indices = torch.randint(units, (repeats, units), generator=generator)
    times[1:] = torch.zeros(repeats, units, dtype=torch.double).scatter_add_(
        1, indices, torch.ones(indices.shape, dtype=torch.double)
    ) - 1  # fmt: skip
    first, second = (
        one.by_draw.mean(1)
        + weights @ (one.by_draw - one.by_draw.mean(1, keepdim=True)).T
        + times @ one.changes.T
        for one in (scratch, pretrained)
    )  # row 0 is what was measured
    label_counts = _reached(counts, monotone(first), second)
    low, high = (
        label_counts[1:].sort(0).values[place]
        for place in (round(0.025 * repeats), round(0.975 * repeats) - 1)
    )
    return [
        Worth(*row) for row in zip(counts, label_counts[0].tolist(), low.tolist(), high.tolist(), strict=True)
    ]


def monotone(values: Tensor) -> Tensor:
    """Isotonic regression: the nearest rising numbers, by the min-max formula, float, shape (..., counts)."""
    count = values.shape[-1]
    sums = torch.nn.functional.pad(values.cumsum(-1), (1, 0))
    columns = []
    for here in range(count):
        lowest = [
            torch.stack(
                [(sums[..., end + 1] - sums[..., start]) / (end + 1 - start) for end in range(here, count)]
            )
            for start in range(here + 1)
        ]
        columns.append(torch.stack([one.amin(0) for one in lowest]).amax(0))
    return torch.stack(columns, -1)


def _reached(counts: Sequence[int], curves: Tensor, scores: Tensor) -> Tensor:
    """Number of labels at which each curve, shape (curves, counts), reaches each of `scores`, of the same shape."""
    from scipy.interpolate import PchipInterpolator

    logs = torch.tensor(counts, dtype=torch.double).log()
    grid = torch.linspace(float(logs[0]), float(logs[-1]), GRID, dtype=torch.double)
    heights = torch.from_numpy(PchipInterpolator(logs.numpy(), curves.numpy(), axis=1)(grid.numpy()))
    heights = heights.contiguous().cummax(1).values  # rounding
    right = torch.searchsorted(heights, scores.contiguous())
    inside = right.clamp(1, GRID - 1)
    above, below = heights.gather(1, inside), heights.gather(1, inside - 1)
    part = ((scores - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)
    label_counts = (grid[inside - 1] + part * (grid[1] - grid[0])).exp()
    label_counts[scores < heights[:, :1]] = 0
    label_counts[scores > heights[:, -1:]] = math.inf
    return label_counts
