"""Known factors of the samples: what else is known than a class, read from frozen features by linear probes.

Classes, such as the speaker or the room, are read by logistic regression: accuracy. Quantities, such as a position, are
read by ridge regression: R², the fraction of the test samples' variance that is explained, with the penalty chosen by
generalised cross-validation on the training samples. Samples of which a factor is not known (-1, or not a number) are
omitted from its probe, and so is a factor that is the same for all samples of which it is known.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.evaluation import logistic
from unlabeled.evaluation.controls import random, raw
from unlabeled.evaluation.features import Representation, of_encoder, standardization
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.task import Task

__all__ = ["TASK", "measure", "r_squared", "ridge"]

PENALTIES = torch.logspace(-6, 2, 17, dtype=torch.float64)
"""Ridge penalties tried, as fractions of the mean eigenvalue of the features' covariance."""


def ridge(train: Tensor, targets: Tensor, test: Tensor) -> Tensor:
    """Predict a quantity by ridge regression.

    Args:
        train: Features, float, shape (samples, dim).
        targets: Quantity of each, float, shape (samples,).
        test: Features, float, shape (test samples, dim).

    Returns:
        Predictions, float64, shape (test samples,).
    """
    train, test, targets = train.double(), test.double(), targets.double()
    mean, scale = standardization(train)
    centre = targets.mean()
    left, values, right = torch.linalg.svd((train - mean) / scale, full_matrices=False)
    squares, along = values.square(), left.T @ (targets - centre)
    errors = []
    for penalty in PENALTIES.to(squares) * squares.mean():
        shrinkage = squares / (squares + penalty)
        residual = (targets - centre) - left @ (shrinkage * along)
        errors.append(residual.square().mean() / (1 - (1 + shrinkage.sum()) / len(targets)).square())
    penalty = PENALTIES.to(squares)[torch.stack(errors).argmin()] * squares.mean()
    weights = right.T @ (values / (squares + penalty) * along)
    return centre + (test - mean) / scale @ weights


def r_squared(predicted: Tensor, targets: Tensor) -> float:
    """R²: 1 for perfect predictions, 0 for the mean of the targets, below 0 for worse than that."""
    spread = (targets - targets.mean()).square().sum()
    return float(1 - (predicted - targets).square().sum() / spread.clamp_min(1e-12))


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Probe every factor from ours, the raw input and a random twin.

    Raises:
        ValueError: The data has no factors, or none that varies.
    """
    encoder = model.encoder
    train, test = parts.views(encoder, model.device)
    names = [name for name in train.factors if name in test.factors]
    if not names:
        raise UserError(f"data must have factors, got {train.name} without any")
    reader = model.method.features if model.method is not None else of_encoder(encoder)
    representations = [
        raw.make(encoder),
        random.make(encoder, train, model.seed),
        Representation("unlabeled", reader),
    ]
    measurements = []
    for name in names:
        known, tested = (Known.of(data, name) for data in (train, test))
        if len(known.values.unique()) >= 2 and len(tested.values):
            measurements += [
                _probe(name, features, known, tested, model.seed) for features in representations
            ]
    if not measurements:
        raise UserError(f"factors of {train.name} must vary, got {', '.join(names)} the same for all samples")
    return measurements


class Known(NamedTuple):
    """The samples of which a factor is known.

    Attributes:
        data: All samples.
        rows: Which ones, bool, shape (samples,).
        values: The factor, float or whole numbers, shape (samples of which it is known,).
    """

    data: Data
    rows: Tensor
    values: Tensor

    @classmethod
    def of(cls, data: Data, name: str) -> "Known":
        values = data.factors[name]
        rows = values.isfinite() if values.is_floating_point() else values.long() >= 0
        return cls(data, rows, values[rows])

    def features(self, representation: Representation) -> Tensor:
        """Float, shape (samples of which it is known, dim)."""
        return representation.features(self.data).cpu()[self.rows]


def _probe(name: str, representation: Representation, train: Known, test: Known, seed: int) -> Measurement:
    """How well a factor is read from features; the seed is that of the penalty's choice and of bundles of units."""
    features, tested, answers = train.features(representation), test.features(representation), test.values
    groups = None if test.data.groups is None else test.data.groups[test.rows.cpu()]
    if train.values.is_floating_point():
        predicted, answers = ridge(features, train.values, tested), answers.double()
        value, left_out = leave_one_out(
            lambda rows: r_squared(predicted[rows], answers[rows]), len(answers), groups, seed=seed
        )
        values, unit, bounds, groups = torch.tensor([[value]]), f"{name} R²", (-math.inf, 1.0), None
    else:
        # Years or numbers of speakers may be large, and few.
        classes, numbers = train.values.unique(return_inverse=True)
        mean, scale = representation.statistics(train.data)
        statistics = mean.cpu(), scale.cpu()
        classifier = logistic.fit(features, numbers, len(classes), statistics=statistics, seed=seed)
        hits = classes[classifier(tested).argmax(1)] == answers
        values, left_out, unit, bounds = hits.float()[None], None, name, (0.0, 1.0)
    return Measurement(
        "factors", representation.name, values, detail=representation.detail, unit=unit, left_out=left_out,
        samples=len(answers), groups=groups, counted=group_unit(test.data), bounds=bounds,
    )  # fmt: skip


TASK = Task(measure)
