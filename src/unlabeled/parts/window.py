"""Dirt and rain on the window that an image is taken through.

Both are composited in the same way: x' = (1 - alpha) x + alpha layer, where alpha is the opacity of what is on the
window.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import masks
from unlabeled.parts.augment import blur

__all__ = ["composite", "dirt", "rain"]

CELLS = 16
"""Grid points per side of the noise from which specks are made, so that they are a few sixteenths of the image wide."""
BROWN = 1.0, 0.85, 0.65
TINT = 0.1
"""Largest relative change of each colour channel of the dirt."""
RADIUS, LENGTH, MAGNIFICATION, RIM = (0.02, 0.06), (1.0, 4.0), (1.5, 3.0), 0.35
"""Shape of a drop: half its width in sides of the image, its length over its width, how much smaller the scene appears
in it, and the fraction of it that is a bright rim."""
DROP_AREA = math.pi * 0.0052 / 3 * 2.5
"""Mean area of a drop, in areas of the image: pi times the mean square of the radius times the mean length."""


def composite(images: Tensor, alpha: Tensor, layer: Tensor) -> Tensor:
    """Blend images with a layer in front of them.

    Args:
        images: Float, shape (batch, channels, height, width).
        alpha: Opacity of the layer, float in 0..1, broadcastable to the images.
        layer: Float, broadcastable to the images.

    Returns:
        Float, the shape of the images: (1 - alpha) * images + alpha * layer.
    """
    return images + alpha * (layer - images)


def dirt(images: Tensor, coverage: float) -> tuple[Tensor, Tensor]:
    """Specks of irregular shape, with one opacity and one shade of grey or brown per image.

    Args:
        images: Float, shape (batch, channels, size, size), in 0..1.
        coverage: Largest fraction of an image that specks cover, not counting their soft edges, below 1; the smallest
            is a third of it, but at least a pixel.

    Returns:
        Dirty images in 0..1, same shape, and the opacity of the dirt, float in 0..1, shape (batch, 1, size, size).
    """
    batch, channels, size, _ = images.shape
    device, coverage = images.device, max(coverage, 1.5 / size**2)
    specks = masks.region(batch, size, device, CELLS, coverage / 3, coverage).to(images.dtype)
    softness = size * torch.empty(batch, device=device).uniform_(0.01, 0.03)
    alpha = blur(specks, softness) * torch.empty(batch, 1, 1, 1, device=device).uniform_(0.5, 1)
    brown = images.new_tensor(BROWN if channels == 3 else [1.0] * channels)
    color = 1 - torch.rand(batch, 1, device=device) * (1 - brown)
    color = color * (1 + TINT * (2 * torch.rand(batch, channels, device=device) - 1))
    color = (color * torch.rand(batch, 1, device=device)).clamp(0, 1)
    return composite(images, alpha, color[:, :, None, None]), alpha


def rain(images: Tensor, coverage: float) -> tuple[Tensor, Tensor]:
    """Drops and streaks that show the scene around them upside down, smaller and blurred, within a bright rim.

    Args:
        images: Float, shape (batch, channels, size, size), in 0..1.
        coverage: Fraction of an image that the drops cover on average if none overlap; there is at least one drop.

    Returns:
        Images seen through raindrops in 0..1, same shape, and the opacity of the drops, float in 0..1, shape
        (batch, 1, size, size).
    """
    batch, size, device = len(images), images.shape[-1], images.device
    slant = torch.empty(batch, 1, 1, device=device).uniform_(
        -0.3, 0.3
    )  # all drops of an image run in one direction
    axis = torch.linspace(-1, 1, size + 1, device=device)[1:] - 1 / size  # centres of pixels
    depth = torch.zeros(batch, size, size, device=device)  # 1 in the middle of a drop, 0 outside of all
    shift = torch.zeros(batch, size, size, 2, device=device)
    for _ in range(max(1, round(coverage / DROP_AREA))):
        uniform = torch.rand(5, batch, 1, 1, device=device)
        x, y = 2 * uniform[:2] - 1
        width, length, scale = (
            low + (high - low) * number
            for number, (low, high) in zip(uniform[2:], (RADIUS, LENGTH, MAGNIFICATION), strict=True)
        )
        right, down = axis - x, axis[:, None] - y
        across, along = right - slant * down, down / length
        inside = 1 - (across.square() + along.square()) / (2 * width).square()
        nearer = inside > depth
        depth = torch.where(nearer, inside, depth)
        lens = torch.stack([right.expand_as(nearer), down.expand_as(nearer)], 3) * -(1 + scale)[..., None]
        shift = torch.where(nearer[..., None], lens, shift)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), 2)
    soft = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    scene = F.grid_sample(soft, pixels + shift, padding_mode="reflection", align_corners=False)
    rim = (1 - depth / RIM).clamp(0, 1)[:, None] * torch.rand(batch, 1, 1, 1, device=device)
    alpha = (4 * depth).clamp(0, 1)[:, None] * torch.empty(batch, 1, 1, 1, device=device).uniform_(0.7, 1)
    return composite(images, alpha, scene + rim * (1 - scene)), alpha
