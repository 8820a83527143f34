"""Neighbours and clusters among more than a million vectors, by the optional package faiss.

Source: Douze et al., "The Faiss library", 2024, https://arxiv.org/abs/2401.08281
"""

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.parts import kmeans as exact
from unlabeled.progress import report, watched

__all__ = ["MIN_VECTORS", "NearestOthers", "applies", "kmeans", "nearest_others"]

MIN_VECTORS = 1_000_000
"""Vectors from which on an approximate search is used; below, the exact one takes minutes at most."""
MIN_RECALL = 0.95
"""Recall from which on the search is not widened further."""
MIN_POINTS_PER_LIST = 39
"""What faiss asks for when it trains an inverted index."""
QUERIES = 500
"""Vectors whose neighbours are also searched exactly, to measure the recall."""
BLOCK = 2**14
"""Vectors searched at once."""
ENTRIES = 2**26
"""Cosines computed at once by an exact search."""


class NearestOthers(NamedTuple):
    """The nearest other vectors of each vector.

    Attributes:
        cosines: Exact cosines with these neighbours, the nearest first, float, shape (vectors, count).
        rows: Which vectors they are, int64, shape (vectors, count).
        recall: Fraction of the true neighbours of random vectors that are among them, in 0..1.
    """

    cosines: Tensor
    rows: Tensor
    recall: float


def applies(vectors: int, what: str) -> bool:
    """Whether there are so many vectors that faiss is to be used and it is installed; says so where it is not.

    Args:
        vectors: How many there are.
        what: What takes long without it, for that line.
    """
    if vectors < MIN_VECTORS:
        return False
    if find_spec("faiss") is None:
        report(f"{what} of {vectors:,} samples without faiss takes long: pip install 'unlabeled[faiss]'")
        return False
    return True


def nearest_others(points: Tensor, count: int, *, seed: int = 0) -> NearestOthers:
    """Find the nearest others of each vector in an inverted index with a byte per number.

    More of its lists are searched until the recall, measured against exact search, is 95 %, or all are.

    Args:
        points: Float, of length 1, shape (vectors, dim).
        count: Neighbours of each, from 1 to the number of others.
        seed: Seed of the index and of the vectors on which the recall is measured.

    Returns:
        Neighbours on the CPU.
    """
    import faiss

    check.within(check.Range(at_least=1, at_most=len(points) - 1), count=count)
    points = points.detach().cpu().float().contiguous()
    numbers = points.numpy()
    lists = max(1, min(4 * math.isqrt(len(points)), len(points) // MIN_POINTS_PER_LIST))
    index: Any = faiss.index_factory(points.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed
    index.train(numbers)
    index.add(numbers)
    rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:QUERIES]
    truth = _exact(points, rows, count)
    index.nprobe = min(8, lists)
    while True:
        _, own = index.search(numbers[rows.numpy()], count + 1)
        hits = _others(torch.from_numpy(own), rows)[:, :, None] == truth[:, None]
        recall = float(hits.any(2).double().mean())
        if recall >= MIN_RECALL or index.nprobe == lists:
            break
        index.nprobe = min(2 * index.nprobe, lists)
    report(
        f"neighbours of {len(points):,} samples by faiss: recall@{count} {recall:.3f} "
        f"({len(rows):,} of them searched exactly)"
    )
    blocks = torch.arange(len(points)).split(BLOCK)
    parts = []
    for block in watched(blocks, len(blocks), "looking for neighbours", "batches"):
        _, own = index.search(numbers[block.numpy()], count + 1)
        near = _others(torch.from_numpy(own), block)
        short = (near < 0).any(1)  # -1 stands for what the lists that are searched do not have
        if short.any():
            near[short] = _exact(points, block[short], count)
        parts.append((torch.einsum("nd,nkd->nk", points[block], points[near]), near))
    cosines, near = (torch.cat(one) for one in zip(*parts))
    cosines, order = cosines.sort(1, descending=True)
    return NearestOthers(cosines, near.gather(1, order), recall)


def _exact(points: Tensor, rows: Tensor, count: int) -> Tensor:
    """Nearest others of some vectors by exact search, int64, shape (rows, count)."""
    near = [
        _others((points[part] @ points.T).topk(count + 1, dim=1).indices, part)
        for part in rows.split(max(1, ENTRIES // len(points)))
    ]
    return torch.cat(near)


def _others(near: Tensor, rows: Tensor) -> Tensor:
    """Neighbours without the vector itself, or without the last one where it is not among them."""
    own = near == rows[:, None]
    own[:, -1] |= ~own.any(1)
    return near[~own].view(len(near), -1)


def kmeans(points: Tensor, clusters: int, iterations: int) -> exact.Clustering:
    """K-means by faiss from seeds that approximate k-means++ (AFK-MC2), drawn from torch's default generator.

    Args:
        points: Float, shape (points, dim); of more than 256 for each cluster, so many are drawn for the centres.
        clusters: From 1 to the number of points.
        iterations: Rounds of Lloyd's algorithm.

    Returns:
        Centres, and the centre that is exactly nearest to each point; clusters may be empty.
    """
    import faiss

    numbers = points.detach().cpu().float().contiguous().numpy()
    seed = int(torch.randint(2**31 - 1, ()))
    solver: Any = faiss.Kmeans(
        points.shape[1], clusters, niter=iterations, seed=seed, min_points_per_centroid=1
    )
    solver.cp.init_method = faiss.ClusteringInitMethod_AFK_MC2
    solver.train(numbers)
    centres = torch.from_numpy(solver.centroids.copy()).to(points.device)
    assignments = exact.nearest(points.float(), centres)
    report(f"k-means of {len(points):,} samples into {clusters:,} clusters by faiss")
    return exact.Clustering(centres, assignments, (points - centres[assignments]).square().sum())
