"""Products of all rows of one matrix with all rows of another, by the fastest library."""

import torch
from torch import Tensor

from unlabeled.kernels.compat import linear

__all__ = ["matmul_nt"]


def matmul_nt(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`, without a gradient; on CPUs by oneDNN, on AMD's up to twice as fast as `@`.

    Args:
        left: Float, shape (rows, dim).
        right: Float, shape (others, dim).

    Returns:
        Float, shape (rows, others).
    """
    if left.device.type != "cpu" or left.dtype != torch.float32 or not left.numel():
        return left @ right.T
    # Other layouts are up to a thousand times as slow, but for a transposed one on the right.
    right = right if right.mT.is_contiguous() else right.contiguous()
    return linear(left.contiguous(), right)
