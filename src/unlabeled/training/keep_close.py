"""Training that keeps an encoder close to what it was: its features on the same samples are distilled into it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.method import Batch, Losses, Method

__all__ = ["KeepClose", "distance"]


def distance(features: Tensor, start: Tensor) -> Tensor:
    """Mean over the samples of 1 - cosine of the angle between two vectors, scalar in 0..2.

    Args:
        features: Float, shape (batch, dim).
        start: The same of the network as it was, without a gradient.
    """
    return (1 - F.cosine_similarity(features.float(), start.float(), dim=1)).mean()


class KeepClose(nn.Module):
    """A method with a further loss: how far the encoder's features are from those that it had before training.

    Both networks see the samples without random changes, and compute as in evaluation: at the start they agree.

    Args:
        method: What is trained.
        weight: Weight of the further loss, above 0.
    """

    def __init__(self, method: Method, weight: float) -> None:
        super().__init__()
        self.method, self.weight = method, weight
        self.start: Any = copy.deepcopy(method.encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "KeepClose":
        """Set the mode of the method; the network as it was stays in evaluation mode."""
        super().train(mode)
        self.start.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """The losses of the method, and `distillation`."""
        losses = self.method(batch)
        named = losses if isinstance(losses, dict) else {"loss": losses}
        if not reduce(torch.add, named.values()).requires_grad:
            raise UserError(
                f"distill_weight must be 0 for {type(self.method).__name__}, whose loss has no gradient, "
                f"got {self.weight}"
            )
        encoder = self.method.encoder
        try:
            x = encoder.inputs(batch)
        except KeyError as error:
            raise UserError(
                f"distill_weight must be 0 for {type(self.method).__name__}, whose samples are not what its encoder "
                f"reads, got {self.weight}"
            ) from error
        with torch.no_grad():
            start = self.start(x)
        with _evaluated(encoder):
            features = encoder(x)
        return named | {"distillation": self.weight * distance(features, start)}


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Let a network compute as in evaluation: without dropout, and with the statistics that its norms have kept."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
