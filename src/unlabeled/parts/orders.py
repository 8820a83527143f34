"""Orders of a few frames, each taken as one with its reverse."""

from itertools import permutations

import torch
from torch import Tensor

from unlabeled.parts.patches import permute

__all__ = ["orders_up_to_reversal", "shuffle"]


def orders_up_to_reversal(frames: int) -> Tensor:
    """One of each pair of an order and its reverse, int64, shape (factorial of frames / 2, frames)."""
    return torch.tensor([order for order in permutations(range(frames)) if order < order[::-1]])


def shuffle(clips: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Clips in random orders, forward or backward, all equally likely.

    Args:
        clips: Frames in order of time, shape (batch, frames, ...).
        orders: int64, shape (orders, frames).

    Returns:
        The shuffled clips, same shape, of which place j shows frame orders[label, j] or the reverse; and the labels,
        int64, shape (batch,).
    """
    labels = torch.randint(len(orders), (len(clips),), device=clips.device)
    backward = torch.rand(len(clips), 1, device=clips.device) < 0.5
    return permute(clips, torch.where(backward, orders[labels].flip(1), orders[labels])), labels
