"""Keeps numbers that are not finite out of the state of a run."""

import math
from collections.abc import Iterable
from operator import is_not
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlabeled.kernels.compat import buffers_of, copy_all_
from unlabeled.method import Method
from unlabeled.parts import gather
from unlabeled.training.sharding import is_sharded, local

__all__ = ["Fault", "Undo", "finite_gradients", "infinite"]


class Fault(NamedTuple):
    """What is not finite in a step, and the rows of its samples."""

    what: str
    rows: Tensor


class Undo:
    """Undoes what a forward pass has changed in buffers: running statistics, queues, banks.

    Args:
        method: The method, on its device, with all its modules.
    """

    def __init__(self, method: Method) -> None:
        self.modules = list(method.modules())
        self.forget()

    @torch.no_grad()
    def hold(self) -> None:
        """Copy all values, into the memory of the last copies: fresh memory costs several times the copying."""
        buffers = [
            buffer for module in self.modules for buffer in buffers_of(module).values() if buffer is not None
        ]
        if (
            len(buffers) != len(self.buffers)
            or any(map(is_not, buffers, self.buffers))
            or any(buffer.shape != copy.shape for buffer, copy in zip(buffers, self.copies))
        ):
            self.buffers, self.copies = buffers, [torch.empty_like(buffer) for buffer in buffers]
            self.owners = [
                (module, name)
                for module in self.modules
                for name, buffer in buffers_of(module).items()
                if buffer is not None
            ]
        if buffers:
            copy_all_(self.copies, buffers)

    def forget(self) -> None:
        """Drop the copies."""
        self.owners: list[tuple[nn.Module, str]] = []
        self.buffers: list[Tensor] = []
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def undo(self) -> None:
        """Put back the buffers that there were at the last `hold`, with their values."""
        for (module, name), buffer, copy in zip(self.owners, self.buffers, self.copies):
            restored = buffer if buffer.shape == copy.shape else buffer.resize_(copy.shape)
            setattr(module, name, restored.copy_(copy))


def infinite(method: Method) -> set[str]:
    """Names of weights and buffers that are not finite throughout, or not in the shard of this process."""
    return {name for name, value in method.state_dict().items() if not local(value).isfinite().all()}


def finite_gradients(weights: Iterable[Tensor]) -> bool:
    """Whether the gradients of these weights are finite throughout."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return True
    own = [local(gradient) for gradient in gradients]
    # A norm is quick, but overflows before its parts do.
    norm = nn.utils.get_total_norm(own).item()
    finite = math.isfinite(norm) or all(bool(gradient.isfinite().all()) for gradient in own)
    if any(map(is_sharded, gradients)):  # of which other processes have other shards
        return not gather.any_process(not finite)[0]
    return finite
