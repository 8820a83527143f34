"""95 % intervals that count what is independent: the groups that were drawn, not the samples inside them.

Frames of a trajectory, clips of a recording and paragraphs of a document move together, so a variance is one over
groups (`spread`). What lies in a range has an interval in that range (Wilson's, with the number of independent samples
that would vary as much). Few groups with a skewed spread reach further to one side, by Hall's transformation (1992).
Statistics that are no means are recomputed without each group in turn: the same formulas hold for these changes, which
for a mean are exactly the group totals.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.evaluation import spread as spreads
from unlabeled.evaluation.spread import NORMAL_QUANTILE, Spread, group_numbers

__all__ = ["Bounds", "Interval", "LeftOut", "interval", "leave_one_out", "leave_out_each", "of_left_out"]

MOST = 1000
"""Groups that are left out one by one; more of them are left out in random bundles."""

Bounds = tuple[float, float]
"""Range of a number, of which an end may be infinite."""


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval.

    Attributes:
        value: Mean over draws and test samples, or the statistic of all test samples.
        low: Lower end; None where there is a single independent unit, from which no interval can be made.
        high: Upper end, or None.
        std: Standard deviation over draws; None where there was one draw.
        units: Independent units that it rests on.
    """

    value: float
    low: float | None
    high: float | None
    std: float | None
    units: int


@dataclass(frozen=True)
class LeftOut:
    """A statistic without each unit in turn.

    Attributes:
        values: The statistic without a unit, float, shape (units,).
        fractions: Fraction of the samples that belong to that unit, float, shape (units,).
        units: Independent units; more than there are values where they were left out in bundles.
    """

    values: Tensor
    fractions: Tensor
    units: int


def interval(
    values: Tensor,
    groups: Tensor | None = None,
    *,
    bounds: Bounds | None = None,
    difference: bool = False,
    accuracies: Tensor | None = None,
) -> Interval:
    """Mean of values over draws of the labels and test samples with its 95 % interval.

    With several draws both the labels and the test set could be others, so the variance of draws is added to that of
    groups, less what both hold: what remains of each draw in each group.

    Args:
        values: Float, shape (draws, samples): 1 where a prediction was correct, or a difference of two such.
        groups: Number of the independent unit of each sample, int64, shape (samples,); None where each sample is one.
        bounds: Range in which values lie, such as 0 and 1; None where they may be any number.
        difference: Whether values are differences of two measured numbers.
        accuracies: Of one of these two with several draws, float, shape (draws,), where `values` are of one draw only:
            both are taken to vary so much over draws.

    Returns:
        The interval. A mean at the end of the range still has a width, that of as many trials as there are units;
        so has a constant difference. Other constants, such as chance, are known exactly.
    """
    values = values.detach().cpu().double()
    draws, samples = values.shape
    by_sample, mean = values.mean(0), float(values.mean())
    std = float(values.mean(1).std()) if draws > 1 else None
    number, sizes = group_numbers(samples, groups)
    units = len(sizes)
    if units < 2:
        return Interval(mean, None, None, std, units)
    trials = units == samples and draws == 1 and _all_at_ends(by_sample, bounds) and not difference
    spread = spreads.of_groups(by_sample, number, sizes)
    if trials:  # the variance of independent trials is known, it need not be estimated
        low, high = bounds or (0.0, 1.0)
        spread = Spread((mean - low) * (high - mean) / samples, NORMAL_QUANTILE, 0.0)
    elif draws > 1:
        spread = spreads.with_draws(spread, values, number, sizes)
    elif accuracies is not None:
        spread = spreads.with_single_draws(spread, accuracies.detach().cpu().double())
    low, high = _ends(mean, spread, units, bounds, difference)
    return Interval(mean, low, high, std, units)


def leave_one_out(
    statistic: Callable[[Tensor], float],
    samples: int,
    groups: Tensor | None = None,
    *,
    sizes: Tensor | None = None,
    seed: int = 0,
) -> tuple[float, LeftOut]:
    """A statistic that is no mean, of all test samples and without each independent unit in turn.

    Args:
        statistic: From rows, int64, shape (rows,), to a number.
        samples: Test samples.
        groups: As in `interval`.
        sizes: How much each sample weighs in the statistic, such as its number of words, shape (samples,); None where
            all weigh the same.
        seed: Seed of the bundles of more than `MOST` units; the same seed bundles alike for ours and for a control.
    """
    (whole,), left_out = leave_out_each(
        lambda rows: [statistic(rows)], samples, groups, sizes=sizes, seed=seed
    )
    return whole, left_out[0]


def leave_out_each(
    statistics: Callable[[Tensor], Sequence[float]],
    samples: int,
    groups: Tensor | None = None,
    *,
    sizes: Tensor | None = None,
    seed: int = 0,
    most: int = MOST,
) -> tuple[list[float], list[LeftOut]]:
    """Several statistics that are computed together, as `leave_one_out` has one.

    Args:
        statistics: From rows, int64, shape (rows,), to numbers, always as many.
        samples, groups, sizes, seed: As in `leave_one_out`.
        most: Units that are left out one by one; more of them are left out in as many bundles.
    """
    number, counts = group_numbers(samples, groups)
    units, rows = len(counts), torch.arange(samples)
    if units > most:
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
        number = (order % most)[number]
    parts = min(units, most)
    weights = torch.ones(samples, dtype=torch.double) if sizes is None else sizes.cpu().double()
    fractions = torch.zeros(parts, dtype=torch.double).index_add_(0, number, weights) / weights.sum()
    whole = [*statistics(rows)]
    without = [whole] if units < 2 else [statistics(rows[number != part]) for part in range(parts)]
    values = torch.tensor([[*row] for row in without], dtype=torch.double)
    return whole, [LeftOut(column, fractions, units) for column in values.unbind(1)]


