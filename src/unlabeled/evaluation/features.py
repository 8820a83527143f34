"""Frozen features: one view of each sample, read once in evaluation mode and kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.method import Batch
from unlabeled.progress import watched

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["Reader", "Representation", "of_encoder", "read", "require_finite", "standardization"]

Derived = TypeVar("Derived")
Reader = Callable[[Batch, str | None], Tensor]
"""From a batch and the name of a map (None: the output) to float, shape (batch, dim)."""
BATCH = 256
BLOCK = 1024
"""Rows that stay in the cache while their squares are summed."""


@dataclass
class Representation:
    """A way to turn samples into vectors, which remembers the vectors of each data set.

    Attributes:
        name: What scores call it: unlabeled, or the name of a control.
        reader: Reads features from a batch.
        encoder: The network whose features they are; None where there is no network.
        one_unit: Whether all numbers share a unit, as pixels or whitened features do, and so must share a scale; those
            of a named map never do.
        detail: What a reader of the scores must know about it.
        chooses: Whether each draw of labels chooses the map that is read, by cross-validation.
        whole: Reads the features of all samples of data instead, where batches do not hold what is read.
    """

    name: str
    reader: Reader
    encoder: "Encoder | None" = None
    one_unit: bool = False
    detail: str = ""
    chooses: bool = False
    whole: "Callable[[Data], Tensor] | None" = None
    cache: "dict[tuple[int, str | None], tuple[Data, Tensor]]" = field(default_factory=dict, repr=False)
    derivatives: dict[tuple[Any, ...], tuple[Any, Any]] = field(default_factory=dict, repr=False)

    def features(self, data: "Data", layer: str | None = None) -> Tensor:
        """Features of all samples, float32, shape (samples, dim)."""
        layer = layer if self.encoder is not None else None
        key = (id(data), layer)
        if key not in self.cache:
            values = (
                read(lambda batch: self.reader(batch, layer), data)
                if self.whole is None
                else self.whole(data)
            )
            self.cache[key] = data, values
        return self.cache[key][1]

    def statistics(self, data: "Data", layer: str | None = None) -> tuple[Tensor, Tensor]:
        """Mean and scale over all samples by which a linear probe standardises, float, shape (dim,) each."""
        features = self.features(data, layer)
        mean, scale = standardization(features)
        if self.one_unit and (layer is None or self.encoder is None):
            scale = features.var(0, correction=0).mean().sqrt().clamp_min(1e-12).expand_as(scale)
        return mean, scale

    def derived(self, data: "Data", key: Any, make: Callable[[], Derived]) -> Derived:
        """What a probe computes from the features without labels, such as neighbours: once, not for every draw.

        Args:
            data: The samples whose features it is made of.
            key: What it is, unique among all probes.
            make: Computes it.
        """
        if (id(data), key) not in self.derivatives:
            self.derivatives[id(data), key] = data, make()
        return self.derivatives[id(data), key][1]


def of_encoder(encoder: "Encoder") -> Reader:
    """Read features from an encoder's own view of a batch."""
    return lambda batch, layer: encoder.features(encoder.inputs(batch), layer)


@torch.no_grad()
def read(reader: Callable[[Batch], Tensor], data: "Data", *, batch_size: int = BATCH) -> Tensor:
    """Features of all samples in their order.

    Args:
        reader: From a batch to float, shape (batch, ...).
        data: The samples.
        batch_size: Samples read at once.

    Returns:
        Float32, shape (samples, dim).

    Raises:
        ValueError: A feature is NaN or infinite.
    """
    features, start = torch.empty(0), 0
    steps = -(-len(data) // batch_size)
    for batch in watched(data.batches(batch_size), steps, "reading features", "batches"):
        rows = reader(batch).flatten(1)
        if not start:  # one piece of memory, so that no batch's memory lies between pieces that stay
            features = rows.new_empty(len(data), rows.shape[1], dtype=torch.float32)
        features[start : start + len(rows)] = rows
        start += len(rows)
    require_finite(features, "samples")
    return features


def require_finite(features: Tensor, unit: str) -> None:
    """Refuse NaN and infinity.

    Args:
        features: Float, shape (samples, dim).
        unit: What the rows are called in the error.

    Raises:
        ValueError: A feature is NaN or infinite.
    """
    if not features.isfinite().all():
        broken = int((~features.isfinite().all(1)).sum())
        raise UserError(
            f"features must be finite, got NaN or infinity for {broken} of {len(features)} {unit}"
        )


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each feature; a feature that does not vary gets an infinite scale and so counts as 0.

    Args:
        features: Float, shape (samples, dim).

    Returns:
        Mean and standard deviation, float, shape (dim,) each.
    """
    mean = features.mean(0)
    # In blocks that stay in the cache, which torch's own std takes ten times as long for.
    squares = torch.stack([(rows - mean).square().sum(0) for rows in features.split(BLOCK)])
    spread = (squares.sum(0) / len(features)).sqrt()
    return mean, spread.masked_fill(spread <= 1e-6 * mean.abs(), torch.inf)
