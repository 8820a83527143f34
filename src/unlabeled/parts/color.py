"""Colour spaces: sRGB to CIE Lab and back (white of D65, 2 degree observer), to HSV and back; hue and chroma."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "desaturate",
    "drop_aberration",
    "drop_channels",
    "from_hue_chroma",
    "hsv_to_rgb",
    "hue_chroma",
    "lab_to_rgb",
    "lightness",
    "rgb_to_hsv",
    "rgb_to_lab",
]

TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
TO_RGB = torch.linalg.inv(torch.tensor(TO_XYZ, dtype=torch.float64)).tolist()
WHITE = (0.95047, 1.0, 1.08883)
AXIS = (-1.0, 2.0, -1.0)
"""From magenta to green, along which lenses displace the channels."""
NOISE = 0.01
"""Standard deviation of the noise in dropped channels, relative to that of the channel that is kept."""


def rgb_to_lab(images: Tensor) -> Tensor:
    """Lightness and two colour axes (green to red, blue to yellow) of sRGB images.

    Args:
        images: sRGB, float, shape (batch, 3, height, width), in 0..1.

    Returns:
        Float32, same shape: L in 0..100, a in about -86..98, b in about -108..94.
    """
    x, y, z = (_compress(axis / white) for axis, white in zip(_mix(TO_XYZ, _linear(images)).unbind(1), WHITE))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(images: Tensor) -> Tensor:
    """SRGB images of Lab images, clipped to the gamut of sRGB.

    Args:
        images: Lab, float, shape (batch, 3, height, width), L in 0..100.

    Returns:
        Float32, same shape, in 0..1.
    """
    light, a, b = images.float().unbind(1)
    y = (light + 16) / 116
    x, z = y + a / 500, (y - b / 200).clamp(min=0)
    xyz = torch.stack([_expand(axis) * white for axis, white in zip((x, y, z), WHITE)], 1)
    linear = _mix(TO_RGB, xyz).clamp(0, 1)
    # The slope of the power is infinite at 0, so its argument stays away from 0 to keep gradients finite.
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


def lightness(images: Tensor) -> Tensor:
    """Lightness L of Lab, which holds no colour.

    Args:
        images: sRGB or grey, float, shape (batch, 3 or 1, height, width), in 0..1.

    Returns:
        Float32, shape (batch, 1, height, width), in 0..100.
    """
    luminance = _mix(TO_XYZ[1:2], _linear(images.expand(-1, 3, -1, -1)))
    return 116 * _compress(luminance) - 16


def desaturate(images: Tensor) -> Tensor:
    """Remove the colours of sRGB images, shape (batch, 3, height, width), and keep their lightness."""
    return lab_to_rgb(F.pad(lightness(images), (0, 0, 0, 0, 0, 2)))


def hue_chroma(images: Tensor) -> Tensor:
    """Hue in turns (red is 0, green a third) and chroma, the highest minus the lowest channel.

    Args:
        images: Float, shape (batch, 3, ...), in 0..1.

    Returns:
        Float, shape (batch, 2, ...): hue from 0 to below 1, 0 for grey, and chroma in 0..1.
    """
    high = images.amax(1)
    chroma = high - images.amin(1)
    return torch.stack([_hue(images, high, chroma), chroma], 1)


def from_hue_chroma(hue: Tensor, chroma: Tensor, grey: Tensor) -> Tensor:
    """Images with a given hue, chroma and mean of the channels, the inverse of `hue_chroma`; clipped to 0..1.

    Args:
        hue: In turns, float, shape (batch, height, width).
        chroma: Same shape, in 0..1.
        grey: Mean of red, green and blue, same shape, in 0..1.

    Returns:
        Float, shape (batch, 3, height, width), in 0..1.
    """
    primaries = torch.arange(0, 6, 2, device=hue.device)[:, None, None]
    pure = (((6 * hue[:, None] - primaries).remainder(6) - 3).abs() - 1).clamp(0, 1)
    return (grey[:, None] + chroma[:, None] * (pure - pure.mean(1, keepdim=True))).clamp(0, 1)


def rgb_to_hsv(images: Tensor) -> Tensor:
    """Hue, saturation and value.

    Args:
        images: RGB, float, shape (batch, 3, height, width), in 0..1.

    Returns:
        Float, same shape, in 0..1; the hue in turns from red, 0 where there is none.
    """
    value = images.amax(1)
    span = value - images.amin(1)
    saturation = span / value.clamp(min=torch.finfo(span.dtype).tiny)
    return torch.stack([_hue(images, value, span), saturation, value], 1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    """Inverse of `rgb_to_hsv`; hues may be any number of turns."""
    hue, saturation, value = images[:, :, None].unbind(1)
    places = (torch.tensor([5.0, 3.0, 1.0], device=images.device)[:, None, None] + 6 * hue).remainder(6)
    return value - value * saturation * torch.minimum(places, 4 - places).clamp(0, 1)


def _hue(images: Tensor, high: Tensor, span: Tensor) -> Tensor:
    """Hue in turns, 0 for grey, of images, given their highest channel and the range of their channels."""
    red, green, blue = images.unbind(1)
    inverse = span.clamp(min=torch.finfo(span.dtype).tiny).reciprocal()
    sixths = torch.where(high == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    return (torch.where(high == red, (green - blue) * inverse, sixths) / 6).remainder(1)


def drop_aberration(images: Tensor) -> Tensor:
    """Remove the axis from magenta to green of RGB images, shape (batch, 3, height, width); grey stays as it is."""
    axis = torch.tensor(AXIS, device=images.device)[:, None, None] / math.hypot(*AXIS)
    return images - axis * (axis * images).sum(1, keepdim=True)


def drop_channels(images: Tensor) -> Tensor:
    """Keep one random channel of each image, shape (batch, channels, ...); the others become noise around mid-grey."""
    channels = torch.arange(images.shape[1], device=images.device)[:, None, None]
    is_kept = channels == torch.randint(images.shape[1], (len(images), 1, 1, 1), device=images.device)
    deviation = images.std((2, 3), correction=0, keepdim=True).where(is_kept, 0).sum(1, keepdim=True)
    return torch.where(is_kept, images, 0.5 + NOISE * deviation * torch.randn_like(images))


def _linear(images: Tensor) -> Tensor:
    """Light intensity of sRGB values: the gamma curve undone."""
    images = images.float()
    return torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)


def _mix(matrix: Sequence[Sequence[float]], images: Tensor) -> Tensor:
    """Product of a matrix and the channels as plain sums, which autocast does not round."""
    channels = images.unbind(1)
    mixed = [sum(weight * channel for weight, channel in zip(row, channels)) for row in matrix]
    return torch.stack(mixed, 1)  # type: ignore[arg-type]


def _compress(values: Tensor) -> Tensor:
    """Cube root; a straight line near 0."""
    return torch.where(values > 0.008856, values.clamp(min=0.008856) ** (1 / 3), 7.787 * values + 16 / 116)


def _expand(values: Tensor) -> Tensor:
    """Inverse of `_compress`."""
    return torch.where(values > 0.2068966, values**3, (values - 16 / 116) / 7.787)
