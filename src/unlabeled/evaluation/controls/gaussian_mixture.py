"""Gaussian mixture: the probability that the raw input is from each of up to 64 Gaussians, fitted without labels.

These responsibilities are what a probe learns the classes from. A mixture for each class would be a classifier, not
features, and could not be fitted to a class with a single label. Covariances are diagonal along the principal
directions of the training samples.

Source: Nigam, McCallum, Thrun, Mitchell, "Text Classification from Labeled and Unlabeled Documents using EM", 2000,
https://doi.org/10.1023/A:1007692713085
Differs: the mixture is fitted first, and labels say afterwards to which class its components belong.
"""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls import pca
from unlabeled.evaluation.features import Representation
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]

COMPONENTS, FEWEST, DIRECTIONS = 64, 10, 32
"""Largest number of components, training samples for each of them, and largest number of directions."""
FLOOR = 1e-3
"""Addition to each variance, as a fraction of the mean variance."""


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Responsibilities of scikit-learn's mixture, fitted to training samples."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    projection, points = pca.projected(encoder, data, seed, DIRECTIONS)
    count = max(2, min(COMPONENTS, len(points) // FEWEST))
    floor = max(1e-12, FLOOR * float(points.var(0, correction=0).mean()))
    mixture = GaussianMixture(count, covariance_type="diag", reg_covar=floor, random_state=seed)
    with (
        warnings.catch_warnings()
    ):  # after 100 rounds, what still changes is which far Gaussian is how unlikely
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points.cpu().double().numpy())

    def read(batch: Batch, layer: str | None) -> Tensor:
        rows = projection.reader(batch, layer)
        return torch.from_numpy(mixture.predict_proba(rows.cpu().double().numpy())).to(rows)

    detail = f"{count} components, diagonal covariances, in {projection.detail}"
    return Representation("gaussian_mixture", read, one_unit=True, detail=detail)


CONTROL = Control(make, row=5, default=False, baseline=True)
