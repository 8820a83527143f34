"""Strongly distorted patches of images: moved, turned and resized, with other colours.

Source: Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, "Discriminative Unsupervised Feature Learning with
Exemplar Convolutional Neural Networks", 2014, https://arxiv.org/abs/1406.6909
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.color import hsv_to_rgb, rgb_to_hsv

__all__ = ["Bending", "Distortion", "Motion", "bend", "cut"]


class Motion(NamedTuple):
    """How squares are moved.

    Attributes:
        shift: To the right and down, in their sides, float, shape (batch, 2).
        factor: On the side, float, shape (batch,).
        degrees: Angle, float, shape (batch,).
    """

    shift: Tensor
    factor: Tensor
    degrees: Tensor


def cut(images: Tensor, seeds: Tensor, size: int, motion: Motion | None = None) -> Tensor:
    """Cut out and resize squares that are shifted, scaled and turned (bilinear); the image goes on mirrored outside.

    Args:
        images: Float, shape (batch, channels, side, side).
        seeds: As `textured` gives them.
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


class Bending(NamedTuple):
    """How the colours of images change.

    Attributes:
        contrast: Factors of the principal components, float, shape (batch, channels).
        curves: Exponents, factors and summands of saturation and value, float, shape (batch, 2, 3).
        hue: Shift of the hue in turns, float, shape (batch,).
    """

    contrast: Tensor
    curves: Tensor
    hue: Tensor


def bend(images: Tensor, mean: Tensor, axes: Tensor, bending: Bending) -> Tensor:
    """Stretch the colours along their principal components, then bend saturation and value and shift the hue.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width). Of other than three channels, each is bent as the
            value is.
        mean: Mean of each channel, float, shape (channels,).
        axes: Principal components as rows, float, shape (channels, channels).
        bending: Random choices for these images.

    Returns:
        Float in 0..1, the shape of the images.
    """
    centred = images - mean[:, None, None]
    # Plain sums, which autocast does not round.
    mixing = (axes[:, :, None] * axes[:, None] * bending.contrast[:, :, None, None]).sum(1)
    images = ((mixing[..., None, None] * centred[:, None]).sum(2) + mean[:, None, None]).clamp(0, 1)
    exponents, factors, summands = bending.curves[..., None, None, None].unbind(2)

    def along(values: Tensor, curve: int) -> Tensor:
        return (values ** exponents[:, curve] * factors[:, curve] + summands[:, curve]).clamp(0, 1)

    if images.shape[1] != 3:
        return along(images, 1)
    hue, saturation, value = rgb_to_hsv(images).split(1, dim=1)
    hue = hue + bending.hue[:, None, None, None]
    return hsv_to_rgb(torch.cat([hue, along(saturation, 0), along(value, 1)], 1))


class Distortion(nn.Module):
    """Cuts distorted squares out of images.

    Args:
        channels: Channels of the images.
        translation: Largest shift of a square, relative to its side.
        scale: Largest factor on its side; the smallest is its inverse.
        degrees: Largest angle.
        jitter: Strength of the colour changes. At 1, principal components are multiplied by 0.5 to 2; saturation and
            value are raised to the power 0.25 to 4, multiplied by 1 / 1.4 to 1.4 and shifted by 0.1, as the hue is.
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
        """Find the principal components of the colours of images, float, shape (batch, channels, height, width)."""
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
        exponent, factor, summand = (self.jitter * ranges * draw(2, 3)).unbind(2)
        curves = torch.stack([exponent.exp(), factor.exp(), summand], 2)
        contrast = draw(images.shape[1], most=self.jitter * math.log(2)).exp()
        bending = Bending(contrast, curves, draw(most=0.1 * self.jitter))
        return bend(cut(images, squares, size, motion), self.mean, self.axes, bending)
