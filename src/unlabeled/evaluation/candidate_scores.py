"""How candidates are scored before one is chosen: by few labels, or by a criterion without any.

A score comes with what it would have been on other samples of the same kind: the same ones for all candidates, so that
differences between candidates are known better than the scores themselves.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Reader, read, standardization
from unlabeled.evaluation.spread import group_numbers
from unlabeled.files import atomic
from unlabeled.training import criteria, judge, metrics

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CRITERIA", "Score", "best", "by_criterion", "by_labels", "cross_validated", "margin"]

RESAMPLES, HALVES = 1000, 50
REPEATS, REPEATED_UP_TO = 3, 500
"""Cross-validations on other folds, whose answers are averaged, and the most labels for which there are several."""
SAMPLES, VIEWED, VIEWS = 2000, 128, 16
"""Samples that a criterion looks at, and for LiDAR images and views of each."""
TIE = 1e-12
"""Difference below which scores are equal: what remains of equal ones when their means are taken off."""
CRITERIA = ("rankme", "alpha", "lidar", "silhouette")


@dataclass(frozen=True)
class Score:
    """A score, the higher the better.

    Attributes:
        value: Of all samples.
        resampled: Of resampled ones, float64, shape (resamples,); the same samples for all candidates.
    """

    value: float
    resampled: Tensor

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        with atomic(file) as path:
            path.write_text(json.dumps([self.value, self.resampled.tolist()]), encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "Score":
        """Read what `write` wrote."""
        value, resampled = json.loads(file.read_text(encoding="utf-8"))
        return cls(value, torch.tensor(resampled, dtype=torch.double))

    @property
    def centred(self) -> Tensor:
        """Resampled scores around the value: half of the samples may have another mean than all."""
        return self.resampled - self.resampled.mean() + self.value


def best(scores: Sequence[Score]) -> list[float]:
    """How probable it is that each score is the highest, by resampling; equal ones share it, so the sum is 1."""
    values = torch.stack([one.centred for one in scores])
    highest = (values >= values.amax(0) - TIE).double()
    return (highest / highest.sum(0)).mean(1).tolist()


def margin(first: Score, second: Score) -> tuple[float, float, float]:
    """Difference of two scores with its 95 % interval."""
    low, high = (first.centred - second.centred).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return first.value - second.value, low, high


@torch.no_grad()
def cross_validated(features: Tensor, labels: Tensor, groups: Tensor | None, seed: int = 0) -> Tensor:
    """How often each sample is predicted rightly by a linear classifier that has not seen its label.

    Args:
        features: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        groups: Group of each sample, int64, shape (samples,), held out as a whole; None where samples are independent.
        seed: Seed of the folds.

    Returns:
        Fraction of the cross-validations, float64, shape (samples,).

    Raises:
        ValueError: No class has two labels, or all are of one group.
    """
    classes, labels = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"labels must be of at least 2 classes to choose by, got {len(classes)}")
    statistics, repeats = standardization(features), REPEATS if len(labels) <= REPEATED_UP_TO else 1
    right = torch.zeros(len(labels), dtype=torch.double)
    for repeat in range(repeats):
        fold, count = logistic.group_folds(labels, groups, seed + repeat)
        if count < 2:
            raise UserError(
                "labels must be at least 2 of a class, in 2 groups, to hold some of them out, got fewer"
            )
        for number in range(count):
            rest, held_out = fold != number, fold == number
            classifier = logistic.fit(
                features[rest], labels[rest], len(classes), statistics=statistics, seed=seed
            )
            answers = classifier(features[held_out]).argmax(1)
            right[held_out.cpu()] += (answers == labels[held_out]).double().cpu()
    return right / repeats


def by_labels(reader: Reader, data: "Data", seed: int = 0) -> Score:
    """Accuracy of a linear probe by cross-validation, resampled by independent units.

    Args:
        reader: Reads the features.
        data: Labelled samples, as the encoder reads them.
        seed: Seed of folds and resamples.
    """
    assert data.labels is not None
    features = read(lambda batch: reader(batch, None), data)
    right = cross_validated(features, data.labels.long().to(features.device), data.groups, seed)
    number, sizes = group_numbers(len(right), data.groups)
    sums = torch.zeros(len(sizes), dtype=torch.double).index_add_(0, number, right)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(sizes), (RESAMPLES, len(sizes)), generator=generator)
    return Score(float(right.mean()), sums[rows].sum(1) / sizes[rows].sum(1))


@torch.no_grad()
def by_criterion(name: str, encoder: "Encoder", reader: Reader, data: "Data", seed: int = 0) -> Score:
    """A criterion without labels, of all samples and of random halves of them.

    Args:
        name: One of `CRITERIA`.
        encoder: The encoder, frozen.
        reader: Reads its features.
        data: Samples, as the encoder reads them; 2,000 at most are looked at.
        seed: Seed of the choice of these and of the halves.

    Raises:
        ValueError: The criterion cannot be computed, as there are too few samples or no views of them.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    if name == "lidar":
        views = judge.view_features(encoder, data.batch(order[:VIEWED].to(data.device)), VIEWS)
        if views is None:
            raise UserError(f"criterion must be another one for data of kind {encoder.kind}, got lidar")
        points = views.transpose(0, 1)
    else:
        points = read(lambda batch: reader(batch, None), data.subset(order[:SAMPLES].sort().values))
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.randperm(len(points), generator=generator)[: len(points) // 2] for _ in range(HALVES)]
    value = _criterion(name, points)
    resampled = torch.tensor([_criterion(name, points[rows]) for rows in halves], dtype=torch.double)
    if not torch.isfinite(resampled).all():
        raise UserError(f"{name} cannot be computed from the features of {len(points)} samples")
    return Score(value, resampled)


def _criterion(name: str, points: Tensor) -> float:
    """The higher the better: of alpha the nearness to 1."""
    if name == "lidar":
        return criteria.lidar(points.transpose(0, 1))
    if name == "silhouette":
        return criteria.cluster_silhouette(points)
    return metrics.rank(points) if name == "rankme" else -abs(criteria.alpha(points) - 1)
