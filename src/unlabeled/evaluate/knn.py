"""Weighted nearest neighbours: the classifier with nothing to train.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
https://arxiv.org/abs/1805.01978
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check

__all__ = ["predict"]


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
    k = min(k, len(train))
    train, votes = F.normalize(train, dim=1), F.one_hot(labels, classes).to(train)
    predictions = []
    for queries in F.normalize(test, dim=1).split(chunk):
        cosine = queries @ train.T
        nearest, neighbours = cosine.topk(min(k + 1, len(train)))
        if k < len(train):
            tied = nearest[:, k - 1] == nearest[:, k]
            neighbours[tied, :k] = cosine[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        neighbours = neighbours[:, :k]
        weights = ((cosine.gather(1, neighbours) - nearest[:, :1]) / temperature).exp()
        predictions.append((weights[:, None] @ votes[neighbours]).squeeze(1).argmax(1))
    return torch.cat(predictions)
