"""Poses in the plane: x and y in metres, heading in radians, counter-clockwise from the x axis."""

import torch
from torch import Tensor

__all__ = ["code", "mean_pose", "motion", "relative"]


def mean_pose(poses: Tensor) -> Tensor:
    """Mean position and mean direction of poses, float, shape (..., 3), of shape (..., frames, 3)."""
    heading = torch.atan2(poses[..., 2].sin().mean(-1), poses[..., 2].cos().mean(-1))
    return torch.cat([poses[..., :2].mean(-2), heading[..., None]], -1)


def relative(poses: Tensor, origin: Tensor) -> Tensor:
    """Poses as seen from another pose: x ahead, y to the left, heading from its own.

    Args:
        poses: Float, shape (..., 3).
        origin: Float, of a shape that broadcasts.

    Returns:
        Float, shape (..., 3); the heading is not wrapped.
    """
    x, y = (poses - origin)[..., :2].unbind(-1)
    cos, sin = origin[..., 2].cos(), origin[..., 2].sin()
    return torch.stack([cos * x + sin * y, cos * y - sin * x, poses[..., 2] - origin[..., 2]], -1)


def motion(first: Tensor, second: Tensor) -> Tensor:
    """Motion from one pose to another, as seen from the first.

    Args:
        first: Float, shape (..., 3).
        second: Float, the same shape.

    Returns:
        Ahead, to the left, and the turn to the left in -pi..pi, float, shape (..., 3).
    """
    there = relative(second, first)
    return torch.cat([there[..., :2], torch.atan2(there[..., 2:].sin(), there[..., 2:].cos())], -1)


def code(pose: Tensor, steps: Tensor, scale: Tensor, span: float) -> Tensor:
    """Describe a pose and a distance in time by five numbers.

    Args:
        pose: Relative pose, float, shape (..., 3).
        steps: Frames from there to here, shape (...).
        scale: Metres that count as 1.
        span: Frames in which the nearness in time decays to 1 / e.

    Returns:
        x, y, cosine and sine of the heading, and the nearness in time in 0..1, float, shape (..., 5).
    """
    heading, near = pose[..., 2], (-steps.abs() / span).exp()
    return torch.stack([*(pose[..., :2] / scale).unbind(-1), heading.cos(), heading.sin(), near], -1)
