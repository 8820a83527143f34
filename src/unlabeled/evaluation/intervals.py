"""95 % intervals that count what is independent: the groups that were drawn, not the samples inside them.

Frames of a walk, clips of a recording and paragraphs of a document move together. So a variance is that of group
totals about their expectation (cluster-robust, "CR2"), its degrees of freedom are Satterthwaite's for groups of these
sizes (Bell and McCaffrey, 2002), and what lies in a range has an interval in that range (Wilson's, with the number of
independent samples that would vary as much). Few groups with a skewed spread reach further to one side, by Hall's
transformation (1992). Statistics that are no means are recomputed without each group in turn: the same formulas hold
for these changes, which for a mean are exactly the group totals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = ["Interval", "LeftOut", "interval", "leave_one_out", "of_left_out"]

NORMAL_QUANTILE = 1.959964
MOST = 1000
"""Groups that are left out one by one; more of them are left out in random bundles."""
LEAST_SHARE = 0.5
"""Variance that is assumed at least, as a share of that of independent samples: two groups that agree by chance must
not make a number certain."""

Bounds = tuple[float, float]
Pair = tuple[float, float]


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
        shares: Share of the samples that belong to that unit, float, shape (units,).
        units: Independent units; more than there are values where they were left out in bundles.
    """

    values: Tensor
    shares: Tensor
    units: int


@dataclass(frozen=True)
class _Spread:
    """How an estimate varies: its variance, how many deviations 95 % reach to, and the skewness of the estimate."""

    variance: float
    quantile: float
    skewness: float


def interval(
    values: Tensor, groups: Tensor | None = None, *, bounds: Bounds | None = None, difference: bool = False
) -> Interval:
    """Mean of values over draws of the labels and test samples with its 95 % interval.

    With several draws both the labels and the test set could be others, so the variance of draws is added to that of
    groups, less what both hold: what is left of each draw in each group.

    Args:
        values: Float, shape (draws, samples): 1 where a prediction was right, or a difference of two such.
        groups: Number of the independent unit of each sample, int64, shape (samples,); None where each sample is one.
        bounds: Range in which values lie, such as 0 and 1; None where they may be any number.
        difference: Whether values are differences of two measured numbers.

    Returns:
        The interval. A mean at the end of the range still has a width, that of as many trials as there are units;
        so has a constant difference. Other constants, such as chance, are known exactly.
    """
    values = values.detach().cpu().double()
    draws, samples = values.shape
    by_sample, mean = values.mean(0), float(values.mean())
    std = float(values.mean(1).std()) if draws > 1 else None
    number, sizes = _numbered(samples, groups)
    units = len(sizes)
    if units < 2:
        return Interval(mean, None, None, std, units)
    trials = units == samples and draws == 1 and _all_at_ends(by_sample, bounds) and not difference
    spread = _of_groups(by_sample, number, sizes)
    if trials:  # the variance of independent trials is known, it need not be estimated
        low, high = bounds or (0.0, 1.0)
        spread = _Spread((mean - low) * (high - mean) / samples, NORMAL_QUANTILE, 0.0)
    elif draws > 1:
        spread = _with_draws(spread, values, number, sizes)
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
    number, counts = _numbered(samples, groups)
    units, rows = len(counts), torch.arange(samples)
    if units > MOST:
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
        number = (order % MOST)[number]
    parts = min(units, MOST)
    weights = torch.ones(samples, dtype=torch.double) if sizes is None else sizes.cpu().double()
    shares = torch.zeros(parts, dtype=torch.double).index_add_(0, number, weights) / weights.sum()
    whole = statistic(rows)
    if units < 2:
        return whole, LeftOut(torch.tensor([whole], dtype=torch.double), shares, units)
    without = [statistic(rows[number != part]) for part in range(parts)]
    return whole, LeftOut(torch.tensor(without, dtype=torch.double), shares, units)


