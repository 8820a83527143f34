"""Sequences of different lengths in one padded tensor."""

import torch
from torch import Tensor

__all__ = ["mean", "real"]


def real(count: Tensor, size: int) -> Tensor:
    """Which places of padded sequences hold something.

    Args:
        count: Places that each sequence fills, from its first, int64, shape (batch,).
        size: Places in all.

    Returns:
        Bool, shape (batch, size).
    """
    return torch.arange(size, device=count.device) < count[:, None]


def mean(values: Tensor, count: Tensor) -> Tensor:
    """Mean over the real places of each sequence, whatever stands in the others.

    Args:
        values: Float, shape (batch, size, ...).
        count: Places that each sequence fills, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, ...).
    """
    ones = [1] * (values.ndim - 2)
    kept = real(count, values.shape[1]).view(*values.shape[:2], *ones)
    return values.masked_fill(~kept, 0).sum(1) / count.view(-1, *ones)
