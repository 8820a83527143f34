"""What does not belong: test samples of classes that are held out in turn, told from all others by a distance.

Classes are dealt out into at most 10 parts. For each part, Gaussians are fitted to the training samples of all other
classes, with one covariance; the distance of a test sample is that of Mahalanobis to the nearest of them. The score is
the mean over parts of the area below the ROC curve (AUROC): how probable it is that a sample of a class that was held
out is further away than one of another class. Chance is 0.5.

Test samples of classes without a training label are omitted. Features are standardised by all training samples, those
of classes that are held out too: without labels, as pre-training may have seen them.

The controls are the raw input and the same network with random weights.

Source: as in the probe `mahalanobis`.
"""

import torch
from torch import Tensor

from unlabeled.evaluation.average_precision import mean_of_known
from unlabeled.evaluation.controls import random, raw
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.intervals import leave_out_each
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.probes import mahalanobis
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.task import Task

__all__ = ["TASK", "auroc", "distances", "measure", "parts_of"]

PARTS = 10
"""Most parts into which classes are dealt."""
MOST_LEFT_OUT = 200
"""Test samples that are left out one by one for intervals; more of them are left out in bundles."""


def auroc(scores: Tensor, outlier: Tensor) -> float:
    """Area below the ROC curve: how often an outlier has the higher score; equal scores count half.

    Args:
        scores: Float, shape (samples,).
        outlier: Bool, shape (samples,).

    Returns:
        In 0..1; NaN where there are only outliers or none.
    """
    inside = scores[~outlier].msort()
    outside = scores[outlier].contiguous()
    below = torch.searchsorted(inside, outside) + torch.searchsorted(inside, outside, right=True)
    return float(below.double().mean() / (2 * len(inside))) if len(inside) else torch.nan


def parts_of(classes: int, seed: int) -> list[Tensor]:
    """Classes that are held out together, int64, shape (classes of the part,) each."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    return [order[part::PARTS].msort() for part in range(min(PARTS, classes))]


def distances(train: Tensor, labels: Tensor, test: Tensor, held_out: Tensor) -> Tensor:
    """Squared distance of test samples to the nearest class that is not held out, float64, shape (test samples,).

    Args:
        train: Float, shape (samples, dim).
        labels: Class of each training sample, int64, shape (samples,).
        test: Float, shape (test samples, dim).
        held_out: Classes whose training samples are not looked at, int64, shape (classes,).
    """
    rest = ~torch.isin(labels, held_out.to(labels.device))
    return mahalanobis.fit(train[rest], labels[rest]).squares(test).amin(1)


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """AUROC of ours, the raw input and a random twin.

    Raises:
        ValueError: There are no labels, or fewer than two classes of them.
    """
    encoder = model.encoder
    data = Labelled.of(*parts.views(encoder, model.device))
    reader = model.method.features if model.method is not None else of_encoder(encoder)
    representations = [
        raw.make(encoder),
        random.make(encoder, data.train, model.seed),
        Representation("unlabeled", reader, encoder),
    ]
    return [_measured(representation, data, model.seed) for representation in representations]


def _measured(representation: Representation, data: Labelled, seed: int) -> Measurement:
    train, test = mahalanobis.points(representation, data)
    classes = data.labels.unique()
    known = torch.isin(data.answers, classes)
    test, answers = test[known], data.answers[known]
    groups = None if data.test.groups is None else data.test.groups[known.cpu()]
    held_out = [classes[part.to(classes.device)] for part in parts_of(len(classes), seed)]
    scores = torch.stack([distances(train, data.labels, test, part) for part in held_out]).cpu()
    outlier = torch.stack([torch.isin(answers, part) for part in held_out]).cpu()

    def statistic(rows: Tensor) -> list[float]:
        return [mean_of_known([auroc(own[rows], them[rows]) for own, them in zip(scores, outlier)])]

    (value,), (left_out,) = leave_out_each(statistic, len(answers), groups, seed=seed, most=MOST_LEFT_OUT)
    by_part = {
        ", ".join(data.classes[number] for number in part.tolist()): auroc(own, them)
        for part, own, them in zip(held_out, scores, outlier)
        if 0 < them.sum() < len(them)
    }
    detail = f"{len(held_out)} parts of {len(classes)} classes, {train.shape[1]} dimensions"
    return Measurement(
        "outliers", representation.name, torch.tensor([[value]]), unit="AUROC", left_out=left_out,
        samples=len(answers), counted=group_unit(data.test), bounds=(0.0, 1.0), by_class=by_part,
        detail=f"{representation.detail}; {detail}".removeprefix("; "),
    )  # fmt: skip


TASK = Task(measure)
