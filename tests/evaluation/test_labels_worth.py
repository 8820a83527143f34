"""How many labels pre-training is worth: closed forms, and whether the interval covers the truth."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.labels_worth import Curve, curve, labels_worth, monotone
from unlabeled.evaluation.measurement import Measurement

COUNTS = [10, 25, 50, 100, 250, 500]


def exact(scores: list[float]) -> Curve:
    return Curve(torch.tensor(scores).double()[:, None], torch.zeros(len(scores), 3).double())


def accuracy(labels: float) -> float:
    """A learning curve: a power law."""
    return 0.95 - 1.6 * labels**-0.5


def test_monotone_is_isotonic_regression() -> None:
    from scipy.optimize import isotonic_regression

    values = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).double()
    for own, expected in zip(monotone(values), values):
        np.testing.assert_allclose(own.numpy(), isotonic_regression(expected.numpy()).x)


def test_a_curve_that_is_moved_is_worth_the_move() -> None:
    """Pre-training that does with n labels what scratch does with 2 n is worth n more, as far as that goes."""
    worth = labels_worth(COUNTS, exact([*map(accuracy, COUNTS)]), exact([accuracy(2 * n) for n in COUNTS]))
    assert [one.labels for one in worth] == COUNTS
    for one in worth[:-1]:
        assert one.alike == pytest.approx(2 * one.labels, rel=0.02)
        assert (one.low, one.high) == pytest.approx((one.alike, one.alike))
    assert worth[-1].alike == math.inf
    same = labels_worth(COUNTS, exact([*map(accuracy, COUNTS)]), exact([*map(accuracy, COUNTS)]))
    assert [one.alike for one in same] == pytest.approx(COUNTS, rel=1e-4)
    worse = labels_worth(COUNTS, exact([*map(accuracy, COUNTS)]), exact([0.1] * 6))
    assert [one.high for one in worse] == [0] * 6


def measured(values: Tensor, counts: int) -> list[Measurement]:
    return [Measurement("linear", "unlabeled", values + 0.1 * number) for number in range(counts)]


def test_changes_of_means_equal_those_of_left_out_units() -> None:
    values = torch.rand(1, 12, generator=torch.Generator().manual_seed(0)).double()
    groups = torch.arange(12) // 2
    mean, left = leave_one_out(lambda rows: float(values[0, rows].mean()), 12, groups)
    whole = Measurement("linear", "unlabeled", torch.tensor([[mean]]).double(), left_out=left)
    parts = Measurement("linear", "unlabeled", values, groups=groups)
    torch.testing.assert_close(curve([whole]).changes, curve([parts]).changes)


def simulated(
    shift: float, difficulty: np.ndarray, generator: np.random.Generator, draws: int
) -> list[Measurement]:
    """Correct predictions of test samples of unequal difficulty after trainings on draws of unequal luck."""
    luck = 0.02 * generator.standard_normal((len(COUNTS), draws, 1))
    noise = 0.1 * generator.standard_normal((len(COUNTS), draws, len(difficulty)))
    level = np.array([accuracy(shift * count) for count in COUNTS])[:, None, None]
    right = (difficulty + noise) % 1 < level + luck
    return [Measurement("linear", "unlabeled", torch.from_numpy(one).double()) for one in right]


@pytest.mark.parametrize(("shift", "draws"), [(1.0, 5), (2.5, 5), (2.5, 3)])
def test_the_interval_covers_the_truth_in_at_least_90_percent_of_40_draws(shift: float, draws: int) -> None:
    covered, widths = torch.zeros(40, 4), torch.zeros(40, 4)
    for trial in range(40):
        generator = np.random.default_rng(trial)
        difficulty = generator.random(400)
        curves = [curve(simulated(factor, difficulty, generator, draws)) for factor in (1.0, shift)]
        for column, one in enumerate(labels_worth(COUNTS, *curves, repeats=300)[:4]):
            covered[trial, column] = one.low <= shift * one.labels <= one.high
            widths[trial, column] = one.high / max(one.low, 1)
    assert covered.mean(0).min() >= 0.9
    assert widths.median() < (3 if draws == 5 else 5)  # it says something
