"""Softmax denominators over many pairs, block by block: the square matrix of similarities is never in memory.

The backward pass computes each block again instead of keeping it. Where every row is compared with all rows,
a block and its mirror image are computed once.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["log_partition"]

BLOCK = 1024
"""Rows and columns computed at once: 4 MiB in single precision."""
MIRROR_UP_TO = 40.0
"""Largest scale of unit vectors whose exponentials share one shift: exp(-2 * 40) is above the smallest float."""


def log_partition(rows: Tensor, others: Tensor, scale: float, skip: Tensor | None = None) -> Tensor:
    """Logarithm of the sum of exponentials of scaled products.

    Args:
        rows: Float, shape (rows, dim).
        others: Float, shape (others, dim); `rows` itself compares all of them, which costs half.
        scale: Multiplies the products, above 0: one over the temperature.
        skip: Which of the others is left out for each row, int64, shape (rows,).

    Returns:
        Float, shape (rows,), in nats; differentiable once, with respect to both.
    """
    return _LogPartition.apply(rows, others, scale, skip, rows is others)  # type: ignore[return-value]


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, rows: Tensor, others: Tensor, scale: float, skip: Tensor | None, mirrored: bool
    ) -> Tensor:
        largest = float(rows.detach().square().sum(1).amax()) if mirrored and len(rows) else 0.0
        itself = skip is None or torch.equal(skip, torch.arange(len(rows), device=rows.device))
        ctx.mirrored = mirrored and itself and 0 < scale * largest <= MIRROR_UP_TO
        ctx.scale, ctx.skip, ctx.shift = scale, skip, scale * largest
        total = _mirrored(rows, ctx) if ctx.mirrored else _plain(rows, others, ctx)
        ctx.save_for_backward(rows, others, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, others, total = ctx.saved_tensors
        if ctx.mirrored:
            # Both arguments are the same vectors; the halves of the gradient meet in the first.
            return _mirrored_backward(rows, total, gradient, ctx), None, None, None, None
        row_gradient, other_gradient = torch.zeros_like(rows), torch.zeros_like(others)
        for here in _blocks(len(rows)):
            for there in _blocks(len(others)):
                share = _similarities(rows, others, here, there, ctx)
                share.sub_(total[here, None]).exp_().mul_(gradient[here, None])
                row_gradient[here].addmm_(share, others[there], alpha=ctx.scale)
                if ctx.needs_input_grad[1]:
                    other_gradient[there].addmm_(share.T, rows[here], alpha=ctx.scale)
        return row_gradient, other_gradient, None, None, None


def _plain(rows: Tensor, others: Tensor, ctx: Any) -> Tensor:
    total = rows.new_full((len(rows),), -torch.inf)
    for here in _blocks(len(rows)):
        for there in _blocks(len(others)):
            block = _similarities(rows, others, here, there, ctx).logsumexp(1)
            total[here] = torch.logaddexp(total[here], block)
    return total


def _mirrored(rows: Tensor, ctx: Any) -> Tensor:
    """One shift for all rows: products of vectors are at most the largest squared length."""
    total = rows.new_zeros(len(rows))
    for here in _blocks(len(rows)):
        for there in _blocks(here.stop):
            block = _similarities(rows, rows, here, there, ctx).sub_(ctx.shift).exp_()
            total[here] += block.sum(1)
            if there != here:
                total[there] += block.sum(0)
    return total.log_().add_(ctx.shift)


def _mirrored_backward(rows: Tensor, total: Tensor, gradient: Tensor, ctx: Any) -> Tensor:
    result = torch.zeros_like(rows)
    weight = gradient * (ctx.shift - total).exp()
    for here in _blocks(len(rows)):
        for there in _blocks(here.stop):
            share = _similarities(rows, rows, here, there, ctx).sub_(ctx.shift).exp_()
            # Row i is pulled by its own share of j and by the share that j has of it.
            share *= weight[here, None] + weight[None, there]
            result[here].addmm_(share, rows[there], alpha=ctx.scale)
            if there != here:
                result[there].addmm_(share.T, rows[here], alpha=ctx.scale)
    return result


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _similarities(rows: Tensor, others: Tensor, here: slice, there: slice, ctx: Any) -> Tensor:
    """Scaled products of a block, minus infinity where a pair is left out."""
    block = (rows[here] @ others[there].T).mul_(ctx.scale)
    if ctx.skip is not None:
        place = ctx.skip[here] - there.start
        inside = ((place >= 0) & (place < there.stop - there.start)).nonzero()[:, 0]
        block[inside, place[inside]] = -torch.inf
    return block
