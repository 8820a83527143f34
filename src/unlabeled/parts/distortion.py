"""Strongly distorted patches of images: shifted, rotated and scaled, with other colours.

Source: Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, "Discriminative Unsupervised Feature Learning with
Exemplar Convolutional Neural Networks", 2014, https://arxiv.org/abs/1406.6909
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.color import hsv_to_rgb, rgb_to_hsv

__all__ = ["ColorChange", "Distortion", "Motion", "change_colors", "cut"]


class Motion(NamedTuple):
    """How squares are moved.

    Attributes:
        shift: Shift to the right and down, in sides of the square, float, shape (batch, 2).
        factor: Scale factor of the side, float, shape (batch,).
        degrees: Angle of rotation, float, shape (batch,).
    """

    shift: Tensor
    factor: Tensor
    degrees: Tensor


def cut(images: Tensor, seeds: Tensor, size: int, motion: Motion | None = None) -> Tensor:
    """Cut out and resize squares that are shifted, scaled and rotated (bilinear); images are continued by reflection.

    Args:
        images: Float, shape (batch, channels, side, side).
        seeds: Squares, as from `textured`.
        size: Side of the result in pixels.
        motion: None to leave the squares where they are.

    Returns:
        Float, shape (batch, channels, size, size).
    """
    column, row, side = seeds.unbind(1)
    cos, sin = torch.ones_like(side), torch.zeros_like(side)
    if motion is not None:
        column, row = column + motion.shift[:, 0] * side, row + motion.shift[:, 1] * side
        side = side * motion.factor
        cos, sin = motion.degrees.deg2rad().cos(), motion.degrees.deg2rad().sin()
    # Products of matrices would be rounded to half precision in autocast, which would shift the pixels.
    right = (torch.arange(size, device=images.device) + 0.5) / size - 0.5
    down, half = right[:, None], images.shape[3] / 2
    column, row, side, cos, sin = (x[:, None, None] for x in (column, row, side, cos, sin))
    columns, rows = column + side * (cos * right - sin * down), row + side * (sin * right + cos * down)
    grid = (torch.stack([columns, rows], 3) / half - 1).to(images.dtype)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


class ColorChange(NamedTuple):
    """How the colours of images change.

    Attributes:
        contrast: Factors of the principal components, float, shape (batch, channels).
        curves: Exponents, factors and offsets of saturation and value, float, shape (batch, 2, 3).
        hue: Shift of the hue in turns, float, shape (batch,).
    """

    contrast: Tensor
    curves: Tensor
    hue: Tensor


def change_colors(images: Tensor, mean: Tensor, axes: Tensor, change: ColorChange) -> Tensor:
    """Scale the colours along their principal components, then map saturation and value and shift the hue.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width). Without exactly three channels, every channel is
            mapped like the value.
        mean: Mean of each channel, float, shape (channels,).
        axes: Principal components as rows, float, shape (channels, channels).
        change: Random choices for these images.

    Returns:
        Float in 0..1, the shape of the images.
    """
    centred = images - mean[:, None, None]
    # Plain sums, which autocast does not round.
    mixing = (axes[:, :, None] * axes[:, None] * change.contrast[:, :, None, None]).sum(1)
    images = ((mixing[..., None, None] * centred[:, None]).sum(2) + mean[:, None, None]).clamp(0, 1)
    exponents, factors, offsets = change.curves[..., None, None, None].unbind(2)

    def mapped(values: Tensor, curve: int) -> Tensor:
        return (values ** exponents[:, curve] * factors[:, curve] + offsets[:, curve]).clamp(0, 1)

    if images.shape[1] != 3:
        return mapped(images, 1)
    hue, saturation, value = rgb_to_hsv(images).split(1, dim=1)
    hue = hue + change.hue[:, None, None, None]
    return hsv_to_rgb(torch.cat([hue, mapped(saturation, 0), mapped(value, 1)], 1))


class Distortion(nn.Module):
    """Cuts distorted squares out of images.

    Args:
        channels: Channels of the images.
        translation: Largest shift of a square, relative to its side.
        scale: Largest scale factor of its side; the smallest is its inverse.
        degrees: Largest angle of rotation.
        jitter: Strength of the colour changes. At 1, principal components are multiplied by 0.5 to 2; saturation and
            value are raised to the power of 0.25 to 4, multiplied by 1 / 1.4 to 1.4 and shifted by up to 0.1, as is the
            hue.
    """

    mean: Tensor
    axes: Tensor

    def __init__(
        self, channels: int, *, translation: float, scale: float, degrees: float, jitter: float
    ) -> None:
        super().__init__()
        self.translation, self.scale, self.degrees, self.jitter = translation, scale, degrees, jitter
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("axes", torch.eye(channels))

    def fit(self, images: Tensor) -> None:
        """Compute the principal components of the colours of images, float, shape (batch, channels, height, width)."""
        pixels = images.transpose(0, 1).flatten(1)
        self.mean.copy_(pixels.mean(1))
        self.axes.copy_(torch.linalg.eigh(torch.cov(pixels).view_as(self.axes)).eigenvectors.mT)

    @torch.no_grad()
    def forward(self, images: Tensor, squares: Tensor, size: int) -> Tensor:
        """A distorted patch of each image; arguments and result as those of `cut`, in 0..1."""

        def draw(*shape: int, most: float = 1.0) -> Tensor:
            return torch.empty(len(images), *shape, device=images.device).uniform_(-most, most)

        factor = draw(most=math.log(self.scale)).exp()
        motion = Motion(draw(2, most=self.translation), factor, draw(most=self.degrees))
        ranges = torch.tensor([math.log(4), math.log(1.4), 0.1], device=images.device)
        exponent, factor, offset = (self.jitter * ranges * draw(2, 3)).unbind(2)
        curves = torch.stack([exponent.exp(), factor.exp(), offset], 2)
        contrast = draw(images.shape[1], most=self.jitter * math.log(2)).exp()
        change = ColorChange(contrast, curves, draw(most=0.1 * self.jitter))
        return change_colors(cut(images, squares, size, motion), self.mean, self.axes, change)
