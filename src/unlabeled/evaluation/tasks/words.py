"""Tasks `similarity` and `analogies`: what vectors of words know of their meanings.

Similarity: the rank correlation of the vectors' cosines with what people said of pairs of words. Analogies: a is to
b as c is to which word? It is the one nearest to b - a + c ("3CosAdd") among all but these three. Words are compared
in lower case; pairs and questions with a word that has no vector are left out, and counted.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.evaluation.intervals import LeftOut, leave_one_out
from unlabeled.evaluation.scores import Measurement

if TYPE_CHECKING:
    from unlabeled.evaluation.tasks import Subject

__all__ = ["analogies", "answers", "read_pairs", "read_questions", "similarity", "spearman"]

RESTRICT = 300_000
"""Most frequent words among which an answer is looked for."""
QUERIES = 512
"""Questions that are answered at once."""

Pair = tuple[str, str, float]
Question = tuple[str, str, str, str]


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


def _ranks(values: Tensor) -> Tensor:
    _, group, sizes = values.unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    return (last - (sizes - 1) / 2)[group]


def answers(vectors: Tensor, questions: Tensor) -> Tensor:
    """Answers to analogies by 3CosAdd.

    Args:
        vectors: Float, shape (words, dim), none of them zero.
        questions: Rows of a, b and c, int64, shape (questions, 3).

    Returns:
        Row of the vector that has the largest cosine with b - a + c (of unit vectors), of those but a, b and c
        themselves, int64, shape (questions,).
    """
    units = F.normalize(vectors, dim=1)
    found = []
    for rows in questions.split(QUERIES):
        a, b, c = units[rows].unbind(1)
        cosines = (b - a + c) @ units.T
        found.append(cosines.scatter(1, rows, -torch.inf).argmax(1))
    return torch.cat(found) if found else questions.new_zeros(0)


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read pairs of words with people's scores, as WordSim-353, SimLex-999 or MEN.

    Args:
        path: A text file; each line has two words and a score between tabs, commas or blanks. Lines that start with
            # and a heading are left out.

    Raises:
        ValueError: A line is something else.
    """
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(path), 1):
        separator = next((mark for mark in "\t," if mark in line), None)
        parts = [part.strip() for part in line.split(separator)]
        if not line.strip() or line.startswith("#"):
            continue
        try:
            pairs.append((parts[0].lower(), parts[1].lower(), float(parts[2])))
        except (IndexError, ValueError):
            if pairs or len(parts) < 3:
                raise UserError(
                    f"data must have two words and a number in each line, got {line.strip()!r} "
                    f"in line {number} of {path}"
                ) from None
    if not pairs:
        raise UserError(f"data must have pairs of words with scores, got none in {path}")
    return pairs


def read_questions(path: str | os.PathLike[str]) -> dict[str, list[Question]]:
    """Read analogies, as questions-words.

    Args:
        path: A text file; lines of four words follow the name of their section, which has a colon before it.

    Returns:
        Questions by section.

    Raises:
        ValueError: A line is something else.
    """
    sections: dict[str, list[Question]] = {}
    section = "all"
    for number, line in enumerate(_lines(path), 1):
        if line.startswith(":"):
            section = line[1:].strip()
        elif words := line.lower().split():
            if len(words) != 4:
                raise UserError(
                    f"data must have four words in each line, got {len(words)} in line {number} of {path}"
                )
            sections.setdefault(section, []).append(tuple(words))  # type: ignore[arg-type]
    if not sections:
        raise UserError(f"data must have questions of four words, got none in {path}")
    return sections


