"""Clips cut into cubes of a few frames and pixels, and put together again."""

from typing import Any

from einops import rearrange
from torch import Tensor

from unlabeled.parts.pictures import strip

__all__ = ["Grid", "cut", "join", "pictures", "replace", "whole_cubes"]

Grid = tuple[int, int, int]
"""Times, rows and columns of the cubes of a clip."""


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


def pictures(grid: Grid, depth: int, **cubes: Tensor) -> dict[str, Tensor]:
    """By name, the first frames of all cubes side by side, shape (batch, channels, height, times * width).

    Args:
        grid: Times, rows and columns of the cubes.
        depth: Frames of a cube.
        **cubes: As in `join`.
    """
    return {name: strip(join(part, grid, depth)[:, ::depth]) for name, part in cubes.items()}
