"""Features of a whole data set, for methods that need those of all samples together."""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["all_features"]

CHUNK = 512


class Batches(Protocol):
    """Data that yields its samples in order."""

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]: ...


def all_features(
    encoder: nn.Module,
    features: Callable[[dict[str, Tensor]], Tensor],
    data: Batches,
    device: torch.device,
) -> Tensor:
    """Features of all samples in order, float, shape (samples, dim), with the encoder in evaluation mode."""
    training = encoder.training
    encoder.eval()
    parts = [
        features({name: value.to(device) for name, value in batch.items()}).float()
        for batch in data.batches(CHUNK)
    ]
    encoder.train(training)
    return torch.cat(parts)
