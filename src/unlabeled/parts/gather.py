"""Seeing the samples of all processes, with gradients that are exact.

With W processes holding batch / W samples each, a loss that averages over its own rows and compares them
with the gathered rows has, after DDP's mean over processes, the exact gradient of one process with all rows.
"""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "any_process",
    "broadcast",
    "gather",
    "mean_over_processes",
    "own",
    "processes",
    "rank",
    "sum_over_processes",
]


def processes() -> int:
    """Number of processes that train together, 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def any_process(*flags: bool) -> list[bool]:
    """Which of these flags is up in any process; all processes get the same answer."""
    if processes() == 1:
        return list(flags)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return raised.bool().tolist()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # type: ignore[override]
        rows = rows.contiguous()  # else channels-last parts would be filled in the wrong order
        parts = [torch.empty_like(rows) for _ in range(processes())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # Every process holds a part of the gradient of every row: sum them, then keep the own rows.
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
        rows: Tensor, shape (batch, ...), the same shape in every process.

    Returns:
        Tensor, shape (processes * batch, ...); `rows` itself where there is one process.
    """
    return _Gather.apply(rows) if processes() > 1 else rows  # type: ignore[return-value]


def own(rows: Tensor) -> Tensor:
    """Rows of this process among gathered rows.

    Args:
        rows: Tensor, shape (processes * batch, ...).

    Returns:
        Tensor, shape (batch, ...).
    """
    return rows.chunk(processes())[rank()]


def broadcast(value: Tensor) -> Tensor:
    """Value of the first process, in all of them; not differentiable."""
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
