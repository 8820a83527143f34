"""Arm: a two-joint arm that moves in a vertical plane, filmed by several cameras, and drawn in any pose.

Each scene has its own cameras, floor, background, slightly other colours of the arm and movement: from one random pose
to the next along a smooth curve. All cameras of a scene see the same instants.

Factors, by frame: `joint_1`, the angle of the upper arm to the vertical, and `joint_2`, the bend of the elbow, both in
radians.

Baselines on 20 scenes of 24 frames of seed 1. Alignment error between the two cameras (chance level 1/3): 32x32 pixels
0.21. Ridge regression of the joints on 32x32 pixels, fitted on 120 scenes of seed 0: R² 0.90 and 0.59.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.worlds.orbit import cameras_around, render

__all__ = ["HIGH", "LOW", "Stage", "balls", "draw", "make", "stage"]

LOW, HIGH = (-1.2, 0.2), (1.2, 2.2)
"""Limits of the two joints, radians."""
WAYPOINTS = 4
SHOULDER, UPPER, LOWER = 0.6, 0.75, 0.75
"""Height of the shoulder and lengths of the two parts of the arm, metres."""
RADII = (0.34, 0.24, 0.17, 0.17, 0.21, 0.16, 0.16, 0.25)
COLORS = (
    *((0.25, 0.25, 0.30), (0.85, 0.75, 0.15), (0.90, 0.45, 0.10), (0.90, 0.45, 0.10)),
    *((0.20, 0.60, 0.25), (0.20, 0.35, 0.85), (0.20, 0.35, 0.85), (0.85, 0.10, 0.15)),
)
CHUNK = 256


class Stage(NamedTuple):
    """What scenes consist of.

    Attributes:
        positions: Of the cameras, metres, float, shape (n, cameras, 3).
        colors: Of the arm, in 0..1, float, shape (n, 8, 3).
        background: Colours of the horizon, the zenith and the two kinds of tiles, float, shape (n, 4, 3).
        joints: Of the arm at each moment, radians, float, shape (n, frames, 2).
    """

    positions: Tensor
    colors: Tensor
    background: Tensor
    joints: Tensor


def stage(
    n: int, seed: int, *, frames: int = 24, cameras: int = 2, jitter: float = 0.2, still: bool = False
) -> Stage:
    """Draw what scenes consist of.

    Args:
        n: Scenes.
        seed: Seed of everything that differs between scenes.
        frames: Moments of each scene.
        cameras: Cameras of each scene, one radian apart; the first is in front of the plane.
        jitter: Largest deviation of a camera from its usual azimuth, radians; its height deviates as much, in metres.
        still: Whether nothing moves, so that moments cannot be distinguished: a control.
    """
    check.at_least(1, n=n, frames=frames, cameras=cameras)
    check.at_least(0, jitter=jitter)
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    waypoints = low + (high - low) * uniform(0, 1, WAYPOINTS, 2)
    place = torch.linspace(0, WAYPOINTS - 1, frames)
    before = place.long().clamp(max=WAYPOINTS - 2)
    fraction = place - before
    smooth = (fraction.square() * (3 - 2 * fraction))[:, None]
    joints = torch.lerp(waypoints[:, before], waypoints[:, before + 1], smooth)
    if still:
        joints = joints[:, :1].expand_as(joints)
    azimuth = torch.arange(cameras) + uniform(-jitter, jitter, cameras)
    height = 1.8 + uniform(-jitter, jitter, cameras)
    positions = cameras_around(azimuth, height, 3.3 + uniform(-jitter, jitter, cameras))
    colors = (torch.tensor(COLORS) + uniform(-0.15, 0.15, len(COLORS), 3)).clamp(0, 1)
    return Stage(positions, colors, uniform(0.1, 0.9, 4, 3), joints)


def balls(joints: Tensor) -> Tensor:
    """Centres of the balls of the arm.

    Args:
        joints: Radians, float, shape (..., 2).

    Returns:
        Float, shape (..., 8, 3), metres, from the foot to the hand.
    """

    def along(angle: Tensor, *distances: float) -> Tensor:
        direction = torch.stack([torch.zeros_like(angle), angle.sin(), angle.cos()], -1)
        return direction[..., None, :] * torch.tensor(distances)[:, None]

    tilt, bend = joints.unbind(-1)
    post = torch.tensor([[0.0, 0.0, 0.2], [0.0, 0.0, SHOULDER]]).expand(*tilt.shape, 2, 3)
    upper = post[..., 1:, :] + along(tilt, 0.28, 0.52, UPPER)
    lower = upper[..., 2:, :] + along(tilt + bend, 0.26, 0.5, LOWER)
    return torch.cat([post, upper, lower], -2)


def draw(scenes: Stage, scene: int, camera: int, joints: Tensor, size: int = 48) -> Tensor:
    """The arm of a scene in any pose, as a camera of the scene sees it.

    Args:
        scenes: The scenes.
        scene: Number of the scene.
        camera: Number of the camera.
        joints: Radians, float, shape (poses, 2).
        size: Height and width in pixels.

    Returns:
        uint8, shape (poses, 3, size, size).
    """
    parts = []
    for part in joints.split(CHUNK):
        looks = (scenes.positions[scene, camera], scenes.colors[scene], scenes.background[scene])
        position, colors, background = (look.expand(len(part), *look.shape) for look in looks)
        image = render(position, balls(part), torch.tensor(RADII), colors, background, size)
        parts.append((image * 255).round().to(torch.uint8))
    return torch.cat(parts)


def make(n: int, seed: int, *, size: int = 48, **options: int | float | bool) -> dict[str, Tensor]:
    """Draw scenes.

    Args:
        n: Scenes.
        seed: Seed of everything that differs between scenes.
        size: Height and width in pixels.
        **options: As those of `stage`.

    Returns:
        `views` uint8 (n, cameras, frames, 3, size, size), and the factors `joint_1` and `joint_2`, float (n, frames).
    """
    check.at_least(1, size=size)
    scenes = stage(n, seed, **options)  # type: ignore[arg-type]
    cameras = range(scenes.positions.shape[1])
    views = [
        torch.stack([draw(scenes, row, camera, joints, size) for camera in cameras])
        for row, joints in enumerate(scenes.joints)
    ]
    first, second = scenes.joints.unbind(-1)
    return {"views": torch.stack(views), "joint_1": first, "joint_2": second}
