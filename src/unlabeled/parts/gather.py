"""Collectives over the processes of a training, with exact gradients.

With W processes that hold batch / W samples each, a loss that averages over its own rows and compares them with the
gathered rows has, after DDP's mean over processes, the exact gradient of one process with all rows.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "any_process",
    "broadcast",
    "count",
    "gather",
    "mean",
    "mean_over_processes",
    "objects",
    "own",
    "own_rows",
    "processes",
    "rank",
    "sum_over_processes",
]

Value = TypeVar("Value")


def processes() -> int:
    """Number of processes that train together, 1 if none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among those that train together, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def any_process(*flags: bool) -> list[bool]:
    """Which of these flags are set in at least one process; every process gets the same answer."""
    if processes() == 1:
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.bool().tolist()


def objects(value: Value) -> list[Value]:
    """Something of every process, in the order of their ranks; it is sent as pickles."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # type: ignore[override]
        rows = rows.contiguous()  # channels-last parts would be filled in the wrong order
        parts = [torch.empty_like(rows) for _ in range(processes())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # Every process holds a part of the gradient of every row: sum the parts, then keep our own rows.
        return own(_sum(gradient))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:  # type: ignore[override]
        return _sum(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _sum(gradient)


def _sum(value: Tensor) -> Tensor:
    value = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(value)
    return value


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, differentiable.

    Args:
        rows: Shape (batch, ...), the same in every process.

    Returns:
        Shape (processes * batch, ...); `rows` itself if there is one process.
    """
    return _Gather.apply(rows) if processes() > 1 else rows  # type: ignore[return-value]


def own(rows: Tensor) -> Tensor:
    """Rows of this process among gathered rows, shape (batch, ...), of shape (processes * batch, ...)."""
    return rows.chunk(processes())[rank()]


def own_rows(size: int, device: torch.device) -> Tensor:
    """Indices of this process's `size` rows among gathered rows, int64, shape (size,)."""
    return torch.arange(size, device=device) + rank() * size


def broadcast(value: Tensor) -> Tensor:
    """Value of the first process in all of them; not differentiable."""
    if processes() > 1:
        value = value.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(value, 0)
    return value


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable."""
    return _Sum.apply(value) if processes() > 1 else value  # type: ignore[return-value]


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, differentiable."""
    return sum_over_processes(value) / processes()


def count(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to divide a sum over our own entries by, so that the mean over processes is the mean over all entries.

    Args:
        mask: Which entries count, bool, any shape, not necessarily the same in every process.
        dtype: Floating-point type of the result.

    Returns:
        Mean over the processes of how many entries count, at least 1, scalar.
    """
    return mean_over_processes(mask.sum().to(dtype)).clamp(min=1)


def mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the entries that count in all processes, once DDP has taken the mean over processes.

    Args:
        values: Float, any shape; entries that do not count may be infinite or NaN.
        mask: Which entries count, bool, same shape; None for all, perhaps not equally many in every process.

    Returns:
        Scalar; 0 if no entry counts.
    """
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return values.masked_fill(~mask, 0).sum() / count(mask, values.dtype)
