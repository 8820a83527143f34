"""Training and test samples with their classes, and what a reader of their scores must know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.labels import NO_LABELS
from unlabeled.evaluation import subsets

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Labelled"]

NAMED_CLASSES = 5
"""Classes that a sentence names."""


@dataclass
class Labelled:
    """Training and test samples of known classes, all on one device.

    Attributes:
        train: Training samples.
        test: Test samples.
        labels: Classes of the training samples, int64, shape (training samples,).
        answers: Classes of the test samples, int64, shape (test samples,).
        classes: Names of the classes.
        notes: Sentences, without capital and full stop, on samples that are skipped or cannot be predicted.
    """

    train: "Data"
    test: "Data"
    labels: Tensor
    answers: Tensor
    classes: list[str]
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, train: "Data", test: "Data") -> "Labelled":
        """Keep the samples whose class is known.

        Args:
            train: Training samples as an encoder reads them.
            test: Test samples, their classes numbered alike.

        Raises:
            ValueError: A part has no labels, fewer than two classes have training labels, or no class of the test
                samples has any.
        """
        notes: list[str] = []
        train, test = _with_labels(train, "training", notes), _with_labels(test, "test", notes)
        labels, answers, classes = _class_numbers(train, test)
        trained = labels.unique()
        if len(trained) < 2:
            raise UserError(
                f"data must have at least 2 classes to evaluate on, got {train.name}, whose "
                f"{len(labels)} labelled training {train.unit} are all of class {classes[int(trained)]}"
            )
        notes += _class_notes(trained, answers, classes, test)
        return cls(train, test, labels.to(train.device), answers.to(test.device), classes, notes)

    @property
    def rarest(self) -> int:
        """Training labels of the rarest class."""
        return int(self.labels.unique(return_counts=True)[1].min())

    @property
    def facts(self) -> dict[str, Any]:
        """What scores say of the data."""
        train, test = self.train.name, self.test.name
        return {
            "data": train if train == test else f"{train}, tested on {test}",
            "training_samples": len(self.labels),
            "test_samples": len(self.answers),
        }

    def draw(self, count: int | str, draws: int, seed: int) -> list[Tensor]:
        """Rows of the training samples whose labels are used, for each draw, as `subsets.draw` has them."""
        return subsets.draw(self.labels, count, classes=self.classes, draws=draws, seed=seed)

    def by_size(self, counts: Sequence[int | str]) -> list[int | str]:
        """Labels per class, the fewest labels first."""
        return sorted(counts, key=lambda count: len(self.draw(count, 1, 0)[0]))

    def amount(self, rows: Tensor) -> str:
        """How many labels some rows are, such as "1 to 3 of each class, 24 in all"."""
        sizes = self.labels[rows.to(self.labels.device)].unique(return_counts=True)[1]
        least, most = int(sizes.min()), int(sizes.max())
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        return f"{each} of each class, {len(rows):,} in all"

    @property
    def label_sources(self) -> list[str]:
        """Where the labels are from, where that was not plain."""
        entries = [skip for data in (self.train, self.test) for skip in data.skipped]
        lines = [f"{skip.path}: {skip.reason}" for skip in entries if skip.reason.startswith("labels: ")]
        return list(dict.fromkeys(lines))


def _with_labels(data: "Data", part: str, notes: list[str]) -> "Data":
    """Samples whose class is known, with a note on all others."""
    rows = torch.arange(0) if data.labels is None else (data.labels >= 0).nonzero()[:, 0]
    if not len(rows):
        raise UserError(_without_labels(part, data))
    unlabelled = len(data) - len(rows)
    if not unlabelled:
        return data
    verbs = "has no label and is" if unlabelled == 1 else "have no label and are"
    notes.append(f"{unlabelled} of {len(data)} {part} {data.unit} {verbs} skipped")
    return data.subset(rows)


def _without_labels(part: str, data: "Data") -> str:
    """Why nothing can be measured on a part without labels, and what would help."""
    hints = [skip.reason for skip in data.skipped if skip.reason.startswith(NO_LABELS)]
    message = f"data must have labels to evaluate on, got {data.name} without any in its {part} part"
    if len(data):
        message += f", such as of {data.paths[0]}"
    if hints:
        return f"{message} ({'; '.join(dict.fromkeys(hints))})"
    if part == "test":
        message += "; give the labelled part alone to have it divided"
    return (
        f"{message}. Put the files into one folder for each class, or their names and labels into a labels.csv "
        "beside them" + (", or evaluate the task factors instead" if data.factors else "")
    )


def _class_numbers(train: "Data", test: "Data") -> tuple[Tensor, Tensor, list[str]]:
    """Classes of both parts as numbers from 0, and their names."""
    assert train.labels is not None and test.labels is not None
    labels, answers, classes = train.labels.long(), test.labels.long(), train.classes or test.classes
    if not classes:  # numbers of any size, or truth values
        values = torch.cat([labels, answers]).unique()
        labels, answers = torch.searchsorted(values, labels), torch.searchsorted(values, answers)
        classes = [str(value) for value in values.tolist()]
    if (largest := int(max(labels.max(), answers.max()))) >= len(classes):
        raise UserError(f"labels of {train.name} must be below its {len(classes)} classes, got {largest}")
    return labels, answers, list(classes)


def _class_notes(trained: Tensor, answers: Tensor, classes: list[str], test: "Data") -> list[str]:
    """Notes on test samples of classes without a training label, and on a test part of a single class."""
    notes = []
    unknown = ~torch.isin(answers, trained)
    names = [classes[number] for number in answers[unknown].unique().tolist()]
    listing = ", ".join(names[:NAMED_CLASSES])
    if unknown.all():
        raise UserError(
            f"test {test.unit} must be of classes that have a training label, got {test.name} with none but {listing}"
        )
    if names:
        more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
        count = int(unknown.sum())
        verb = "counts as wrong because its" if count == 1 else "count as wrong because their"
        notes.append(
            f"{count} of {len(answers)} test {test.unit} {verb} class has no training label ({listing}{more})"
        )
    if len(answers.unique()) == 1:
        notes.append(
            f"all test {test.unit} are of class {classes[int(answers[0])]}, which a constant prediction gets right"
        )
    return notes
