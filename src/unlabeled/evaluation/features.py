"""Frozen features: one view of each sample, read once in evaluation mode and kept."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.evaluation.probes.linear import standardization
from unlabeled.method import Batch, Method

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["Representation", "frozen", "of_encoder", "pick_device", "read"]

Reader = Callable[[Batch, str | None], Tensor]


@dataclass
class Representation:
    """A way to turn samples into vectors, which remembers the vectors of each data set.

    Attributes:
        name: What scores call it: unlabeled, raw, random, rescaled.
        reader: From a batch and the name of a map, or None, to float, shape (batch, dim).
        one_unit: Whether all numbers share a unit, as pixels do, and so must share a scale.
        detail: What a reader of the scores must know about it.
    """

    name: str
    reader: Reader
    one_unit: bool = False
    detail: str = ""
    cache: "dict[tuple[int, str | None], tuple[Data, Tensor]]" = field(default_factory=dict, repr=False)

    def features(self, data: "Data", layer: str | None = None) -> Tensor:
        """Features of all samples, float32, shape (samples, dim)."""
        key = (id(data), layer)
        if key not in self.cache:
            self.cache[key] = data, read(lambda batch: self.reader(batch, layer), data)
        return self.cache[key][1]

    def statistics(self, data: "Data", layer: str | None = None) -> tuple[Tensor, Tensor]:
        """Mean and scale over all samples by which a linear probe standardises, float, shape (dim,) each."""
        features = self.features(data, layer)
        mean, scale = standardization(features)
        if self.one_unit:
            scale = features.var(0, correction=0).mean().sqrt().clamp_min(1e-12).expand_as(scale)
        return mean, scale


@torch.no_grad()
def read(reader: Callable[[Batch], Tensor], data: "Data", *, batch_size: int = 256) -> Tensor:
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
    features, done = torch.empty(0), 0
    for batch in data.batches(batch_size):
        found = reader(batch).flatten(1)
        if not done:  # one piece of memory, so that none of the batches' lies between kept ones
            features = found.new_empty(len(data), found.shape[1], dtype=torch.float32)
        features[done : done + len(found)] = found
        done += len(found)
    if not features.isfinite().all():
        broken = int((~features.isfinite().all(1)).sum())
        raise UserError(
            f"features must be finite, got NaN or infinity for {broken} of {len(features)} samples"
        )
    return features


def pick_device(device: str) -> torch.device:
    """The device of a name; `auto` takes the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def frozen(source: Any, device: torch.device) -> tuple["Encoder", Reader]:
    """Copy an encoder in evaluation mode, so that nothing done to it reaches the original.

    Args:
        source: A run, a method or an encoder.
        device: Where the copy lives.

    Returns:
        The copy, and the function that reads features from it: the method's own where a method is given.
    """
    subject: Any = source if isinstance(source, nn.Module) else getattr(source, "encoder", None)
    if not isinstance(subject, Method) and not hasattr(subject, "inputs"):
        raise UserError(
            f"run must be a run or its folder, a method or an encoder, got {type(source).__name__}; "
            "encoders.wrap makes an encoder of a network"
        )
    subject = copy.deepcopy(subject).eval().requires_grad_(False).to(device)
    if isinstance(subject, Method):
        return subject.encoder, subject.features
    return subject, of_encoder(subject)  # type: ignore[return-value, arg-type]


def of_encoder(encoder: "Encoder") -> Reader:
    """Read features from an encoder's own view of a batch."""
    return lambda batch, layer: encoder.features(encoder.inputs(batch), layer)
