"""Small versions of images by matrices, so that each image of a batch can be shrunk in a way of its own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.precision import full_precision

__all__ = ["KERNELS", "halvings", "pixelations", "shrink"]

KERNELS = {
    "box": lambda x: (x < 0.5).float(),
    "triangle": lambda x: (1 - x).clamp(min=0),
    "cubic": lambda x: torch.where(
        x < 1, 1 - 2.5 * x**2 + 1.5 * x**3, (2 - 4 * x + 2.5 * x**2 - 0.5 * x**3) * (x < 2)
    ),
    "lanczos": lambda x: torch.sinc(x) * torch.sinc(x / 3) * (x < 3),
}
"""Weight of a pixel by its distance, in pixels of the small image."""


def halvings(size: int) -> Tensor:
    """Matrices that shrink a line of 2 * size pixels to half by each kernel, float, shape (kernels, size, 2 * size)."""
    before, after = torch.arange(2 * size) + 0.5, 2 * torch.arange(size)[:, None] + 1
    weights = torch.stack([kernel((before - after).abs() / 2) for kernel in KERNELS.values()])
    return weights / weights.sum(2, keepdim=True)


@full_precision
def shrink(images: Tensor, matrices: Tensor) -> Tensor:
    """Images, float in 0..1, shape (batch, channels, 2 * size, 2 * size), at half the size by a matrix for each."""
    return (matrices[:, None] @ images @ matrices[:, None].mT).clamp(0, 1)


def pixelations(side: int) -> Tensor:
    """Matrices that shrink a line of pixels and enlarge it again, float, shape (side, side, side), by the size - 1."""
    line = torch.eye(side).view(1, side, side, 1)
    small = [F.interpolate(line, (size, 1), mode="bilinear", antialias=True) for size in range(1, side + 1)]
    return torch.stack([F.interpolate(one, (side, 1), mode="bilinear")[0, :, :, 0].T for one in small])
