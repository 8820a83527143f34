"""Average precision of a ranking: without interpolation, and by the 11 points of PASCAL VOC 2007.

Equal scores are one step of the ranking, so that a constant one gets the frequency of what is looked for.

Source: Everingham and others, "The PASCAL Visual Object Classes (VOC) Challenge", 2010,
https://doi.org/10.1007/s11263-009-0275-4
"""

import math

import torch
from torch import Tensor

__all__ = ["average_precision", "eleven_points", "mean_of_known", "precision_recall"]


def precision_recall(scores: Tensor, hits: Tensor, total: float) -> tuple[Tensor, Tensor]:
    """Precision and recall at each distinct score.

    Args:
        scores: Float, shape (candidates,).
        hits: Which candidates are right, bool, shape (candidates,).
        total: How many there are to be found.

    Returns:
        Precision and recall from the highest score to the lowest, float64, shape (scores,) each.
    """
    order = scores.argsort(descending=True, stable=True)
    ranked, true_positives = scores[order], hits[order].double().cumsum(0)
    last = torch.ones(len(order), dtype=torch.bool, device=scores.device)
    last[:-1] = ranked[1:] != ranked[:-1]
    places = torch.arange(1, len(order) + 1, device=scores.device)[last]
    return true_positives[last] / places, true_positives[last] / total


def average_precision(scores: Tensor, hits: Tensor, total: float | None = None) -> float:
    """Area below precision over recall, without interpolation.

    Args:
        scores: As in `precision_recall`.
        hits: As in `precision_recall`.
        total: As in `precision_recall`; None for the number of hits.

    Returns:
        In 0..1; NaN where nothing is to be found.
    """
    total = float(hits.sum()) if total is None else total
    if not total:
        return math.nan
    precision, recall = precision_recall(scores, hits, total)
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())


def eleven_points(scores: Tensor, hits: Tensor, total: float | None = None) -> float:
    """Mean over the recalls 0, 0.1 ... 1 of the highest precision at that recall or a higher one, 0 where none is.

    The arguments and NaN are those of `average_precision`.
    """
    total = float(hits.sum()) if total is None else total
    if not total:
        return math.nan
    precision, recall = precision_recall(scores, hits, total)
    # Counts, not fractions, are compared: 3 of 10 found is a recall of 0.3, whatever floats say.
    reached = recall * total >= torch.arange(11, device=scores.device)[:, None] * total / 10 - 1e-9
    return float(torch.where(reached, precision, 0.0).amax(1).mean()) if len(precision) else 0.0


def mean_of_known(values: list[float]) -> float:
    """Mean of those that are no NaN; NaN where all are."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
