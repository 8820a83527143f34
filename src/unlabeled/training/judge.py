"""How a run judges itself: what the features of a few samples say, in numbers and in words."""

import math
from typing import Any

import torch
from torch import Tensor

from unlabeled.data import Data
from unlabeled.method import Batch, Method
from unlabeled.training import metrics

__all__ = ["judge", "look", "probe", "spread"]

FEWEST_STEPS = 100
"""Steps before which no training is called healthy. Networks that are only asked to give two views the same vector took
75 steps of 256 photographs to halve the spread of their features, and more with smaller batches."""
LEARNS_BY = 0.1
"""Fraction of a run in which a loss at chance level is no alarm: the learning rate climbs in the first half of it."""
PROBE_SAMPLES = {"image": 512}
"""Samples whose features are judged after each epoch; 128 of other kinds, whose samples are larger."""


def probe(data: Data) -> Batch:
    """The samples that are judged, always the same."""
    return data.sample(PROBE_SAMPLES.get(data.kind, 128))


@torch.no_grad()
def look(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features and what the loss compares, float, shape (batch, dim); the training mode is restored."""
    method.eval()
    features = method.features(batch)
    inherited = type(method).embedding is Method.embedding  # then the encoder need not run twice
    embedding = method.embed_features(features) if inherited else method.embedding(batch)
    features, embedding = features.float(), embedding.float()
    method.train()
    # One long text has one vector, but many words.
    return features if len(features) > 1 else embedding, embedding


def spread(features: Tensor) -> float | None:
    """How widely the features differ, see `metrics.spread`; None for a single sample, which differs from nothing."""
    return float(metrics.spread(features)) if len(features) > 1 else None


def judge(
    features: Tensor,
    embedding: Tensor,
    loss: float,
    chance: float | None,
    before: float | None,
    steps: int,
    total: int = 0,
) -> tuple[bool, dict[str, Any]]:
    """Judge an epoch.

    Args:
        features: Float, shape (batch, dim).
        embedding: What the loss compares, float, shape (batch, dim); `features` itself where it is the same.
        loss: Mean over the epoch, in nats.
        chance: Loss at chance level, None if unknown.
        before: Spread of the features before training, None if unknown.
        steps: Optimizer steps done.
        total: Optimizer steps of the whole run; in the first tenth a loss at chance level means nothing.

    Returns:
        Whether all is well, and the metrics with the verdict for the log.
    """
    if len(features) < 2:
        return math.isfinite(loss), {"spread": None, "rank": None, "cosine": None, "verdict": ""}
    code, sentence = metrics.verdict(features, loss, chance, math.inf if before is None else before)
    if code == "healthy" and embedding is not features:  # heads collapse before encoders do
        deeper, words = metrics.verdict(embedding, loss, chance)
        if deeper == "collapsed":
            code, sentence = deeper, f"In the embedding that the loss compares: {words}"
    if code == "not learning" and steps < max(FEWEST_STEPS, LEARNS_BY * total):
        code, (_, _, words) = "healthy", sentence.partition(": ")
        sentence = f"Too early to judge after {steps} steps: so far {words}"
    elif code == "healthy" and steps < FEWEST_STEPS:
        _, _, words = sentence.partition(": ")
        sentence = f"Too early to judge after {steps} steps, as a collapse takes hundreds: so far {words}"
    return code == "healthy", {
        "spread": spread(features),
        "rank": float(metrics.rank(features)),
        "cosine": float(metrics.mean_cosine(features)),
        "verdict": sentence,
    }
