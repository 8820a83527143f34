"""Orders of the frames of a clip, where forward and backward are one."""

from itertools import permutations

import torch
from torch import Tensor

from unlabeled.parts.patches import permute

__all__ = ["orders_up_to_direction", "shuffle"]


def orders_up_to_direction(frames: int) -> Tensor:
    """One of each two orders that are the same once the clip is played backward.

    Args:
        frames: Frames of a clip, at least 2.

    Returns:
        int64, shape (factorial of frames / 2, frames): the frame at each place.
    """
    last = frames - 1
    return torch.tensor(
        [order for order in permutations(range(frames)) if order < tuple(last - frame for frame in order)]
    )


def shuffle(clips: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """Clips in random orders, played forward or backward, all equally likely.

    Args:
        clips: Frames in order of time, shape (batch, frames, ...).
        orders: int64, shape (orders, frames).

    Returns:
        The shuffled clips, same shape, of which place j shows frame orders[label, j] counted from the start or from the
        end; and the labels, int64, shape (batch,).
    """
    labels = torch.randint(len(orders), (len(clips),), device=clips.device)
    backward = torch.rand(len(clips), 1, device=clips.device) < 0.5
    order = orders[labels]
    return permute(clips, torch.where(backward, orders.shape[1] - 1 - order, order)), labels
