"""Average precision: closed forms, brute force, scikit-learn, and what is not known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from unlabeled.evaluation.average_precision import average_precision, eleven_points
from unlabeled.evaluation.tasks.multilabel import precisions


def slow_points(scores: list[float], hits: list[bool], total: float) -> list[tuple[float, int]]:
    """Precision and number found at each threshold, by counting."""
    points = []
    for threshold in sorted({*scores}, reverse=True):
        chosen = [hit for score, hit in zip(scores, hits) if score >= threshold]
        points.append((sum(chosen) / len(chosen), sum(chosen)))
    return points


def slow_area(scores: list[float], hits: list[bool], total: float) -> float:
    area, before = 0.0, 0
    for precision, found in slow_points(scores, hits, total):
        area += precision * (found - before) / total
        before = found
    return area


def slow_eleven(scores: list[float], hits: list[bool], total: float) -> float:
    points = slow_points(scores, hits, total)
    best = [
        max((p for p, found in points if 10 * found >= tenth * total), default=0.0) for tenth in range(11)
    ]
    return sum(best) / 11


def random_ranking(seed: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    levels = generator.choice([3, 10, 1000])  # few levels give many ties
    scores = torch.tensor(generator.integers(0, levels, 30) / levels)
    hits = torch.tensor(generator.random(30) < 0.3)
    hits[0] = True
    return scores, hits


@pytest.mark.parametrize("seed", range(20))
def test_both_rules_equal_counting_at_every_threshold(seed: int) -> None:
    scores, hits = random_ranking(seed)
    for total in (float(hits.sum()), float(hits.sum()) + 3):  # some are never found
        arguments = scores.tolist(), hits.tolist(), total
        assert average_precision(scores, hits, total) == pytest.approx(slow_area(*arguments))
        assert eleven_points(scores, hits, total) == pytest.approx(slow_eleven(*arguments))


@pytest.mark.parametrize("seed", range(10))
def test_without_interpolation_it_is_that_of_scikit_learn(seed: int) -> None:
    scores, hits = random_ranking(seed)
    assert average_precision(scores, hits) == pytest.approx(average_precision_score(hits, scores))


def test_closed_forms() -> None:
    scores, hits = torch.tensor([4.0, 3, 2, 1]), torch.tensor([True, False, True, False])
    assert average_precision(scores, hits) == pytest.approx((1 + 2 / 3) / 2)
    assert eleven_points(scores, hits) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(scores, torch.ones(4, dtype=torch.bool)) == 1
    # Three of ten found reach the recall 0.3, whatever floats say.
    assert eleven_points(torch.tensor([3.0, 2, 1]), torch.ones(3, dtype=torch.bool), 10.0) == pytest.approx(
        4 / 11
    )


def test_a_constant_score_gets_the_frequency_and_nothing_to_find_is_unknown() -> None:
    hits = torch.tensor([True, False, False, False, True])
    assert average_precision(torch.zeros(5), hits) == pytest.approx(0.4)
    assert eleven_points(torch.zeros(5), hits) == pytest.approx(0.4)
    assert math.isnan(average_precision(torch.zeros(5), hits & False))
    assert average_precision(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 2.0) == 0
    assert eleven_points(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 2.0) == 0


def test_images_where_a_class_is_difficult_do_not_count_for_it() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.9], [0.1, 0.2]])
    present = torch.tensor([[-1, 0], [1, 1], [0, -1]])
    assert precisions(scores, present) == [[1.0, 1.0], [1.0, 1.0]]
    changed = scores.clone()
    changed[0, 0], changed[2, 1] = 0.0, 0.95
    assert precisions(changed, present) == precisions(scores, present)


def test_scores_that_know_nothing_are_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    present = (torch.rand(4000, 3, generator=generator) < torch.tensor([0.1, 0.3, 0.7])).long()
    values = precisions(torch.rand(4000, 3, generator=generator), present)[0]
    assert values == pytest.approx([0.1, 0.3, 0.7], abs=0.03)
