"""Scenes of several cameras: geometry with closed forms, and what the options change."""

import math
from typing import Any

import pytest
import torch

from unlabeled.worlds import orbit


def small(n: int = 2, seed: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    return orbit.make(n, seed, **{"frames": 5, "size": 16} | options)


def test_scenes_have_the_shapes_promised() -> None:
    made = small(3, cameras=3)
    assert made["views"].shape == (3, 3, 5, 3, 16, 16) and made["views"].dtype == torch.uint8
    assert all(made[name].shape == (3, 5) for name in ("progress", "angle_sin", "angle_cos"))
    torch.testing.assert_close(made["angle_sin"].square() + made["angle_cos"].square(), torch.ones(3, 5))
    assert bool((made["progress"].diff() > 0).all()) and made["progress"][:, -1].tolist() == [1, 1, 1]


def test_same_seed_same_scenes_whatever_the_default_generator() -> None:
    torch.manual_seed(1)
    first = small(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(value, small(seed=4)[key]) for key, value in first.items())
    assert not torch.equal(first["views"], small(seed=5)["views"])


def test_a_ball_at_the_target_is_a_disc_of_the_right_size_in_the_middle() -> None:
    size, radius, distance = 101, 0.5, 4.0
    position = torch.tensor([[distance, 0.0, orbit.TARGET[2]]])
    white, black = torch.ones(1, 1, 3), torch.zeros(1, 4, 3)
    image = orbit.render(position, torch.tensor([[orbit.TARGET]]), torch.tensor([radius]), white, black, size)
    disc = image[0, 0] > 0
    assert torch.equal(disc, disc.flip(0)) and torch.equal(disc, disc.flip(1))
    wanted = (
        orbit.FOCAL * size * radius / math.sqrt(distance**2 - radius**2)
    )  # of the outline that rays touch
    assert int(disc[size // 2].sum()) / 2 == pytest.approx(wanted, abs=1)


def test_rays_are_unit_vectors_and_the_middle_one_meets_the_target() -> None:
    positions = orbit.cameras_around(
        torch.tensor([0.3, 2.0]), torch.tensor([2.0, 1.0]), torch.tensor([4.0, 3.0])
    )
    directions = orbit.rays(positions, 5)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 25))
    to_target = torch.nn.functional.normalize(torch.tensor(orbit.TARGET) - positions, dim=-1)
    torch.testing.assert_close(directions[:, 12], to_target)
    assert bool((directions[:, 2, 2] > directions[:, 22, 2]).all())  # the upper row looks higher


def test_nearer_balls_hide_farther_ones() -> None:
    position = torch.tensor([[4.0, 0.0, orbit.TARGET[2]]])
    centers = torch.tensor([[[-1.0, 0, 0.75], [1.0, 0, 0.75]]])
    colors = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    for order in ([0, 1], [1, 0]):
        image = orbit.render(
            position, centers[:, order], torch.tensor([0.4, 0.4]), colors[:, order], torch.zeros(1, 4, 3), 21
        )
        assert image[0, 1, 10, 10] > 0 and image[0, 0, 10, 10] == 0


def test_turning_the_world_and_the_camera_together_changes_only_light_and_floor() -> None:
    angle, turn = torch.tensor([0.2]), 1.1
    centers = [orbit.arm(angle + more, torch.tensor([0.4])) for more in (0.0, turn)]
    places = [
        orbit.cameras_around(torch.tensor([0.5 + more]), torch.tensor([2.0]), torch.tensor([4.0]))
        for more in (0.0, turn)
    ]
    radii, colors = torch.tensor(orbit.RADII), torch.ones(1, 8, 3)
    black = torch.zeros(1, 4, 3)
    first, second = (orbit.render(p, c, radii, colors, black, 32)[0, 0] > 0 for p, c in zip(places, centers))
    assert (first != second).float().mean() < 0.01 and first.float().mean() > 0.03


def test_options_hold_still_and_set_free() -> None:
    still = small(still=True)["views"]
    assert torch.equal(still, still[:, :, :1].expand_as(still))
    moving = small()["views"].float()
    assert (moving - moving[:, :, :1]).abs().amax((1, 3, 4, 5))[:, 1:].min() > 30
    fixed, free = small(8, jitter=0.0), small(8, free=True)
    assert fixed["views"].shape == free["views"].shape
    for name in ("frames", "cameras", "size"):
        with pytest.raises(ValueError, match=name):
            small(**{name: 0})
