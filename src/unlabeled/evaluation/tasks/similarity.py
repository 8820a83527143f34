"""Similarity of words: rank correlation of the vectors' cosines with people's scores of pairs of words.

Words are compared in lower case; pairs with a word that has no vector are omitted, and counted. The controls are the
same vectors before training, and shared letters: what the spelling alone says.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.word_lists import Pair, numbers_of, open_list, read_pairs

__all__ = ["TASK", "measure", "spearman"]


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation, where equal values share the mean of their ranks.

    Args:
        first: Float, shape (samples,).
        second: Float, same shape.

    Returns:
        -1 to 1; NaN where one of them is constant.
    """
    first, second = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    return float((first * second).sum() / (first.square().sum() * second.square().sum()).sqrt())


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Rank correlation of ours and of two controls.

    Args:
        model: Its encoder has `vectors` and `numbers` of words.
        parts: A file for `read_pairs`.

    Raises:
        ValueError: The encoder has no vectors of words, or fewer than three pairs have them.
    """
    numbers, pairs = numbers_of(model), read_pairs(parts.source.data)
    known = [pair for pair in pairs if pair[0] in numbers and pair[1] in numbers]
    if len(known) < 3:
        raise UserError(f"data must have at least 3 pairs of known words, got {len(known)} of {len(pairs)}")
    rows = torch.tensor(
        [[numbers[first], numbers[second]] for first, second, _ in known], device=model.device
    )
    similarities = {
        "unlabeled": _cosines(model.encoder, rows),
        "random": _cosines(model.untrained(), rows),
        "shared letters": torch.tensor(
            [_shared_letters(first, second) for first, second, _ in known]
        ).double(),
    }
    detail = f"cosine, {len(known):,} of {len(pairs):,} pairs known"
    return [
        _measurement(features, similarity, known, detail, model.seed)
        for features, similarity in similarities.items()
    ]


def _measurement(
    features: str, similarity: Tensor, pairs: Sequence[Pair], detail: str, seed: int
) -> Measurement:
    scores = torch.tensor([score for *_, score in pairs], dtype=torch.double)
    value, left_out = leave_one_out(
        lambda rest: spearman(similarity[rest], scores[rest]), len(pairs), seed=seed
    )
    return Measurement(
        "similarity", features, torch.tensor([[value]]), detail=detail, unit="Spearman",
        left_out=left_out, counted="word pairs", samples=len(pairs), bounds=(-1.0, 1.0),
    )  # fmt: skip


def _ranks(values: Tensor) -> Tensor:
    _, group, sizes = values.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    return (last - (sizes - 1) / 2)[group]


def _cosines(encoder: Any, rows: Tensor) -> Tensor:
    """Cosine of the words of each pair, float64, shape (pairs,)."""
    first, second = encoder.vectors.to(rows.device).double()[rows].unbind(1)
    return F.cosine_similarity(first, second, dim=1).cpu()


def _shared_letters(first: str, second: str) -> float:
    """Cosine of the counts of each three letters in a row in two words, their ends marked."""
    counts: Sequence[Mapping[str, int]] = [
        Counter(word[i : i + 3] for i in range(len(word) - 2)) for word in (f"<{first}>", f"<{second}>")
    ]
    product = sum(count * counts[1].get(part, 0) for part, count in counts[0].items())
    squares = [sum(count**2 for count in part.values()) for part in counts]
    return product / max(1, squares[0] * squares[1]) ** 0.5


TASK = Task(measure, open_list)
