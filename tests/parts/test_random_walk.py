"""Random walks: steps that are probabilities, and round trips as slow loops compute them."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.random_walk import round_trips, transitions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def slow_trips(nodes: Tensor, temperature: float) -> Tensor:
    """Round trips of one clip, step by step, each probability on its own."""
    frames, count = nodes.shape[:2]

    def step(place: int, here: int, there: int) -> list[Tensor]:
        weights = [((nodes[here, place] * nodes[there, j]).sum() / temperature).exp() for j in range(count)]
        return [weight / sum(weights) for weight in weights]

    trips = []
    for length in range(2, frames):
        route = [*range(length + 1), *reversed(range(length))]
        rows = []
        for start in range(count):
            place = [torch.tensor(float(j == start), dtype=torch.float64) for j in range(count)]
            for here, there in pairwise(route):
                steps = [step(i, here, there) for i in range(count)]
                place = [sum(place[i] * steps[i][j] for i in range(count)) for j in range(count)]
            rows.append(torch.stack(place))
        trips.append(torch.stack(rows))
    return torch.stack(trips)


def test_round_trips_and_their_gradient_are_those_of_slow_loops() -> None:
    nodes = units(2, 4, 3, 5).requires_grad_()
    fast = round_trips(*transitions(nodes, 0.5, 0.0))
    slow = torch.stack([slow_trips(clip, 0.5) for clip in nodes])
    assert fast.shape == (2, 2, 3, 3)
    torch.testing.assert_close(fast, slow)
    weights = torch.randn_like(fast)
    gradients = [torch.autograd.grad((trips * weights).sum(), nodes)[0] for trips in (fast, slow)]
    torch.testing.assert_close(*gradients)


def test_steps_are_probabilities_whatever_is_dropped() -> None:
    nodes = units(3, 4, 6, 5)
    for dropout in (0.0, 0.3, 0.999):
        for steps in transitions(nodes, 0.07, dropout):
            torch.testing.assert_close(steps.sum(3), torch.ones(3, 3, 6, dtype=torch.float64))
    forward, back = transitions(torch.ones(50, 2, 8, 1), 0.07, 0.25)
    for steps in (forward, back):
        assert (steps == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert ((forward == 0) != (back.mT == 0)).any()  # both directions draw their own


def test_the_way_back_is_not_the_transposed_way_there() -> None:
    forward, back = transitions(units(1, 2, 5, 4), 0.3, 0.0)
    assert (forward - back.mT).abs().max() > 0.01


def test_the_order_of_patches_in_between_does_not_matter() -> None:
    nodes = units(2, 4, 6, 5)
    shuffled = nodes.clone()
    shuffled[:, 1], shuffled[:, 2] = nodes[:, 1, torch.randperm(6)], nodes[:, 2, torch.randperm(6)]
    one, other = (round_trips(*transitions(given, 0.2, 0.0)) for given in (nodes, shuffled))
    torch.testing.assert_close(one[:, -1], other[:, -1])
    shuffled[:, 0] = nodes[:, 0, torch.arange(6).roll(1)]  # their order at the start permutes the walks
    moved = round_trips(*transitions(shuffled, 0.2, 0.0))
    index = torch.arange(6).roll(1)
    torch.testing.assert_close(moved[:, -1], one[:, -1][:, index][:, :, index])


def test_half_precision_does_not_round_probabilities() -> None:
    nodes = units(2, 3, 6, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        trips = round_trips(*transitions(nodes, 0.07, 0.0))
    assert trips.dtype == torch.float32
    torch.testing.assert_close(trips, round_trips(*transitions(nodes, 0.07, 0.0)))


def test_walks_return_where_patches_differ_and_are_lost_where_they_do_not() -> None:
    same = torch.eye(6).expand(1, 4, 6, 6)
    trips = round_trips(*transitions(same, 0.05, 0.0))
    torch.testing.assert_close(trips, torch.eye(6).expand_as(trips))
    lost = round_trips(*transitions(torch.ones(1, 4, 6, 3) / math.sqrt(3), 0.05, 0.0))
    torch.testing.assert_close(lost, torch.full_like(lost, 1 / 6))
