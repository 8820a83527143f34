"""Word analogies: a is to b as c is to which word?

The answer is the word nearest to b - a + c ("3CosAdd") among all but these three. Words are compared in lower case;
questions with a word that has no vector are omitted, and counted. The controls are the same vectors before training,
and ours where the question is ignored: the word nearest to c.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.intervals import LeftOut
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.word_lists import numbers_of, open_list, read_questions

__all__ = ["TASK", "answers", "measure"]

RESTRICT = 300_000
"""Most frequent words among which an answer is looked for."""
QUERIES = 512
"""Questions that are answered at once."""


def answers(vectors: Tensor, questions: Tensor) -> Tensor:
    """Answers to analogies by 3CosAdd.

    Args:
        vectors: Float, shape (words, dim), none of them zero.
        questions: Rows of a, b and c, int64, shape (questions, 3).

    Returns:
        Row of the vector that has the largest cosine with b - a + c (of unit vectors), of those but a, b and c
        themselves, int64, shape (questions,).
    """
    return _nearest(vectors, questions, lambda a, b, c: b - a + c)


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Fraction of analogies that are solved, by ours and by two controls.

    Args:
        model: Its encoder has `vectors` and `numbers` of words, frequent words first.
        parts: A file for `read_questions`; sections whose names start with "gram" are of grammar, others of
            meaning.

    Raises:
        ValueError: The encoder has no vectors of words, or no question has words that are known.
    """
    numbers, sections = numbers_of(model), read_questions(parts.source.data)
    limit = min(RESTRICT, len(numbers))
    questions = [(name, question) for name, section in sections.items() for question in section]
    known = [
        (name, [numbers[word] for word in question])
        for name, question in questions
        if all(numbers.get(word, limit) < limit for word in question)
    ]
    if not known:
        raise UserError(f"data must have questions of known words, got none of {len(questions)}")
    rows = torch.tensor([row for _, row in known], device=model.device)
    ours, twin = (_vectors(network, limit, model.device) for network in (model.encoder, model.untrained()))
    predictions = {
        "unlabeled": answers(ours, rows[:, :3]),
        "random": answers(twin, rows[:, :3]),
        "nearest to the third word": _nearest(ours, rows[:, :3], lambda a, b, c: c),
    }
    detail = f"3CosAdd, {len(known):,} of {len(questions):,} questions known, among {limit:,} words"
    grammar = torch.tensor([name.startswith("gram") for name, _ in known])
    measurements = []
    for features, predicted in predictions.items():
        hits = (predicted == rows[:, 3]).double().cpu()
        measurements.append(
            Measurement(
                "analogies", features, hits[None], detail=f"{detail}; {_by_section(hits, grammar)}",
                left_out=_without_pairs(hits, rows), counted="word pairs", samples=len(known),
            )
        )  # fmt: skip
    return measurements


def _vectors(encoder: Any, limit: int, device: torch.device) -> Tensor:
    """Vectors of the most frequent words, float, shape (limit, dim)."""
    return encoder.vectors.to(device)[:limit]


def _nearest(
    vectors: Tensor, questions: Tensor, target: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Row of the vector nearest to a target made of unit a, b and c, of those but these, int64, shape (questions,)."""
    units = F.normalize(vectors, dim=1)
    nearest = [
        (target(*units[rows].unbind(1)) @ units.T).scatter(1, rows, -torch.inf).argmax(1)
        for rows in questions.split(QUERIES)
    ]
    return torch.cat(nearest) if len(questions) else questions.new_zeros(0)


def _by_section(hits: Tensor, grammar: Tensor) -> str:
    """Accuracy on questions of meaning and of grammar, in words."""
    parts = {"meaning": ~grammar, "grammar": grammar}
    return ", ".join(
        f"{name} {hits[rows].mean():.1%} of {int(rows.sum()):,}" for name, rows in parts.items() if rows.any()
    )


def _without_pairs(hits: Tensor, rows: Tensor) -> LeftOut:
    """Fraction of correct answers without the questions in which one pair of words stands, for each pair in turn.

    Lists combine few pairs in all ways: 23 capitals give 506 questions, which are by no means 506 independent ones.

    Args:
        hits: 1 where a question is answered correctly, float64, shape (questions,).
        rows: Its four words, int64, shape (questions, 4).
    """
    pairs, number = rows.cpu().view(-1, 2).unique(dim=0, return_inverse=True)
    first, second = number.view(-1, 2).unbind(1)
    other = (first != second).double()  # a question of a pair and itself counts once
    pair_hits, sizes = (
        hits.new_zeros(len(pairs)).index_add_(0, first, counts).index_add_(0, second, counts * other)
        for counts in (hits, torch.ones_like(hits))
    )
    without = (hits.sum() - pair_hits) / (len(hits) - sizes)
    return LeftOut(without, sizes / len(hits), len(pairs))


TASK = Task(measure, open_list)
