"""K-means without empty clusters, the whitening before it and the comparison of clusterings after it."""

from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts.precision import full_precision

__all__ = ["Clustering", "agreement", "kmeans", "nearest", "whiten"]

_ENTRIES = 2**24
"""Most distances in memory at once."""


class Clustering(NamedTuple):
    """Result of k-means.

    Args:
        centres: Mean of each cluster, float, shape (clusters, dim).
        assignments: Cluster of each point, int64, shape (points,); every cluster has a point.
        inertia: Sum of the squared distances of the points to their centres.
    """

    centres: Tensor
    assignments: Tensor
    inertia: Tensor


def kmeans(points: Tensor, clusters: int, iterations: int = 20) -> Clustering:
    """Lloyd's algorithm from k-means++ seeds, drawn from torch's default generator.

    A cluster that loses its last point takes half of the largest one, so the inertia never rises and even
    duplicate points fill all clusters.

    Args:
        points: Float, shape (points, dim).
        clusters: From 1 to the number of points.
        iterations: Rounds of assigning the points and averaging them, at least 1.

    Raises:
        UserError: There are fewer points than clusters, or a count is below 1.
    """
    check.at_least(1, clusters=clusters, iterations=iterations)
    if clusters > len(points):
        raise UserError(f"clusters must be at most the number of points, {len(points)}, got {clusters}")
    points = points.float()
    assignments = _fill(points, nearest(points, _seeds(points, clusters)), clusters)
    for _ in range(iterations - 1):
        centres = _means(points, assignments, clusters)
        assignments = _fill(points, nearest(points, centres), clusters)
    centres = _means(points, assignments, clusters)
    inertia = (points - centres[assignments]).square().sum()
    return Clustering(centres, assignments, inertia)


@full_precision
def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """The centre that is nearest to each point.

    Args:
        points: Float, shape (points, dim).
        centres: Float, shape (centres, dim).

    Returns:
        Its row, int64, shape (points,); of equally near ones any.
    """
    lengths = centres.square().sum(dim=1)
    chunks = points.split(max(1, _ENTRIES // len(centres)))
    return torch.cat([torch.addmm(lengths, chunk, centres.T, alpha=-2).argmin(dim=1) for chunk in chunks])


def whiten(features: Tensor, components: int) -> Tensor:
    """Principal components with unit variance and no correlation.

    Args:
        features: Float, shape (samples, dim).
        components: Most components to keep; directions without variance are dropped.

    Returns:
        Float, shape (samples, components kept), whose covariance is the identity.
    """
    centred = features.double() - features.double().mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / max(len(features) - 1, 1))
    variances, directions = variances.flip(0), directions.flip(1)
    count = min(components, int((variances > 1e-7 * variances[0]).sum()))
    return (centred @ (directions[:, :count] / variances[:count].sqrt())).float()


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Normalised mutual information of two clusterings of the same samples.

    Args:
        first: Cluster of each sample, int64, shape (samples,).
        second: Cluster of each sample in the other clustering, int64, shape (samples,).

    Returns:
        Mutual information over the mean of the two entropies: 1 for the same partition, 0 for unrelated ones.
    """
    columns = int(second.max()) + 1
    counts = torch.bincount(first * columns + second, minlength=(int(first.max()) + 1) * columns)
    joint = counts.view(-1, columns).double() / len(first)
    both = torch.special.entr(joint).sum()
    alone = torch.special.entr(joint.sum(dim=0)).sum() + torch.special.entr(joint.sum(dim=1)).sum()
    return torch.where(alone > 0, 2 * (1 - both / alone), 1.0).clamp(0, 1).float()


def _seeds(points: Tensor, clusters: int) -> Tensor:
    """k-means++ on at most 32 points per cluster: seeds are drawn in proportion to their squared distance."""
    points = points[torch.randperm(len(points), device=points.device)[: 32 * clusters]]
    seeds = [torch.randint(len(points), (1,), device=points.device)]
    distances = torch.full((len(points),), torch.inf, device=points.device)
    for _ in range(clusters - 1):
        distances = torch.minimum(distances, (points - points[seeds[-1]]).square().sum(dim=1))
        # If all points coincide with a seed, any of them will do.
        seeds.append(torch.multinomial(distances + torch.finfo(distances.dtype).tiny, 1))
    return points[torch.cat(seeds)]


def _fill(points: Tensor, assignments: Tensor, clusters: int) -> Tensor:
    sizes = torch.bincount(assignments, minlength=clusters)
    for empty in (sizes == 0).nonzero().flatten().tolist():
        largest = int(sizes.argmax())
        members = (assignments == largest).nonzero().flatten()
        offsets = points[members] - points[members].mean(dim=0)
        axis = offsets[offsets.square().sum(dim=1).argmax()]
        half = members[(offsets @ axis).argsort(descending=True)[: len(members) // 2]]
        assignments[half] = empty
        sizes[largest] -= len(half)
        sizes[empty] = len(half)
    return assignments


def _means(points: Tensor, assignments: Tensor, clusters: int) -> Tensor:
    """Means by a matrix product, which unlike scattered additions gives the same bits every time."""
    size = max(1, _ENTRIES // clusters)
    numbers = torch.arange(clusters, device=points.device)[:, None]
    sums, sizes = points.new_zeros(clusters, points.shape[1]), points.new_zeros(clusters, 1)
    for chunk, cluster in zip(points.split(size), assignments.split(size)):
        members = (numbers == cluster).to(points.dtype)
        sums += members @ chunk
        sizes += members.sum(dim=1, keepdim=True)
    return sums / sizes
