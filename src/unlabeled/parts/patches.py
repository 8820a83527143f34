"""Images cut into a grid of cells or tiles and put together again, and squares cut out of them."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check

__all__ = [
    "assemble",
    "cells",
    "crop",
    "overlapping",
    "permute",
    "puzzle",
    "standardize",
    "textured",
    "tile_side",
    "tiles",
]

SCALES = (1.0, 0.8, 0.8**2, 0.8**3)
"""Sides of textured squares, relative to the largest."""


def cells(images: Tensor, grid: int) -> Tensor:
    """Cells of a square grid, row by row.

    Args:
        images: Shape (batch, channels, height, width), the sides multiples of `grid`.
        grid: Cells per side.

    Returns:
        Shape (batch, grid * grid, channels, height / grid, width / grid).
    """
    return rearrange(images, "b c (row h) (column w) -> b (row column) c h w", row=grid, column=grid)


def assemble(cells: Tensor, grid: int) -> Tensor:
    """Images from their cells, the inverse of `cells`."""
    return rearrange(cells, "b (row column) c h w -> b c (row h) (column w)", row=grid, column=grid)


def overlapping(images: Tensor, stride: int) -> Tensor:
    """Patches of a square grid, each of which overlaps the next by half.

    Args:
        images: Shape (batch, channels, height, width), the sides multiples of `stride`.
        stride: Half of the side of a patch, in pixels.

    Returns:
        Shape (batch * rows * columns, channels, 2 * stride, 2 * stride), those of an image together, row by row.
    """
    parts = images.unfold(2, 2 * stride, stride).unfold(3, 2 * stride, stride)
    return rearrange(parts, "b c row column h w -> (b row column) c h w")


def tile_side(image_size: int, grid: int, ratio: float) -> int:
    """Side of a tile in pixels, at least 2.

    Args:
        image_size: Side of the images in pixels.
        grid: Cells per side.
        ratio: Side of a tile relative to its cell, in 0..1; below 1 a tile is smaller than its cell.

    Raises:
        UserError: The image has fewer than 4 pixels per cell.
    """
    check.at_least(4 * grid, image_size=image_size)
    cell = image_size // grid
    return max(2, min(round(ratio * cell), cell - (ratio < 1)))


def tiles(images: Tensor, grid: int, size: int) -> Tensor:
    """One tile from a random position of each cell of a grid.

    Args:
        images: Float, shape (batch, channels, height, height), the side a multiple of `grid`.
        grid: Cells per side.
        size: Side of a tile in pixels, at most that of a cell.

    Returns:
        Shape (batch, grid * grid, channels, size, size), row by row.
    """
    all_cells = rearrange(cells(images, grid), "b n c h w -> (b n) c h w")
    corners = torch.randint(all_cells.shape[3] - size + 1, (len(all_cells), 2), device=images.device)
    return rearrange(crop(all_cells, corners, size), "(b n) c h w -> b n c h w", b=len(images))


def permute(tiles: Tensor, permutations: Tensor) -> Tensor:
    """Tiles in another order: position j shows tile permutations[:, j].

    Args:
        tiles: Shape (batch, tiles, ...).
        permutations: int64, shape (batch, tiles).
    """
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], permutations]


def crop(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cut a square out of each image without resizing it.

    Args:
        images: Shape (batch, channels, height, width).
        corners: Top and left in pixels, int64, shape (batch, 2).
        size: Side of the squares in pixels.

    Returns:
        Shape (batch, channels, size, size).
    """
    channels, width = images.shape[1], images.shape[3]
    rows, columns = (corners[:, :, None] + torch.arange(size, device=images.device)).unbind(dim=1)
    images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return images.gather(3, columns[:, None, None, :].expand(-1, channels, size, -1))


def puzzle(images: Tensor, grid: int, size: int, permutations: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles of each image, shuffled by a random one of some permutations.

    Args:
        images: Float, shape (batch, channels, height, height), the side a multiple of `grid`.
        grid: Cells per side.
        size: Side of a tile in pixels, at most that of a cell.
        permutations: int64, shape (permutations, grid * grid).

    Returns:
        Tiles, shape (batch, grid * grid, channels, size, size), and the index of each permutation, int64, (batch,).
    """
    labels = torch.randint(len(permutations), (len(images),), device=images.device)
    return permute(tiles(images, grid, size), permutations[labels]), labels


def standardize(images: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Give every channel of every image the same mean and deviation; a constant channel becomes the mean.

    Args:
        images: Float, shape (batch, channels, height, width), in 0..1.
        mean: Mean afterwards.
        std: Standard deviation afterwards.

    Returns:
        Float, the same shape, not clamped to 0..1.
    """
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
    # Rounding errors of a constant must not be amplified: norms after it would make a signal of them.
    return torch.where(deviation > 1e-3, centred / deviation.clamp_min(1e-3), 0) * std + mean


def textured(images: Tensor, side: int) -> Tensor:
    """Draw a square in each image, with a probability proportional to the mean squared gradient in it.

    Args:
        images: Float, shape (batch, channels, size, size).
        side: Largest side of the squares in pixels; others are 0.8, 0.64 and 0.512 times as large.

    Returns:
        Column and row of the centre, and side, in pixels, float, shape (batch, 3).
    """
    gray = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across, down = gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2], gray[..., 2:, 1:-1] - gray[..., :-2, 1:-1]
    energy = across.square() + down.square()
    scales = torch.randint(len(SCALES), (len(images),), device=images.device)
    seeds = images.new_zeros(len(images), 3)
    for number, scale in enumerate(SCALES):
        rows, width = (scales == number).nonzero()[:, 0], max(2, round(scale * side))
        means = F.avg_pool2d(F.avg_pool2d(energy[rows], (width, 1), 1), (1, width), 1)
        weights = means.flatten(1).where(means.flatten(1).sum(1, keepdim=True) > 0, 1.0)  # flat: anywhere
        place = torch.multinomial(weights, 1)[:, 0] if len(rows) else rows
        columns = means.shape[3]
        corners = torch.stack([place % columns, place // columns], 1) + width / 2
        seeds[rows] = F.pad(corners, (0, 1), value=width)
    return seeds
