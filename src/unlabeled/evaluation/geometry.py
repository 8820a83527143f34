"""The geometry of features: nearest neighbours and a flat map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import directions

__all__ = ["agreement", "flat", "nearest", "queries", "unit_components"]

TSNE_FROM = 50
"""Samples below which there are too few for neighbourhoods."""


COMPONENTS = 128
"""Most principal components that are clustered, mapped and searched by default."""


def unit_components(features: Tensor, most: int = COMPONENTS) -> Tensor:
    """Principal components of features, each sample of length 1, so that distances are those of cosines.

    Args:
        features: Float, shape (samples, dim).
        most: Most components.

    Returns:
        Float32, shape (samples, components); zeros for samples at the mean.
    """
    centred = features.float() - features.float().mean(0)
    if centred.shape[1] > most:
        centred = centred @ directions.principal(centred, most).to(centred)
    return F.normalize(centred, dim=1)


def nearest(features: Tensor, count: int) -> Tensor:
    """Find the nearest other samples by cosine.

    Args:
        features: Float, shape (samples, dim).
        count: Neighbours to find, at most samples - 1.

    Returns:
        Int64, shape (samples, count), nearest first; never the sample itself.
    """
    units = F.normalize(features.nan_to_num(0, 0, 0), dim=1)
    return (units @ units.T).fill_diagonal_(-torch.inf).topk(count, dim=1).indices


def queries(labels: Tensor | None, samples: int, count: int) -> list[int]:
    """Choose samples to show: the first of as many different classes as there are, or simply the first.

    Args:
        labels: Int64, shape (samples,), or None.
        samples: How many there are, in random order.
        count: How many to choose.

    Returns:
        Rows; what the samples look like plays no part.
    """
    if labels is None:
        return list(range(min(count, samples)))
    first: dict[int, int] = {}
    for row, label in enumerate(labels.tolist()):
        first.setdefault(label, row)
    rows = [first[label] for label in sorted(first) if label >= 0]
    return [*rows, *(row for row in range(samples) if row not in rows)][:count]


def agreement(labels: Tensor, neighbors: Tensor) -> float:
    """Fraction of neighbours with the label of their query, where both labels are known.

    Args:
        labels: Int64, shape (samples,), -1 where unknown.
        neighbors: Rows of the neighbours of each sample, int64, shape (samples, count).

    Returns:
        From 0 to 1; NaN where no pair of labels is known.
    """
    comparable = (labels[:, None] >= 0) & (labels[neighbors] >= 0)
    return (labels[neighbors] == labels[:, None])[comparable].double().mean().item()


def flat(features: Tensor, most: int | None = None) -> tuple[Tensor, str] | None:
    """Lay features out in a plane: t-SNE from a PCA start, or PCA alone where samples are few or too many.

    Args:
        features: Float, shape (samples, dim).
        most: Samples from which on PCA is taken alone; None for any number.

    Returns:
        Points, float, shape (samples, 2), in 0..1, and the name of the map; None where the features are not
        finite or all the same.
    """
    if len(features) < 3 or not features.isfinite().all():
        return None
    centered = features.double() - features.double().mean(0)
    if centered.norm() <= 1e-5 * features.double().norm().clamp(min=1e-12):
        return None
    if most is not None and len(features) > most:
        rows = centered.float()
        components, name = rows @ directions.principal(rows, 2), "PCA"
    else:
        components, name = _principal(centered), "PCA"
    if TSNE_FROM <= len(features) <= (most or len(features)) and components.shape[1] > 2:
        components, name = _tsne(components), "t-SNE"
    points = F.pad(components[:, :2], (0, max(0, 2 - components.shape[1])))
    low, high = points.amin(0), points.amax(0)
    middle, side = (low + high) / 2, (high - low).max().clamp(min=1e-12)
    return ((points - middle) / side + 0.5).float(), name


def _tsne(components: Tensor) -> Tensor:
    """t-SNE of principal components, started from the first two, float64, shape (samples, 2)."""
    from sklearn.manifold import TSNE

    start = components[:, :2] / components[:, 0].std() * 1e-4
    mapper = TSNE(
        init=start.numpy(),  # type: ignore[arg-type]
        perplexity=min(30, len(components) // 4),
        random_state=0,
        max_iter=500,
    )
    return torch.from_numpy(mapper.fit_transform(components[:, :50].numpy())).double()


def _principal(points: Tensor) -> Tensor:
    """Coordinates along the principal axes, widest first, shape (samples, min(samples, dim))."""
    samples, dim = points.shape
    if dim <= samples:
        left, values, _ = torch.linalg.svd(points, full_matrices=False)
        return left * values
    squares, vectors = torch.linalg.eigh(points @ points.T)
    return (vectors * squares.clamp(min=0).sqrt()).flip(1)
