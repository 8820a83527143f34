"""Classes named by words: a language model chooses the class whose name is likeliest after a text and a colon.

Nothing is trained, and no label is used: a class is its name, such as positive, and its score is as `prompting` has
it, length-normalised and with the prior of the name taken off. The controls are a random twin; a unigram model, which
knows the frequencies of pieces in the text, and so whether a name stands in it; permuted labels, the accuracy that the
same answers would have if they had nothing to do with the texts; and the commonest class of the training part.
"""

import torch

from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.prompting import Questions, by_permuted_labels, hits
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task

__all__ = ["TASK", "measure"]


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Accuracy of ours and of the controls on the same test texts.

    Raises:
        ValueError: The encoder is no causal transformer, or the classes have no names in words.
    """
    questions = Questions.of(model, parts, "zero_shot")
    shares = {features: questions.shares(features) for features in questions.scorers}
    values = {features: hits(share, questions.answers) for features, share in shares.items()}
    values["permuted labels"] = by_permuted_labels(shares["unlabeled"], questions.answers)
    commonest = torch.tensor(questions.prompts.labels).bincount().argmax()
    values["commonest class"] = (questions.answers == commonest).double()
    return [
        questions.measurement("zero_shot", features, each[None], detail="a colon and the name of each class")
        for features, each in values.items()
    ]


def _open(source: Source) -> Parts:
    return source.of_kind("text").open()


TASK = Task(measure, _open, kinds=("text",))
