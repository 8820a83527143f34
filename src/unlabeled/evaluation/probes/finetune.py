"""Fine-tuning: the encoder trains too; from random weights it is the supervised control."""

import copy
import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Augment, Prediction, Probe, Settings
from unlabeled.evaluation.probes import linear

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder
    from unlabeled.evaluation.logistic import Linear

__all__ = ["PROBE", "probe", "steps_for", "train"]

LEAST_STEPS, PASSES = 300, 20
BATCH, TEST_BATCH = 64, 256
WARM_UP = 0.1
WEIGHT_DECAY = 0.05


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Train on from the linear probe, or from a random classifier where a method reads other features."""
    encoder = representation.encoder
    assert encoder is not None
    head = linear.fit(representation, data, rows, layer, settings.seed)
    return train(
        encoder,
        data,
        rows,
        settings,
        head=head if len(head.weight) == encoder.dim else None,
        encoder_factor=0.1,
    )


def steps_for(labels: int, batch_size: int) -> int:
    """Generous optimizer steps: 20 passes over the labels, 300 at least."""
    return max(LEAST_STEPS, PASSES * math.ceil(labels / batch_size))


def train(
    encoder: "Encoder",
    data: Labelled,
    rows: Tensor,
    settings: Settings,
    *,
    head: "Linear | None" = None,
    learning_rate: float = 1e-3,
    encoder_factor: float = 1.0,
) -> Prediction:
    """Train a copy of the encoder with a linear classifier on some labels, and predict the test samples.

    The recipe is fixed (AdamW, warm-up, cosine), so that nothing is chosen by looking at the test set.

    Args:
        encoder: Where training starts; it is not changed.
        data: Training and test samples.
        rows: Training samples that may be used, int64, shape (labels,).
        settings: Their steps, augmentation, and the seed of order, views and classifier.
        head: Classifier to start from, such as the linear probe; None starts at random.
        learning_rate: Peak rate of the classifier, at least 0.
        encoder_factor: Rate of the encoder as a fraction of `learning_rate`.

    Returns:
        Predicted classes, and the recipe in words.
    """
    check.at_least(0, learning_rate=learning_rate, encoder_factor=encoder_factor)
    view = _view(encoder, settings.augment)
    steps = steps_for(len(rows), BATCH) if settings.steps is None else settings.steps
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = copy.deepcopy(encoder).requires_grad_(True).train()
        classifier = _classifier(encoder, len(data.classes), head)
        rates = {network: learning_rate * encoder_factor, classifier: learning_rate}
        optimizer = torch.optim.AdamW(
            [group for part, rate in rates.items() for group in _groups(part, rate)]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
        for order in _order(len(rows), min(BATCH, len(rows)), steps):
            batch = rows[order]
            logits = classifier(network(view(data.train.batch(batch))))
            optimizer.zero_grad()
            F.cross_entropy(logits, data.labels[batch.to(data.labels.device)]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        logits = [classifier(network(network.inputs(batch))) for batch in data.test.batches(TEST_BATCH)]
    factor = f", encoder x{encoder_factor:g}" if encoder_factor != 1 else ""
    return torch.cat(logits).argmax(1), f"{steps} steps, rate {learning_rate:g}{factor}"


def _view(encoder: "Encoder", augment: Augment | None) -> Augment:
    """Random view for training: mild crops and colour changes of images, without flips; other data as it is."""
    if augment is not None:
        return augment
    if encoder.kind != "image":
        return encoder.inputs
    from unlabeled.parts.augment import Views

    return Views(encoder.config["image_size"], crop=0.6, jitter=0.2, gray=0.0, flip=0.0)


def _classifier(encoder: "Encoder", classes: int, head: "Linear | None") -> nn.Linear:
    classifier = nn.Linear(encoder.dim if head is None else len(head.weight), classes)
    if head is not None:
        classifier.weight.data.copy_(head.weight.T)
        classifier.bias.data.copy_(head.bias)
    return classifier.to(next(encoder.parameters()).device)


def _rate(progress: float) -> float:
    """Fraction of the peak learning rate: linear warm-up, then a half cosine to 0."""
    warm_up = min(1.0, (progress + 1e-3) / WARM_UP)
    return warm_up * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _groups(module: nn.Module, learning_rate: float) -> list[dict]:
    """Parameter groups in which only matrices and kernels decay."""
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": learning_rate, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": learning_rate, "weight_decay": 0.0},
    ]


def _order(samples: int, batch_size: int, steps: int) -> list[Tensor]:
    """Batches of row numbers: all rows in a new random order, again and again, every batch full."""
    passes = -(-steps * batch_size // samples)
    order = torch.cat([torch.randperm(samples) for _ in range(passes)])
    return list(order[: steps * batch_size].split(batch_size))


PROBE = Probe(probe, trains_encoder=True)
