"""Poses: seen from one another, averaged over a circle, described without a jump."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled.parts.poses import code, mean_pose, motion, relative


def square(side: float = 2.0) -> Tensor:
    """Poses at the corners of a square, walked round counter-clockwise, each looking at the next corner."""
    return torch.tensor(
        [[0, 0, 0], [side, 0, math.pi / 2], [side, side, math.pi], [0, side, -math.pi / 2]],
        dtype=torch.float64,
    )


def test_each_corner_of_a_square_loop_sees_the_next_one_straight_ahead() -> None:
    loop = square()
    seen_from = relative(loop.roll(-1, 0), loop)
    torch.testing.assert_close(seen_from[:, :2], torch.tensor([[2.0, 0.0]]).double().expand(4, -1))
    turned = torch.remainder(seen_from[:, 2], math.tau)
    torch.testing.assert_close(turned, torch.full((4,), math.pi / 2).double())
    # The corner after the next lies ahead and to the left.
    torch.testing.assert_close(relative(loop.roll(-2, 0), loop)[:, :2], torch.full((4, 2), 2.0).double())


def test_relative_poses_compose_to_nothing() -> None:
    first, second = torch.randn(2, 7, 3, dtype=torch.float64)
    back = relative(torch.zeros(3).double(), relative(first, second))
    torch.testing.assert_close(back, relative(second, first))


def test_mean_heading_goes_round_the_circle() -> None:
    poses = torch.tensor([[0.0, 1.0, math.pi - 0.1], [2.0, 3.0, -math.pi + 0.1]])
    mean = mean_pose(poses)
    assert mean[:2].tolist() == [1, 2] and abs(mean[2]) == pytest.approx(math.pi, abs=1e-5)


def test_code_has_no_jump_where_headings_wrap_and_fades_with_time() -> None:
    pose = torch.tensor([[1.0, 2.0, math.pi], [1.0, 2.0, -math.pi]])
    codes = code(pose, torch.tensor([0.0, -40.0]), torch.tensor(2.0), 40.0)
    torch.testing.assert_close(
        codes[:, :4], torch.tensor([[0.5, 1, -1, 0], [0.5, 1, -1, 0]]), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(codes[:, 4], torch.tensor([1.0, math.exp(-1)]))


def test_motion_composes_to_nothing_and_wraps_at_half_a_turn() -> None:
    first, second = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) * 3
    there, back = motion(first, second), motion(second, first)
    # What is back, seen from there, is where we began.
    angle = there[:, 2]
    x = there[:, 0] + back[:, 0] * angle.cos() - back[:, 1] * angle.sin()
    y = there[:, 1] + back[:, 0] * angle.sin() + back[:, 1] * angle.cos()
    torch.testing.assert_close(torch.stack([x, y]), torch.zeros(2, 50), atol=1e-5, rtol=0)
    torch.testing.assert_close((there + back)[:, 2], torch.zeros(50), atol=1e-5, rtol=0)
    wrapped = motion(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.0, 0.0, -3.0]))
    assert float(wrapped[2]) == pytest.approx(2 * math.pi - 6, abs=1e-6)


def test_a_step_after_a_quarter_turn_is_ahead_and_not_to_the_side() -> None:
    torch.testing.assert_close(
        motion(torch.tensor([1.0, 1.0, math.pi / 2]), torch.tensor([1.0, 3.0, math.pi / 2])),
        torch.tensor([2.0, 0.0, 0.0]),
        atol=1e-6,
        rtol=0,
    )
