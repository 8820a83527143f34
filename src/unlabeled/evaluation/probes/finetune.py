"""Fine-tuning: the encoder trains too; from random weights it is the supervised control."""

import copy
import math
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Augment, Prediction, Probe, Settings
from unlabeled.evaluation.probes import linear
from unlabeled.method import Batch
from unlabeled.progress import watched

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder
    from unlabeled.evaluation.logistic import Linear

__all__ = [
    "PROBE",
    "Training",
    "batches",
    "fit",
    "groups",
    "probe",
    "rate",
    "steps_for",
    "train",
    "trained",
    "view_of",
]

LEAST_STEPS, PASSES = 300, 20
UNCHECKED_STEPS = 150
"""Steps where there are too few labels to hold some out: all in one batch, or few of a class. On digits with 1 and
with 5 labels a class twice as many steps gain nothing."""
LEAST_PER_CLASS, HELD_OUT, MOST_HELD_OUT = 5, 0.2, 1000
"""Labels of the rarest class from which on some are held out to find the length, which fraction, and most of them."""
CHECKS, PATIENCE = 25, 3
"""How often the held-out labels are looked at in a whole training, and how many looks in a row may bring nothing."""
DECAY, LEAST_DECAY = 0.3, 40
"""Fraction of a training in which its rate falls to 0, with all labels, and the fewest steps of it."""
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
    """Most optimizer steps where none are set: 20 passes over the labels, 300 at least."""
    return max(LEAST_STEPS, PASSES * math.ceil(labels / batch_size))


def train(encoder: "Encoder", data: Labelled, rows: Tensor, settings: Settings, **recipe: Any) -> Prediction:
    """Train a copy of the encoder on some labels, and predict the test samples.

    Args:
        encoder, data, rows, settings, **recipe: As in `trained`.

    Returns:
        Predicted classes, and the recipe in words.
    """
    training, words = trained(encoder, data, rows, settings, **recipe)
    return training.logits(data.test).argmax(1), words


def trained(
    encoder: "Encoder",
    data: Labelled,
    rows: Tensor,
    settings: Settings,
    *,
    head: "Linear | None" = None,
    learning_rate: float = 1e-3,
    encoder_factor: float = 1.0,
) -> "tuple[Training, str]":
    """Train a copy of the encoder with a linear classifier on some labels.

    The recipe is fixed (AdamW, warm-up, a rate that falls to 0), and nothing is chosen by looking at the test set. The
    length is that in the settings. Without one, a fifth of more than 64 labels is held out until it is predicted no
    better than before; then the rate falls, and all labels are trained on.

    Args:
        encoder: Where training starts; it is not changed.
        data: Training samples; test samples are not looked at.
        rows: Training samples that may be used, int64, shape (labels,).
        settings: Their steps, augmentation, and the seed of order, views and classifier.
        head: Classifier to start from, such as the linear probe; None starts at random.
        learning_rate: Peak rate of the classifier, at least 0.
        encoder_factor: Rate of the encoder as a fraction of `learning_rate`.

    Returns:
        The training at its end, and the recipe in words.
    """
    check.at_least(0, learning_rate=learning_rate, encoder_factor=encoder_factor)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network = copy.deepcopy(encoder).requires_grad_(True).train()
        classifier = _classifier(encoder, len(data.classes), head)
        rates = {network: learning_rate * encoder_factor, classifier: learning_rate}
        training = Training(network, classifier, data, view_of(encoder, settings.augment), rates)
        words = fit(training, rows, settings.steps)
    factor = f", encoder x{encoder_factor:g}" if encoder_factor != 1 else ""
    return training, f"{words}, rate {learning_rate:g}{factor}"


