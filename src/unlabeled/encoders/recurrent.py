"""Recurrent units over sequences of different lengths."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts import ragged

__all__ = ["by_length"]

DEPARTURES = 8
"""Times that ended sequences leave a batch; more save work on padding and cost calls."""


def by_length(unit: nn.Module, values: Tensor, frames: Tensor) -> Tensor:
    """States of a recurrent unit, 0 after the end of each sequence; an eighth of them leave the batch at a time.

    The gradient of packed sequences would take time in the square of their length on a CPU.

    Args:
        unit: A GRU, batch first.
        values: Float, shape (batch, frames, numbers), 0 after the end of each sequence.
        frames: True frames of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Float, shape (batch, frames, width).
    """
    if torch.compiler.is_exporting():  # a graph has no loop over lengths
        return unit(values)[0].masked_fill(~ragged.real(frames, values.shape[1])[:, :, None], 0)
    lengths, order = frames.cpu().sort(descending=True)
    ends = lengths[:: -(-len(lengths) // DEPARTURES)].unique().tolist()
    values, state, parts = values[order.to(values.device)], None, []
    for begin, end in pairwise([0, *ends]):
        active = int((lengths > begin).sum())
        left = None if state is None else state[:, :active].contiguous()
        states, state = unit(values[:active, begin:end], left)
        real = ragged.real((lengths[:active] - begin).to(states.device), end - begin)
        states = states.masked_fill(~real[:, :, None], 0)
        parts.append(F.pad(states, (0, 0, 0, 0, 0, len(values) - active)))
    joined = F.pad(torch.cat(parts, 1), (0, 0, 0, values.shape[1] - ends[-1]))
    return joined[order.argsort().to(values.device)]
