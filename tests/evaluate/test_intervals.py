"""Intervals cover the truth about as often as they say."""

import pytest
import torch

from unlabeled.evaluate.intervals import bootstrap, interval


def test_the_bootstrap_covers_the_true_accuracy_about_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    trials = (torch.rand(300, 200, generator=generator) < 0.7).float()
    ends = [bootstrap(trial, resamples=400, seed=index) for index, trial in enumerate(trials)]
    assert 0.90 <= sum(low <= 0.7 <= high for low, high in ends) / 300 <= 0.98


def test_the_interval_over_draws_covers_the_true_accuracy_when_labels_and_samples_vary():
    generator = torch.Generator().manual_seed(0)
    covered = []
    for trial in range(100):
        skill = 0.7 + 0.05 * torch.randn(5, 1, generator=generator)
        difficulty = 0.3 * torch.randn(1, 200, generator=generator)
        right = torch.rand(5, 200, generator=generator) < (skill + difficulty.clamp(-0.25, 0.25)).clamp(0, 1)
        found = interval(right.float(), seed=trial)
        covered.append(found.low <= 0.7 <= found.high)
    assert sum(covered) / 100 > 0.92


def test_the_bootstrap_has_the_width_of_the_normal_limit():
    values = (torch.arange(1000) < 700).float()
    low, high = bootstrap(values)
    expected = 2 * 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert high - low == pytest.approx(expected, rel=0.1)


def test_one_draw_has_no_spread_and_several_have_the_textbook_one():
    right = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])
    assert interval(right[:1]).std is None
    found = interval(right)
    assert found.value == pytest.approx(0.625)
    assert found.std == pytest.approx(0.25 / 2**0.5)


def test_a_perfect_score_still_leaves_room_for_doubt():
    found = interval(torch.ones(1, 50))
    assert found.high >= 1.0
    assert 0.9 < found.low < 0.95


def test_draws_that_agree_are_limited_by_the_test_set_alone():
    right = (torch.arange(100) < 60).float()
    one, several = interval(right[None]), interval(right.expand(5, 100))
    assert (several.low, several.high) == pytest.approx((one.low, one.high))


def test_pairing_tells_apart_what_two_single_intervals_cannot():
    ours = (torch.arange(200) < 120).float()
    theirs = (torch.arange(200) < 110).float()
    assert interval(ours[None]).low < interval(theirs[None]).high
    assert interval((ours - theirs)[None]).low > 0
