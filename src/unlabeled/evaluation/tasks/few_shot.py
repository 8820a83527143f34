"""Examples in the prompt: a language model names the class of a text after 0, 1, 4 and 16 texts with their classes.

Nothing is trained: the examples are read with the text, and the class is chosen as in `zero_shot`. They are drawn from
the training part, of each class as many as of any other as far as the number allows, and more of them contain fewer.
Numbers of examples that do not fit into the window are omitted, with a warning. The controls are a random twin; a
unigram model of the prompt; permuted labels, the accuracy that the same answers would have if they had nothing to do
with the texts; and the same examples with random names: a network that reads them as examples loses by it, one that
only follows their form or their words does not.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.prompting import Prompts, Questions, by_permuted_labels, hits
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.verdict import counted

__all__ = ["SHOTS", "TASK", "draw", "measure"]

SHOTS = (0, 1, 4, 16)
"""Numbers of examples."""
DRAWS = 3
"""Draws of the examples."""


def draw(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw examples: classes take turns in random order, so that fewer examples are the first of more.

    Args:
        labels: Class of each training text.
        count: Number of examples.
        seed: Seed of the draw.

    Returns:
        Rows of the training texts.
    """
    generator, classes = torch.Generator().manual_seed(seed), torch.tensor(labels)
    order = torch.randperm(len(classes), generator=generator)
    turn = torch.zeros(len(classes))
    for label in classes.unique():
        members = order[classes[order] == label]
        turn[members] = torch.arange(len(members)).float()
    return (turn + 0.9 * torch.rand(len(classes), generator=generator)).argsort()[:count].tolist()


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Accuracy of ours and of the controls, by the number of examples, on the same test texts and draws.

    Raises:
        ValueError: The encoder is no causal transformer, or the classes have no names in words.
    """
    questions = Questions.of(model, parts, "few_shot")
    measurements = []
    for count in _fitting(questions.prompts):
        detail = f"up to {questions.prompts.room(count)} pieces of each text"
        measurements += [
            questions.measurement(
                "few_shot", features, values, f"accuracy with {counted(count, 'examples')}", detail
            )
            for features, values in _values(questions, count, model.seed).items()
        ]
    return measurements


def _fitting(prompts: Prompts) -> list[int]:
    """The numbers of examples that fit."""
    omitted = [count for count in SHOTS if not prompts.fit(count)]
    if omitted:
        rooms = ", ".join(
            f"{count} (room for {prompts.room(count)} pieces of each text)" for count in omitted
        )
        warnings.warn(
            f"few_shot omits numbers of examples that a window of {prompts.length} or {len(prompts.train):,} training "
            f"texts are too few for: {rooms}",
            stacklevel=3,
        )
    return [count for count in SHOTS if count not in omitted]


def _values(questions: Questions, count: int, seed: int) -> dict[str, Tensor]:
    """What the true classes get, by features, float64, shape (draws, texts)."""
    prompts, rows = questions.prompts, {}
    for number in range(DRAWS if count else 1):
        examples = draw(prompts.labels, count, seed + number)
        shares = {features: questions.shares(features, examples) for features in questions.scorers}
        values = {features: hits(share, questions.answers) for features, share in shares.items()}
        values["permuted labels"] = by_permuted_labels(shares["unlabeled"], questions.answers)
        if count:
            generator = torch.Generator().manual_seed(seed + number)
            names = torch.randint(len(prompts.names), (count,), generator=generator).tolist()
            others = questions.shares("unlabeled", examples, names)
            values["random names in the examples"] = hits(others, questions.answers)
        for features, each in values.items():
            rows.setdefault(features, []).append(each)
    return {features: torch.stack(draws) for features, draws in rows.items()}


def _open(source: Source) -> Parts:
    return source.of_kind("text").open()


TASK = Task(measure, _open, kinds=("text",))
