"""PCA: the raw input projected onto the directions in which the training samples vary most.

The numbers keep their common unit, so that distances are those of the raw input without what varies little.
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

__all__ = ["CONTROL", "make", "projected"]

SAMPLES, DIRECTIONS = 10_000, 128
"""Largest number of training samples that directions are computed from, and of directions."""


def projected(
    encoder: "Encoder", data: "Data", seed: int, most: int = DIRECTIONS
) -> tuple[Representation, Tensor]:
    """The projection of the raw input.

    Args:
        encoder: Whose raw input it is.
        data: Training samples.
        seed: Seed of the choice of samples where there are very many.
        most: Largest number of directions.

    Returns:
        The representation, and the projected samples that it was fitted to, float, shape (samples, directions).
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    points = raw.make(encoder).features(data.subset(order[:SAMPLES].sort().values))
    mean = points.mean(0)
    matrix = directions.principal(points - mean, most)

    def read(batch: Batch, layer: str | None) -> Tensor:
        return (encoder.raw(batch) - mean) @ matrix

    own = (points - mean) @ matrix
    variance, whole = own.square().sum(), (points - mean).square().sum().clamp_min(1e-12)
    share = f"{100 * float(variance / whole):.0f} % of the variance"
    detail = f"{matrix.shape[1]} directions of {encoder.raw_detail}, {share}"
    return Representation("pca", read, one_unit=True, detail=detail), own


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """Fitted to training samples, to a random choice if there are very many."""
    return projected(encoder, data, seed)[0]


CONTROL = Control(make, row=1, default=False, baseline=True)
