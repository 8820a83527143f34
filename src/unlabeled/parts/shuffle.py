"""Batch norm in small groups of rows, so that its statistics do not reveal which rows were in one batch."""

from collections.abc import Callable

import torch
from torch import Tensor

from unlabeled.parts import gather

__all__ = ["in_groups", "shuffled"]

SMALLEST_GROUP = 8


def in_groups(network: Callable[[Tensor], Tensor], images: Tensor, groups: int) -> Tensor:
    """Outputs of a network whose batch norms see one group of neighbouring rows at a time.

    Args:
        network: Takes images, returns a tensor of shape (batch, dim).
        images: Float, shape (batch, channels, height, width).
        groups: Number of groups; fewer if a group would have under 8 rows.

    Returns:
        Float, shape (batch, dim), in the order of the images.
    """
    groups = max(1, min(groups, len(images) // SMALLEST_GROUP))
    return torch.cat([network(group) for group in images.tensor_split(groups)])


@torch.no_grad()
def shuffled(network: Callable[[Tensor], Tensor], images: Tensor, groups: int) -> Tensor:
    """Outputs for the images of all processes, each computed in a random group of a random process.

    Args:
        network: Takes images, returns a tensor of shape (batch, dim).
        images: Images of this process, float, shape (batch, channels, height, width).
        groups: Number of groups in each process.

    Returns:
        Float, shape (processes * batch, dim), in the order of the images and of the ranks.
    """
    everyone = gather.gather(images)
    order = gather.broadcast(torch.randperm(len(everyone), device=images.device))
    outputs = in_groups(network, everyone[gather.own(order)], groups)
    return gather.gather(outputs)[order.argsort()]
