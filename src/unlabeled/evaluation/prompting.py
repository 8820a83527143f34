"""Classes named by words: prompts for a language model, and how likely the name of each class is after them.

A prompt is a text and a colon, perhaps after examples: other texts, each with a colon and the name of its class. The
score of a class is the mean log-probability of the pieces of its name after the prompt, less the same after the prompt
without its text: a word that is likely anywhere, or after these examples, gains nothing by it.

Source: Brown and others, "Language Models are Few-Shot Learners", 2020, https://arxiv.org/abs/2005.14165; the prior is
taken off as in Holtzman and others, "Surface Form Competition", 2021, https://arxiv.org/abs/2104.08315, and, after
examples, Zhao and others, "Calibrate Before Use", 2021, https://arxiv.org/abs/2102.09690
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.tokenizer import END
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts
from unlabeled.methods.gpt import GPT
from unlabeled.progress import watched

__all__ = [
    "Prompts",
    "Questions",
    "Scorer",
    "after",
    "best_shares",
    "by_permuted_labels",
    "class_scores",
    "frequencies",
    "hits",
    "refuse_others",
    "scorers",
    "unigram",
]

Pieces = list[int]
Scorer = Callable[[Sequence[Pieces]], Tensor]
"""From prompts to the mean log-probability of the pieces of each name, float64, shape (prompts, names)."""

BATCH = 64
QUERIES = 256
"""Most test texts that are asked about."""
LEAST = 8
"""Fewest pieces of a text that must fit into a prompt, where it has as many."""
TIED = 1e-9
"""Difference of scores below which they are alike."""


def best_shares(scores: Tensor) -> Tensor:
    """What each class gets of one vote: 1 for the best, and equal shares where several are.

    Args:
        scores: Float, shape (texts, classes).

    Returns:
        Float64, shape (texts, classes).
    """
    best = (scores >= scores.amax(1, keepdim=True) - TIED).double()
    return best / best.sum(1, keepdim=True)


def hits(shares: Tensor, answers: Tensor) -> Tensor:
    """What the true class of each text gets, float64, shape (texts,), of shares (texts, classes)."""
    return shares.gather(1, answers[:, None])[:, 0]


def by_permuted_labels(shares: Tensor, answers: Tensor) -> Tensor:
    """What the class of each text gets on average if the labels are permuted in all ways, float64, shape (texts,).

    Whoever always says the commonest class has an accuracy too; it is the same with permuted labels.
    """
    return shares @ (answers.bincount(minlength=shares.shape[1]) / len(answers)).double()


def class_scores(
    scorer: Scorer,
    prompts: "Prompts",
    queries: Sequence[int],
    examples: Sequence[int] = (),
    labels: Sequence[int] | None = None,
) -> Tensor:
    """Score of each class for each text, float64, shape (queries, classes).

    Args:
        scorer: What the names of the classes are scored by.
        prompts: Makes the prompts.
        queries: Rows of the test texts.
        examples: Rows of the training texts that stand before.
        labels: Classes that the examples are said to be of; None for the true ones.
    """
    questions = [prompts.of(examples, prompts.test[row], labels) for row in queries]
    return scorer(questions) - scorer([prompts.of(examples, [], labels)])


@dataclass(frozen=True)
class Questions:
    """What the tasks ask.

    Attributes:
        prompts: Makes the prompts.
        scorers: As `scorers` gives them.
        rows: Rows of the test texts that are asked about, rising.
        answers: Their classes, int64, shape (texts,).
        groups: Their groups, int64, shape (texts,); None where each is alone.
        counted: What the groups are called.
        detail: What must be known of them.
    """

    prompts: "Prompts"
    scorers: dict[str, Scorer]
    rows: list[int]
    answers: Tensor
    groups: Tensor | None
    counted: str
    detail: str

    @classmethod
    def of(cls, model: EvaluatedModel, parts: Parts, task: str) -> "Questions":
        """Questions about labelled texts.

        Raises:
            ValueError: The encoder is not of the family gpt, or classes have no names.
        """
        encoder = refuse_others(model, task)
        data = Labelled.of(parts.calibration, parts.require_test("text", task))
        prompts = Prompts(encoder, data)
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(model.seed))
        rows = order[:QUERIES].msort()
        notes = [
            f"{len(rows):,} of {len(data.test):,} test texts",
            f"window of {encoder.length}",
            *data.notes,
        ]
        return cls(
            prompts,
            scorers(model, prompts, data.train),
            rows.tolist(),
            data.answers[rows].cpu(),
            None if data.test.groups is None else data.test.groups[rows],
            group_unit(data.test),
            ", ".join(notes),
        )

    def shares(
        self, features: str, examples: Sequence[int] = (), labels: Sequence[int] | None = None
    ) -> Tensor:
        """What each class gets of each text's vote, float64, shape (texts, classes), by one of the scorers."""
        scores = class_scores(self.scorers[features], self.prompts, self.rows, examples, labels)
        return best_shares(scores)

    def measurement(
        self, task: str, features: str, values: Tensor, unit: str = "accuracy", detail: str = ""
    ) -> Measurement:
        """A measurement of values, shape (draws, texts)."""
        return Measurement(
            task, features, values, unit=unit, groups=self.groups, counted=self.counted, bounds=(0.0, 1.0),
            detail=", ".join(filter(None, [detail, self.detail])),
        )  # fmt: skip


