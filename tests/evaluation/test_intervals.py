"""Intervals cover the truth about as often as they say, whatever the samples have in common."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unlabeled.evaluation.intervals import Interval, interval, leave_one_out, of_left_out
from unlabeled.evaluation.tasks.factors import r_squared
from unlabeled.evaluation.tasks.similarity import spearman

TRIALS = 400


def covered(draw: Callable[[], tuple[Interval, float]], trials: int = TRIALS) -> float:
    """Share of the intervals in which the truth lies."""
    torch.manual_seed(0)
    found = [draw() for _ in range(trials)]
    return sum(i.low is not None and i.high is not None and i.low <= t <= i.high for i, t in found) / trials


def sizes(kind: str, groups: int) -> Tensor:
    """Samples of each group: as many, 5 to 50, or mostly few and sometimes very many."""
    if kind == "equal":
        return torch.full((groups,), 20)
    if kind == "unequal":
        return torch.randint(5, 50, (groups,))
    return (20 * torch.randn(groups).exp()).round().clamp(1, 400).long()


def near(mean: float, likeness: float, groups: int) -> Tensor:
    """Rates of groups with this mean, of which binary values have this intraclass correlation."""
    strength = torch.tensor(1 / likeness - 1)
    return torch.distributions.Beta(mean * strength, (1 - mean) * strength).sample((groups,))


# Three standard errors of a share of 400 trials about the promised 93 to 97 %.
LEAST, MOST = 0.93 - 0.02, 0.97 + 0.02


RATES = [(0.5, 0.3), (0.7, 0.1), (0.9, 0.1)]
KINDS, GROUPS = ["equal", "unequal", "wild"], [8, 16, 64]
# Each pair of these values once.
SQUARE = [(GROUPS[row], KINDS[column], *RATES[(row + column) % 3]) for row in range(3) for column in range(3)]


@pytest.mark.parametrize(("groups", "kind", "mean", "likeness"), SQUARE)
def test_accuracies_of_groups_are_covered(groups, kind, mean, likeness):
    def draw():
        number = torch.arange(groups).repeat_interleave(sizes(kind, groups))
        right = torch.rand(len(number)) < near(mean, likeness, groups)[number]
        return interval(right[None].float(), number, bounds=(0, 1)), mean

    assert LEAST <= covered(draw) <= MOST


@pytest.mark.parametrize(("groups", "kind"), [(8, "equal"), (8, "wild"), (16, "unequal"), (64, "wild")])
def test_means_and_margins_of_groups_are_covered(groups, kind):
    def normal():
        number = torch.arange(groups).repeat_interleave(sizes(kind, groups))
        values = torch.randn(groups)[number] + 2 * torch.randn(len(number))
        return interval(values[None], number), 0.0

    def margin():
        number = torch.arange(groups).repeat_interleave(sizes(kind, groups))
        skill, lead = near(0.6, 0.2, groups), 0.05 + 0.1 * (torch.rand(groups) - 0.5)
        first, second = torch.rand(2, len(number))
        ours, control = first < (skill + lead)[number], second < skill[number]
        found = interval((ours.float() - control.float())[None], number, bounds=(-1, 1), difference=True)
        # Rates above one lose what is cut off; its mean is the truth.
        return found, TRUE_LEAD

    far = near(0.6, 0.2, 400_000)
    lead = 0.05 + 0.1 * (torch.rand(400_000, generator=torch.Generator().manual_seed(1)) - 0.5)
    TRUE_LEAD = float(((far + lead).clamp(0, 1) - far).mean())
    assert LEAST <= covered(normal) <= MOST
    assert LEAST <= covered(margin) <= MOST


@pytest.mark.parametrize("groups", [8, 16])
def test_resampling_samples_instead_of_groups_would_not_cover(groups):
    """The wrong interval on the same data: what the groups are there for."""

    def draw():
        number = torch.arange(groups).repeat_interleave(20)
        right = torch.rand(len(number)) < near(0.7, 0.3, groups)[number]
        return interval(right[None].float(), bounds=(0, 1)), 0.7

    assert covered(draw, 200) < 0.75


@pytest.mark.parametrize(("groups", "draws"), [(8, 3), (8, 5), (64, 3)])
def test_draws_of_labels_and_groups_are_covered_together(groups, draws):
    def draw():
        number = torch.arange(groups).repeat_interleave(20)
        rate = (
            0.7
            + 0.05 * torch.randn(draws, 1)
            + 0.1 * torch.randn(1, groups)
            + 0.04 * torch.randn(draws, groups)
        )
        # The same samples are hard in every draw.
        luck = (0.8 * torch.randn(1, len(number)) + 0.6 * torch.randn(draws, len(number))) / 2**0.5
        right = 0.5 * (1 + torch.erf(luck)) < rate[:, number]
        return interval(right.float(), number, bounds=(0, 1)), 0.7

    assert LEAST <= covered(draw) <= MOST


@pytest.mark.parametrize("part", ["draws", "groups"])
def test_either_part_alone_is_covered(part):
    def draw():
        number = torch.arange(16).repeat_interleave(20)
        of_draws, of_groups = (0.1, 0.02) if part == "draws" else (0.0, 0.3)
        values = of_draws * torch.randn(5, 1) + of_groups * torch.randn(1, 16)[:, number]
        return interval(values + 0.3 * torch.randn(5, len(number)), number), 0.0

    assert LEAST <= covered(draw) <= MOST


@pytest.mark.parametrize("groups", [8, 16])
def test_statistics_that_are_no_means_are_covered(groups):
    def r2():
        number = torch.arange(groups).repeat_interleave(20)
        truth = torch.randn(groups)[number] + torch.randn(len(number))
        guess = 0.7 * truth + 0.5 * torch.randn(groups)[number] + 0.5 * torch.randn(len(number))
        value, left = leave_one_out(lambda rows: r_squared(guess[rows], truth[rows]), len(number), number)
        return of_left_out(value, left, bounds=(-math.inf, 1.0)), 1 - 0.68 / 2

    def rank():
        first, noise = torch.randn(2, groups)
        second = 0.6 * first + 0.8 * noise
        value, left = leave_one_out(lambda rows: spearman(first[rows], second[rows]), groups)
        return of_left_out(value, left, bounds=(-1.0, 1.0)), 6 / math.pi * math.asin(0.3)

    def perplexity():
        words = (5 + 0.5 * torch.randn(groups)).exp().round()
        nats = words * (3 + 0.5 * torch.randn(groups))
        value, left = leave_one_out(
            lambda rows: math.exp(float(nats[rows].sum() / words[rows].sum())), groups, sizes=words
        )
        return of_left_out(value, left, bounds=(1.0, math.inf)), math.exp(3)

    for statistic in (r2, rank, perplexity):
        assert LEAST <= covered(statistic, 250) <= MOST + 0.01, statistic.__name__


def test_independent_samples_are_covered_like_trials():
    def draw():
        return interval((torch.rand(1, 200) < 0.7).float(), bounds=(0, 1)), 0.7

    assert LEAST <= covered(draw) <= MOST


def test_independent_trials_have_wilsons_interval():
    right = (torch.arange(50) < 45).float()[None]
    found = interval(right, bounds=(0, 1))
    assert (found.low, found.high) == pytest.approx((0.7864, 0.9565), abs=1e-4)  # of 45 of 50, from a table
    assert found.units == 50


def test_intervals_stay_in_their_range():
    number = torch.arange(8).repeat_interleave(3)
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        right = (torch.rand(1, 24, generator=generator) < 0.95).float()
        found = interval(right, number, bounds=(0, 1))
        assert found.low is not None and found.high is not None
        assert 0 <= found.low <= found.value <= found.high <= 1
        less = interval(right - 1, number, bounds=(-1, 1), difference=True)
        assert less.low is not None and less.high is not None and -1 <= less.low <= less.high <= 1


def test_groups_of_one_sample_are_no_groups():
    values = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
    assert interval(values, torch.arange(40).flip(0)) == interval(values)


def test_copies_of_a_sample_add_nothing():
    """Each value five times over, the copies in one group: the interval is that of the values alone."""
    values = torch.rand(1, 30, generator=torch.Generator().manual_seed(0))
    copies = interval(values.repeat_interleave(5, 1), torch.arange(30).repeat_interleave(5))
    alone = interval(values)
    assert copies.low is not None and alone.low is not None and alone.high is not None
    assert (copies.low, copies.high, copies.units) == pytest.approx((alone.low, alone.high, 30))


def test_numbers_of_groups_mean_nothing():
    generator = torch.Generator().manual_seed(0)
    values, number = torch.rand(1, 60, generator=generator), torch.randint(9, (60,), generator=generator)
    order = torch.randperm(60, generator=generator)
    one, other = interval(values, number), interval(values[:, order], 100 - 7 * number[order])
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_single_unit_has_no_interval():
    found = interval(torch.rand(1, 20), torch.zeros(20, dtype=torch.long), bounds=(0, 1))
    assert (found.low, found.high, found.units) == (None, None, 1)
    value, left_out = leave_one_out(lambda rows: float(len(rows)), 20, torch.zeros(20, dtype=torch.long))
    assert value == 20 and of_left_out(value, left_out).low is None


def test_groups_that_agree_by_chance_make_nothing_certain():
    right = torch.tensor([1.0] * 17 + [0.0] * 3).repeat(2)[None]
    found = interval(right, torch.arange(2).repeat_interleave(20), bounds=(0, 1))
    assert found.low is not None and found.high is not None and found.low < 0.5 and found.high > 0.95


def test_a_perfect_score_leaves_room_for_as_many_units_as_there_are():
    single = interval(torch.ones(1, 50), bounds=(0, 1))
    assert single.high == 1.0 and single.low == pytest.approx(0.9287, abs=1e-4)
    grouped = interval(torch.ones(1, 50), torch.arange(10).repeat_interleave(5), bounds=(0, 1))
    assert grouped.low is not None and 0.6 < grouped.low < 0.75
    nothing = interval(torch.zeros(5, 50), torch.arange(10).repeat_interleave(5), bounds=(0, 1))
    assert nothing.high == pytest.approx(1 - grouped.low)


def test_a_difference_that_never_shows_may_still_be_there():
    found = interval(torch.zeros(1, 50), bounds=(-1, 1), difference=True)
    assert (
        found.low is not None
        and found.high is not None
        and found.low == -found.high
        and 0.05 < -found.low < 0.1
    )


def test_chance_is_known_exactly():
    found = interval(torch.full((1, 40), 0.25), bounds=(0, 1))
    assert found.low == found.value == found.high


def test_one_draw_has_no_spread_and_several_have_the_textbook_one():
    right = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])
    assert interval(right[:1]).std is None
    found = interval(right)
    assert found.value == pytest.approx(0.625)
    assert found.std == pytest.approx(0.25 / 2**0.5)


def test_draws_that_agree_are_limited_by_the_test_set_alone():
    values = torch.rand(1, 100, generator=torch.Generator().manual_seed(0))
    one, several = interval(values), interval(values.expand(5, 100))
    assert (several.low, several.high) == pytest.approx((one.low, one.high))


def test_pairing_tells_apart_what_two_single_intervals_cannot():
    ours = (torch.arange(200) < 120).float()
    theirs = (torch.arange(200) < 110).float()
    own, other = interval(ours[None], bounds=(0, 1)), interval(theirs[None], bounds=(0, 1))
    margin = interval((ours - theirs)[None], bounds=(-1, 1), difference=True)
    assert own.low is not None and other.high is not None and own.low < other.high
    assert margin.low is not None and margin.low > 0


def test_leaving_out_groups_of_a_mean_is_the_interval_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    values, number = torch.randn(60, generator=generator), torch.arange(10).repeat_interleave(6)
    value, left_out = leave_one_out(lambda rows: float(values[rows].double().mean()), 60, number)
    one, other = of_left_out(value, left_out), interval(values[None], number)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_very_many_units_are_left_out_in_bundles():
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    value, left_out = leave_one_out(lambda rows: float(values[rows].mean()), 3000)
    assert len(left_out.values) == 1000 and left_out.units == 3000
    found, whole = of_left_out(value, left_out), interval(values[None])
    assert (
        found.low is not None and found.high is not None and whole.low is not None and whole.high is not None
    )
    assert found.high - found.low == pytest.approx(whole.high - whole.low, rel=0.1)


def test_groups_must_fit_the_samples():
    with pytest.raises(ValueError, match="groups must have one number for each of 5 samples, got 4"):
        interval(torch.rand(1, 5), torch.arange(4))


def test_a_margin_of_one_draw_allows_for_the_draws_that_were_not_measured() -> None:
    """By simulation: with other draws and test samples the interval holds the true difference in 95 % of cases."""
    generator = torch.Generator().manual_seed(0)
    inside, narrow, trials = 0, 0, 400
    for _ in range(trials):
        ours = (
            torch.rand(5, 1, generator=generator).mul(0.2).add(0.6)
        )  # accuracy of each draw, 0.7 on average
        control = 0.5 + 0.2 * float(torch.rand((), generator=generator))  # 0.6 on average
        values = (torch.rand(5, 400, generator=generator) < ours).float()
        values_of_control = (torch.rand(1, 400, generator=generator) < control).float()
        difference, accuracies = values[:1] - values_of_control, values.mean(1)
        one = interval(difference, bounds=(-1, 1), difference=True, accuracies=accuracies)
        inside += one.low <= 0.1 <= one.high
        other = interval(difference, bounds=(-1, 1), difference=True)
        narrow += other.low <= 0.1 <= other.high
    assert 0.93 * trials < inside and narrow < 0.8 * trials
