"""Balls: a world whose arrow of time shows, one in which no one can tell it, and one without time."""

import pytest
import torch

from unlabeled.worlds import balls
from unlabeled.worlds.balls import bounced, make


@pytest.mark.parametrize("mode", ["gravity", "elastic", "static"])
def test_shapes_places_and_seeds(mode):
    world = make(6, 1, mode=mode, frames=5, size=48)
    assert world["video"].shape == (6, 5, 1, 48, 48) and world["x"].shape == world["y"].shape == (6, 5)
    video = world["video"].float()[:, :, 0]
    inside = (video - video[:, :, :1, :1]).abs() > 20  # the corner is ground, the ball never reaches it
    for axis, name in ((2, "x"), (3, "y")):
        profile = inside.float().sum(axis)
        centre = (profile * (torch.arange(48) + 0.5)).sum(2) / profile.sum(2)
        assert (centre - world[name]).abs().max() < 0.6
    again = make(6, 1, mode=mode, frames=5, size=48)
    assert all(torch.equal(world[name], again[name]) for name in world)


def test_nothing_moves_where_nothing_should():
    video = make(10, 0, mode="static")["video"]
    assert (video == video[:, :1]).all()
    moving = make(50, 0, mode="elastic")["video"]
    assert ((moving[:, 1:] != moving[:, :-1]).flatten(2).any(2)).all()


def test_elastic_balls_are_anywhere_at_any_time():
    world = make(4000, 0, mode="elastic", size=16)
    room = 16 - 2 * world["radius"][:, None]
    share = (world["x"] - world["radius"][:, None]) / room
    for frame in (0, 5, 15):
        ranks = share[:, frame].sort().values
        uniform = (torch.arange(4000) + 0.5) / 4000
        assert (ranks - uniform).abs().max() < 1.95 / 4000**0.5  # Kolmogorov, 1 in 1000


def test_elastic_motion_has_no_arrow_and_gravity_has():
    def arrow(mode):
        """Difference of the mean distance from the floor between the last and the first third, in standard errors."""
        world = make(3000, 0, mode=mode, size=16)
        y = world["y"]
        change = y[:, -5:].mean(1) - y[:, :5].mean(1)
        return (change.mean() / (change.std() / len(change) ** 0.5)).item()

    assert abs(arrow("elastic")) < 4
    assert arrow("gravity") > 10


def test_falling_agrees_with_the_formula_until_the_floor():
    heights = bounced(torch.tensor([0.0]), torch.tensor([0.5]), torch.tensor([1000.0]), 8)[0]
    times = torch.arange(8.0)
    exact = 0.5 * times + balls.GRAVITY * times.square() / 2
    torch.testing.assert_close(heights, exact, atol=0.1, rtol=0.02)


def test_every_bounce_loses_speed():
    heights = bounced(torch.tensor([10.0]), torch.tensor([0.0]), torch.tensor([20.0]), 200)[0]
    assert heights.max() <= 20 and heights.min() >= 9.9
    peaks = [
        float(heights[frame])
        for frame in range(1, 100)
        if heights[frame] < heights[frame - 1] and heights[frame] <= heights[frame + 1]
    ]
    assert len(peaks) > 2 and peaks == sorted(peaks)  # counted downward: each peak is lower
    first = 20 - peaks[0]
    assert first == pytest.approx(10 * balls.RESTITUTION**2, rel=0.1)
    assert heights[-1] == pytest.approx(20, abs=0.05)


def test_heading_with_gravity_is_right_or_left():
    world = make(300, 0)
    assert set(world["direction"].tolist()) == {0, 4}
    step = world["x"][:, 9] - world["x"][:, 8]
    free = (step.abs() - world["speed"]).abs() < 1e-3
    assert free.sum() > 200
    assert torch.equal(step[free] > 0, world["direction"][free] == 0)


@pytest.mark.parametrize("option", [{"n": 0}, {"frames": 0}, {"size": 8}, {"mode": "magic"}])
def test_bad_values_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        make(**{"n": 1, "seed": 0, **option})