class Training:
    """An encoder and a classifier in training.

    Args:
        network: The encoder, which is changed as far as its weights have gradients.
        classifier: From features to classes, which is changed.
        data: Where samples and labels are from.
        view: Random view of a batch.
        rates: Peak learning rate of both.
    """

    def __init__(
        self, network: Any, classifier: nn.Module, data: Labelled, view: Augment, rates: dict
    ) -> None:
        self.network, self.classifier, self.data, self.view = network.train(), classifier.train(), data, view
        self.optimizer = torch.optim.AdamW(
            [group for part, peak in rates.items() for group in groups(part, peak)], fused=True
        )

    def step(self, batch: Tensor, factor: float) -> None:
        """Descend on some training samples, at a fraction of the peak rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        logits = self.classifier(self.network(self.view(self.data.train.batch(batch))))
        self.optimizer.zero_grad()
        F.cross_entropy(logits, self.data.labels[batch.to(self.data.labels.device)]).backward()
        self.optimizer.step()

    def logits(self, samples: "Data") -> Tensor:
        """Float, shape (samples, classes), in evaluation mode."""
        return torch.cat([self.read(batch) for batch in samples.batches(TEST_BATCH)])

    @torch.no_grad()
    def read(self, batch: Batch) -> Tensor:
        """Logits of a batch, float, shape (batch, classes), in evaluation mode."""
        self.network.eval()
        self.classifier.eval()
        logits = self.classifier(self.network(self.network.inputs(batch)))
        self.network.train()
        self.classifier.train()
        return logits

    def errors(self, rows: Tensor) -> tuple[float, float]:
        """Cross-entropy, and fraction predicted wrongly, of some training samples."""
        logits, labels = self.logits(self.data.train.subset(rows)), self.data.labels
        answers = labels[rows.to(labels.device)]
        return float(F.cross_entropy(logits, answers)), float((logits.argmax(1) != answers).float().mean())


def fit(training: Training, rows: Tensor, steps: int | None) -> str:
    """Train, for so many steps or until labels that are held out say so; what was done, in words."""
    checked = steps is None and len(rows) > BATCH
    held_out = _held_out(training.data.labels, rows) if checked else rows[:0]
    most = steps_for(len(rows), BATCH) if len(held_out) else UNCHECKED_STEPS
    most = most if steps is None else steps
    if not len(held_out):
        for step, batch in enumerate(_watched(batches(rows, most), most)):
            training.step(batch, rate(step / most))
        return f"{most} steps"
    every, best, since, done = max(1, most // CHECKS), (math.inf, math.inf), 0, 0
    part = rows[~torch.isin(rows, held_out)]
    for batch in _watched(batches(part, round((1 - DECAY) * most)), most):
        training.step(batch, min(1.0, (done + 1) / (WARM_UP * most)))
        done += 1
        if done % every == 0:
            errors = training.errors(held_out)
            # Of few labels the accuracy is coarse; of many the cross-entropy rises before it does.
            since = 0 if any(map(operator.lt, errors, best)) else since + 1
            best = min(best[0], errors[0]), min(best[1], errors[1])
            if since == PATIENCE:
                break
    decay = max(LEAST_DECAY, round(DECAY / (1 - DECAY) * done))
    for step, batch in enumerate(batches(rows, decay)):
        training.step(batch, (1 + math.cos(math.pi * step / decay)) / 2)
    return f"{done + decay} steps, the last {decay} with all labels"


def _watched(batches: list[Tensor], most: int) -> Iterator[Tensor]:
    return watched(batches, most, "training on labels", "steps at most")


def _held_out(labels: Tensor, rows: Tensor) -> Tensor:
    """Training samples that tell when to stop, a fraction of each class; none where a class has few labels."""
    classes, sizes = labels.cpu()[rows].unique(return_counts=True)
    if sizes.min() < LEAST_PER_CLASS:
        return rows[:0]
    fraction = min(HELD_OUT, MOST_HELD_OUT / len(rows))
    order = rows[torch.randperm(len(rows))]
    of_class = labels.cpu()[order]
    quotas = (fraction * sizes).round().long().clamp(min=1)
    parts = [order[of_class == one][:quota] for one, quota in zip(classes.tolist(), quotas.tolist())]
    return torch.cat(parts)


def view_of(encoder: "Encoder", augment: Augment | None) -> Augment:
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


def rate(progress: float) -> float:
    """Fraction of the peak learning rate: linear warm-up, then a half cosine to 0."""
    warm_up = min(1.0, (progress + 1e-3) / WARM_UP)
    return warm_up * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def groups(module: nn.Module, learning_rate: float) -> list[dict]:
    """Parameter groups in which only matrices and kernels decay."""
    parameters = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "peak": learning_rate,
            "weight_decay": WEIGHT_DECAY,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "peak": learning_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def batches(rows: Tensor, steps: int, size: int = BATCH) -> list[Tensor]:
    """Batches of samples: all in a new random order, again and again, every batch full.

    Args:
        rows: Samples, int64, shape (rows,).
        steps: Number of batches.
        size: Samples in a batch, or all of them where they are fewer.
    """
    size = min(size, len(rows))
    passes = -(-steps * size // len(rows))
    order = torch.cat([rows[torch.randperm(len(rows))] for _ in range(passes)]) if passes else rows[:0]
    return list(order[: steps * size].split(size))


PROBE = Probe(probe, trains_encoder=True)
