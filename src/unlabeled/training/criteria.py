"""How good features may be, judged without labels: criteria that are said to go along with the accuracy of probes.

RankMe, the oldest of them, is `metrics.rank`. None measures quality by itself: where that was tried, the best of them
went along with the accuracy of probes on one set of images and against it on another (docs/benchmarks.md).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.parts.kmeans import kmeans

__all__ = ["CLUSTERS", "alpha", "cluster_silhouette", "lidar", "silhouette"]

RANKS = 4, 100
"""Ranks of the eigenvalues that the power law is fitted to, as in the authors' experiments on CIFAR-10."""
FEWEST_RANKS = 8
EMPTY = 1e-9
"""Variance, as a fraction of the largest, below which a direction holds nothing but rounding errors."""
DELTA = 1e-4
CLUSTERS = 10
"""Clusters of the silhouette where nothing says how many kinds there are."""


def alpha(features: Tensor) -> float:
    """alpha-ReQ: exponent of the power law by which the variances of the principal directions decay.

    Above 1, few directions hold most of the variance; near 0, all hold the same. Values near 1 are said to be best.
    The line in the logarithms weighs each rank by its inverse, so that all scales count alike.

    Source: Agrawal, Mondal, Ghosh, Richards, "alpha-ReQ", 2022, https://openreview.net/forum?id=ii9X4vtZGTZ; the fit:
    Stringer, Pachitariu, Steinmetz, Carandini, Harris, 2019, https://doi.org/10.1038/s41586-019-1346-5

    Args:
        features: Float, shape (samples, dim).

    Returns:
        The exponent, fitted to the ranks 4 to 100 as far as there are so many; NaN where there are fewer than 8.
    """
    rows = features.detach().cpu().double()
    rows = rows - rows.mean(0)
    gram = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    variances = torch.linalg.eigvalsh(gram).flip(0)
    count = int((variances > EMPTY * variances[:1].clamp_min(1e-300)).sum())
    first, last = RANKS[0], min(RANKS[1], count)
    if last - first + 1 < FEWEST_RANKS:
        return math.nan
    ranks = torch.arange(first, last + 1, dtype=torch.double)
    across, up, weights = ranks.log(), variances[first - 1 : last].log(), 1 / ranks
    across = across - (weights * across).sum() / weights.sum()
    return -float((weights * across * up).sum() / (weights * across.square()).sum())


def lidar(views: Tensor, delta: float = DELTA) -> float:
    """LiDAR: effective rank of the directions in which samples differ, measured by how far views of a sample differ.

    A discriminant analysis takes each sample for a class of its own and its random views for the members. Directions
    that differ between samples count, unless views move along them as much: noise that fills all directions does not.

    Source: Thilak, Huang, Saremi, Dinh, Goh, Nakkiran, Susskind, Littwin, 2023, https://arxiv.org/abs/2312.04000

    Differs: what is added to the variance within samples is a fraction of its mean, where the paper adds the same
    number whatever the scale of the features.

    Args:
        views: Features of random views, float, shape (views, samples, dim): at least 2 views of at least 2 samples.
        delta: Added to the variances within samples, as a fraction of their mean, at least 0; with 0, an invertible
            linear map of the features changes nothing, and the views must differ in all directions.

    Returns:
        From 1 to min(samples - 1, dim); 0 where all samples are the same.
    """
    check.at_least(2, views=len(views), samples=views.shape[1])
    check.at_least(0, delta=delta)
    points = views.detach().cpu().double()
    means = points.mean(0)
    apart, inside = means - means.mean(0), (points - means).flatten(0, 1)
    within = inside.T @ inside / len(inside)
    within.diagonal().add_(delta * within.diagonal().mean() + torch.finfo(torch.double).tiny)
    # The eigenvalues of W^-1/2 B W^-1/2 are the squared singular values of the means in units of the views.
    scale = torch.linalg.cholesky(within)
    units = torch.linalg.solve_triangular(scale, apart.T, upper=False)
    gram = units @ units.T if len(units) < units.shape[1] else units.T @ units
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def silhouette(points: Tensor, clusters: Tensor) -> float:
    """Mean over the points of how much nearer their own cluster is than the next one.

    Source: Rousseeuw, 1987, https://doi.org/10.1016/0377-0427(87)90125-7

    Args:
        points: Float, shape (points, dim).
        clusters: Cluster of each point, int64, shape (points,).

    Returns:
        From -1 to 1; points that are alone in their cluster count as 0. NaN for a single cluster.
    """
    points, members = points.detach().cpu().double(), F.one_hot(clusters.cpu().unique(return_inverse=True)[1])
    if members.shape[1] < 2:
        return math.nan
    members, sizes = members.double(), members.sum(0)
    sums = torch.cdist(points, points) @ members
    own = members.bool()
    inside = sums[own] / (sizes[own.int().argmax(1)] - 1).clamp_min(1)
    nearest = (sums / sizes).masked_fill(own, torch.inf).amin(1)
    widths = (nearest - inside) / torch.maximum(nearest, inside).clamp_min(1e-300)
    return float(widths.masked_fill(sizes[own.int().argmax(1)] == 1, 0).mean())


def cluster_silhouette(features: Tensor, clusters: int = CLUSTERS) -> float:
    """Silhouette of k-means clusters of the directions of centred features: how clearly the samples form groups.

    Random choices are made from a fixed seed, and torch's generator is left as it was.

    Args:
        features: Float, shape (samples, dim), more samples than clusters.
        clusters: Number of clusters, at least 2.

    Returns:
        From -1 to 1.
    """
    check.at_least(2, clusters=clusters)
    rows = features.detach().cpu().float()
    units = F.normalize(rows - rows.mean(0), dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return silhouette(units, kmeans(units, clusters).assignments)
