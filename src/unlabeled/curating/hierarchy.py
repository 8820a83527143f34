"""Hierarchical k-means whose centres spread evenly over the data, however unevenly samples do.

Source: Vo, Khalidov, Darcet, Moutakanni, Smetanin, Szafraniec, Touvron, Couprie, Oquab, Joulin, Jégou, Labatut,
Bojanowski, "Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach", 2024,
https://arxiv.org/abs/2405.15613, algorithms 1 and 2.

K-means alone puts most centres where most samples are. Clustering again the few samples that are nearest to each centre
takes density out of the data, and clustering the centres of a level gives the next.

Differs: features are reduced to principal components first; at most ten rounds of Lloyd's algorithm each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts import approximate
from unlabeled.parts.kmeans import Clustering, kmeans, nearest
from unlabeled.progress import watched

__all__ = ["default_clusters", "flat_sizes", "hierarchy", "members"]

PER_CLUSTER, FACTOR, FEWEST = 40, 10, 10
"""Samples of each cluster of the first level on average, clusters of each next one, and least clusters of the last."""
ITERATIONS = 10


def default_clusters(samples: int) -> list[int]:
    """Clusters of each level: a fortieth of the samples, then a tenth of these, and so on while ten are left."""
    clusters = [max(1, samples // PER_CLUSTER)]
    while clusters[-1] // FACTOR >= FEWEST:
        clusters.append(clusters[-1] // FACTOR)
    return clusters


def hierarchy(points: Tensor, clusters: Sequence[int], *, rounds: int = 10, seed: int = 0) -> list[Tensor]:
    """Cluster points, then the centres of these clusters, and so on.

    Args:
        points: Float, shape (samples, dim).
        clusters: Clusters of each level, the first of samples, each fewer than what it clusters.
        rounds: How often each level is clustered again from the points nearest to its centres, half as many of each as
            a cluster has on average; 0 is plain hierarchical k-means.
        seed: Seed of all random choices.

    Returns:
        Of each level the cluster of each point of the level below, int64: shape (samples,), (clusters[0],) and so on.
        Clusters may be empty.

    Raises:
        ValueError: There are more clusters than points at a level, or counts are below 1.
    """
    check.at_least(0, rounds=rounds)
    for below, count in zip([len(points), *clusters], clusters):
        check.at_least(1, clusters=count)
        if count > below:
            raise UserError(f"clusters must be at most as many as what they group, {below:,}, got {count:,}")
    levels = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for level, count in enumerate(clusters, 1):
            centres, assignments = _level(points, count, rounds, f"clustering, level {level}")
            levels.append(assignments)
            points = centres
    return levels


def _level(points: Tensor, count: int, rounds: int, what: str) -> tuple[Tensor, Tensor]:
    """Centres and assignments of a level, clustered again from what is nearest to its centres."""
    clustering = _cluster(points, count)
    centres, assignments = clustering.centres, clustering.assignments
    fewest = -(-len(points) // (2 * count))
    if fewest < 2:  # the points nearest to their centres would be the centres again
        return centres, assignments
    for _ in watched(range(rounds), rounds, what, "rounds"):
        rows = _closest(points, centres, assignments, fewest)
        centres = _cluster(points[rows], count).centres if len(rows) >= count else centres
        assignments = nearest(points, centres)
    return centres, assignments


def _cluster(points: Tensor, count: int) -> Clustering:
    solver = approximate.kmeans if approximate.applies(len(points), "k-means") else kmeans
    return solver(points, count, ITERATIONS)


def _closest(points: Tensor, centres: Tensor, assignments: Tensor, most: int) -> Tensor:
    """Rows of the points nearest to the centre of each cluster, at most so many of each, in order."""
    distances = (points - centres[assignments]).square().sum(1)
    order = distances.argsort(stable=True)
    order = order[assignments[order].argsort(stable=True)]  # by cluster, then by distance
    sizes = assignments.bincount(minlength=len(centres))
    rank = torch.arange(len(points)) - (sizes.cumsum(0) - sizes)[assignments[order]]
    return order[rank < most].msort()


def flat_sizes(levels: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Samples in each cluster of each level, int64, shape (clusters,)."""
    sizes = [levels[0].bincount(minlength=counts[0])]
    for assignments, count in zip(levels[1:], counts[1:], strict=True):
        sizes.append(torch.zeros(count, dtype=torch.int64).index_add_(0, assignments, sizes[-1]))
    return sizes


def members(assignments: Tensor, count: int) -> list[Tensor]:
    """Points of each cluster, in order, int64."""
    order = assignments.argsort(stable=True)
    return list(order.split(assignments.bincount(minlength=count).tolist()))
