"""How a run judges itself: what the features of a few samples say, in numbers and in words."""

import math
from typing import Any

import torch
from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders import Encoder
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views, to_float
from unlabeled.training import criteria, metrics

__all__ = ["criteria_of", "judge", "look", "measured_epochs", "probe", "spread", "view_features"]

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


VIEWS, VIEWED = 8, 64
"""Random views that LiDAR compares, and the number of images that they are of."""
MEASUREMENTS, SAMPLES_BETWEEN = 20, 32_000
"""How often criteria are computed at most, and the fewest training samples for each time. That took 0.2 % of the time
of simclr with a ResNet-10, and 1.6 % of that of mae, whose training skips most patches."""
CROP, JITTER, GRAY = 0.4, 0.4, 0.1
"""The views of all methods are drawn alike, so that their LiDAR can be compared, and never mirrored, as letters must
not be."""


@torch.no_grad()
def view_features(encoder: Encoder, batch: Batch, views: int = VIEWS) -> Tensor | None:
    """Features of random views of images, always the same views; torch's generator is left as it was.

    Args:
        encoder: The network, in evaluation mode.
        batch: The samples.
        views: Number of views of each.

    Returns:
        Float, shape (views, batch, dim); None for samples that are no images, or a single one.
    """
    images, size = batch.get("image"), encoder.config.get("image_size")
    if encoder.kind != "image" or size is None or images is None or len(images) < 2:
        return None
    draw = Views(size, crop=CROP, jitter=JITTER, gray=GRAY, flip=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # As floats, since compiling the faster loop for bytes would take longer than the views.
        seen = [draw({**batch, "image": to_float(images)}) for _ in range(views)]
    return torch.stack([encoder.features(encoder.inputs({"image": view})).float() for view in seen])


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


def measured_epochs(epochs: int, samples: int) -> set[int]:
    """Epochs, from 1, after which criteria are computed: evenly spaced, and the last one always.

    Args:
        epochs: Number of epochs.
        samples: Training samples in each.
    """
    count = max(1, min(epochs, MEASUREMENTS, epochs * samples // SAMPLES_BETWEEN))
    return {-(-number * epochs // count) for number in range(1, count + 1)}


def criteria_of(method: Method, batch: Batch, features: Tensor) -> dict[str, float | None]:
    """What criteria without labels say of the features, for the log; `rank` is in every line of it.

    Args:
        method: The method, whose training mode is restored.
        batch: The samples that are judged.
        features: Their features, float, shape (batch, dim).

    Returns:
        `alpha`, `lidar` and `silhouette`, each None where it is undefined: with too few samples, or for LiDAR where
        they are no images.
    """
    few = {name: values[:VIEWED] for name, values in batch.items()}
    method.eval()
    views = view_features(method.encoder, few)
    method.train()
    enough = len(features) >= 2 * criteria.CLUSTERS
    values = {
        "alpha": criteria.alpha(features),
        "lidar": math.nan if views is None else criteria.lidar(views),
        "silhouette": criteria.cluster_silhouette(features) if enough else math.nan,
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
