"""Whitened pixels: the raw input of images on its principal axes, each divided by its standard deviation.

Neighbouring pixels are nearly equal, so distances between raw images mostly measure brightness and shading. After the
division, faint edges count as much. Shrinkage keeps axes that hold little more than noise from counting fully.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.controls import raw
from unlabeled.evaluation.features import Representation
from unlabeled.method import Batch
from unlabeled.parts import directions

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "axes", "make"]

EXACT = 3072
"""Number of values of an image up to which all axes are computed."""

IMAGES, AXES, SHRINKAGE = 10_000, 512, 10.0
"""Largest number of training images, largest number of axes, and addition to each variance, in mean variances."""


def axes(points: Tensor, count: int = AXES, shrinkage: float = SHRINKAGE) -> tuple[Tensor, Tensor]:
    """Mean, and the principal axes divided by the square roots of their shrunken variances.

    Args:
        points: Float, shape (samples, dim).
        count: Largest number of axes, those of largest variance.
        shrinkage: Added to each variance, as a fraction of the mean of all; above 0.

    Returns:
        Mean, float, shape (dim,), and matrix, float, shape (dim, axes): (points - mean) @ matrix is whitened.
    """
    mean = points.mean(0)
    centred = points - mean
    if (
        points.shape[1] > EXACT and centred.any()
    ):  # such as many bands, where a full decomposition takes minutes
        return mean, directions.whitening(centred, count, shrinkage)
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    # Constant images would be divided by 0; their result should be 0.
    added = (shrinkage * variances.mean()).clamp_min(1e-12)
    scale = (variances.clamp_min(0) + added).rsqrt()
    return mean, (vectors * scale).flip(1)[:, :count]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Fitted to training images, to a random sample if there are very many."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    some = data.subset(order[:IMAGES].sort().values)
    mean, matrix = axes(raw.make(encoder).features(some))

    def read(batch: Batch, layer: str | None) -> Tensor:
        return (encoder.raw(batch) - mean) @ matrix

    detail = f"{matrix.shape[1]} axes of {encoder.raw_detail}, shrinkage {SHRINKAGE:g}"
    return Representation("whitened", read, one_unit=True, detail=detail)


CONTROL = Control(make, ("image",), row=1)
