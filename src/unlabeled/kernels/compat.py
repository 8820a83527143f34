"""The one module that touches private names of other libraries, each with a plain way where the name is gone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

__all__ = ["BATCH_NORMS", "RESETS", "buffers_of", "copy_all_", "linear", "set_cache"]

# torch 2.15
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
FOREACH_COPY = getattr(torch, "_foreach_copy_", None)
BUFFERS = "_buffers"
PUBLIC_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
BATCH_NORMS: tuple[type[nn.Module], ...] = (
    getattr(batchnorm, "_BatchNorm", nn.BatchNorm1d),
    *PUBLIC_BATCH_NORMS,
)
"""What `isinstance` takes for a batch norm: the private base class covers what others derive from it directly."""
RESETS = ("reset_parameters", "_reset_parameters", "reset_weights", "init_weights")
"""Methods that draw a layer's weights again, in torch (attention's is private), timm and transformers."""

# numba 0.68
CACHE = "_cache"


def linear(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T` of contiguous float32 matrices on a CPU, by oneDNN where torch has it."""
    if ONEDNN_LINEAR is None:
        return left @ right.T
    return ONEDNN_LINEAR(left, right, None, "none", [], "")


def copy_all_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in one call where torch has it."""
    if FOREACH_COPY is not None:
        FOREACH_COPY(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def buffers_of(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own buffers by name, without the microseconds of `named_buffers` where possible."""
    buffers = getattr(module, BUFFERS, None)
    return dict(module.named_buffers(recurse=False)) if buffers is None else buffers


def set_cache(compiled: Any, cache: Any) -> None:
    """Let a function that numba compiles keep its machine code in `cache`; else in numba's own."""
    if hasattr(compiled, CACHE):
        setattr(compiled, CACHE, cache)
    else:
        compiled.enable_caching()
