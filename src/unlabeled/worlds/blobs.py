"""Blobs: two textured things drift over a textured ground, each of one hue, with the mask of each.

Lightness and hue are drawn independently and never leave the gamut of a screen, so the lightness of a frame reveals
which position is which and nothing about its hue; the hues are new in every video. Things bounce off the borders; the
second occludes the first where they meet.

Factors: shape (disc or square), hue and speed of each thing.

Baselines: region similarity J of label propagation on 60 videos of seed 1, positions of 4 pixels, from the first frame
and the last 7, top 5, radius 5. The first mask copied without motion 0.42; grey patches of 4 pixels 0.16, of 12 pixels
0.46; four convolutions with random weights on grey frames 0.36; mean colour 0.82, its hue alone 0.91. So compare
networks that see colour with colours, and grey ones with grey ones.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.parts.color import lab_to_rgb

__all__ = ["make"]

THINGS = 2
CHROMA = 24.0
"""Distance from grey in Lab: within the gamut of a screen in every hue at every lightness used here."""
LIGHTNESS = 38.0, 72.0
SIZE = 64.0
"""Side of the frame in the units in which things are described."""
CELL = 6.0, 12.0
"""Least and most distance of the knots of a texture."""
KNOTS = 32
"""Knots on a side; beyond them a texture is mirrored."""
FINE = 0.5
"""Strength of the finer half of a texture, whose knots lie twice as close."""
AT_ONCE = 64
"""Videos drawn together, which bounds the memory."""


def make(
    n: int,
    seed: int,
    *,
    frames: int = 12,
    size: int = 64,
    motion: float = 1.0,
    hues: Literal["video", "frame"] = "video",
) -> dict[str, Tensor]:
    """Draw videos.

    Args:
        n: Number of videos, at least 1.
        seed: The same seed and the same options give the same videos.
        frames: Frames of each video, at least 1.
        size: Height and width in pixels, at least 16; everything else grows with it.
        motion: Factor on all speeds; at 0 all frames of a video are the same.
        hues: How long hues last: "frame" draws new ones for every frame, so that no frame reveals those of another.

    Returns:
        `video`, uint8, shape (n, frames, 3, size, size); `masks`, uint8, shape (n, frames, size, size), 0 for
        the ground, 1 and 2 for the things, 2 in front; for each thing `shape_1`, `shape_2`, int64, shape (n,),
        0 a disc and 1 a square, `hue_1`, `hue_2`, float, shape (n,), in radians from 0 to 2 pi (of the first frame),
        and `speed_1`, `speed_2`, float, shape (n,), in 64ths of the side per frame.

    Raises:
        ValueError: A number is too small.
    """
    check.at_least(1, n=n, frames=frames)
    check.at_least(16, size=size)
    check.at_least(0, motion=motion)
    check.choice(("video", "frame"), hues=hues)
    generator = torch.Generator().manual_seed(seed)
    parts = [
        _draw(len(rows), generator, frames, size, motion, hues) for rows in torch.arange(n).split(AT_ONCE)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _draw(
    n: int, generator: torch.Generator, frames: int, size: int, motion: float, hues: str
) -> dict[str, Tensor]:
    unit = size / SIZE

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=generator)

    radius = uniform(8, 12, n, THINGS)
    shape = torch.randint(2, (n, THINGS), generator=generator)
    speed = uniform(0.8, 2.4, n, THINGS + 1) * motion
    speed[:, THINGS] /= 3
    turn, start = uniform(0, 2 * math.pi, n, THINGS + 1), uniform(0, 2 * math.pi, n)
    travelled = speed[:, None] * torch.arange(frames)[:, None]
    moved = travelled[..., None] * _direction(turn)[:, None]  # n, frames, things and ground, row and column
    opposite = torch.stack([_direction(start), -_direction(start)], 1) * uniform(14, 20, n, THINGS, 1)
    centre = _bounced(SIZE / 2 + opposite[:, None] + moved[:, :, :THINGS], radius[:, None, :, None])
    hue = uniform(0, 2 * math.pi, n, frames, THINGS + 1)
    hue = hue if hues == "frame" else hue[:, :1].expand_as(hue)
    color = CHROMA * rearrange(_direction(hue), "n t k ab -> n t k ab 1 1")

    axis = (torch.arange(size) + 0.5) / unit
    position = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    ground = position - moved[:, :, THINGS, None, None]
    light, paint = _texture(uniform, ground), color[:, :, THINGS].expand(-1, -1, -1, size, size)
    owner = torch.zeros(n, frames, size, size, dtype=torch.uint8)
    for thing in range(THINGS):
        offset = position - centre[:, :, thing, None, None]
        square = shape[:, thing, None, None, None] == 1
        # A square of the same area as the disc.
        distance = torch.where(
            square, offset.abs().amax(-1) * (2 / math.pi**0.5), offset.square().sum(-1).sqrt()
        )
        cover = ((radius[:, thing, None, None, None] - distance) * unit + 0.5).clamp(0, 1)
        light = torch.lerp(light, _texture(uniform, offset), cover)
        paint = torch.lerp(paint, color[:, :, thing], cover[:, :, None])
        owner = torch.where(cover >= 0.5, thing + 1, owner)
    lab = rearrange(torch.cat([light[:, :, None], paint], 2), "n t c h w -> (n t) c h w")
    pixels = (255 * lab_to_rgb(lab)).round().to(torch.uint8)
    tensors = {"video": rearrange(pixels, "(n t) c h w -> n t c h w", n=n), "masks": owner.to(torch.uint8)}
    factors = {"shape": shape, "hue": hue[:, 0], "speed": speed}
    return tensors | {
        f"{name}_{thing + 1}": value[:, thing] for name, value in factors.items() for thing in range(THINGS)
    }


def _direction(angle: Tensor) -> Tensor:
    """Unit vectors, float, shape (..., 2)."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def _bounced(position: Tensor, radius: Tensor) -> Tensor:
    """Positions folded back into the frame, so that the whole thing stays visible."""
    span = SIZE - 2 * radius
    return radius + span - ((position - radius) % (2 * span) - span).abs()


def _texture(uniform: Callable[..., Tensor], position: Tensor) -> Tensor:
    """Lightness of a smooth random texture at positions.

    Args:
        uniform: Draws numbers from low, high and a shape.
        position: Float, shape (videos, frames, height, width, 2).

    Returns:
        Float, shape (videos, frames, height, width), within `LIGHTNESS`.
    """
    videos, height = len(position), position.shape[2]
    cell = uniform(*CELL, videos, 1, 1, 1)
    flat = rearrange(position, "n t h w yx -> n (t h) w yx").flip(-1)
    light = torch.zeros(flat.shape[:-1])
    for octave, strength in ((1, 1.0), (2, FINE)):
        knots = uniform(-2, 2, videos, 1, KNOTS, KNOTS)
        grid = flat * octave / (cell * KNOTS / 2)
        light += strength * F.grid_sample(
            knots, grid, mode="bicubic", padding_mode="reflection", align_corners=False
        ).squeeze(1)
    low, high = LIGHTNESS
    light = (low + high) / 2 + (high - low) / 2 * light.tanh()
    return rearrange(light, "n (t h) w -> n t h w", h=height)
