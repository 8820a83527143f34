"""Softmax denominators over many pairs, block by block: the square matrix of similarities is never in memory.

Exponentials are powers of two, several times faster than those of e. Where every row is compared with all rows,
a block and its mirror image are computed once; few blocks are stored for the backward pass, many are computed again.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unlabeled.kernels.matmul import matmul_nt

__all__ = ["log_partition"]

BLOCK = 512
"""Rows and columns computed at once on a CPU: 1 MiB in single precision, as much as a core's own cache."""
STORE_UP_TO = 2048
"""Rows whose blocks are stored for the backward pass: 10 MiB in single precision on a CPU."""
MIRROR_UP_TO = 60.0
"""Largest scaled product that needs no shift: 100,000 times exp(60), and one over it, are numbers in float32."""
LN_2 = math.log(2)


def log_partition(rows: Tensor, others: Tensor, scale: float, skip: Tensor | None = None) -> Tensor:
    """Logarithm of the sum of exponentials of scaled products.

    Args:
        rows: Float, shape (rows, dim).
        others: Float, shape (others, dim); `rows` itself compares all of them, which costs half.
        scale: Multiplies the products, above 0: one over the temperature.
        skip: Index of the other row that is omitted, for each row, int64, shape (rows,).

    Returns:
        Float, shape (rows,), in nats; differentiable once, with respect to both.
    """
    mirrored = rows is others and len(rows) > 0
    rows = rows.contiguous()  # once, not for every block
    others = rows if mirrored else others.contiguous()
    if mirrored and (skip is None or torch.equal(skip, torch.arange(len(rows), device=rows.device))):
        largest = float(rows.detach().square().sum(1).amax())
        if scale * largest <= MIRROR_UP_TO:
            return _Mirrored.apply(rows, scale, skip is not None)  # type: ignore[return-value]
    return _Plain.apply(rows, others, scale, skip)  # type: ignore[return-value]


class _Mirrored(torch.autograd.Function):
    """All rows with all rows, whose products are small enough to need no shift."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: float, skip: bool) -> Tensor:  # type: ignore[override]
        ctx.scale, ctx.skip = scale, skip
        total, blocks = rows.new_zeros(len(rows)), []
        for here, there in _half(rows):
            block = _powers(rows, here, there, ctx)
            total[here] += block.sum(1)
            if there != here:
                total[there] += block.sum(0)
            if len(rows) <= STORE_UP_TO:
                blocks.append(block)
        ctx.save_for_backward(rows, total, *blocks)
        return total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        rows, total, *blocks = ctx.saved_tensors
        result = torch.zeros_like(rows)
        # A row that is compared with nothing has a total of 0 and no gradient; all other totals are above 1e-30.
        weight = ctx.scale * gradient / total.clamp(min=1e-30)
        for number, (here, there) in enumerate(_half(rows)):
            block = blocks[number] if blocks else _powers(rows, here, there, ctx)
            # Row i is pulled by its own softmax weight of j and by the weight that j gives it.
            pull = (weight[here, None] + weight[there]).mul_(block)
            result[here] += matmul_nt(pull, rows[there].T)
            if there != here:
                result[there] += matmul_nt(rows[here].T, pull.T).T
        return result, None, None


class _Plain(torch.autograd.Function):
    """Rows with others, whatever their products."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, rows: Tensor, others: Tensor, scale: float, skip: Tensor | None
    ) -> Tensor:
        ctx.scale, ctx.skip = scale, skip
        # The largest exponent so far, the sum of powers relative to it, and so the sum of the others they weigh.
        top = rows.new_full((len(rows),), torch.finfo(rows.dtype).min)
        total = torch.zeros_like(top)
        pull = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        for here in _blocks(rows):
            for there in _blocks(others):
                block = _exponents(rows, others, here, there, ctx)
                highest = torch.maximum(top[here], block.amax(1))
                decay = (top[here] - highest).exp2_()
                block.sub_(highest[:, None]).exp2_()
                top[here] = highest
                total[here] = total[here] * decay + block.sum(1)
                if pull is not None:
                    pull[here] = pull[here].mul_(decay[:, None]) + matmul_nt(block, others[there].T)
        if pull is not None:
            pull *= scale / total.clamp(min=1)[:, None]
        total = total.log2_().add_(top)
        # A row that is compared with nothing has no gradient: the lowest number is finite.
        ctx.save_for_backward(rows, others, total.clamp(min=torch.finfo(total.dtype).min), pull)
        return total * LN_2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, others, total, pull = ctx.saved_tensors
        row_gradient = None if pull is None else pull * gradient[:, None]
        if not ctx.needs_input_grad[1]:
            return row_gradient, None, None, None
        other_gradient = torch.zeros_like(others)
        for here in _blocks(rows):
            weighted = rows[here] * (ctx.scale * gradient[here, None])
            for there in _blocks(others):
                softmax = _exponents(rows, others, here, there, ctx).sub_(total[here, None]).exp2_()
                other_gradient[there] += matmul_nt(weighted.T, softmax.T).T
        return row_gradient, other_gradient, None, None


def _blocks(rows: Tensor) -> list[slice]:
    # On a GPU the start of a kernel would take longer than so few products.
    size = BLOCK if rows.device.type == "cpu" else 8 * BLOCK
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]


def _half(rows: Tensor) -> list[tuple[slice, slice]]:
    """Blocks on and below the diagonal."""
    return [(here, there) for here in _blocks(rows) for there in _blocks(rows[: here.stop])]


def _powers(rows: Tensor, here: slice, there: slice, ctx: Any) -> Tensor:
    """Exponentials of the scaled products of a block, 0 on the diagonal where rows are not compared with themselves."""
    block = matmul_nt(rows[here] * (ctx.scale / LN_2), rows[there]).exp2_()
    return block.fill_diagonal_(0) if ctx.skip and there == here else block


def _exponents(rows: Tensor, others: Tensor, here: slice, there: slice, ctx: Any) -> Tensor:
    """Scaled products of a block in powers of two, minus infinity where a pair is omitted."""
    block = matmul_nt(rows[here] * (ctx.scale / LN_2), others[there])
    if ctx.skip is not None:
        column = ctx.skip[here] - there.start
        inside = ((column >= 0) & (column < there.stop - there.start)).nonzero()[:, 0]
        block[inside, column[inside]] = -torch.inf
    return block
