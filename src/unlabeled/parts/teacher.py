"""A slowly moving average of a network that gives the student its targets."""

import copy
import math

import torch
from torch import Tensor, nn

from unlabeled.check import UserError

__all__ = ["Teacher", "cosine_momentum"]


def cosine_momentum(start: float, progress: float) -> float:
    """Momentum that rises along half a cosine from its start to 1, where the teacher stands still.

    Args:
        start: Momentum at the start of the training, in 0..1.
        progress: Share of the training that is done, in 0..1.

    Returns:
        Share of the old teacher that an update keeps, in start..1.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


class Teacher(nn.Module):
    """A copy of networks that never receives a gradient and follows them by `update`.

    Only parameters are averaged: the copy's norms see its own batches and keep their own statistics.

    Args:
        *networks: Networks applied one after the other, such as an encoder and its head.
    """

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.Sequential(*copy.deepcopy(networks)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Output of the last network, without a graph."""
        return self.networks(inputs)

    @torch.no_grad()
    def restart(self, *networks: nn.Module) -> None:
        """Become equal to the networks again, buffers included."""
        self.networks.load_state_dict(nn.Sequential(*networks).state_dict())

    @torch.no_grad()
    def update(self, momentum: float, *networks: nn.Module) -> None:
        """Move every parameter towards the networks': momentum * own + (1 - momentum) * theirs.

        Args:
            momentum: Share that is kept, in 0..1.
            *networks: The networks given at the start, as they are now.

        Raises:
            ValueError: The teacher is in half precision, where 1 - momentum is lost to rounding.
        """
        own = list(self.networks.parameters())
        theirs = [parameter.detach() for network in networks for parameter in network.parameters()]
        for kind in {parameter.dtype for parameter in own} & {torch.float16, torch.bfloat16}:
            raise UserError(f"a teacher must be float32, got {kind}. Use mixed precision instead")
        for mine, other in zip(own, theirs, strict=True):
            mine.lerp_(other, 1 - momentum)