def of_left_out(
    value: float,
    left_out: LeftOut,
    *,
    bounds: Bounds | None = None,
    difference: bool = False,
    draws: Tensor | None = None,
) -> Interval:
    """Interval of a statistic from what it is without each unit.

    It is made on a scale without ends (logarithm, logit or Fisher's z) and mapped back, so that it lies in the range.

    Args:
        value: The statistic of all test samples.
        left_out: What it is without each unit, of which values that are not finite are ignored.
        bounds: Range of the statistic; None for any number.
        difference: Whether it is the difference of two statistics.
        draws: The statistic by each draw of the labels, of which `value` is the mean and `left_out` that without each
            unit, float, shape (draws,); None for one draw.
    """
    draws = None if draws is None or len(draws) < 2 else draws.detach().cpu().double()
    std = None if draws is None else float(draws.std())
    finite = left_out.values.isfinite()
    if left_out.units < 2 or int(finite.sum()) < 2 or not math.isfinite(value):
        return Interval(value, None, None, std, left_out.units)
    without, fractions = left_out.values[finite].double(), left_out.fractions[finite].double()
    low, high = bounds or (-math.inf, math.inf)
    every = without if draws is None else torch.cat([without, draws])
    inside = bool((every > low).all() and (every < high).all() and low < value < high)
    forth, back = _scale(low, high) if inside and not difference else (lambda x: x, lambda x: x)
    middle = forth(torch.tensor(value, dtype=torch.double))
    changes = (middle - forth(without)) * (1 - fractions)
    freedom = spreads.degrees_of_freedom(fractions / fractions.sum(), torch.ones_like(fractions))
    spread = spreads.of_changes(changes, fractions, freedom)
    if draws is not None:
        spread = spreads.with_repeats(spread, forth(draws))
    # On a scale without ends, the range is no bound.
    ends = _ends(float(middle), spread, left_out.units, None if inside else bounds, difference)
    least, most = (float(back(torch.tensor(end, dtype=torch.double))) for end in ends)
    return Interval(value, max(low, least), min(high, most), std, left_out.units)


def _all_at_ends(values: Tensor, bounds: Bounds | None) -> bool:
    return bounds is not None and bool(((values == bounds[0]) | (values == bounds[1])).all())


def _ends(mean: float, spread: Spread, units: int, bounds: Bounds | None, difference: bool) -> Bounds:
    """Ends of the interval of a mean, in its range."""
    quantile = spread.quantile
    low, high = bounds or (-math.inf, math.inf)
    finite = math.isfinite(high - low)
    if spread.variance <= 1e-24 * max(1.0, mean**2):
        at_end = finite and (mean <= low or mean >= high)
        if at_end:
            return _wilson(mean, units, quantile, low, high)
        # As many trials without a single case: a case could still be this frequent.
        width = quantile**2 / (units + quantile**2) * (high - low) / 2 if difference and finite else 0.0
        return max(low, mean - width), min(high, mean + width)
    deviation = spread.variance**0.5
    ends = mean - quantile * deviation, mean + quantile * deviation
    if finite and low < mean < high:
        ends = _wilson(mean, (mean - low) * (high - mean) / spread.variance, quantile, low, high)
    if spread.skewness:
        skewed = [mean - deviation * _hall(sign * quantile, spread.skewness) for sign in (1, -1)]
        ends = min(ends[0], skewed[0]), max(ends[1], skewed[1])
    return max(low, ends[0]), min(high, ends[1])


def _wilson(mean: float, trials: float, quantile: float, low: float, high: float) -> Bounds:
    """Wilson's interval of a mean in a range, which varies as that of so many trials that end low or high."""
    fraction, square = (mean - low) / (high - low), quantile**2 / trials
    centre = (fraction + square / 2) / (1 + square)
    half = (fraction * (1 - fraction) * square + square**2 / 4) ** 0.5 / (1 + square)
    least = 0.0 if fraction <= 0 else centre - half
    most = 1.0 if fraction >= 1 else centre + half
    return low + (high - low) * max(0.0, least), low + (high - low) * min(1.0, most)


def _hall(quantile: float, skewness: float) -> float:
    """Quantile of a studentised mean whose estimate is skewed: the inverse of Hall's cubic transformation."""
    if abs(skewness) < 1e-6:
        return quantile
    return 3 / skewness * (math.cbrt(1 + skewness * (quantile - skewness / 6)) - 1)


def _scale(low: float, high: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """To a scale without ends, rising, and back."""
    if math.isfinite(low) and math.isfinite(high):
        return (
            lambda x: torch.logit((x - low) / (high - low)),
            lambda x: low + (high - low) * torch.sigmoid(x),
        )
    if math.isfinite(high):
        return lambda x: -(high - x).log(), lambda x: high - (-x).exp()
    if math.isfinite(low):
        return lambda x: (x - low).log(), lambda x: low + x.exp()
    return lambda x: x, lambda x: x
