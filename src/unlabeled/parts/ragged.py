"""Sequences of different lengths in one padded tensor."""

import torch
from torch import Tensor

__all__ = ["mean", "real"]


def real(count: Tensor, size: int) -> Tensor:
    """Which positions of padded sequences are real.

    Args:
        count: Length of each sequence, int64, shape (batch,).
        size: Length with padding.

    Returns:
        Bool, shape (batch, size).
    """
    return torch.arange(size, device=count.device) < count[:, None]


def mean(values: Tensor, count: Tensor) -> Tensor:
    """Mean over the real positions of each sequence, whatever the padding holds.

    Args:
        values: Float, shape (batch, size, ...).
        count: Length of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, ...).
    """
    ones = [1] * (values.ndim - 2)
    mask = real(count, values.shape[1]).view(*values.shape[:2], *ones)
    return values.masked_fill(~mask, 0).sum(1) / count.view(-1, *ones)
