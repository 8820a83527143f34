"""Dynamic time warping: how far apart two sequences of frames are when each may pause while the other moves on."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.progress import watched

__all__ = ["angles", "directions", "warped", "warped_distances"]

SAME = 1e-6
"""By how much less than 1 a cosine in single precision may be for equal directions."""
ENTRIES = 2**23
"""Numbers in memory at once."""


def directions(frames: Tensor) -> Tensor:
    """Frames as unit vectors with one number more, which is 1 for a frame of zeros: it is orthogonal to all others.

    Args:
        frames: Float, shape (..., numbers).

    Returns:
        Float32, shape (..., numbers + 1).
    """
    zero = (frames == 0).all(-1, keepdim=True)
    return torch.cat([F.normalize(frames.float(), dim=-1), zero.float()], -1)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between all directions of two sets, as fractions of a half turn, in 0..1.

    Args:
        first: From `directions`, shape (..., frames, numbers).
        second: The same, shape (..., other frames, numbers).

    Returns:
        Float, shape (..., frames, other frames); exactly 0 for equal directions.
    """
    cosine = (first @ second.mT).clamp(-1, 1)
    return cosine.masked_fill(cosine > 1 - SAME, 1).acos() / math.pi


def warped(costs: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean cost along the cheapest path from the first pair of frames to the last, of several pairs of sequences.

    A step goes one frame on in one sequence or in both; of equally cheap ones that in both is taken, then that in the
    second sequence. Cheapest is the path with the lowest sum, not that with the lowest mean.

    Args:
        costs: Cost of each pair of frames, float, shape (pairs, rows, columns).
        rows: Frames of the first sequence of each pair, int64, shape (pairs,).
        columns: Frames of the second.

    Returns:
        Float, shape (pairs,).
    """
    pairs, most, width = len(costs), costs.shape[1], costs.shape[1] + costs.shape[2] - 1
    # Entry (k, pair, i) is the cost of frames i and k - i: what lies on one diagonal is computed at once.
    slanted = F.pad(costs, (0, most), value=math.inf).flatten(1)[:, : most * width]
    slanted = slanted.view(pairs, most, width).permute(2, 0, 1).contiguous()
    ends, last = rows + columns - 2, (rows - 1)[:, None]
    finishing = {*ends.tolist()}
    means, before, now = costs.new_empty(pairs), torch.full_like(slanted[0], math.inf), slanted[0]
    steps_before = steps = torch.ones_like(now)
    for number in range(int(ends.max()) + 1):
        if number:
            down, across, both = (
                F.pad(now, (1, -1), value=math.inf),
                now,
                F.pad(before, (1, -1), value=math.inf),
            )
            single = torch.minimum(down, across)
            longer = torch.where(across <= down, steps, F.pad(steps, (1, -1)))
            longer = torch.where(both <= single, F.pad(steps_before, (1, -1)), longer) + 1
            before, now = now, slanted[number] + torch.minimum(single, both)
            steps_before, steps = steps, longer
        if number in finishing:
            here = ends == number
            means[here] = (now[here] / steps[here]).gather(1, last[here])[:, 0]
    return means


def warped_distances(frames: Sequence[Tensor], pairs: Tensor) -> Tensor:
    """Mean angle along the cheapest path, of pairs of sequences.

    Args:
        frames: Float, shape (frames, numbers) each.
        pairs: Numbers of two sequences, int64, shape (pairs, 2).

    Returns:
        Float, shape (pairs,), in 0..1.
    """
    lengths = torch.tensor([len(sequence) for sequence in frames])
    padded = torch.nn.utils.rnn.pad_sequence([directions(sequence) for sequence in frames], batch_first=True)
    distances = padded.new_empty(len(pairs))
    # Sequences of like lengths together, the longest first, so that little is computed beyond their ends.
    longest, order = lengths[pairs].amax(1).sort(descending=True)
    parts, begin = [], 0
    while begin < len(order):
        size = int(longest[begin])
        end = begin + max(1, ENTRIES // (size * (4 * size + 2 * padded.shape[2])))
        parts.append((order[begin:end], size))
        begin = end
    for rows, size in watched(parts, len(parts), "time warping", "batches of pairs"):
        first, second = pairs[rows].T
        costs = angles(padded[first, :size], padded[second, :size])
        distances[rows] = warped(costs, lengths[first].to(costs.device), lengths[second].to(costs.device))
    return distances
