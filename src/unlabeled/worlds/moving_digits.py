"""Moving digits: handwritten digits fly straight on a dark ground and are mirrored at its borders.

The 1,797 glyphs of 8x8 pixels are scikit-learn's (UCI "Optical Recognition of Handwritten Digits", CC BY 4.0);
the first 1,437 are for training, the last 360 for testing. Factors of each video are the digit, its heading in the
middle frame (one of eight) and its speed. Start positions are uniform and the borders reflect like mirrors, so
a video played backward is as likely as forward, and the middle frame reveals nothing about its heading. Where several
digits overlap the brighter pixel counts, and the factors are those of the first digit.

Baselines (one digit, 2,000 training videos, 500 test videos): the squared error of a frame summed over its pixels
is 4.7, 17.1 and 17.8 where the last of ten frames predicts the 1st, 5th and 10th to follow, and 9.1 for the mean frame.
Linear probes predict the digit, the heading and the speed from the pixels of four frames with 22 %, 96 % and R² 0.00,
from those of a frame near the middle with 19 %, 16 % and 0.00, from the state of a random LSTM of 256 cells after ten
frames with 18 %, 54 % and 0.07; chance level is 10 % and 12.5 %.
"""

import math
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from unlabeled import check

__all__ = ["HEADINGS", "make", "mirrored"]

GLYPH, TRAINING = 8, 1437
SPEEDS = 0.5, 1.5
HEADINGS = ["right", "up right", "up", "up left", "left", "down left", "down", "down right"]


def make(
    n: int,
    seed: int,
    *,
    digits: int = 1,
    frames: int = 20,
    size: int = 16,
    glyphs: Literal["train", "test"] = "train",
) -> dict[str, Tensor]:
    """Draw videos.

    Args:
        n: Number of videos, at least 1.
        seed: The same seed and the same options give the same videos.
        digits: Digits in each video, at least 1.
        frames: Frames of each video, at least 1.
        size: Height and width in pixels, at least 9.
        glyphs: Which handwriting is used; none is in both.

    Returns:
        `video`, uint8, shape (n, frames, 1, size, size), and of the first digit in each `digit`, int64, `direction`,
        int64, in eighths of a turn counter-clockwise from rightward in the middle frame, and `speed`, float, in
        pixels per frame, each of shape (n,).

    Raises:
        ValueError: A number is too small.
    """
    check.at_least(1, n=n, digits=digits, frames=frames)
    check.at_least(GLYPH + 1, size=size)
    check.choice(("train", "test"), glyphs=glyphs)
    generator = torch.Generator().manual_seed(seed)
    shapes, numbers = _glyphs(glyphs)
    glyph = torch.randint(len(shapes), (n, digits), generator=generator)
    headings = torch.randint(8, (n, digits), generator=generator)
    speeds = torch.empty(n, digits).uniform_(*SPEEDS, generator=generator)
    room = size - GLYPH
    middles = room * torch.rand(2, n, digits, generator=generator)
    angles = headings * (math.pi / 4)
    velocities = speeds * torch.stack([angles.cos(), -angles.sin()])  # rows count downward
    times = torch.arange(frames) - frames // 2
    paths = mirrored(middles[..., None] + velocities[..., None] * times, room)
    video = torch.zeros(n, frames, size, size)
    for digit in range(digits):
        across, down = (_placed(path[:, digit], size) for path in paths)
        layer = torch.einsum("ntyi,nij,ntxj->ntyx", down, shapes[glyph[:, digit]], across)
        video = torch.maximum(video, layer)
    return {
        "video": rearrange((255 * video).round().to(torch.uint8), "n t y x -> n t 1 y x"),
        "digit": numbers[glyph[:, 0]],
        "direction": headings[:, 0],
        "speed": speeds[:, 0],
    }


def mirrored(positions: Tensor, room: float | Tensor) -> Tensor:
    """Positions of something that flies straight between two mirrors.

    Args:
        positions: Where it would be without mirrors, float, any shape.
        room: The mirrors stand at 0 and here, above 0.

    Returns:
        Float in 0..room, the same shape.
    """
    return room - (positions.remainder(2 * room) - room).abs()


def _placed(corners: Tensor, size: int) -> Tensor:
    """Weights that put a line of a glyph at positions between the pixels, float, shape (n, frames, size, glyph)."""
    pixels = torch.arange(size)[:, None] - torch.arange(GLYPH)
    return (1 - (pixels - corners[:, :, None, None]).abs()).clamp(min=0)


def _glyphs(part: str) -> tuple[Tensor, Tensor]:
    """Glyphs in 0..1, float, shape (glyphs, 8, 8), and the digits that they are."""
    from sklearn.datasets import load_digits

    values, digits = load_digits(return_X_y=True)
    rows = slice(None, TRAINING) if part == "train" else slice(TRAINING, None)
    shapes = torch.from_numpy(np.asarray(values, dtype=np.float32) / 16)
    shapes = rearrange(shapes, "glyphs (y x) -> glyphs y x", y=GLYPH)
    return shapes[rows], torch.from_numpy(np.asarray(digits)).long()[rows]
