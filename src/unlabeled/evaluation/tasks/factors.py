"""Task `factors`: what else is known of the samples, read from frozen features by linear probes.

Classes, such as the speaker or the room, are read by the linear probe of `linear`: accuracy. Quantities, such
as a position, are read by ridge regression: R², the share of the test samples' variance that is explained,
with the penalty chosen by generalised cross-validation on the training samples. Samples of which a factor is not
known (-1, or not a number) are left out of its probe, and so is a factor that is the same for all that is known.
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation import controls, opening
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.probes import linear
from unlabeled.evaluation.scores import Measurement, of_groups

if TYPE_CHECKING:
    from unlabeled.evaluation.tasks import Subject

__all__ = ["explained", "measure", "ridge"]

PENALTIES = torch.logspace(-6, 2, 17, dtype=torch.float64)
"""Ridge penalties tried, as shares of the mean eigenvalue of the features' covariance."""


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
    mean, scale = linear.standardization(train)
    centre = targets.mean()
    left, values, right = torch.linalg.svd((train - mean) / scale, full_matrices=False)
    squares, along = values.square(), left.T @ (targets - centre)
    errors = []
    for penalty in PENALTIES.to(squares) * squares.mean():
        kept = squares / (squares + penalty)
        residual = (targets - centre) - left @ (kept * along)
        errors.append(residual.square().mean() / (1 - (1 + kept.sum()) / len(targets)).square())
    penalty = PENALTIES.to(squares)[torch.stack(errors).argmin()] * squares.mean()
    weights = right.T @ (values / (squares + penalty) * along)
    return centre + (test - mean) / scale @ weights


def explained(predicted: Tensor, targets: Tensor) -> float:
    """R²: 1 for perfect predictions, 0 for the mean of the targets, below 0 for worse than that."""
    spread = (targets - targets.mean()).square().sum()
    return float(1 - (predicted - targets).square().sum() / spread.clamp_min(1e-12))


def measure(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Probe every factor from ours, the raw input and a random twin.

    Raises:
        ValueError: The data has no factors, or none that varies.
    """
    encoder = subject.encoder
    train, test = opening.pair(data, None, opening.options(subject.method or encoder, encoder), encoder)
    names = [name for name in train.factors if name in test.factors]
    if not names:
        raise UserError(f"data must have factors, got {train.name} without any")
    train, test = train.to(device), test.to(device)
    reader = subject.method.features if subject.method is not None else of_encoder(encoder)
    shown = [
        controls.raw(encoder),
        controls.random(encoder, train, seed),
        Representation("unlabeled", reader),
    ]
    measured = []
    for name in names:
        learned, rows = _known(train.factors[name]), _known(test.factors[name])
        known, asked = train.factors[name][learned], test.factors[name][rows]
        if len(known.unique()) < 2 or not len(asked):
            continue
        groups = None if test.groups is None else test.groups[rows.cpu()]
        for representation in shown:
            features = representation.features(train).cpu()[learned]
            tested = representation.features(test).cpu()[rows]
            if known.is_floating_point():
                predicted = ridge(features, known, tested)

                def statistic(rows: Tensor, predicted: Tensor, asked: Tensor) -> float:
                    return explained(predicted[rows], asked[rows].double())

                value, left_out = leave_one_out(
                    partial(statistic, predicted=predicted, asked=asked), len(asked), groups, seed=seed
                )
                values, unit, bounds = torch.tensor([[value]]), f"{name} R²", (-math.inf, 1.0)
            else:
                # Years or numbers of speakers may be large, and few.
                classes, numbers = known.unique(return_inverse=True)
                mean, scale = representation.statistics(train)
                statistics = (mean.cpu(), scale.cpu())
                fitted = linear.fit(features, numbers, len(classes), statistics=statistics, seed=seed)
                right = classes[fitted(tested).argmax(1)] == asked
                values, left_out, unit, bounds = right.float()[None], None, name, (0.0, 1.0)
            measured.append(
                Measurement(
                    "factors", None, "all", representation.name, values,
                    representation.detail, unit, left_out=left_out, samples=len(asked),
                    groups=groups if left_out is None else None, counted=of_groups(test), bounds=bounds,
                )
            )  # fmt: skip
    if not measured:
        raise UserError(f"factors of {train.name} must vary, got {', '.join(names)} the same for all samples")
    return measured


def _known(values: Tensor) -> Tensor:
    """Samples of which a factor is known, bool, shape (samples,)."""
    return values.isfinite() if values.is_floating_point() else values.long() >= 0
