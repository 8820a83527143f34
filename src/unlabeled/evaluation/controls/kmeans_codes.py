"""K-means codes: how much nearer the raw input is to each of 256 cluster centres than to the average one.

Where a centre is further away than the average one, its number is 0. The clusters are those of the principal directions
of the training samples.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011 ("triangle"
activation): https://proceedings.mlr.press/v15/coates11a.html
Differs: whole samples are clustered, not patches of images; those are the control `dictionary`.
"""

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

__all__ = ["CONTROL", "codes", "make"]

CENTRES, FEWEST = 256, 4
"""Largest number of centres, and training samples for each of them."""


def codes(points: Tensor, centres: Tensor) -> Tensor:
    """Triangle activation: the mean distance to all centres less the distance to each, or 0 where that is negative.

    Args:
        points: Float, shape (samples, dim).
        centres: Float, shape (centres, dim).

    Returns:
        Float, shape (samples, centres), at least 0.
    """
    distances = torch.cdist(points, centres)
    return (distances.mean(1, keepdim=True) - distances).clamp_min(0)


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Centres of scikit-learn's k-means, fitted to training samples."""
    from sklearn.cluster import KMeans

    projection, points = pca.projected(encoder, data, seed)
    count = max(2, min(CENTRES, len(points) // FEWEST))
    fitted = KMeans(count, n_init="auto", random_state=seed).fit(points.cpu().numpy())
    centres = torch.from_numpy(fitted.cluster_centers_).to(points)

    def read(batch: Batch, layer: str | None) -> Tensor:
        return codes(projection.reader(batch, layer), centres)

    return Representation(
        "kmeans_codes", read, one_unit=True, detail=f"{count} centres in {projection.detail}"
    )


CONTROL = Control(make, row=5, default=False, baseline=True)
