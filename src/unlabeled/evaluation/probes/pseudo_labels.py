"""Pseudo-labels: the linear probe, again and again on its own confident predictions for unlabelled training samples.

In each of 5 rounds all unlabelled training samples whose class has a probability of at least 0.95 count as labelled
with it; then the classifier is fitted anew, with the penalty that the true labels alone chose.

Source: Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks", 2013
Differs: a linear classifier on frozen features; only confident predictions count, as in Sohn and others, "FixMatch",
2020, https://arxiv.org/abs/2001.07685
"""

import torch
from torch import Tensor

from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.evaluation.probes import linear
from unlabeled.evaluation.verdict import counted

__all__ = ["PROBE", "confident", "probe"]

ROUNDS, CONFIDENCE = 5, 0.95


def confident(logits: Tensor, labels: Tensor) -> Tensor:
    """True labels, and predictions that are confident enough for others.

    Args:
        logits: Float, shape (samples, classes).
        labels: Class of each sample, -1 where it is not known, int64, shape (samples,).

    Returns:
        Class of each sample, -1 where nothing is confident, int64, shape (samples,).
    """
    probability, predicted = logits.softmax(1).max(1)
    return labels.where(labels >= 0, predicted.where(probability >= CONFIDENCE, -1))


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Predict by the classifier of the last round."""
    classifier = linear.fit(representation, data, rows, layer, settings.seed)
    train, statistics = (
        representation.features(data.train, layer),
        representation.statistics(data.train, layer),
    )
    known = torch.full_like(data.labels, -1)
    known[rows.to(known.device)] = data.labels[rows.to(known.device)]
    labels, rounds = known, 0
    while rounds < ROUNDS:
        proposed = confident(classifier(train), known)
        if torch.equal(proposed, labels):
            break
        labels, some, rounds = proposed, proposed >= 0, rounds + 1
        classifier = logistic.fit(
            train[some], labels[some], len(data.classes),
            penalty=classifier.penalty, statistics=statistics, seed=settings.seed,
        )  # fmt: skip
    added, unlabelled = (labels >= 0) & (known < 0), int((known < 0).sum())
    words = (
        f"{int(added.sum()):,} of {unlabelled:,} unlabelled samples labelled in {counted(rounds, 'rounds')}"
    )
    if added.any():  # said only: nothing is chosen by it
        words += f", {100 * float((labels == data.labels)[added].float().mean()):.1f} % of them rightly"
    predicted = classifier(representation.features(data.test, layer)).argmax(1)
    return predicted, f"{words}, penalty {classifier.penalty:g}"


PROBE = Probe(probe, semi_supervised=True, tells="ours")
