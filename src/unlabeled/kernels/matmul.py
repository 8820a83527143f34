"""Products of all rows with all others, by the library that is quickest at them."""

import torch
from torch import Tensor

__all__ = ["matmul_nt"]

ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def matmul_nt(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`, without a gradient; on CPUs by oneDNN where torch has it, on AMD's up to twice as fast as `@`.

    Args:
        left: Float, shape (rows, dim).
        right: Float, shape (others, dim).

    Returns:
        Float, shape (rows, others).
    """
    if ONEDNN is None or left.device.type != "cpu" or left.dtype != torch.float32 or not left.numel():
        return left @ right.T
    # Other layouts are up to a thousand times as slow, but for a transposed one on the right.
    right = right if right.mT.is_contiguous() else right.contiguous()
    return ONEDNN(left.contiguous(), right, None, "none", [], "")
