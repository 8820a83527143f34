"""Trajectories through a house: depth, pose and pictures belong together, and nobody walks through walls."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.worlds import rooms


def small(n: int = 3, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    return rooms.make(n, seed, **{"frames": 40, "size": 24} | options)


def test_walks_have_the_shapes_promised() -> None:
    made = small()
    assert made["video"].shape == (3, 40, 3, 24, 24) and made["video"].dtype == torch.uint8
    assert made["pose"].shape == (3, 40, 3) and made["depth"].shape == (3, 40, 24, 24)
    assert made["action"].shape == (3, 40, 2) and made["room"].shape == (3, 40)
    assert made["pose"][..., 2].abs().max() <= math.pi + 1e-5
    assert bool(made["depth"].isfinite().all()) and made["depth"].min() > 0


def test_same_seed_same_walks_in_the_same_house() -> None:
    torch.manual_seed(1)
    first = small(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(value, small(seed=4)[key]) for key, value in first.items())
    other = small(seed=5)
    assert not torch.equal(first["pose"], other["pose"])
    assert not torch.equal(first["video"], small(seed=4, house=1)["video"])


def test_actions_lead_from_pose_to_pose() -> None:
    made = small()
    pose, (forward, turn) = made["pose"], made["action"].unbind(-1)
    heading = pose[:, :-1, 2] + turn[:, :-1]
    torch.testing.assert_close(heading.sin(), pose[:, 1:, 2].sin(), atol=1e-4, rtol=0)
    ahead = torch.stack([heading.cos(), heading.sin()], -1) * forward[:, :-1, None]
    torch.testing.assert_close(pose[:, :-1, :2] + ahead, pose[:, 1:, :2], atol=1e-4, rtol=0)
    assert forward.max() <= rooms.STRIDE + 1e-4 and turn.abs().max() <= rooms.TURN + 1e-4


@pytest.mark.parametrize("house", [0, 1, 2])
def test_nobody_walks_through_a_wall_and_all_rooms_can_be_reached(house: int) -> None:
    doors = rooms.plan(3, 2, house)
    reached = {0}
    for _ in range(6):
        reached |= {room for pair in doors for room in pair if reached & set(pair)}
    assert reached == set(range(6))
    pose, _ = rooms.stroll(8, 400, doors, (3, 2), torch.Generator().manual_seed(house))
    here, after = pose[:, :-1, :2], pose[:, 1:, :2]
    for axis, place, low, high, *_ in rooms.walls(doors, (3, 2)).tolist():
        one, other = here[..., int(axis)] - place, after[..., int(axis)] - place
        share = one / (one - other + 1e-9)
        along = torch.lerp(here[..., 1 - int(axis)], after[..., 1 - int(axis)], share)
        assert not bool(((one * other < 0) & (along > low) & (along < high)).any())
    visited = rooms.room_of(pose[..., 0], pose[..., 1], 3)
    assert set(visited.unique().tolist()) == set(range(6))
    steps = [
        tuple(sorted(pair)) for walk in visited.tolist() for pair in pairwise(walk) if pair[0] != pair[1]
    ]
    assert set(steps) <= set(doors)


def test_depth_in_an_empty_room_is_that_of_its_walls_floor_and_ceiling() -> None:
    segments, decoration = rooms.walls([], (1, 1)), rooms.Decoration(1, 0)
    pose = torch.tensor(
        [[1.0, 1.5, 0.0], [1.0, 1.5, math.pi / 2], [1.0, 1.5, math.pi], [1.0, 1.5, -math.pi / 2]]
    )
    _, depth = rooms.look(pose, segments, decoration, 1, 41)
    torch.testing.assert_close(depth[:, 20, 20], torch.tensor([3.0, 2.5, 1.0, 1.5]))
    # Along a wall that is looked at straight on the depth is that of its plane, whatever the column.
    torch.testing.assert_close(depth[0, 20, 12:28], torch.full((16,), 3.0))
    slope = (40 + 0.5) / 41 * 2 - 1
    torch.testing.assert_close(depth[0, 40, 20], torch.tensor(rooms.EYES / slope))
    torch.testing.assert_close(depth[0, 0, 20], torch.tensor((rooms.HEIGHT - rooms.EYES) / slope))


def test_left_and_right_are_not_swapped() -> None:
    """Who stands near the lower wall and looks along it has that wall to the right."""
    segments, decoration = rooms.walls([], (1, 1)), rooms.Decoration(1, 0)
    _, depth = rooms.look(torch.tensor([[0.5, 0.5, 0.0]]), segments, decoration, 1, 41)
    assert depth[0, 20, 40] < 0.6 < 3 < depth[0, 20, 0] + 2


def test_depth_and_pose_predict_the_next_picture() -> None:
    """Points of one frame, moved into another by depth and pose, have the same colours there."""
    made, size = small(4, frames=30, size=48), 48
    slope = ((torch.arange(size) + 0.5) / size - 0.5) / rooms.FOCAL
    errors, unmoved = [], []
    for walk in range(4):
        for now, later in ((2, 4), (12, 14), (22, 24)):
            x, y, heading = made["pose"][walk, now]
            depth, image = made["depth"][walk, now], made["video"][walk, now].float()
            ahead = torch.stack(
                [heading.cos() + slope * heading.sin(), heading.sin() - slope * heading.cos()]
            )
            points = torch.stack([x, y])[:, None, None] + depth * ahead[:, None]
            height = rooms.EYES - depth * slope[:, None]
            x, y, heading = made["pose"][walk, later]
            away = points - torch.stack([x, y])[:, None, None]
            front = heading.cos() * away[0] + heading.sin() * away[1]
            right = heading.sin() * away[0] - heading.cos() * away[1]
            column = ((right / front * rooms.FOCAL + 0.5) * size).floor().long()
            row = (((rooms.EYES - height) / front * rooms.FOCAL + 0.5) * size).floor().long()
            inside = (front > 0.1) & (column >= 0) & (column < size) & (row >= 0) & (row < size)
            column, row = column.clamp(0, size - 1), row.clamp(0, size - 1)
            visible = inside & ((made["depth"][walk, later][row, column] - front).abs() < 0.1 * front)
            target = made["video"][walk, later].float()
            errors.append((target[:, row, column] - image).abs().mean(0)[visible].mean())
            unmoved.append((target - image).abs().mean(0)[visible].mean())
    assert torch.stack(errors).mean() < 0.35 * torch.stack(unmoved).mean()


def test_who_stands_still_sees_the_same() -> None:
    made = small(still=True)
    assert torch.equal(made["video"], made["video"][:, :1].expand_as(made["video"]))
    assert bool((made["action"] == 0).all()) and bool((made["pose"] == made["pose"][:, :1]).all())


def test_houses_may_have_any_number_of_rooms() -> None:
    assert rooms.make(1, 0, frames=3, size=8, columns=1, rows=1)["room"].unique().tolist() == [0]
    column = rooms.make(2, 0, frames=200, size=4, columns=1, rows=3)
    assert set(column["room"].unique().tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match="columns"):
        rooms.make(1, 0, columns=0)
