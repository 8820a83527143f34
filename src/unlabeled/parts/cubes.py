"""Clips cut into cubes of a few frames and pixels, and put together again."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.parts.pictures import strip
from unlabeled.parts.token_masks import pick

__all__ = [
    "Grid",
    "completed",
    "cut",
    "fits",
    "join",
    "normalized",
    "pictures",
    "replace",
    "statistics",
    "whole_cubes",
]

Grid = tuple[int, int, int]
"""Times, rows and columns of the cubes of a clip; an image is a clip of one frame."""
EPS = 1e-6


def whole_cubes(encoder: Any, frames: int | None) -> tuple[int, Grid]:
    """Frames of a clip that a vision transformer reads, and the grid of its cubes.

    Args:
        encoder: Such an encoder of videos.
        frames: As the user asks for; None for as many as the encoder reads for evaluation, in whole cubes.

    Raises:
        UserError: Cubes do not fill the frames that the user asks for.
    """
    count: int = frames or encoder.frames - encoder.frames % encoder.trunk.depth
    return count, encoder.trunk.grid(count, encoder.image_size)


def cut(clips: Tensor, grid: Grid) -> Tensor:
    """Cubes, shape (batch, cubes, channels, pixels of a channel), counted time by time and row by row.

    Args:
        clips: Shape (batch, frames, channels, height, width), which the cubes fill.
        grid: Times, rows and columns of the cubes.
    """
    times, rows, columns = grid
    pattern = "b (t depth) c (h down) (w right) -> b (t h w) c (depth down right)"
    return rearrange(clips, pattern, t=times, h=rows, w=columns)


def join(cubes: Tensor, grid: Grid, depth: int) -> Tensor:
    """Clips from their cubes, the inverse of `cut`.

    Args:
        cubes: Shape (batch, cubes, channels, pixels of a channel), as high as wide.
        grid: Times, rows and columns of the cubes.
        depth: Frames of a cube.
    """
    times, rows, columns = grid
    side = round((cubes.shape[3] / depth) ** 0.5)
    pattern = "b (t h w) c (depth down right) -> b (t depth) c (h down) (w right)"
    return rearrange(cubes, pattern, t=times, h=rows, w=columns, depth=depth, down=side)


def replace(cubes: Tensor, numbers: Tensor, others: Tensor | float) -> Tensor:
    """Cubes, some of which are replaced.

    Args:
        cubes: Shape (batch, cubes, channels, pixels).
        numbers: Of those to replace, int64, shape (batch, replaced).
        others: What replaces them, shape (batch, replaced, channels, pixels), or one value for all pixels.
    """
    index = numbers[:, :, None, None].expand(-1, -1, *cubes.shape[2:])
    return cubes.scatter(1, index, others)  # type: ignore[arg-type]


def statistics(cubes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation of each channel of each cube, shape (batch, cubes, channels, 1) each."""
    return cubes.mean(3, keepdim=True), cubes.std(3, keepdim=True) + EPS


def normalized(cubes: Tensor) -> Tensor:
    """Pixels of each channel of each cube brought to mean 0 and variance 1, float, shape (batch, cubes, numbers)."""
    mean, deviation = statistics(cubes)
    return ((cubes - mean) / deviation).flatten(2)


def completed(cubes: Tensor, hidden: Tensor, predicted: Tensor) -> Tensor:
    """Cubes in 0..1, of which hidden ones are as predicted, with their true mean and deviation.

    Args:
        cubes: Float in 0..1, shape (batch, cubes, channels, pixels).
        hidden: Numbers of the hidden cubes, int64, shape (batch, hidden).
        predicted: As `normalized` makes them, float, shape (batch, hidden, numbers).
    """
    mean, deviation = (pick(values.flatten(2), hidden)[..., None] for values in statistics(cubes))
    pixels = predicted.unflatten(2, (cubes.shape[2], -1)) * deviation + mean
    return replace(cubes, hidden, pixels.clamp(0, 1))


def fits(
    cubes: Tensor, visible: Tensor, hidden: Tensor, predicted: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """What is visible, in mid-grey, and cubes of which hidden ones are those of any sample that fit a prediction best.

    Args:
        cubes: Shape (batch, cubes, channels, pixels).
        visible: Numbers of the visible cubes, int64, shape (batch, visible).
        hidden: Numbers of the hidden cubes, int64, shape (batch, hidden).
        predicted: Predicted vectors of these, float, shape (batch, hidden, dim); compared by the cosine.
        targets: True vectors of all cubes, float, shape (batch, cubes, dim).
    """
    predicted, candidates = F.normalize(predicted, dim=2), F.normalize(targets.flatten(0, 1), dim=1)
    best = (predicted @ candidates.T).argmax(2)
    known = pick(cubes.flatten(2), visible).unflatten(2, cubes.shape[2:])
    return {
        "visible": replace(torch.full_like(cubes, 0.5), visible, known),
        "best fit": replace(cubes, hidden, cubes.flatten(0, 1)[best]),
    }


def pictures(grid: Grid, depth: int, **cubes: Tensor) -> dict[str, Tensor]:
    """By name, the first frames of all cubes side by side, shape (batch, channels, height, times * width).

    Args:
        grid: Times, rows and columns of the cubes.
        depth: Frames of a cube.
        **cubes: As in `join`.
    """
    return {name: strip(join(part, grid, depth)[:, ::depth]) for name, part in cubes.items()}
