"""Label propagation: labels spread over a graph of neighbouring training samples, and from there to test samples.

Each training sample is joined to its 10 nearest ones by cosine, or to fewer where there are under 100: to the square
root of their number, as a graph that joins all to all would give each the most frequent label. On the training samples
this is transductive, by scikit-learn's `LabelSpreading`, after which labelled ones have their own labels again. To test
samples it is inductive: they are no part of the graph, but get the mean of what as many nearest training samples have,
weighted alike.

Source: Zhou, Bousquet, Lal, Weston, Schölkopf, "Learning with Local and Global Consistency", 2003,
https://papers.nips.cc/paper/2506-learning-with-local-and-global-consistency; weights: Iscen, Tolias, Avrithis, Chum,
"Label Propagation for Deep Semi-supervised Learning", 2019, https://arxiv.org/abs/1904.04717
Differs: alpha is 0.9, which was better than 0.2 and 0.99 on training samples of digits and KMNIST; labelled samples get
their own labels back in the end; nothing is trained.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings
from unlabeled.progress import watched

if TYPE_CHECKING:
    from scipy.sparse import coo_matrix

__all__ = ["PROBE", "graph", "nearest", "probe", "spread"]

NEIGHBOURS, ALPHA, POWER = 10, 0.9, 3
"""Most neighbours of a sample, fraction of its label that it takes from them, and power of the cosines as weights."""
TOLERANCE, ROUNDS, CHUNK = 1e-6, 1000, 1024
Neighbours = tuple[Tensor, Tensor]
"""Rows of the nearest training samples, int64, and their weights, float, shape (samples, neighbours) each."""


def nearest(queries: Tensor, points: Tensor, count: int, *, same: bool = False) -> Neighbours:
    """The points of highest cosine.

    Args:
        queries: Float, shape (queries, dim).
        points: Float, shape (points, dim).
        count: Neighbours of each; at most as many as there are.
        same: Whether the queries are the points, none of which is its own neighbour.
    """
    queries, points = F.normalize(queries, dim=1), F.normalize(points, dim=1)
    count, neighbours = min(count, len(points) - same), []
    chunks = queries.split(CHUNK)
    for number, rows in enumerate(watched(chunks, len(chunks), "looking for neighbours", "batches")):
        cosine = rows @ points.T
        if same:
            cosine[:, CHUNK * number :].fill_diagonal_(-torch.inf)
        neighbours.append(cosine.topk(count))
    cosine, index = (torch.cat(parts) for parts in zip(*neighbours))
    return index, cosine.clamp_min(1e-3) ** POWER  # so that no edge is lost


def graph(neighbours: Neighbours) -> "coo_matrix":
    """Weights of edges, where one of two samples is a neighbour of the other, float64, shape (samples, samples).

    A graph of directed edges, which scikit-learn's own is, would leave the labels of those unread that are nobody's
    neighbours.
    """
    from scipy.sparse import coo_matrix

    index, weights = (part.cpu().numpy() for part in neighbours)
    samples, count = index.shape
    pairs = np.arange(samples).repeat(count), index.ravel()
    directed = coo_matrix((weights.ravel().astype(float), pairs), shape=(samples, samples)).tocsr()
    return directed.maximum(directed.T).tocoo()


def spread(edges: "coo_matrix", labels: Tensor, classes: int) -> Tensor:
    """What labels become on the whole graph.

    Args:
        edges: As from `graph`.
        labels: Class of each sample, -1 where it is not known, int64, shape (samples,).
        classes: Number of classes.

    Returns:
        Float64, shape (samples, classes); rows sum to 1, or to 0 where no label can be reached.
    """
    from sklearn.semi_supervised import LabelSpreading

    kernel: Any = lambda *_: edges  # noqa: E731 (typed by scikit-learn as a name only)
    model = LabelSpreading(kernel=kernel, alpha=ALPHA, max_iter=ROUNDS, tol=TOLERANCE)
    model.fit(np.zeros((len(labels), 1)), labels.cpu().numpy())
    result = torch.zeros(len(labels), classes, dtype=torch.double, device=labels.device)
    result[:, torch.from_numpy(model.classes_)] = torch.from_numpy(model.label_distributions_).to(result)
    return result


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Spread the labels over all training samples, and let the neighbours of a test sample vote with theirs."""
    train, test = (representation.features(part, layer) for part in (data.train, data.test))
    centre, rows = train.mean(0), rows.to(data.labels.device)
    neighbours = max(1, min(NEIGHBOURS, math.isqrt(len(train))))
    edges = representation.derived(
        data.train,
        ("graph", layer),
        lambda: graph(nearest(train - centre, train - centre, neighbours, same=True)),
    )
    index, weights = representation.derived(
        data.test, ("neighbours", layer), lambda: nearest(test - centre, train - centre, neighbours)
    )
    known = torch.full_like(data.labels, -1)
    known[rows] = data.labels[rows]
    beliefs = spread(edges, known, len(data.classes))
    beliefs[rows] = F.one_hot(known[rows], len(data.classes)).to(beliefs)
    votes = (weights.double()[:, None] @ beliefs[index])[:, 0]
    without = votes.sum(1) == 0
    predicted = votes.argmax(1)
    if without.any():  # the nearest labelled sample, however far
        closest, _ = nearest(test[without] - centre, train[rows] - centre, 1)
        predicted[without] = data.labels[rows][closest[:, 0]]
    reached = int((beliefs.sum(1) > 0).sum())
    return predicted, f"{index.shape[1]} neighbours, {reached:,} of {len(beliefs):,} training samples reached"


PROBE = Probe(probe, semi_supervised=True)
