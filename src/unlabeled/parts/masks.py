"""Regions to drop from images. In every mask True means dropped."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

__all__ = ["blocks", "central", "intervals", "region", "ring"]


def central(batch: int, size: int, device: torch.device) -> Tensor:
    """A square of half the side in the centre of each image.

    Args:
        batch: Number of masks.
        size: Side of the images in pixels.
        device: Device of the masks.

    Returns:
        Bool, shape (batch, 1, size, size).
    """
    drop = torch.zeros(batch, 1, size, size, dtype=torch.bool, device=device)
    start, side = size // 4, size // 2
    drop[..., start : start + side, start : start + side] = True
    return drop


def blocks(batch: int, size: int, device: torch.device, count: int = 4, area: float = 0.25) -> Tensor:
    """Rectangles of random shape at random positions, which may overlap.

    Args:
        batch: Number of masks.
        size: Side of the images in pixels, at least 8.
        device: Device of the masks.
        count: Rectangles of a mask.
        area: Largest fraction of the image that the rectangles of a mask cover together, in 0..1.

    Returns:
        Bool, shape (batch, 1, size, size).
    """
    budget = area * size**2 / count  # pixels of one rectangle
    height = torch.randint(size // 8, size // 2 + 1, (batch, count, 1), device=device)
    width = (budget / height).int().clamp(1, size)
    rows, columns = intervals(height, size), intervals(width, size)
    rectangles = rearrange(rows, "b n h -> b n h 1") & rearrange(columns, "b n w -> b n 1 w")
    return reduce(rectangles, "b n h w -> b 1 h w", "any")


def intervals(lengths: Tensor, size: int) -> Tensor:
    """Intervals at random places of an axis, every place within it equally likely.

    Args:
        lengths: int, shape (..., 1), in 0..size.
        size: Length of the axis.

    Returns:
        Which positions they cover, bool, shape (..., size).
    """
    position = torch.arange(size, device=lengths.device)
    start = (torch.rand(lengths.shape, device=lengths.device) * (size - lengths + 1)).int()
    return (start <= position) & (position < start + lengths)


def region(
    batch: int, size: int, device: torch.device, cells: int = 8, low: float = 0.2, high: float = 0.3
) -> Tensor:
    """Blobs of arbitrary shape: smooth noise below the threshold that drops a random fraction of each image.

    Args:
        batch: Number of masks.
        size: Side of the images in pixels.
        device: Device of the masks.
        cells: Grid points of the noise along a side; more give smaller blobs.
        low: Smallest fraction of an image to drop, in 0..1.
        high: Largest fraction of an image to drop, in 0..1.

    Returns:
        Bool, shape (batch, 1, size, size).
    """
    noise = torch.rand(batch, 1, cells, cells, device=device)
    field = F.interpolate(noise, (size, size), mode="bicubic").flatten(1)
    count = torch.randint(math.ceil(low * size**2), int(high * size**2) + 1, (batch, 1), device=device)
    threshold = field.sort(dim=1).values.gather(1, count)
    return rearrange(field < threshold, "b (h w) -> b 1 h w", h=size)


def ring(drop: Tensor, width: int) -> Tensor:
    """The visible pixels around a dropped region.

    Args:
        drop: True where dropped, bool, shape (batch, 1, height, width).
        width: Thickness in pixels.

    Returns:
        Bool, shape of `drop`.
    """
    grown = F.max_pool2d(drop.float(), 2 * width + 1, stride=1, padding=width).bool()
    return grown & ~drop
