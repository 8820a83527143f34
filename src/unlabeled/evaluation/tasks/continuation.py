"""Continuations: whether a language model prefers how a text goes on to how another one does.

A question is the start of a passage and two continuations of eight pieces: its own, and that of a passage of another
document. The score of a continuation is the mean log-probability of its pieces after the start, less the same after
nothing: a continuation that is likely anywhere gains nothing by it. The controls are a random twin; a unigram model,
which knows which pieces stand in the start; and another start, of a third passage, after which neither continuation is
the true one, so that half of the answers are right by chance.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.tokenizer import END
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.prompting import BATCH, QUERIES, TIED, after, frequencies, refuse_others, unigram
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.methods.gpt import GPT
from unlabeled.progress import watched

__all__ = ["TASK", "Passage", "choices", "measure", "partners", "passages"]

Pieces = list[int]
LENGTH, LEAST, MOST = 8, 8, 64
"""Pieces of a continuation, and fewest and most that stand before it."""


class Passage(NamedTuple):
    """Pieces of a text, what follows them, and the row of the text."""

    start: Pieces
    following: Pieces
    row: int


def passages(texts: Sequence[Pieces], most: int, longest: int = MOST) -> list[Passage]:
    """Passages from all texts that are long enough, or evenly from them, and evenly from the whole of each.

    Args:
        texts: Pieces of each text.
        most: Most passages.
        longest: Most pieces that stand before a continuation.
    """
    long = [row for row, text in enumerate(texts) if len(text) >= LEAST + LENGTH]
    rows = [long[place] for place in torch.linspace(0, len(long) - 1, min(most, len(long))).long().tolist()]
    cut = []
    for row in rows:
        text = texts[row]
        size = min(longest, len(text) - LENGTH)
        count = min(most // len(rows), len(text) // (size + LENGTH))
        for begin in torch.linspace(0, len(text) - size - LENGTH, count).long().tolist():
            end = begin + size
            cut.append(Passage(text[begin:end], text[end : end + LENGTH], row))
    return cut


def partners(groups: Sequence[int], seed: int) -> list[int]:
    """Another passage for each, of another group where there are several.

    Args:
        groups: Group of each passage, of which there are at least 2.
        seed: Seed of the choice.
    """
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    alone, others = len({*groups}) == 1, [0] * len(groups)
    for place, number in enumerate(order):
        ahead = (*order[place + 1 :], *order[:place])
        others[number] = next(one for one in ahead if alone or groups[one] != groups[number])
    return others


def choices(true: Tensor, false: Tensor) -> Tensor:
    """1 where the true score is above the false one, a half where they are alike, else 0, float64, their shape."""
    gap = true.double() - false.double()
    return torch.where(gap.abs() <= TIED, 0.5, (gap > 0).double())


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Fraction of the true continuations that are preferred: by ours and by the controls, on the same questions.

    Raises:
        ValueError: The encoder is no causal transformer, or there are fewer than two passages.
    """
    encoder = refuse_others(model, "continuation")
    test: Any = parts.require_test("text", "continuation")
    questions = passages(encoder.encode(test.texts), QUERIES, min(MOST, encoder.length - LENGTH))
    if len(questions) < 2:
        raise UserError(
            f"{test.name} must have 2 passages of {LEAST + LENGTH} pieces for continuation, got {len(questions)}"
        )
    rows = torch.tensor([one.row for one in questions])
    groups = test.groups_of(rows)
    other = partners(groups.tolist(), model.seed)
    starts, true = [one.start for one in questions], [one.following for one in questions]
    false, elsewhere = [true[number] for number in other], [starts[other[number]] for number in other]

    first, networks = encoder.special(END), {"unlabeled": encoder, "random": model.untrained()}
    values = {}
    for features, network in networks.items():
        method = GPT(network).to(model.device).eval()
        prior = [
            _likelihood(method, [[first]] * len(questions), ends, model.device) for ends in (true, false)
        ]
        for name, before in (features, starts), ("another start", elsewhere):
            if name not in values:
                prefixes = [[first, *start] for start in before]
                scores = [_likelihood(method, prefixes, ends, model.device) for ends in (true, false)]
                values[name] = choices(*(score - mean for score, mean in zip(scores, prior, strict=True)))
    fractions = frequencies(encoder, parts.calibration)
    scorers = [unigram(fractions, ends) for ends in zip(true, false, strict=True)]
    gains = [score([start]) - score([[first]]) for score, start in zip(scorers, starts, strict=True)]
    values["unigram"] = choices(*torch.cat(gains).unbind(1))
    detail = f"{len(questions):,} questions, {LENGTH} pieces after at most {max(map(len, starts))}"
    return [
        Measurement(
            "continuation", features, each[None], groups=groups, bounds=(0.0, 1.0), detail=detail,
            counted="texts" if test.groups is None else group_unit(test),
        )
        for features, each in values.items()
    ]  # fmt: skip


def _likelihood(
    method: GPT, starts: Sequence[Pieces], ends: Sequence[Pieces], device: torch.device
) -> Tensor:
    """Mean log-probability of the pieces of each end after its start, float64, shape (questions,)."""
    rows = [[*start, *end[:-1]] for start, end in zip(starts, ends, strict=True)]
    begins, scores = range(0, len(rows), BATCH), []
    for begin in watched(begins, len(begins), "continuations", "batches"):
        likely = after(method, rows[begin : begin + BATCH], LENGTH, device)
        targets = torch.tensor(ends[begin : begin + BATCH])
        scores.append(likely.gather(2, targets[:, :, None])[:, :, 0].mean(1))
    return torch.cat(scores)


def _open(source: Source) -> Parts:
    return source.of_kind("text").open()


TASK = Task(measure, _open, kinds=("text",))
