"""What an audit found, as sentences, as a table in plain text and as JSON."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unlabeled import check
from unlabeled.auditing.parts import Part, parts_table
from unlabeled.files import atomic
from unlabeled.version import __version__

__all__ = ["Audit", "NearPair", "Sample"]

SCHEMA = 1
EXAMPLES, MEMBERS = 3, 4
"""Findings of each kind that the table shows, and samples of a group; the JSON has all."""
CLEAN = "No duplicates, broken files or contradictory labels."


@dataclass(frozen=True)
class Sample:
    """A sample and where it is."""

    part: str
    path: str
    label: str | None


@dataclass(frozen=True)
class NearPair:
    """Two samples that are probably copies of one another but not equal, as numbers of rows over all parts."""

    first: int
    second: int
    score: float
    """Correlation of fine detail of images, or fraction of character 8-grams that texts have in common."""
    mirrored: bool = False


@dataclass(frozen=True)
class Audit:
    """What was found; samples are numbered over all parts, in their order."""

    parts: list[Part]
    groups: list[list[int]]
    """Equal samples, those across parts first, then the largest groups first."""
    near: list[NearPair] | None
    """Near-duplicates, by falling score, of a group of identical samples the first; None where they were not sought."""
    thresholds: dict[str, float]
    """Lowest score of near-duplicates, by kind of data."""
    flat: int
    """Images with too little detail to be compared, other than exactly."""
    copies: list[list[tuple[int, int]]]
    """Samples of the part in a row with an equal sample in the part in a column, or only a near-duplicate."""

    @cached_property
    def starts(self) -> list[int]:
        """Number of the first sample of each part, and of all samples at the end."""
        return [0, *np.cumsum([len(part) for part in self.parts]).tolist()]

    def place(self, number: int) -> tuple[int, int]:
        """Part and row of a sample."""
        part = int(np.searchsorted(self.starts, number, side="right")) - 1
        return part, number - self.starts[part]

    def sample(self, number: int) -> Sample:
        """A sample by its number."""
        index, row = self.place(number)
        part = self.parts[index]
        assert part.data is not None
        return Sample(part.name, part.data.paths[row], part.labels[row])

    @cached_property
    def across(self) -> list[list[int]]:
        """Equal samples of several parts."""
        return [group for group in self.groups if self._crosses(group)]

    @cached_property
    def near_across(self) -> list[NearPair]:
        """Near-duplicates in two parts."""
        return [pair for pair in self.near or [] if self._crosses([pair.first, pair.second])]

    @property
    def near_ordered(self) -> list[NearPair]:
        """All near-duplicates, those in two parts first."""
        return sorted(self.near or [], key=lambda pair: not self._crosses([pair.first, pair.second]))

    @cached_property
    def disagreements(self) -> list[list[int]]:
        """Equal samples of different classes."""
        return [group for group in self.groups if self._disagree(group)]

    @cached_property
    def near_disagreements(self) -> list[NearPair]:
        """Near-duplicates of different classes."""
        return [pair for pair in self.near or [] if self._disagree([pair.first, pair.second])]

    @cached_property
    def lonely_classes(self) -> dict[str, str]:
        """Classes that occur in one part only, with its name; of parts that have labels, if there are several."""
        labelled = [part for part in self.parts if any(part.classes.values())]
        homes: dict[str, list[str]] = {}
        for part in labelled:
            for name, count in part.classes.items():
                if count:
                    homes.setdefault(name, []).append(part.name)
        return {name: parts[0] for name, parts in homes.items() if len(parts) == 1 < len(labelled)}

    @property
    def leaks(self) -> bool:
        """Whether samples or near-duplicates of them are in several parts, or equal samples have different classes."""
        return bool(self.across or self.near_across or self.disagreements)

    def record(self) -> dict[str, Any]:
        """Everything as JSON types.

        `parts`: name, kind, samples, unlabelled, classes (samples by name), size, left_out (path and reason);
        `copies`: samples of one part (`of`) with an `equal` sample in another (`also_in`) or only a `near` one;
        `equal` and `disagreements`: lists of samples (part, path, label); `near` and `near_disagreements`: score,
        mirrored and two samples; `thresholds`, `flat`, `classes_in_one_part`.
        """

        def group(numbers: Sequence[int]) -> list[dict[str, Any]]:
            return [vars(self.sample(number)) for number in numbers]

        def pair(near: NearPair) -> dict[str, Any]:
            samples = group([near.first, near.second])
            return {"score": round(near.score, 4), "mirrored": near.mirrored, "samples": samples}

        return {
            "schema": SCHEMA,
            "unlabeled": __version__,
            "parts": [part.record() for part in self.parts],
            "copies": [
                {"of": part.name, "also_in": other.name, "equal": equal, "near": near}
                for part, row in zip(self.parts, self.copies, strict=True)
                for other, (equal, near) in zip(self.parts, row, strict=True)
            ],
            "equal": [*map(group, self.groups)],
            "near": None if self.near is None else [*map(pair, self.near)],
            "thresholds": self.thresholds,
            "flat": self.flat,
            "disagreements": [*map(group, self.disagreements)],
            "near_disagreements": [*map(pair, self.near_disagreements)],
            "classes_in_one_part": self.lonely_classes,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `record` to a file."""
        text = json.dumps(self.record(), indent=1)
        with atomic(Path(path)) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")

    def findings(self) -> list[str]:
        """What may be wrong, a sentence each; one that says so where nothing is."""
        return [f"{heading}." for heading, _ in self._listed()] or [CLEAN]

    def copies_table(self) -> list[tuple[str, ...]]:
        """Rows of a table of `copies`, its head first; none where there are no copies."""
        if not (self.groups or self.near):
            return []
        rows = [("part", *(f"in {part.name}" for part in self.parts))]
        for part, cells in zip(self.parts, self.copies, strict=True):
            counts = [f"{equal:,}" if self.near is None else f"{equal:,} + {near:,}" for equal, near in cells]
            rows.append((part.name, *counts))
        return rows

    def table(self) -> str:
        """Everything in a few lines: the parts, the copies by part, and examples of each finding."""
        lines = _aligned(parts_table(self.parts))
        if copies := self.copies_table():
            head = "samples of each part (row) with an equal sample in a part (column; in its own part: another one)"
            near = "" if self.near is None else ", + samples with only a near-duplicate there"
            lines += ["", f"{head}{near}:", *_aligned(copies)]
        for heading, examples in self._listed() or [(CLEAN, [])]:
            lines += ["", f"{heading}:" if examples else heading]
            lines += [f"  {line}" for line in examples[:EXAMPLES]]
            if len(examples) > EXAMPLES:
                lines.append(f"  ... and {len(examples) - EXAMPLES:,} more")
        return "\n".join(lines)

    def _crosses(self, numbers: Sequence[int]) -> bool:
        return len({self.place(number)[0] for number in numbers}) > 1

    def _disagree(self, numbers: Sequence[int]) -> bool:
        """Whether samples have different classes; names are not compared with numbers."""
        labels: dict[bool, set[str]] = {True: set(), False: set()}
        for index, row in map(self.place, numbers):
            part = self.parts[index]
            if (label := part.labels[row]) is not None:
                labels[bool(part.data and part.data.classes)].add(label)
        return any(len(names) > 1 for names in labels.values())

    def _listed(self) -> list[tuple[str, list[str]]]:
        """Headings of the kinds of findings of which there are any, each with a line for every finding."""

        def sample(number: int) -> str:
            path, label = self.sample(number).path, self.sample(number).label
            return path if label is None else f"{path} ({label})"

        def pair(near: NearPair) -> str:
            mirrored = ", mirrored" if near.mirrored else ""
            return f"{sample(near.first)} ~ {sample(near.second)}, {near.score:.3f}{mirrored}"

        def group(numbers: Sequence[int]) -> str:
            more = f" and {len(numbers) - MEMBERS:,} more" if len(numbers) > MEMBERS else ""
            return " = ".join(map(sample, numbers[:MEMBERS])) + more

        groups, pairs = list(map(group, self.groups)), list(map(pair, self.near_ordered))
        wrong, doubtful = list(map(group, self.disagreements)), list(map(pair, self.near_disagreements))
        lonely = [f"{name}: only in {part}" for name, part in self.lonely_classes.items()]
        skipped = [
            f"{skip.path}: {check.one_line(skip.reason)}" for part in self.parts for skip in part.skipped
        ]
        listed = [
            (f"{_counted(groups, 'group')} of identical samples, {len(self.across):,} across parts", groups),
            (f"{_counted(pairs, 'pair')} of near-duplicates, {len(self.near_across):,} across parts", pairs),
            (f"{_counted(wrong, 'group')} of identical samples with different classes", wrong),
            (f"{_counted(doubtful, 'pair')} of near-duplicates with different classes", doubtful),
            (f"{len(lonely):,} of the classes in one part only", lonely),
            (f"{_counted(skipped, 'file')} skipped", skipped),
        ]
        flat = f"{self.flat:,} images with too little detail were compared for exact equality only"
        return [item for item in listed if item[1]] + ([(flat, [])] if self.flat else [])


def _counted(things: Sequence[Any], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip() for row in rows]
