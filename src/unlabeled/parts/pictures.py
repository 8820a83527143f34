"""Images for reports from what a method sees and predicts."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

__all__ = ["mark", "mates", "outline", "overlay", "path", "sheet", "spectrogram", "strip"]

RED = 1.0, 0.0, 0.0
MARK = 0.1
"""Radius of a mark, as a fraction of the height."""


def overlay(images: Tensor, weights: Tensor) -> Tensor:
    """Grey images with weights drawn over them in red.

    Args:
        images: Float in 0..1, shape (batch, 3, height, width).
        weights: Float, shape (batch, rows, columns); 0 and below leaves the image, 1 and above is all red.

    Returns:
        Float in 0..1, shape (batch, 3, height, width).
    """
    weights = F.interpolate(weights[:, None], images.shape[2:], mode="bilinear").clamp(0, 1)
    return torch.lerp(images, images.new_tensor(RED)[:, None, None].expand_as(images), weights)


def mark(values: Tensor) -> Tensor:
    """A disc around the position that differs most from the mean: probably an object, located without labels.

    Args:
        values: Float, shape (batch, channels, rows, columns).

    Returns:
        1 within the disc and 0 elsewhere, float, shape (batch, rows, columns).
    """
    rows, columns = values.shape[2:]
    position = (values - values.mean((2, 3), keepdim=True)).norm(dim=1).flatten(1).argmax(1)
    down, right = (
        torch.arange(side, device=values.device) - middle[:, None]
        for side, middle in ((rows, position // columns), (columns, position % columns))
    )
    radius = max(1.0, MARK * rows)
    return (down.square()[:, :, None] + right.square()[:, None] <= radius**2).to(values.dtype)


def outline(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """Images with the border of a square drawn in red, or in white where they are grey.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        corners: Top and left of the squares in pixels, int64, shape (batch, 2), within the images.
        side: Of the squares, in pixels.

    Returns:
        Float in 0..1, the shape of the images.
    """

    def covered(inset: int) -> Tensor:
        down, right = (
            (place >= low[:, None] + inset) & (place < low[:, None] + side - inset)
            for place, low in zip(
                (torch.arange(length, device=images.device) for length in images.shape[2:]), corners.unbind(1)
            )
        )
        return down[:, :, None] & right[:, None]

    color = images.new_tensor(RED if images.shape[1] == 3 else (1.0,))[:, None, None]
    return torch.where((covered(0) & ~covered(1))[:, None], color, images)


def mates(images: Tensor, labels: Tensor) -> Tensor:
    """Another image with the same label for each image, mid-grey if there is none.

    Args:
        images: Float, shape (batch, channels, height, width).
        labels: int64, shape (batch,).

    Returns:
        Float, same shape.
    """
    together = (labels[:, None] == labels).fill_diagonal_(False)
    return images[together.int().argmax(dim=1)].where(together.any(dim=1)[:, None, None, None], 0.5)


def sheet(images: Tensor) -> Tensor:
    """Images side by side in about as many rows as columns, white where there is none.

    Args:
        images: Float in 0..1, shape (batch, images, channels, height, width).

    Returns:
        Float in 0..1, shape (batch, channels, rows * height, columns * width).
    """
    columns = math.ceil(images.shape[1] ** 0.5)
    missing = -images.shape[1] % columns
    images = torch.cat([images, images.new_ones(len(images), missing, *images.shape[2:])], 1)
    return rearrange(images, "b (r k) c h w -> b c (r h) (k w)", k=columns)


def strip(video: Tensor) -> Tensor:
    """Frames side by side, shape (batch, channels, height, frames * width), of (batch, frames, channels, ...)."""
    return rearrange(video, "b t c h w -> b c h (t w)")


def spectrogram(bands: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Spectrograms as grey images, low pitches at the bottom.

    Args:
        bands: Float, shape (batch, bands, frames).
        low: Value that is black; None for the lowest of each spectrogram.
        high: Value that is white; None for the highest.

    Returns:
        Float in 0..1, shape (batch, 1, bands, frames).
    """
    black = bands.amin((1, 2), keepdim=True) if low is None else bands.new_tensor(low)
    white = bands.amax((1, 2), keepdim=True) if high is None else bands.new_tensor(high)
    return ((bands.flip(1) - black) / (white - black).clamp(min=1e-6)).clamp(0, 1)[:, None]


def path(positions: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """A trajectory from above, dark where its frames are visible and light where they are masked.

    Args:
        positions: x and y, float, shape (frames, 2).
        visible: bool, shape (frames,).
        size: Height and width in pixels.

    Returns:
        Float in 0..1, shape (1, height, width), y upwards.
    """
    positions = positions - positions.amin(0)
    positions = positions / positions.max().clamp(min=1e-6)
    side = min(size) - 5
    column, row = (2 + side * positions[:, 0]).long(), (size[0] - 3 - side * positions[:, 1]).long()
    image = torch.ones(*size, device=positions.device)
    for frames, level in ((~visible, 0.65), (visible, 0.0)):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                image[row[frames] + down, column[frames] + right] = level
    return image[None]
