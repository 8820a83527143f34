"""Filters whose products with patches of normalised contrast pass a threshold both ways: codes of dictionaries.

Source: Coates, Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization", 2011.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FLOOR", "THRESHOLD", "Filters", "both_signs"]

THRESHOLD = 0.25
FLOOR = 1e-4
"""What is added to means of the code before the square root, whose slope at 0 is infinite."""
LAYERS = nn.Conv1d, nn.Conv2d, nn.Conv3d
CONVOLVE = F.conv1d, F.conv2d, F.conv3d


class Filters(nn.Module):
    """Filters on patches, which a dictionary sets.

    Args:
        channels: Channels of the input.
        filters: Number of filters.
        sides: Lengths of a patch, one to three of them.
        eps: Variance that is added to that of each patch; channels of the input have about 1.
    """

    def __init__(self, channels: int, filters: int, sides: tuple[int, ...], *, eps: float) -> None:
        super().__init__()
        self.sides, self.eps, self.numbers = sides, eps, channels * math.prod(sides)
        self.convolution = LAYERS[len(sides) - 1](channels, filters, sides, bias=False)  # type: ignore[arg-type]
        nn.init.normal_(self.convolution.weight, std=self.numbers**-0.5)
        self.offset = nn.Parameter(torch.zeros(filters))

    @torch.no_grad()
    def set_filters(self, filters: Tensor, offsets: Tensor) -> None:
        """Take filters, float, shape (filters, numbers of a patch), and what is added to their products.

        Args:
            filters: As many as there are.
            offsets: Float, shape (filters,).
        """
        self.convolution.weight.copy_(filters.view_as(self.convolution.weight))
        self.offset.copy_(offsets)

    def correlate(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Products of patches less their means with filters, and one over the deviation of each patch.

        Args:
            x: Float, shape (batch, channels, *lengths), each length at least that side of a patch.
            weight: Filters, as those of a convolution.

        Returns:
            Float, shapes (batch, filters, *positions) and (batch, 1, *positions).
        """
        convolve = CONVOLVE[len(self.sides) - 1]
        box = torch.full_like(weight[:1], 1 / self.numbers)
        mean, square = convolve(x, box), convolve(x.square(), box)
        scale = ((square - mean.square()).clamp_min(0) + self.eps).rsqrt()
        # Filters without their mean do the same as patches without theirs.
        return convolve(x, weight - weight.mean(tuple(range(1, weight.ndim)), keepdim=True)), scale

    def products(self, x: Tensor) -> Tensor:
        """What of the products s is beyond the threshold: s less the threshold, s plus it below 0, else 0.

        For a patch less its mean, divided by its deviation, s is the product with a filter plus an offset.

        Args:
            x: Float, shape (batch, channels, *lengths), each length at least that side of a patch.

        Returns:
            Float, shape (batch, filters, *positions).
        """
        products, scale = self.correlate(x, self.convolution.weight)
        return F.softshrink(products * scale + self.offset.view(-1, *[1] * len(self.sides)), THRESHOLD)


def both_signs(mean: Tensor, size: Tensor) -> Tensor:
    """Means of what is above 0 and of what is below it, sign changed, one after the other along axis 1.

    Args:
        mean: Means of numbers, float, shape (batch, filters, ...).
        size: Means of their absolute values, float, same shape.

    Returns:
        Float, shape (batch, 2 * filters, ...).
    """
    return torch.cat([size + mean, size - mean], 1) / 2
