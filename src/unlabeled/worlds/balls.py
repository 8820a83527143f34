"""Balls: one disc on a ground, both of a random grey level, that flies, falls or stays.

"gravity": the ball falls and loses 30 % of its speed at every bounce on the floor, so forward and backward can be
distinguished. "elastic": it flies straight and is mirrored at the borders; its position is uniform at all times, so
backward is exactly as likely as forward, and the middle frame reveals nothing about its heading. "static": it stays,
and nothing reveals the order of the frames. Factors are the heading in the middle frame, the radius, the speed there
and the position in every frame. Whether the ball is darker or brighter than the ground is random too, so raw pixels are
of no use to a linear probe.

Baselines (2,000 training videos, 500 test videos): linear probes on the pixels of four frames predict the heading with
51 % accuracy with gravity (two classes) and 15 % when elastic (eight classes), which is chance level, and radius, speed
and position with R² below 0.01. A small network that gets all frames as channels, trained on 600 videos for 12
processor seconds, distinguishes forward from backward with 96.6 % accuracy with gravity and 49.3 % when elastic.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.worlds.moving_digits import mirrored

__all__ = ["make"]

SIZE = 32.0
"""Side of the frame in the units in which the balls are described."""
RADII = 2.5, 5.0
SPEEDS = 0.6, 1.8
GRAVITY, RESTITUTION = 0.35, 0.7
CONTRAST = 0.25
STEPS = 20
"""Steps of the simulation in a frame."""


def make(
    n: int,
    seed: int,
    *,
    mode: Literal["gravity", "elastic", "static"] = "gravity",
    frames: int = 16,
    size: int = 32,
) -> dict[str, Tensor]:
    """Draw videos.

    Args:
        n: Number of videos, at least 1.
        seed: The same seed and the same options give the same videos.
        mode: What moves the ball.
        frames: Frames of each video, at least 1.
        size: Height and width in pixels, at least 16; everything else grows with it.

    Returns:
        `video`, uint8, shape (n, frames, 1, size, size); `direction`, int64, shape (n,), the heading in the
        middle frame in eighths of a turn counter-clockwise from rightward (0 right or 4 left with gravity);
        `radius` and `speed`, float, shape (n,), in pixels and pixels per frame (with gravity across only, when
        static 0); `x` and `y` of the centre, float, shape (n, frames), in pixels from the top left corner.

    Raises:
        ValueError: A number is too small, or there is no such mode.
    """
    check.at_least(1, n=n, frames=frames)
    check.at_least(16, size=size)
    check.choice(("gravity", "elastic", "static"), mode=mode)
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    radius = uniform(*RADII)
    room = SIZE - 2 * radius
    position = uniform(0, 1, 2) * room[:, None]
    heading = torch.randint(8, (n,), generator=generator)
    speed = uniform(*SPEEDS) * float(mode != "static")
    times = torch.arange(frames) - frames // 2
    if mode == "gravity":
        heading = heading // 4 * 4
        fall = uniform(-2.5, 2.5)
        heights = bounced(position[:, 1], fall, room, frames)
        velocities = torch.stack([speed * (heading * (math.pi / 4)).cos(), torch.zeros(n)], 1)
    else:
        angles = heading * (math.pi / 4)
        velocities = speed[:, None] * torch.stack([angles.cos(), -angles.sin()], 1)
        heights = mirrored(position[:, 1:] + velocities[:, 1:] * times, room[:, None])
    across = mirrored(position[:, :1] + velocities[:, :1] * times, room[:, None])
    x, y = across + radius[:, None], heights + radius[:, None]
    ground = uniform(0, 1)
    ball = (ground + uniform(CONTRAST, 1 - CONTRAST)).remainder(1)  # far from the ground, brighter or darker
    unit = size / SIZE
    radius, x, y, speed = unit * radius, unit * x, unit * y, unit * speed
    video = _rendered(x, y, radius, ground, ball, size)
    return {"video": video, "direction": heading, "radius": radius, "speed": speed, "x": x, "y": y}


def _rendered(x: Tensor, y: Tensor, radius: Tensor, ground: Tensor, ball: Tensor, size: int) -> Tensor:
    """Balls of some grey levels in 0..1 on their grounds, uint8, shape (n, frames, 1, size, size)."""
    pixels = torch.arange(size) + 0.5
    distance = torch.hypot(pixels - x[..., None, None], pixels[:, None] - y[..., None, None])
    inside = (radius[:, None, None, None] - distance + 0.5).clamp(0, 1)
    video = torch.lerp(ground[:, None, None, None], ball[:, None, None, None], inside)
    return (255 * video).round().to(torch.uint8)[:, :, None]


def bounced(position: Tensor, velocity: Tensor, room: Tensor, frames: int) -> Tensor:
    """Heights of balls that fall and lose some of their speed at the floor.

    Args:
        position: Where they start, float, shape (n,), in 0..room, counted downward.
        velocity: Units per frame downward at the start, float, shape (n,).
        room: Where the floor is, float, shape (n,); the ceiling at 0 mirrors them without loss.
        frames: Frames to follow them.

    Returns:
        Float, shape (n, frames), in 0..room.
    """
    heights = []
    for _ in range(frames):
        heights.append(position)
        for _ in range(STEPS):
            velocity = velocity + GRAVITY / STEPS
            position = position + velocity / STEPS
            below, above = position > room, position < 0
            velocity = torch.where(
                below, -RESTITUTION * velocity.abs(), torch.where(above, velocity.abs(), velocity)
            )
            position = torch.where(below, 2 * room - position, position.abs())
        position = position.clamp(min=torch.zeros_like(room), max=room)
    return torch.stack(heights, 1)
