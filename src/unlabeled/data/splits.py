"""Dividing data in two parts that have nothing in common: neither equal samples nor samples of one source."""

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.groups import joined
from unlabeled.data.notes import note
from unlabeled.data.samples import Data

__all__ = ["contradictions", "divide", "first_rows", "repeats", "units"]

_TEST_FRACTION = 0.2


def units(data: Data, digests: Tensor | None = None) -> Tensor:
    """Numbers of what must stay together: samples that are equal or of one group, directly or by way of others.

    Args:
        data: The data.
        digests: Its `digests()`, computed if None.

    Returns:
        int64, shape (samples,), from 0.
    """
    digests = data.digests() if digests is None else digests
    return joined(digests, data.groups_of(torch.arange(len(data))))


def repeats(digests: Tensor) -> int:
    """How many samples are equal to one before them."""
    return len(digests) - len(digests.unique())


def first_rows(digests: Tensor) -> Tensor:
    """The first row of each content, in order, int64."""
    contents, content = digests.unique(return_inverse=True)
    first = torch.full((len(contents),), len(content))
    return first.scatter_reduce(0, content, torch.arange(len(content)), "amin").sort().values


def contradictions(digests: Tensor, labels: Tensor | None) -> int:
    """How many samples have an equal one whose known class is another."""
    if labels is None:
        return 0
    digests, labels = digests[labels >= 0], labels[labels >= 0]
    content = digests.unique(return_inverse=True)[1]
    pairs = torch.stack([content, labels.cpu()], 1).unique(dim=0)
    return int((pairs[:, 0].bincount()[content] > 1).sum()) if len(content) else 0


def divide(data: Data, share: float = _TEST_FRACTION) -> tuple[Data, Data]:
    """Divide data within each class, always in the same way; what belongs together stays together.

    Each class is in both parts where it has two units or more: samples, groups of samples, or sets of equal ones.

    Args:
        data: The data.
        share: Fraction of the samples that the second part is to have, in 0..1.

    Returns:
        The larger part and the smaller one.

    Raises:
        ValueError: No class has two units.
    """
    digests = data.digests()
    numbers = units(data, digests)
    labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
    classes = labels.unique(return_inverse=True)[1]
    alone = len(numbers.unique()) == len(data)
    test = _rows(classes, share) if alone else _Division(numbers, classes, share).test[numbers]
    if not test.any():
        raise UserError(_undivided(data, digests, int(classes.max()) + 1 if len(data) else 0))
    note(_summary(data, digests, test))
    return data.subset(~test), data.subset(test)


def _rows(classes: Tensor, share: float) -> Tensor:
    """Which samples are for testing where each stands alone, bool, shape (samples,)."""
    generator = torch.Generator().manual_seed(0)
    test = torch.zeros(len(classes), dtype=torch.bool)
    for label in classes.unique():
        rows = (classes == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator)
        count = max(round(share * len(rows)), min(len(rows) - 1, 1))
        test[rows[order[:count]]] = True
    return test


class _Division:
    """Units that are for testing: taken at random as long as they fit, then those that come nearest to the share.

    Args:
        units: Unit of each sample, from 0, int64, shape (samples,).
        classes: Class of each sample, from 0, int64, shape (samples,).
        share: Fraction of each class that is for testing.
    """

    def __init__(self, units: Tensor, classes: Tensor, share: float) -> None:
        pairs, counts = torch.stack([units, classes], 1).unique(dim=0, return_counts=True)
        self.parts: list[list[tuple[int, int]]] = [[] for _ in range(int(units.max()) + 1)]
        """Classes of each unit, with their samples."""
        for (unit, label), count in zip(pairs.tolist(), counts.tolist()):
            self.parts[unit].append((label, count))
        self.having: list[list[int]] = [[] for _ in range(int(classes.max()) + 1)]
        """Units that have a sample of each class."""
        for unit, label in pairs.tolist():
            self.having[label].append(unit)
        self.targets = [share * count for count in classes.bincount().tolist()]
        self.test_counts = [0] * len(self.having)
        self.left = [len(units) for units in self.having]
        """Units of each class that are for training."""
        self.test = torch.zeros(len(self.parts), dtype=torch.bool)
        self._choose()

    def _choose(self) -> None:
        order = torch.randperm(len(self.parts), generator=torch.Generator().manual_seed(0)).tolist()
        for unit in order:
            fits = all(
                self.test_counts[label] + count <= self.targets[label] for label, count in self.parts[unit]
            )
            if fits and self._may(unit):
                self._take(unit)
        place = {unit: number for number, unit in enumerate(order)}
        for label in sorted(range(len(self.having)), key=lambda label: len(self.having[label])):
            possible = [unit for unit in self.having[label] if not self.test[unit] and self._may(unit)]
            if not possible:
                continue
            best = min(possible, key=lambda unit: (self._change(unit), place[unit]))
            if self._change(best) < 0 or not self.test_counts[label]:
                self._take(best)

    def _may(self, unit: int) -> bool:
        """Whether every class of a unit keeps another one for training."""
        return all(self.left[label] > 1 for label, _ in self.parts[unit])

    def _change(self, unit: int) -> float:
        """By how many samples the classes would be farther from what is wanted."""
        return sum(
            abs(self.test_counts[label] + count - self.targets[label])
            - abs(self.test_counts[label] - self.targets[label])
            for label, count in self.parts[unit]
        )

    def _take(self, unit: int) -> None:
        self.test[unit] = True
        for label, count in self.parts[unit]:
            self.test_counts[label] += count
            self.left[label] -= 1


def _summary(data: Data, digests: Tensor, test: Tensor) -> str:
    """How data was divided and what was kept together, in one line."""
    percent = round(100 * float(test.float().mean()))
    by = f" by {len(data.groups.unique()):,} {data.group_unit}" if data.groups is not None else ""
    line = f"{data.name} divided {100 - percent} to {percent}{by or _by_class(data)}"
    if count := repeats(digests):
        line += f"; {count:,} duplicate {data.unit} kept in the same part"
    if count := contradictions(digests, data.labels):
        line += f"; {count:,} equal {data.unit} have contradictory labels"
    return line


def _by_class(data: Data) -> str:
    return "" if data.labels is None else " at random within each class, always the same way"


def _undivided(data: Data, digests: Tensor, classes: int) -> str:
    """Why data cannot be divided."""
    unit, got = data.unit, f"{len(data):,}"
    if grouped := data.groups is not None and len(data.groups.unique()) < len(data):
        unit = data.group_unit
        got += f" {data.unit} of {len(data.groups_of(torch.arange(len(data))).unique()):,} {unit} and"
    elif count := repeats(digests):
        got += f", {count:,} of them equal to others, of"
    else:
        got += " of"
    return (
        f"data must have at least 2 {unit} of a class to be divided into a training and a test part, "
        f"got {got} {classes} classes in {data.name}"
        + ("; test on other data, or treat all samples as independent with --group none" if grouped else "")
    )
