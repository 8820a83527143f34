"""Mahalanobis distance: the class whose mean is nearest, in units of the covariance within classes.

All classes share one covariance, shrunk towards a multiple of the identity as Ledoit and Wolf have it (scikit-learn),
so that it can be inverted where there are fewer labels than numbers in a vector. With one label per class it is the
identity. Features are standardised by all training samples.

Source: Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks", 2018, https://arxiv.org/abs/1807.03888; Ledoit, Wolf, "A well-conditioned estimator for large-dimensional
covariance matrices", 2004, https://doi.org/10.1016/S0047-259X(03)00096-4
Differs: features of a single layer; the covariance is shrunk; only the first 512 principal directions of longer vectors
are used.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.parts import directions

__all__ = ["PROBE", "Gaussians", "fit", "points", "probe"]

LARGEST = 512
"""Largest dimension of vectors that are used as they are."""


class Gaussians(NamedTuple):
    """A Gaussian for each class, all with the same covariance.

    Attributes:
        classes: Classes that have samples, int64, shape (classes,).
        means: Float64, shape (classes, dim).
        whitening: Matrix after which distances are Euclidean, float64, shape (dim, dim).
        shrinkage: Weight of the identity in the covariance, in 0..1.
    """

    classes: Tensor
    means: Tensor
    whitening: Tensor
    shrinkage: float

    def squares(self, points: Tensor) -> Tensor:
        """Squared distances to the means, float64, shape (samples, classes), of points, float, shape (samples, dim)."""
        points, means = points.double() @ self.whitening, self.means @ self.whitening
        return torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist").square()


def fit(points: Tensor, labels: Tensor) -> Gaussians:
    """Means of classes, and the covariance around them.

    Args:
        points: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
    """
    from sklearn.covariance import ledoit_wolf

    points = points.double()
    classes, numbers, sizes = labels.unique(return_inverse=True, return_counts=True)
    means = points.new_zeros(len(classes), points.shape[1]).index_add_(0, numbers, points) / sizes[:, None]
    residuals = points - means[numbers]
    if residuals.abs().max() <= 1e-9 * points.abs().max():  # one label each, or the same sample again
        return Gaussians(classes, means, torch.eye(points.shape[1]).to(points), 1.0)
    covariance, shrinkage = ledoit_wolf(residuals.cpu().numpy(), assume_centered=True)
    variances, vectors = torch.linalg.eigh(torch.from_numpy(covariance).to(points))
    # Rounding leaves variances below 0 where nothing had to be shrunk.
    scale = variances.clamp_min(1e-12 * float(variances.max())).rsqrt()
    return Gaussians(classes, means, vectors * scale, float(shrinkage))


def points(representation: Representation, data: Labelled, layer: str | None = None) -> tuple[Tensor, Tensor]:
    """Features standardised by all training samples, long ones projected onto their principal directions.

    Returns:
        Float, shape (training samples, dim) and (test samples, dim).
    """
    mean, scale = representation.statistics(data.train, layer)
    train, test = ((representation.features(part, layer) - mean) / scale for part in (data.train, data.test))
    if train.shape[1] <= LARGEST:
        return train, test
    key = "principal directions", layer
    matrix = representation.derived(data.train, key, lambda: directions.principal(train, LARGEST))
    return train @ matrix, test @ matrix


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Nearest mean; all classes count as equally frequent."""
    train, test = points(representation, data, layer)
    rows = rows.to(data.labels.device)
    gaussians = fit(train[rows], data.labels[rows])
    nearest = gaussians.squares(test).argmin(1)
    return gaussians.classes[nearest], f"shrinkage {gaussians.shrinkage:.2f}, {train.shape[1]} dimensions"


PROBE = Probe(probe)
