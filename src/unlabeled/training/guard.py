"""What keeps numbers that are not finite out of what a run keeps."""

import math
from collections.abc import Iterable
from operator import is_not
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.method import Method

__all__ = ["Fault", "Undo", "finite_gradients", "infinite"]


class Fault(NamedTuple):
    """What is not finite in a step, and the rows of its samples."""

    what: str
    rows: Tensor


class Undo:
    """Takes back what a forward pass has changed in buffers: running statistics, queues, banks.

    Args:
        method: The method, on its device, with all its modules.
    """

    def __init__(self, method: Method) -> None:
        self.owners = [module._buffers for module in method.modules()]
        self.forget()

    @torch.no_grad()
    def hold(self) -> None:
        """Copy all values, into the memory of the copies before: fresh memory costs several times the copying."""
        buffers = [buffer for owner in self.owners for buffer in owner.values() if buffer is not None]
        if (
            len(buffers) != len(self.buffers)
            or any(map(is_not, buffers, self.buffers))
            or any(buffer.shape != copy.shape for buffer, copy in zip(buffers, self.copies))
        ):
            self.buffers, self.copies = buffers, [torch.empty_like(buffer) for buffer in buffers]
            self.places = [
                (owner, name) for owner in self.owners for name, buffer in owner.items() if buffer is not None
            ]
        if buffers:
            torch._foreach_copy_(self.copies, buffers)  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Hold nothing any more."""
        self.places: list[tuple[dict[str, Tensor | None], str]] = []
        self.buffers: list[Tensor] = []
        self.copies: list[Tensor] = []

    @torch.no_grad()
    def undo(self) -> None:
        """Give back the buffers that were there when they were held, with the values that they had."""
        for (owner, name), buffer, copy in zip(self.places, self.buffers, self.copies):
            owner[name] = (buffer if buffer.shape == copy.shape else buffer.resize_(copy.shape)).copy_(copy)


def infinite(method: Method) -> set[str]:
    """Names of weights and buffers that are not finite throughout."""
    return {name for name, value in method.state_dict().items() if not value.isfinite().all()}


def finite_gradients(weights: Iterable[Tensor]) -> bool:
    """Whether the gradients of these weights are finite throughout."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return True
    # Norms are quick, but overflow before their parts do.
    norms = torch.stack(torch._foreach_norm(gradients))  # type: ignore[attr-defined]
    return math.isfinite(norms.sum().item()) or all(bool(gradient.isfinite().all()) for gradient in gradients)
