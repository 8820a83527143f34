"""How a mean over independent groups varies: variance, degrees of freedom and skewness.

A variance is that of group totals about their expectation (cluster-robust, "CR2"), its degrees of freedom are
Satterthwaite's for groups of these sizes (Bell and McCaffrey, 2002).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = [
    "NORMAL_QUANTILE",
    "Spread",
    "degrees_of_freedom",
    "group_numbers",
    "of_changes",
    "of_groups",
    "with_draws",
    "with_repeats",
    "with_single_draws",
]

NORMAL_QUANTILE = 1.959964
LEAST_FRACTION = 0.5
"""Least variance that is assumed, as a fraction of that of independent samples: two groups that agree by chance must
not make a number certain."""


@dataclass(frozen=True)
class Spread:
    """How an estimate varies.

    Attributes:
        variance: Its variance.
        quantile: How many standard deviations 95 % reach to.
        skewness: Its skewness.
    """

    variance: float
    quantile: float
    skewness: float


def group_numbers(samples: int, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Group of each sample from 0, int64, shape (samples,), and samples of each group, shape (groups,)."""
    if groups is None:
        return torch.arange(samples), torch.ones(samples, dtype=torch.long)
    if groups.shape != (samples,):
        raise UserError(f"groups must have one number for each of {samples} samples, got {len(groups)}")
    _, number, sizes = groups.cpu().unique(return_inverse=True, return_counts=True)
    return number, sizes


def of_groups(values: Tensor, number: Tensor, sizes: Tensor) -> Spread:
    """Spread of a mean over groups of samples.

    Args:
        values: Float64, shape (samples,).
        number: Group of each sample from 0, int64, shape (samples,).
        sizes: Samples of each group, int64, shape (groups,).
    """
    fractions, changes = sizes.double() / sizes.sum(), _changes(values, number, sizes)
    likeness = _likeness(values, number, sizes)
    freedom = degrees_of_freedom(fractions, likeness + (1 - likeness) / sizes.double())
    spread = of_changes(changes, fractions, freedom)
    if len(sizes) == len(values):
        return spread
    least = LEAST_FRACTION * float(values.var()) / len(values)
    return Spread(max(spread.variance, least), spread.quantile, spread.skewness)


def of_changes(changes: Tensor, fractions: Tensor, freedom: float) -> Spread:
    """Spread of an estimate that is the sum of independent changes.

    Args:
        changes: How far each group moves the estimate, float64, shape (groups,).
        fractions: Fraction of the samples in each group, float64, shape (groups,).
        freedom: Degrees of freedom of the variance.
    """
    variance = float((changes.square() / (1 - fractions)).sum())
    return Spread(variance, _student(freedom), _skewness(changes))


def with_draws(spread: Spread, values: Tensor, number: Tensor, sizes: Tensor) -> Spread:
    """Add the variance over draws of the labels to that over groups.

    Args:
        spread: Of the means over draws.
        values: Float64, shape (draws, samples).
        number: As in `of_groups`.
        sizes: As in `of_groups`.
    """
    draws = len(values)
    of_draws = float(values.mean(1).var()) / draws
    # What remains of a draw in a group lies in both variances, and counts once.
    rest = _changes(values - values.mean(0), number, sizes).square() / (1 - sizes.double() / sizes.sum())
    more = max(0.0, of_draws - float(rest.sum()) / (draws * (draws - 1)))
    return _added(spread, more, draws)


def with_single_draws(spread: Spread, accuracies: Tensor) -> Spread:
    """Add the variance of two numbers that were measured with one draw of the labels each.

    Args:
        spread: Of their difference over groups of samples.
        accuracies: Of one of them with several draws, float64, shape (draws,); the other is taken to vary as much.
    """
    return _added(spread, 2 * float(accuracies.var()), len(accuracies))


def with_repeats(spread: Spread, values: Tensor) -> Spread:
    """Add the variance of a mean over draws of the labels.

    Args:
        spread: Of the mean over groups of samples.
        values: Of each draw, float64, shape (draws,).
    """
    return _added(spread, float(values.var()) / len(values), len(values))


def _added(spread: Spread, more: float, draws: int) -> Spread:
    """Add a variance that was estimated from so many draws."""
    variance = spread.variance + more
    if variance == 0:
        return spread
    # Half-widths added in squares: degrees of freedom estimated for the sum are too many where draws are few.
    reach = spread.variance * spread.quantile**2 + more * _student(draws - 1) ** 2
    return Spread(variance, (reach / variance) ** 0.5, spread.skewness * (spread.variance / variance) ** 1.5)


def degrees_of_freedom(fractions: Tensor, variances: Tensor) -> float:
    """Degrees of freedom of a variance over groups (Satterthwaite), at least 1.

    Args:
        fractions: Fraction of the samples in each group, float64, shape (groups,), which sum to 1.
        variances: Variance of each group's mean, up to a factor.
    """
    # V = sum of a_g (m_g - m)^2 has tr(A C) as its mean and 2 tr(A C A C) as its variance, with C the covariance of
    # the deviations of the groups' means m_g from the mean m.
    weight, lean = fractions.square() / (1 - fractions), fractions * variances
    own = (fractions * lean).sum()
    first, second, third = (float((weight * lean**power).sum()) for power in range(3))
    diagonal = variances - 2 * lean + own
    square = 2 * first * third + 2 * second**2 - 4 * own * first * second + (own * first) ** 2
    square = square + (weight.square() * (diagonal.square() - (2 * lean - own).square())).sum()
    return max(1.0, float((weight * diagonal).sum().square() / square))


def _changes(values: Tensor, number: Tensor, sizes: Tensor) -> Tensor:
    """How far each group moves the mean, float64, shape (..., groups), of values, shape (..., samples)."""
    mean = values.mean(-1, keepdim=True)
    return (_sums(values, number, len(sizes)) - sizes * mean) / sizes.sum()


def _sums(values: Tensor, number: Tensor, groups: int) -> Tensor:
    """Sums over groups, float64, shape (..., groups), of values, shape (..., samples)."""
    return values.new_zeros(*values.shape[:-1], groups).index_add_(-1, number, values)


def _likeness(values: Tensor, number: Tensor, sizes: Tensor) -> float:
    """Fraction of the variance that lies between groups (the intraclass correlation, by analysis of variance)."""
    groups, samples = len(sizes), len(values)
    if groups == samples:
        return 1.0
    means = _sums(values, number, groups) / sizes
    between = float((sizes * (means - values.mean()).square()).sum()) / (groups - 1)
    within = float((values - means[number]).square().sum()) / (samples - groups)
    typical = (samples - float(sizes.double().square().sum()) / samples) / (groups - 1)
    apart = max(0.0, (between - within) / typical)
    return apart / (apart + within) if apart + within > 0 else 1.0


def _skewness(changes: Tensor) -> float:
    """Skewness of an estimate that is the sum of independent changes, less what is chance.

    Few normal changes look skewed too: the estimate is shrunk by the variance that it would have then.
    """
    groups, squares = len(changes), float(changes.square().sum())
    skewness = float(changes.pow(3).sum()) / squares**1.5 if squares > 0 else 0.0
    chance = 6 * (groups - 2) / (groups * (groups + 1) * (groups + 3))
    return skewness * (1 - chance / skewness**2) if skewness**2 > chance else 0.0


def _student(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