def of_left_out(
    value: float, left_out: LeftOut, *, bounds: Bounds | None = None, difference: bool = False
) -> Interval:
    """Interval of a statistic from what it is without each unit.

    It is made on a scale without ends (logarithm, logit or Fisher's z) and turned back, so that it lies in the range.

    Args:
        value: The statistic of all test samples.
        left_out: What it is without each unit; what is not finite is left out itself.
        bounds: Range of the statistic, of which an end may be infinite; None for any number.
        difference: Whether it is the difference of two statistics.
    """
    known = left_out.values.isfinite()
    if left_out.units < 2 or int(known.sum()) < 2 or not math.isfinite(value):
        return Interval(value, None, None, None, left_out.units)
    without, shares = left_out.values[known].double(), left_out.shares[known].double()
    low, high = bounds or (-math.inf, math.inf)
    inside = bool((without > low).all() and (without < high).all() and low < value < high)
    straight, back = _scale(low, high) if inside and not difference else (lambda x: x, lambda x: x)
    middle = straight(torch.tensor(value, dtype=torch.double))
    pulls = (middle - straight(without)) * (1 - shares)
    variance = float((pulls.square() / (1 - shares)).sum())
    freedom = _freedom(shares / shares.sum(), torch.ones_like(shares))
    spread = _Spread(variance, _student(freedom), _skewness(pulls))
    # On a scale of its own, nothing is left of the range.
    ends = _ends(float(middle), spread, left_out.units, None if inside else bounds, difference)
    least, most = (float(back(torch.tensor(end, dtype=torch.double))) for end in ends)
    return Interval(value, max(low, least), min(high, most), None, left_out.units)