def refuse_others(model: EvaluatedModel, task: str) -> Any:
    """The encoder.

    Raises:
        ValueError: It is not of the family gpt.
    """
    encoder: Any = model.encoder
    if getattr(encoder, "family", None) != "gpt":
        name = encoder.config.get("name", type(encoder).__name__)
        raise UserError(f"{task} needs a causal transformer, such as gpt-mini, got {name}")
    return encoder


class Prompts:
    """Prompts about labelled texts, in pieces of an encoder.

    Args:
        encoder: The encoder, of the family gpt.
        data: The texts, with names of their classes.

    Raises:
        ValueError: A class has no name in words.
    """

    def __init__(self, encoder: Any, data: Labelled) -> None:
        unnamed = [name for name in data.classes if not any(map(str.isalpha, name))]
        if unnamed:
            raise UserError(f"classes must be named by words, got {', '.join(unnamed[:5])}")
        self.length, self.first = encoder.length, encoder.special(END)
        self.names = encoder.encode([" " + name.replace("_", " ").strip() for name in data.classes])
        self.colon, self.gap = encoder.encode([":", "\n\n"])
        self.train, self.test = (encoder.encode(part.texts) for part in (data.train, data.test))  # type: ignore[attr-defined]
        self.labels: list[int] = data.labels.tolist()
        if not self.fit(0):
            raise UserError(
                f"names of classes must leave room for {LEAST} pieces of a text in a window of {self.length}, got "
                f"{self.room(0)}"
            )

    def room(self, examples: int) -> int:
        """Pieces of each text that fit into the window beside so many examples."""
        name = max(map(len, self.names))
        marks = 1 + (examples + 1) * (name + len(self.colon)) + examples * len(self.gap)
        return max(0, (self.length - marks) // (examples + 1))

    def fit(self, examples: int) -> bool:
        """Whether enough of each text fits beside so many examples, and there are so many."""
        longest = max(map(len, chain(self.train, self.test)))
        return self.room(examples) >= min(LEAST, longest) and examples <= len(self.train)

    def of(self, examples: Sequence[int], query: Pieces, labels: Sequence[int] | None = None) -> Pieces:
        """A prompt, each text cut to the room that it has.

        Args:
            examples: Rows of the training texts that stand before.
            query: Pieces of the text that is asked about.
            labels: Classes that the examples are said to be of; None for the true ones.
        """
        room = self.room(len(examples))
        labels = [self.labels[row] for row in examples] if labels is None else labels
        prompt = [self.first]
        for row, label in zip(examples, labels, strict=True):
            prompt += [*self.train[row][:room], *self.colon, *self.names[label], *self.gap]
        return [*prompt, *query[:room], *self.colon]


def scorers(model: EvaluatedModel, prompts: Prompts, train: Any) -> dict[str, Scorer]:
    """Ours, a random twin, and the frequencies of pieces in the prompt.

    Args:
        model: Its encoder must be of the family gpt.
        prompts: Has the names.
        train: Texts that pieces are counted in.
    """
    encoder: Any = model.encoder
    networks: dict[str, Any] = {"unlabeled": encoder, "random": model.untrained()}
    scorers = {features: _network(GPT(one), prompts.names, model) for features, one in networks.items()}
    return scorers | {"unigram": unigram(frequencies(encoder, train), prompts.names)}


def frequencies(encoder: Any, texts: Any) -> Tensor:
    """Fraction of each piece among those of texts, none of them 0, float64, shape (vocabulary,)."""
    counts = encoder.blocks(texts).counts(encoder.vocabulary, skip=1).double() + 1
    return counts / counts.sum()


def _network(method: GPT, names: Sequence[Pieces], model: EvaluatedModel) -> Scorer:
    """Scores by a network."""
    method.to(model.device).eval()
    stems = {tuple(name[:-1]) for name in names}  # names of a single piece are all read from one pass

    def score(prompts: Sequence[Pieces]) -> Tensor:
        scores = torch.zeros(len(prompts), len(names), dtype=torch.double)
        parts = [(stem, start) for stem in sorted(stems) for start in range(0, len(prompts), BATCH)]
        for stem, start in watched(parts, len(parts), "prompts", "batches"):
            rows = slice(start, start + BATCH)
            likely = after(
                method, [[*prompt, *stem] for prompt in prompts[rows]], len(stem) + 1, model.device
            )
            for number, name in enumerate(names):
                if tuple(name[:-1]) == stem:
                    scores[rows, number] = likely[:, range(len(name)), name].mean(1)
        return scores

    return score


@torch.no_grad()
def after(method: GPT, rows: Sequence[Pieces], count: int, device: torch.device) -> Tensor:
    """Log-probabilities of what follows each of the last pieces of rows, float64, shape (rows, count, vocabulary)."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    batch = {"tokens": tokens, "mask": mask, "sentence": mask.long()}
    x = method.encoder.inputs({name: value.to(device) for name, value in batch.items()})
    places = (lengths[:, None] - count + torch.arange(count)).to(device)
    states = method.encoder.states(x).gather(1, places[:, :, None].expand(-1, -1, method.encoder.dim))
    return method.logits(states).double().log_softmax(2).cpu()


def unigram(fractions: Tensor, names: Sequence[Pieces]) -> Scorer:
    """Scores by the frequencies of pieces, half of them in the prompt and half of them in all texts."""

    def score(prompts: Sequence[Pieces]) -> Tensor:
        rows = []
        for prompt in prompts:
            own = torch.tensor(prompt).bincount(minlength=len(fractions)) / len(prompt)
            logs = ((own + fractions) / 2).log()
            rows.append(torch.stack([logs[name].mean() for name in names]))
        return torch.stack(rows)

    return score
