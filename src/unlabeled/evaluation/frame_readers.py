"""Embeddings of single frames: of the encoder and the method that are measured, and of their controls."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts
from unlabeled.method import Batch, Method

__all__ = ["FrameReader", "frame_readers"]

FRAMES = 256
"""Frames that are read at once."""


class FrameReader(NamedTuple):
    """What embeds frames.

    Attributes:
        features: unlabeled, raw or random.
        layer: None for the vector of the encoder, embedding for what the loss of the method compares.
        detail: What the embedding is.
        read: From a batch of frames to embeddings, float, shape (frames, ...).
        device: Where the batch must be.
    """

    features: str
    layer: str | None
    detail: str
    read: Callable[[Batch], Tensor]
    device: torch.device

    @torch.no_grad()
    def embed(self, frames: Tensor) -> Tensor:
        """Embeddings, float, shape (frames, dim), of frames, uint8, shape (frames, channels, height, width)."""
        parts = [self.read({"image": part.to(self.device)}).flatten(1) for part in frames.split(FRAMES)]
        return torch.cat(parts).float().cpu()


def frame_readers(model: EvaluatedModel, parts: Parts) -> list[FrameReader]:
    """Ours, pixels and a random twin, by the encoder and, where it has one, by the embedding of the method."""
    encoder, method, device = model.encoder.to(model.device), model.method, model.device
    calibration = parts.calibration.to(device)
    twin = model.untrained(encoder.evaluation_view(calibration))
    vector, compared = "vector of the encoder", "what the loss compares"
    readers = [
        FrameReader("unlabeled", None, vector, lambda batch: encoder.features(encoder.inputs(batch)), device),
        FrameReader("raw", None, encoder.raw_detail, encoder.raw, device),
        FrameReader("random", None, vector, lambda batch: twin.features(twin.inputs(batch)), device),
    ]
    if method is not None and type(method).embedding is not Method.embedding:
        method_twin = model.untrained_method(calibration)
        assert method_twin is not None
        readers += [
            FrameReader("unlabeled", "embedding", compared, method.to(device).embedding, device),
            FrameReader("raw", "embedding", encoder.raw_detail, encoder.raw, device),
            FrameReader("random", "embedding", compared, method_twin.to(device).embedding, device),
        ]
    return readers
