"""Nearest neighbours: the training samples most like a test sample vote, and nothing is trained.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
https://arxiv.org/abs/1805.01978
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Probe, Settings

__all__ = ["PROBE", "held_out_errors", "predict"]

GROUP = 16
"""Cosines of which only the largest is looked at first."""


def probe(
    representation: Representation, data: Labelled, rows: Tensor, layer: str | None, settings: Settings
) -> Prediction:
    """Vote on features whose centre is that of all training samples."""
    rows, k, temperature = rows.to(data.labels.device), settings.k, settings.temperature
    train, test = representation.features(data.train, layer), representation.features(data.test, layer)
    centre = train.mean(0)  # of all training samples: pixels and untrained features all point the same way
    votes = train[rows] - centre, data.labels[rows], test - centre, len(data.classes)
    return predict(*votes, k=k, temperature=temperature), f"k={min(k, len(rows))}, T={temperature:g}, centred"


@torch.no_grad()
def predict(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Let the k training samples of highest cosine vote, each with weight exp(cosine / temperature).

    Args:
        train: Float, shape (samples, dim).
        labels: Class of each training sample, int64, shape (samples,).
        test: Float, shape (queries, dim).
        classes: Number of classes.
        k: Neighbours that vote; all where there are fewer. Of equal cosines the earlier sample is nearer.
        temperature: Above 0; lower lets the nearest ones decide.
        chunk: Queries compared at once.

    Returns:
        Predicted class, int64, shape (queries,); the lower class where votes are equal.

    Raises:
        ValueError: `k`, `temperature` or `chunk` is not above 0.
    """
    check.at_least(1, k=k, chunk=chunk)
    check.positive(temperature=temperature)
    k, columns = min(k, len(train)), GROUP * (len(train) // GROUP + 1)
    train, votes = F.normalize(train, dim=1), F.one_hot(labels, classes).to(train)
    # One piece of memory for all chunks: fresh pages cost more time than the search.
    room = train.new_full((min(chunk, len(test)), columns), -torch.inf)
    predictions = []
    for queries in F.normalize(test, dim=1).split(chunk):
        cosine = room[: len(queries)]
        torch.mm(queries, train.T, out=cosine[:, : len(train)])
        neighbours = _nearest(cosine, k)
        nearest = cosine.gather(1, neighbours)
        weights = ((nearest - nearest.amax(1, keepdim=True)) / temperature).exp()
        predictions.append((weights[:, None] @ votes[neighbours]).squeeze(1).argmax(1))
    return torch.cat(predictions)


def held_out_errors(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    groups: Tensor | None = None,
    seed: int = 0,
) -> float:
    """Fraction of labels that neighbours in the other folds predict wrongly.

    Args:
        features: Float, shape (samples, dim).
        labels: Class of each sample, int64, shape (samples,).
        classes: Number of classes.
        k: As in `predict`.
        temperature: As in `predict`.
        groups: Group of each sample, int64, shape (samples,), held out as a whole; None where samples are independent.
        seed: Seed of the split into at most five folds.

    Returns:
        In 0..1; NaN where no class has two labels or lies in two groups.
    """
    fold, count = logistic.group_folds(labels, groups, seed)
    if count < 2:
        return torch.nan
    wrong = 0
    for held_out in range(count):
        rest, tested = fold != held_out, fold == held_out
        votes = features[rest], labels[rest], features[tested], classes
        wrong += int((predict(*votes, k=k, temperature=temperature) != labels[tested]).sum())
    return wrong / len(labels)


def _nearest(cosine: Tensor, k: int) -> Tensor:
    """Columns of the k largest numbers of each row, in any order; of equal numbers the first ones count.

    The k + 1 largest numbers lie in the k + 1 groups of columns with the largest maxima: one pass for the maxima
    replaces a search through all columns.

    Args:
        cosine: Float, shape (rows, columns), a multiple of `GROUP` columns, more than k.
        k: At least 1.

    Returns:
        Int64, shape (rows, k).
    """
    groups = rearrange(cosine, "rows (within groups) -> rows within groups", within=GROUP)
    largest = groups.amax(1).topk(min(k + 1, groups.shape[2])).indices
    within = groups.shape[2] * torch.arange(GROUP, device=cosine.device)
    columns = (largest[:, :, None] + within).flatten(1)
    nearest, ranks = cosine.gather(1, columns).topk(k + 1)
    columns = columns.gather(1, ranks[:, :k])
    tied = nearest[:, k - 1] == nearest[:, k]
    if tied.any():  # which of the equal ones were found is chance
        candidates, last = cosine[tied], nearest[tied, k:]
        nearer, equal = candidates > last, candidates == last
        first = equal.cumsum(1) <= k - nearer.sum(1, keepdim=True)
        columns[tied] = (nearer | (equal & first)).nonzero()[:, 1].view(-1, k)
    return columns


PROBE = Probe(probe, chosen_by="votes")