def _numbered(samples: int, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Group of each sample from 0, int64, shape (samples,), and samples of each group, shape (groups,)."""
    if groups is None:
        return torch.arange(samples), torch.ones(samples, dtype=torch.long)
    if groups.shape != (samples,):
        raise UserError(f"groups must have one number for each of {samples} samples, got {len(groups)}")
    _, number, sizes = groups.cpu().unique(return_inverse=True, return_counts=True)
    return number, sizes


def _all_at_ends(values: Tensor, bounds: Bounds | None) -> bool:
    return bounds is not None and bool(((values == bounds[0]) | (values == bounds[1])).all())


def _sums(values: Tensor, number: Tensor, groups: int) -> Tensor:
    """Sums over groups, float64, shape (..., groups), of values, shape (..., samples)."""
    return values.new_zeros(*values.shape[:-1], groups).index_add_(-1, number, values)


def _pulls(values: Tensor, number: Tensor, sizes: Tensor) -> Tensor:
    """How far each group moves the mean, float64, shape (..., groups)."""
    mean = values.mean(-1, keepdim=True)
    return (_sums(values, number, len(sizes)) - sizes * mean) / sizes.sum()


def _of_groups(values: Tensor, number: Tensor, sizes: Tensor) -> _Spread:
    """Spread of a mean over groups of samples, float64, shape (samples,)."""
    shares, pulls = sizes.double() / sizes.sum(), _pulls(values, number, sizes)
    variance = float((pulls.square() / (1 - shares)).sum())
    if len(sizes) < len(values):
        variance = max(variance, LEAST_SHARE * float(values.var()) / len(values))
    likeness = _likeness(values, number, sizes)
    freedom = _freedom(shares, likeness + (1 - likeness) / sizes.double())
    return _Spread(variance, _student(freedom), _skewness(pulls))


def _likeness(values: Tensor, number: Tensor, sizes: Tensor) -> float:
    """Share of the variance that lies between groups (the intraclass correlation, by analysis of variance)."""
    groups, samples = len(sizes), len(values)
    if groups == samples:
        return 1.0
    means = _sums(values, number, groups) / sizes
    between = float((sizes * (means - values.mean()).square()).sum()) / (groups - 1)
    within = float((values - means[number]).square().sum()) / (samples - groups)
    typical = (samples - float(sizes.double().square().sum()) / samples) / (groups - 1)
    apart = max(0.0, (between - within) / typical)
    return apart / (apart + within) if apart + within > 0 else 1.0


def _freedom(shares: Tensor, variances: Tensor) -> float:
    """Degrees of freedom of the variance over groups (Satterthwaite), at least 1.

    Args:
        shares: Share of the samples in each group, float64, shape (groups,).
        variances: Variance of each group's mean, up to a factor.
    """
    # V = sum of a_g (m_g - m)^2 has tr(A C) as its mean and 2 tr(A C A C) as its variance, with C the covariance of
    # the deviations of the groups' means m_g from the mean m.
    weight, lean = shares.square() / (1 - shares), shares * variances
    own = (shares * lean).sum()
    first, second, third = (float((weight * lean**power).sum()) for power in range(3))
    diagonal = variances - 2 * lean + own
    square = 2 * first * third + 2 * second**2 - 4 * own * first * second + (own * first) ** 2
    square = square + (weight.square() * (diagonal.square() - (2 * lean - own).square())).sum()
    return max(1.0, float((weight * diagonal).sum().square() / square))


def _skewness(pulls: Tensor) -> float:
    """Skewness of an estimate that is the sum of independent pulls, float64, shape (groups,), less what is chance.

    Few normal pulls look skewed too: the estimate is shrunk by the variance that it would have then.
    """
    groups, squares = len(pulls), float(pulls.square().sum())
    found = float(pulls.pow(3).sum()) / squares**1.5 if squares > 0 else 0.0
    chance = 6 * (groups - 2) / (groups * (groups + 1) * (groups + 3))
    return found * (1 - chance / found**2) if found**2 > chance else 0.0


def _with_draws(spread: _Spread, values: Tensor, number: Tensor, sizes: Tensor) -> _Spread:
    """Add the variance over draws of the labels to that over groups.

    Args:
        spread: Of the means over draws.
        values: Float64, shape (draws, samples).
        number: Group of each sample.
        sizes: Samples of each group.
    """
    draws = len(values)
    of_draws = float(values.mean(1).var()) / draws
    # What is left of a draw in a group lies in both variances, and counts once.
    left = _pulls(values - values.mean(0), number, sizes).square() / (1 - sizes.double() / sizes.sum())
    more = max(0.0, of_draws - float(left.sum()) / (draws * (draws - 1)))
    variance = spread.variance + more
    if variance == 0:
        return spread
    # Half-widths added in squares: degrees of freedom estimated for the sum are too many where draws are few.
    reach = spread.variance * spread.quantile**2 + more * _student(draws - 1) ** 2
    return _Spread(variance, (reach / variance) ** 0.5, spread.skewness * (spread.variance / variance) ** 1.5)


def _ends(mean: float, spread: _Spread, units: int, bounds: Bounds | None, difference: bool) -> Pair:
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
        reached = [mean - deviation * _hall(sign * quantile, spread.skewness) for sign in (1, -1)]
        ends = min(ends[0], reached[0]), max(ends[1], reached[1])
    return max(low, ends[0]), min(high, ends[1])


def _student(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _wilson(mean: float, trials: float, quantile: float, low: float, high: float) -> Pair:
    """Wilson's interval of a mean in a range, which varies as that of so many trials that end low or high."""
    share, square = (mean - low) / (high - low), quantile**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = (share * (1 - share) * square + square**2 / 4) ** 0.5 / (1 + square)
    least = 0.0 if share <= 0 else centre - half
    most = 1.0 if share >= 1 else centre + half
    return low + (high - low) * max(0.0, least), low + (high - low) * min(1.0, most)


def _hall(quantile: float, skewness: float) -> float:
    """Quantile of a studentised mean whose estimate is skewed: Hall's cubic transformation, turned back."""
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
