"""Sequences of different lengths in one padded tensor."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["at_rate", "in_parts", "interpolate", "mean", "real", "standardize"]

PARTS = 8
"""Parts that a batch is processed in if it is mostly padding; more save work on padding and cost calls."""
FULL = 0.75
"""Fraction of real positions from which a batch is processed as a whole."""


def real(count: Tensor, size: int) -> Tensor:
    """Which positions of padded sequences are real.

    Args:
        count: Length of each sequence, int64, shape (batch,).
        size: Length with padding.

    Returns:
        Bool, shape (batch, size).
    """
    return torch.arange(size, device=count.device) < count[:, None]


def mean(values: Tensor, count: Tensor) -> Tensor:
    """Mean over the real positions of each sequence, whatever the padding holds.

    Args:
        values: Float, shape (batch, size, ...).
        count: Length of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, ...).
    """
    ones = [1] * (values.ndim - 2)
    mask = real(count, values.shape[1]).view(*values.shape[:2], *ones)
    return values.masked_fill(~mask, 0).sum(1) / count.view(-1, *ones)


def standardize(values: Tensor, count: Tensor) -> Tensor:
    """Sequences of which every number has mean 0 and variance 1 over the real positions.

    Args:
        values: Float, shape (batch, size, numbers).
        count: Length of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, size, numbers), 0 in the padding; about 0 where a sequence does not vary.
    """
    centred = values - mean(values, count)[:, None]
    spread = (mean(centred.square(), count) + 1e-5).sqrt()
    return (centred / spread[:, None]).masked_fill(~real(count, values.shape[1])[:, :, None], 0)


def interpolate(values: Tensor, known: Tensor) -> Tensor:
    """Sequences whose unknown positions lie on lines between the known ones; the first and the last one continue.

    Args:
        values: Float, shape (batch, size, numbers).
        known: Bool, shape (batch, size).

    Returns:
        Float, shape (batch, size, numbers), which depends on known positions alone; 0 in sequences without any.
    """
    size = values.shape[1]
    position = torch.arange(size, device=values.device)
    before = torch.where(known, position, -1).cummax(1).values
    after = torch.where(known, position, size).flip(1).cummin(1).values.flip(1)
    first, last = torch.where(before < 0, after, before), torch.where(after == size, before, after)
    weight = (position - first) / (last - first).clamp(min=1)
    low, high = (
        values.gather(1, at.clamp(0, size - 1)[:, :, None].expand_as(values)) for at in (first, last)
    )
    lines = low + weight[:, :, None].to(values.dtype) * (high - low)
    return lines.masked_fill(~known.any(1)[:, None, None], 0)


def at_rate(values: Tensor, count: Tensor, rate: float, size: int) -> Tensor:
    """Sequences at every `rate`-th position from the first one on, linear between two; the last real one continues.

    Args:
        values: Float, shape (batch, positions, numbers).
        count: Length of each sequence, int64, shape (batch,), at least 1.
        rate: Positions from one to the next that is read, above 0.
        size: Number of positions to read.

    Returns:
        Float, shape (batch, size, numbers).
    """
    position = rate * torch.arange(size, device=values.device)
    low = position.floor()
    first, second = (
        values.gather(1, at.long().minimum(count[:, None] - 1)[:, :, None].expand(-1, -1, values.shape[2]))
        for at in (low, low + 1)
    )
    weight = (position - low).to(values.dtype)[:, None]
    return first + weight * (second - first)


def in_parts(
    function: Callable[[Tensor, Tensor], list[Tensor]], values: Tensor, count: Tensor, size: int
) -> list[Tensor]:
    """Apply a function to sequences of similar length at a time, so that it computes little padding.

    Args:
        function: From sequences, shape (rows, length, ...), and their true lengths to tensors of shape (rows, its own
            length, ...), in which every sequence has what it would have alone, followed by anything.
        values: Float, shape (batch, length, ...).
        count: True length of each sequence, int64, shape (batch,).
        size: Length of what the function gives for the whole batch.

    Returns:
        What it gives for the whole batch, shape (batch, size, ...) each.
    """
    # A graph has no loop over lengths.
    if torch.compiler.is_exporting() or int(count.sum()) >= FULL * values.shape[:2].numel():
        return function(values, count)
    rows = count.argsort().chunk(PARTS)
    parts = [function(values[some, : int(count[some].max())], count[some]) for some in rows]
    back = torch.cat(rows).argsort()

    def padded(part: Tensor) -> Tensor:
        return F.pad(part, (0, 0) * (part.ndim - 2) + (0, size - part.shape[1]))

    return [torch.cat([*map(padded, results)])[back] for results in zip(*parts, strict=True)]
