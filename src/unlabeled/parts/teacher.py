"""A slowly moving average of a network that gives the student its targets."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts.precision import full

__all__ = ["Follower", "Teacher", "cosine_momentum", "token_targets"]


class Follower(nn.Module):
    """A part that is updated in training automatically: `Method` calls it before `prepare` and `after_step`."""

    students: tuple[nn.Module, ...] = ()
    """Networks of the method that it follows."""

    def restart(self) -> None:
        """Reset before training."""

    def follow(self, progress: float) -> None:
        """Update after an optimizer step; progress runs from 0 to 1 over the training."""


def cosine_momentum(start: float, progress: float) -> float:
    """Momentum that rises along half a cosine from `start` to 1, where the teacher stands still.

    Args:
        start: Momentum at the start of the training, in 0..1.
        progress: Fraction of the training that is done, in 0..1.

    Returns:
        Fraction of the old teacher that an update keeps, in start..1.
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def token_targets(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A teacher's tokens as targets, and a measure of their collapse.

    Args:
        tokens: Float, shape (batch, tokens, dim).

    Returns:
        Tokens, each brought to mean 0 and variance 1, and the standard deviation over all tokens of the batch before
        that, averaged over the dimensions, scalar: near 0 all are the same.
    """
    tokens = full(tokens)
    return F.layer_norm(tokens, tokens.shape[2:]), tokens.flatten(0, 1).std(0).mean()


class Teacher(Follower):
    """A copy of networks that receives no gradient and follows them after every optimizer step.

    Only parameters are averaged: the norms of the copy see their own batches and keep their own statistics.

    Args:
        *networks: Networks applied one after the other, such as an encoder and its head.
        momentum: Fraction of the teacher that is kept in a step, in 0..1.
        rising: Whether the momentum rises to 1 along half a cosine over the training.
    """

    def __init__(self, *networks: nn.Module, momentum: float, rising: bool = False) -> None:
        super().__init__()
        self.networks = nn.Sequential(*copy.deepcopy(networks)).requires_grad_(False)
        self.students = networks  # in a tuple, so that they do not become submodules
        self.momentum, self.rising = momentum, rising

    @property
    def network(self) -> Any:
        """The first network, such as a copy of the encoder."""
        return self.networks[0]

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Output of the last network, without a graph."""
        return self.networks(inputs)

    @torch.no_grad()
    def restart(self) -> None:
        """Become equal to the students again, buffers included."""
        self.networks.load_state_dict(nn.Sequential(*self.students).state_dict())

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """Move every parameter towards the students': momentum * own + (1 - momentum) * theirs.

        Raises:
            UserError: The teacher is in half precision, where 1 - momentum is lost to rounding.
        """
        momentum = cosine_momentum(self.momentum, progress) if self.rising else self.momentum
        own = list(self.networks.parameters())
        theirs = [parameter.detach() for student in self.students for parameter in student.parameters()]
        for kind in {parameter.dtype for parameter in own} & {torch.float16, torch.bfloat16}:
            raise UserError(f"a teacher must be float32, got {kind}. Use mixed precision instead")
        for mine, other in zip(own, theirs, strict=True):
            mine.lerp_(other, 1 - momentum)
