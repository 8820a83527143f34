"""Features in a byte each, small and fast enough to be searched in a browser, and how much of the truth they find."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.evaluation.geometry import unit_components

__all__ = ["Quantized", "quantized", "recall"]

DIMS = (64, 128, 256)
"""Numbers of components that are tried, the fewest first."""
ENOUGH = 0.95
"""Recall from which on no more components are taken."""
MOST_PRODUCTS = 128 * 100_000
"""Products of numbers that a search may take, so that a browser answers at once."""
NEIGHBOURS, QUERIES = 10, 500
LEVELS = 127


class Quantized(NamedTuple):
    """Vectors whose cosines are about those of features.

    Attributes:
        values: int8, shape (samples, components), in -127..127; each sample uses the whole range.
        recall: Fraction of the 10 nearest samples by the features themselves that are among the 10 nearest by these,
            over 500 random samples or all.
    """

    values: Tensor
    recall: float


def quantized(features: Tensor, *, seed: int = 0) -> Quantized:
    """Reduce centred features to as many components of a byte each as are needed, or can be searched at once.

    Args:
        features: Float, shape (samples, dim).
        seed: Seed of the samples on which the recall is measured.
    """
    fewest, *more = DIMS
    dims = [fewest, *(dim for dim in more if dim * len(features) <= MOST_PRODUCTS)]
    best = Quantized(torch.empty(0), 0.0)
    for dim in dims:
        values = to_bytes(unit_components(features, dim))
        best = Quantized(values, recall(features, values, seed=seed))
        if best.recall >= ENOUGH or values.shape[1] < dim:
            break
    return best


def to_bytes(vectors: Tensor) -> Tensor:
    """Vectors scaled so that the largest number of each is 127, rounded, int8; zeros stay zeros."""
    scale = vectors.abs().amax(1, keepdim=True).clamp_min(1e-12)
    return (vectors / scale * LEVELS).round().to(torch.int8)


def recall(features: Tensor, values: Tensor, *, seed: int = 0) -> float:
    """Fraction of the nearest samples by the cosine of centred features that are nearest by other vectors too.

    Args:
        features: Float, shape (samples, dim).
        values: Of any type, shape (samples, components).
        seed: Seed of the samples that are queries.

    Returns:
        In 0..1; 1 where there is no other sample.
    """
    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        return 1.0
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:QUERIES]
    exact = _nearest(F.normalize(features.float() - features.float().mean(0), dim=1), rows, count)
    approximate = _nearest(F.normalize(values.float(), dim=1), rows, count)
    return float((exact[:, :, None] == approximate[:, None]).any(2).double().mean())


def _nearest(units: Tensor, rows: Tensor, count: int) -> Tensor:
    cosines = units[rows] @ units.T
    return cosines.scatter_(1, rows[:, None], -torch.inf).topk(count, 1).indices
