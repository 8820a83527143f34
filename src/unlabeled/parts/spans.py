"""Spans of sequences to hide. In every mask True means hidden."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import ragged

__all__ = ["even", "spans"]


def spans(lengths: Tensor, size: int, share: float = 0.65, span: int = 10) -> Tensor:
    """Spans that start at random places of each sequence and may overlap.

    A sequence of n places has share * n / span spans, rounded up or down at random, at least 2; a span is
    at most all places but one.

    Args:
        lengths: True places of each sequence, int64, shape (batch,).
        size: Places in all.
        share: Part of the places that the spans would hide if none overlapped, in 0..1.
        span: Places of a span, at least 1.

    Returns:
        Bool, shape (batch, size).
    """
    span_length = (lengths - 1).clamp(min=0, max=span)
    starts = lengths - span_length  # no span reaches the last place: the law that published numbers are of
    count = (share * lengths / span + torch.rand((), device=lengths.device)).long().clamp(min=2)
    score = torch.rand(len(lengths), size, device=lengths.device)
    score = score.masked_fill(~ragged.real(starts, size), 2.0)
    begins = score.argsort(1).argsort(1) < torch.minimum(count, starts)[:, None]
    begun = F.pad(begins.long().cumsum(1), (1, 0))
    place = torch.arange(1, size + 1, device=lengths.device)
    return begun[:, 1:] > begun.gather(1, (place - span_length[:, None]).clamp(min=0))


def even(hidden: Tensor) -> Tensor:
    """As many hidden places in each sequence as in that which has the fewest, the others shown at random.

    Args:
        hidden: Bool, shape (batch, size).
    """
    score = torch.rand(hidden.shape, device=hidden.device).masked_fill(~hidden, 2.0)
    return score.argsort(1).argsort(1) < hidden.sum(1).min()
