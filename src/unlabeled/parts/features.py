"""Features of a whole data set, for methods that look at all samples at once."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["all_features"]

AT_ONCE = 512


class Batches(Protocol):
    """Data that gives out its samples in order."""

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]: ...


class Describer(Protocol):
    """A method: its encoder, and the features of a batch."""

    encoder: nn.Module

    def features(self, batch: dict[str, Tensor]) -> Tensor: ...


def all_features(method: Describer, data: Batches, device: torch.device) -> Tensor:
    """Features of all samples in order, float, shape (samples, dim), with the encoder in evaluation mode."""
    training = method.encoder.training
    method.encoder.eval()
    parts = [
        method.features({name: value.to(device) for name, value in batch.items()}).float()
        for batch in data.batches(AT_ONCE)
    ]
    method.encoder.train(training)
    return torch.cat(parts)
