"""How a run judges itself: what the features of a few samples say, in numbers and in words."""

from typing import Any

import torch
from torch import Tensor

from unlabeled.data import Data
from unlabeled.method import Batch, Method
from unlabeled.parts import meters

__all__ = ["judge", "look", "probe"]

PROBE_SAMPLES = {"image": 512}
"""Samples whose features are looked at after each epoch; of other kinds, where one is larger, 128."""


def probe(data: Data) -> Batch:
    """The samples that are looked at, always the same."""
    return data.sample(PROBE_SAMPLES.get(data.kind, 128))


@torch.no_grad()
def look(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features and what the loss compares, float, shape (batch, dim); the training mode is restored."""
    method.eval()
    features = method.features(batch).float()
    same = type(method).embedding is Method.embedding  # the encoder need not run twice to say so
    embedding = features if same else method.embedding(batch).float()
    method.train()
    # One long text has one vector, but many words.
    return features if len(features) > 1 else embedding, embedding


def judge(
    features: Tensor, embedding: Tensor, loss: float, chance: float | None, spread: float
) -> tuple[bool, dict[str, Any]]:
    """Judge an epoch.

    Args:
        features: Float, shape (batch, dim).
        embedding: What the loss compares, float, shape (batch, dim); `features` itself where it is the same.
        loss: Mean over the epoch, in nats.
        chance: Loss of a method that has learned nothing, None if unknown.
        spread: Spread of the features before training.

    Returns:
        Whether all is well, and the meters with the verdict for the log.
    """
    code, sentence = meters.verdict(features, loss, chance, spread)
    if code == "healthy" and embedding is not features:  # heads collapse before encoders do
        deeper, words = meters.verdict(embedding, loss, chance)
        if deeper == "collapsed":
            code, sentence = deeper, f"In what the loss compares: {words}"
    return code == "healthy", {
        "spread": float(meters.spread(features)),
        "rank": float(meters.rank(features)),
        "cosine": float(meters.mean_cosine(features)),
        "verdict": sentence,
    }
