"""Spans of sequences to mask. In every mask True means masked."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import ragged

__all__ = ["even", "spans"]


def spans(
    lengths: Tensor, size: int, share: float = 0.65, span: int = 10, *, fewest: int = 2, most: float = 1.0
) -> Tensor:
    """Spans that start at random positions of each sequence and may overlap.

    A sequence of n positions has share * n / span spans, rounded up or down at random. No span reaches its last
    position.

    Args:
        lengths: Length of each sequence, int64, shape (batch,).
        size: Length with padding.
        share: Fraction of the positions that the spans would mask if none overlapped, in 0..1.
        span: Length of a span, at least 1.
        fewest: Spans of a sequence at least.
        most: Fraction of its sequence that a span covers at most, in 0..1.

    Returns:
        Bool, shape (batch, size).
    """
    span_length = (lengths - 1).clamp(min=0, max=span).minimum((most * lengths).long())
    starts = lengths - span_length  # the last position is left out as in the code of the published results
    count = (share * lengths / span + torch.rand((), device=lengths.device)).long().clamp(min=fewest)
    score = torch.rand(len(lengths), size, device=lengths.device)
    score = score.masked_fill(~ragged.real(starts, size), 2.0)
    begins = score.argsort(1).argsort(1) < torch.minimum(count, starts)[:, None]
    started = F.pad(begins.long().cumsum(1), (1, 0))
    position = torch.arange(1, size + 1, device=lengths.device)
    return started[:, 1:] > started.gather(1, (position - span_length[:, None]).clamp(min=0))


def even(masked: Tensor) -> Tensor:
    """As many masked positions in each sequence as in the one that has the fewest, the others unmasked at random.

    Args:
        masked: Bool, shape (batch, size).
    """
    score = torch.rand(masked.shape, device=masked.device).masked_fill(~masked, 2.0)
    return score.argsort(1).argsort(1) < masked.sum(1).min()