def similarity(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Rank correlation of cosines with people's scores of pairs of words, of ours and of two controls.

    The controls are the same vectors before training, and the letters: what the spelling alone tells.

    Args:
        subject: Whose encoder has `vectors` and `numbers` of words.
        data: A file for `read_pairs`.
        seed: Seed of the bundles in which pairs are left out where there are very many.
        device: Where to compute.

    Raises:
        ValueError: The encoder has no vectors of words, or fewer than three pairs have them.
    """
    numbers, pairs = _numbers(subject), read_pairs(_file(data))
    known = [pair for pair in pairs if pair[0] in numbers and pair[1] in numbers]
    if len(known) < 3:
        raise UserError(f"data must have at least 3 pairs of known words, got {len(known)} of {len(pairs)}")
    rows = torch.tensor([[numbers[first], numbers[second]] for first, second, _ in known], device=device)
    scores = torch.tensor([score for *_, score in known], dtype=torch.double)
    detail = f"cosine, {len(known):,} of {len(pairs):,} pairs known"

    def cosines(encoder: Any) -> Tensor:
        first, second = encoder.vectors.to(device).double()[rows].unbind(1)
        return F.cosine_similarity(first, second, dim=1).cpu()

    likenesses = {
        "unlabeled": cosines(subject.encoder),
        "random": cosines(subject.untrained()),
        "shared letters": torch.tensor(
            [_letters_shared(first, second) for first, second, _ in known]
        ).double(),
    }
    measurements = []
    for features, likeness in likenesses.items():
        value, left_out = leave_one_out(
            lambda rest, likeness=likeness: spearman(likeness[rest], scores[rest]), len(known), seed=seed
        )
        measurements.append(
            Measurement(
                "similarity",
                None,
                "all",
                features,
                torch.tensor([[value]]),
                detail,
                unit="Spearman",
                left_out=left_out,
                counted="word pairs",
                samples=len(known),
                bounds=(-1.0, 1.0),
            )
        )
    return measurements


def analogies(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Share of analogies that are solved, by ours and by two controls.

    The controls are the same vectors before training, and ours where the question is ignored: the nearest word to c.

    Args:
        subject: Whose encoder has `vectors` and `numbers` of words, frequent words first.
        data: A file for `read_questions`; sections whose names start with "gram" are of grammar, others of
            meaning.
        seed: Unused.
        device: Where to compute.

    Raises:
        ValueError: The encoder has no vectors of words, or no question has words that are known.
    """
    numbers, sections = _numbers(subject), read_questions(_file(data))
    limit = min(RESTRICT, len(numbers))
    asked = [(name, question) for name, questions in sections.items() for question in questions]
    known = [
        (name, [numbers[word] for word in question])
        for name, question in asked
        if all(numbers.get(word, limit) < limit for word in question)
    ]
    if not known:
        raise UserError(f"data must have questions of known words, got none of {len(asked)}")
    rows = torch.tensor([row for _, row in known], device=device)
    grammar = torch.tensor([name.startswith("gram") for name, _ in known])

    def right(encoder: Any, questions: Tensor) -> Tensor:
        vectors = encoder.vectors.to(device)[:limit]
        return (answers(vectors, questions) == rows[:, 3]).double().cpu()

    encoder: Any = subject.encoder
    ours = right(encoder, rows[:, :3])
    found = {
        "unlabeled": ours,
        "random": right(subject.untrained(), rows[:, :3]),
        "nearest to the third word": _nearest_right(encoder.vectors.to(device)[:limit], rows),
    }
    measurements = []
    for features, rights in found.items():
        detail = (
            f"3CosAdd, {len(known):,} of {len(asked):,} questions known, among {limit:,} words; "
            + ", ".join(
                f"{name} {rights[chosen].mean():.1%} of {int(chosen.sum()):,}"
                for name, chosen in {"meaning": ~grammar, "grammar": grammar}.items()
                if chosen.any()
            )
        )
        measurements.append(
            Measurement(
                "analogies", None, "all", features, rights[None], detail,
                left_out=_without_pairs(rights, rows), counted="word pairs", samples=len(known),
            )
        )  # fmt: skip
    return measurements


def _without_pairs(right: Tensor, rows: Tensor) -> LeftOut:
    """Share of right answers without the questions in which one pair of words stands, for each pair in turn.

    Lists combine few pairs in all ways: 23 capitals give 506 questions, which are by no means 506 independent ones.

    Args:
        right: 1 where a question is answered, float64, shape (questions,).
        rows: Its four words, int64, shape (questions, 4).
    """
    pairs, number = rows.cpu().view(-1, 2).unique(dim=0, return_inverse=True)
    first, second = number.view(-1, 2).unbind(1)
    other = (first != second).double()  # a question of a pair and itself counts once
    hits, sizes = (
        right.new_zeros(len(pairs)).index_add_(0, first, some).index_add_(0, second, some * other)
        for some in (right, torch.ones_like(right))
    )
    without = (right.sum() - hits) / (len(right) - sizes)
    return LeftOut(without, sizes / len(right), len(pairs))


def _nearest_right(vectors: Tensor, rows: Tensor) -> Tensor:
    """Whether the nearest word to c, but for a and b, is the answer, float, shape (questions,)."""
    units = F.normalize(vectors, dim=1)
    found = [
        (units[some[:, 2]] @ units.T).scatter(1, some[:, :3], -torch.inf).argmax(1) == some[:, 3]
        for some in rows.split(QUERIES)
    ]
    return torch.cat(found).double().cpu()


def _letters_shared(first: str, second: str) -> float:
    """Cosine of how often each three letters in a row stand in two words, their ends marked."""
    counts: Sequence[Mapping[str, int]] = [
        Counter(marked[i : i + 3] for i in range(len(marked) - 2)) for marked in (f"<{first}>", f"<{second}>")
    ]
    product = sum(count * counts[1].get(part, 0) for part, count in counts[0].items())
    squares = [sum(count**2 for count in some.values()) for some in counts]
    return product / max(1, squares[0] * squares[1]) ** 0.5


def _numbers(subject: "Subject") -> dict[str, int]:
    if not (hasattr(subject.encoder, "vectors") and hasattr(subject.encoder, "numbers")):
        raise UserError(f"encoder must have vectors of words, got {type(subject.encoder).__name__}")
    return subject.encoder.numbers  # type: ignore


def _file(data: Any) -> Path:
    if not isinstance(data, str | os.PathLike) or not Path(data).is_file():
        raise UserError(f"data must be a text file of words that exists, got {data}")
    return Path(data)


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"data must be text in UTF-8, got byte {error.start} of {path}") from error
