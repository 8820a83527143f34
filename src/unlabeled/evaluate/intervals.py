"""95 % intervals: how far a number would move with other test samples and with other labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Interval", "bootstrap", "interval", "of_replicates", "resampled"]

NORMAL_QUANTILE = 1.959964
CHUNK = 4_000_000
"""Resampled values held at once."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        value: Mean over draws and test samples.
        low: Lower end.
        high: Upper end.
        std: Standard deviation over draws; None where there was one draw.
    """

    value: float
    low: float
    high: float
    std: float | None


def bootstrap(values: Tensor, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of a mean over samples drawn again with replacement.

    Args:
        values: One number per test sample, float, shape (samples,).
        resamples: How often the test set is drawn again.
        seed: Seed of the draws.

    Returns:
        The 2.5 and the 97.5 percentile of the mean.
    """
    generator = torch.Generator().manual_seed(seed)
    values, samples = values.cpu().double(), len(values)
    rows = max(1, CHUNK // samples)
    means = [
        values[torch.randint(samples, (min(rows, resamples - done), samples), generator=generator)].mean(1)
        for done in range(0, resamples, rows)
    ]
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def interval(values: Tensor, *, seed: int = 0, rates: bool = True) -> Interval:
    """Mean of values over draws and samples with its 95 % interval.

    One draw: a bootstrap over the test samples. Several draws: Student's interval over the draws and the
    bootstrap over test samples, half-widths added in squares: labels and test set could both be others.

    Args:
        values: Float, shape (draws, samples): 1 where a prediction was right, or a difference of two such.
        seed: Seed of the bootstrap.
        rates: Whether values are rights and wrongs, or differences of such.

    Returns:
        The interval; an accuracy of exactly 0 or 1 still has a width (Wilson's).
    """
    from scipy.special import stdtrit

    draws, samples = values.shape
    by_sample, mean = values.double().mean(0), float(values.double().mean())
    if rates and bool((by_sample == by_sample[0]).all()):
        width = NORMAL_QUANTILE**2 / (samples + NORMAL_QUANTILE**2)
        low, high = mean - width, mean + width
    else:
        low, high = bootstrap(by_sample, seed=seed)
    if draws == 1:
        return Interval(mean, low, high, None)
    std = float(values.double().mean(1).std())
    spread = float(stdtrit(draws - 1, 0.975)) * std / draws**0.5
    return Interval(mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread), std)


def resampled(
    statistic: Callable[[Tensor], float], units: int, *, seed: int = 0, resamples: int = 1000
) -> tuple[float, Tensor]:
    """A statistic that is no mean, of all test units and of units drawn again with replacement.

    Args:
        statistic: From rows, int64, shape (units,), to a number.
        units: Test units.
        seed: Seed of the draws; the same seed draws the same units for ours and for a control.
        resamples: How often the units are drawn again.

    Returns:
        The statistic of all units, and its replicates, float, shape (resamples,).
    """
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randint(units, (units,), generator=generator) for _ in range(resamples))
    return statistic(torch.arange(units)), torch.tensor(
        [statistic(rows) for rows in draws], dtype=torch.double
    )


def of_replicates(value: float, replicates: Tensor) -> Interval:
    """Percentile interval of a statistic.

    Args:
        value: The statistic of all test units.
        replicates: Of units drawn again, float, shape (resamples,); what is not finite is left out.
    """
    finite = replicates[replicates.isfinite()].double()
    if not len(finite):
        return Interval(value, value, value, None)
    low, high = finite.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Interval(value, low, high, None)
