"""Imitation: a simulated arm follows a demonstration, so that what it sees of itself stays near what it was shown.

The embedding of each demonstrated frame is compared with those of what the arm would see in other poses, and of the
poses within reach it takes the one that is nearest. Of the demonstration's joint angles only the first are used, and
nothing is learned.

Source: Sermanet, Lynch, Chebotar, Hsu, Jang, Schaal, Levine, "Time-Contrastive Networks: Self-Supervised Learning from
Video", 2018, https://arxiv.org/abs/1704.06888, whose reward is the distance of the same embeddings
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.cameras import Scenes

__all__ = ["Demonstration", "degrees", "demonstration", "follow", "grid", "joints_of"]

STEPS = 21
"""Poses along each joint that are looked at."""
REACH = 0.25
"""Largest change of a joint from one frame to the next, as a fraction of its range."""
TIED = 1e-6
"""Relative difference of distances below which they are alike."""


class Demonstration(NamedTuple):
    """What an arm is shown and what it would see of itself.

    Attributes:
        frames: The demonstration, uint8, shape (frames, channels, height, width).
        own: What the arm sees in each pose, uint8, shape (poses, channels, height, width).
        start: Number of the pose that it starts in, which is nearest to the first one of the demonstration.
    """

    frames: Tensor
    own: Tensor
    start: int


def joints_of(scenes: Scenes) -> Tensor:
    """Joint angles of each scene, radians, float, shape (scenes, frames, joints): the factors joint_1, joint_2 ...

    Raises:
        ValueError: They are not known, or nothing draws the arm in other poses.
    """
    names = sorted(
        name for name, values in scenes.factors.items() if name.startswith("joint_") and values.ndim == 2
    )
    if scenes.simulator is None or not names:
        raise UserError(
            f"data must show an arm that can be moved, such as arm, for imitation, got {scenes.name}"
        )
    return torch.stack([scenes.factors[name] for name in names], -1)


def grid(joints: Tensor) -> Tensor:
    """Poses at even distances over the range of joint angles, float, shape (poses, joints).

    Args:
        joints: Joint angles, float, shape (..., joints).
    """
    flat = joints.flatten(0, -2)
    axes = [
        torch.linspace(low, high, STEPS) for low, high in zip(flat.amin(0).tolist(), flat.amax(0).tolist())
    ]
    return torch.cartesian_prod(*axes).view(-1, flat.shape[1])


def demonstration(scenes: Scenes, row: int, actor: int, poses: Tensor, joints: Tensor) -> Demonstration:
    """A demonstration through the first camera of a scene, for an arm that sees itself through the last one of another.

    Args:
        scenes: The scenes.
        row: Row of the scene that is demonstrated.
        actor: Row of the scene in which the arm is.
        poses: Poses that it can take, float, shape (poses, joints).
        joints: Joint angles of all scenes, as `joints_of`.
    """
    assert scenes.simulator is not None
    frames = scenes.batch(torch.tensor([row]))["views"][0, 0, : int(scenes.lengths[row])].cpu()
    own = scenes.simulator(int(scenes.rows[actor]), scenes.cameras - 1, poses)
    return Demonstration(frames, own, int((poses - joints[row, 0]).abs().amax(1).argmin()))


def follow(shown: Tensor, own: Tensor, poses: Tensor, start: int) -> Tensor:
    """Poses that an arm takes, one for each frame of a demonstration.

    Args:
        shown: Embeddings of the demonstration, float, shape (frames, dim).
        own: Embeddings of what the arm sees in each pose, float, shape (poses, dim).
        poses: Joint angles, float, shape (poses, joints).
        start: Number of the first pose.

    Returns:
        Numbers of the poses, int64, shape (frames,). Of poses that are equally near the one that moves least is taken,
        so that an arm whose embedding says nothing stays where it is.
    """
    distances = torch.cdist(shown.double(), own.double(), compute_mode="donot_use_mm_for_euclid_dist")
    reach = REACH * (poses.amax(0) - poses.amin(0)) * (1 + TIED)
    here, path = start, [start]
    for row in distances[1:]:
        moves = (poses - poses[here]).abs()
        row = row.masked_fill((moves > reach).any(1), torch.inf)
        best = row <= row.min() * (1 + TIED)
        here = int(moves.sum(1).masked_fill(~best, torch.inf).argmin())
        path.append(here)
    return torch.tensor(path)


def degrees(imitation: Tensor, true: Tensor) -> Tensor:
    """Mean distance of joint angles in degrees over all frames but the first, which is given, and all joints; scalar.

    Args:
        imitation: Radians, float, shape (frames, joints).
        true: Radians, the same shape.
    """
    return (imitation - true)[1:].abs().mean() * 180 / math.pi
