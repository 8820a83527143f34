"""Downsampling of images by matrices, so that each image of a batch can have its own kernel."""

import torch
from torch import Tensor

from unlabeled.parts.precision import full_precision

__all__ = ["KERNELS", "halvings", "pixelations", "resampling", "shrink"]

KERNELS = {
    "box": lambda x: (x < 0.5).float(),
    "triangle": lambda x: (1 - x).clamp(min=0),
    "cubic": lambda x: torch.where(
        x < 1, 1 - 2.5 * x**2 + 1.5 * x**3, (2 - 4 * x + 2.5 * x**2 - 0.5 * x**3) * (x < 2)
    ),
    "lanczos": lambda x: torch.sinc(x) * torch.sinc(x / 3) * (x < 3),
}
"""Weight of a pixel as a function of its distance in pixels of the smaller image."""


def resampling(before: int, after: int, kernel: str = "triangle") -> Tensor:
    """Matrix that resizes a line of pixels, antialiased, float, shape (after, before)."""
    scale = before / after
    centers = scale * (torch.arange(after)[:, None] + 0.5)
    weights = KERNELS[kernel]((torch.arange(before) + 0.5 - centers).abs() / max(scale, 1))
    return weights / weights.sum(1, keepdim=True)


def halvings(size: int) -> Tensor:
    """Matrices that shrink a line of 2 * size pixels to half by each kernel, float, shape (kernels, size, 2 * size)."""
    return torch.stack([resampling(2 * size, size, kernel) for kernel in KERNELS])


@full_precision
def shrink(images: Tensor, matrices: Tensor) -> Tensor:
    """Images, float in 0..1, shape (batch, channels, 2 * size, 2 * size), at half the size, each by its own matrix."""
    return (matrices[:, None] @ images @ matrices[:, None].mT).clamp(0, 1)


def pixelations(side: int) -> Tensor:
    """Matrices that shrink a line of pixels and enlarge it again, indexed by size - 1, float, shape (side,) * 3."""
    return torch.stack([resampling(size, side) @ resampling(side, size) for size in range(1, side + 1)])
