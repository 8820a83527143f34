"""An arm in any pose: geometry with closed forms, drawings that only the pose changes, smooth movements."""

import math
from typing import Any

import pytest
import torch

from unlabeled.worlds import arm


def small(n: int = 2, seed: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    return arm.make(n, seed, **{"frames": 7, "size": 16} | options)


def test_scenes_have_the_shapes_promised() -> None:
    made = small(3, cameras=3)
    assert made["views"].shape == (3, 3, 7, 3, 16, 16) and made["views"].dtype == torch.uint8
    for number, joint in enumerate(("joint_1", "joint_2")):
        assert made[joint].shape == (3, 7)
        assert arm.LOW[number] <= made[joint].min() and made[joint].max() <= arm.HIGH[number]


def test_same_seed_same_scenes_whatever_the_default_generator() -> None:
    torch.manual_seed(1)
    first = small(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(value, small(seed=4)[key]) for key, value in first.items())
    assert not torch.equal(first["views"], small(seed=5)["views"])


def test_the_hand_is_where_two_links_put_it() -> None:
    tilt, bend = torch.tensor([0.3, -1.0]), torch.tensor([0.9, 2.0])
    hand = arm.balls(torch.stack([tilt, bend], 1))[:, -1]
    across = arm.UPPER * tilt.sin() + arm.LOWER * (tilt + bend).sin()
    up = arm.SHOULDER + arm.UPPER * tilt.cos() + arm.LOWER * (tilt + bend).cos()
    torch.testing.assert_close(hand, torch.stack([torch.zeros(2), across, up], 1))
    straight = arm.balls(torch.zeros(2))[-1]
    torch.testing.assert_close(straight, torch.tensor([0.0, 0.0, arm.SHOULDER + arm.UPPER + arm.LOWER]))


def test_what_a_scene_shows_is_drawn_again_from_its_joints() -> None:
    made, stage = small(), arm.stage(2, 0, frames=7)
    again = arm.draw(stage, 1, 1, stage.joints[1], size=16)
    assert torch.equal(again, made["views"][1, 1])
    assert not torch.equal(arm.draw(stage, 1, 0, stage.joints[1], size=16), again)
    assert not torch.equal(arm.draw(stage, 0, 1, stage.joints[1], size=16), again)


def test_the_arm_stops_at_its_way_points_and_never_jumps() -> None:
    joints = arm.stage(50, 3, frames=31).joints
    stops = joints[:, ::10]
    assert torch.equal(joints[:, 10], stops[:, 1])
    steps = joints.diff(dim=1).abs()
    whole = stops.diff(dim=1).abs().repeat_interleave(10, 1)
    assert bool((steps <= 0.15 * whole + 1e-6).all()), (
        "a smooth step is at most 1.5 times as fast as an even one"
    )
    assert bool((steps[:, ::10] <= 0.03 * whole[:, ::10] + 1e-6).all())


def test_the_camera_in_front_sees_an_upright_arm_in_the_middle() -> None:
    stage = arm.stage(1, 0, jitter=0.0)
    looks = stage._replace(colors=torch.ones(1, 8, 3), background=torch.zeros(1, 4, 3))
    image = arm.draw(looks, 0, 0, torch.zeros(1, 2), size=48)[0, 0] > 0
    columns = image.any(0).nonzero().flatten()
    assert float(columns.float().mean()) == pytest.approx(23.5, abs=0.6)
    right = arm.draw(looks, 0, 0, torch.tensor([[math.pi / 2, 0.0]]), size=48)[0, 0] > 0
    assert int(right.any(0).nonzero().max()) > int(columns.max()) + 8


def test_still_arms_do_not_move() -> None:
    still = small(still=True)["views"]
    assert torch.equal(still, still[:, :, :1].expand_as(still))
    for name in ("frames", "cameras", "size"):
        with pytest.raises(ValueError, match=name):
            small(**{name: 0})
