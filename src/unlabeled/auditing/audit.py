"""What is wrong with data: copies within and across parts, broken files, classes, labels that disagree."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.auditing.near_images import detailed as detailed_thumbnails
from unlabeled.auditing.near_images import near_pairs, thumbnails_of
from unlabeled.auditing.near_texts import LEAST_SHARE, near_texts
from unlabeled.check import UserError
from unlabeled.data import KINDS, Data, Images, Skipped
from unlabeled.data.audio.data import Sounds
from unlabeled.data.opening import Openable, called, parts
from unlabeled.data.splits import first_rows
from unlabeled.data.text.data import Texts
from unlabeled.files import atomic
from unlabeled.version import __version__

__all__ = ["Audit", "NearPair", "Part", "Sample", "audit"]

SCHEMA = 1
_EXAMPLES = 3
"""Groups, files and classes that the table shows of each finding; the JSON has all."""


_ORDER = ("train", "validation", "test")
_CLEAN = "No copies, no broken files, no labels that disagree."


@dataclass(frozen=True)
class Part:
    """A split of a source, or a source without splits."""

    name: str
    data: Data | None
    """None where nothing in it could be read."""
    skipped: list[Skipped]

    def __len__(self) -> int:
        return 0 if self.data is None else len(self.data)

    @property
    def kind(self) -> str | None:
        """Kind of the data; None where nothing could be read."""
        return None if self.data is None else self.data.kind

    @cached_property
    def labels(self) -> list[str | None]:
        """Class of each sample by name, else number; None where it has none."""
        if self.data is None or self.data.labels is None:
            return [None] * len(self)
        names = self.data.classes
        numbers = self.data.labels.tolist()
        return [None if n < 0 else names[n] if names and n < len(names) else str(n) for n in numbers]

    @cached_property
    def classes(self) -> dict[str, int]:
        """Samples of each class that has a name or occurs."""
        counts = Counter(label for label in self.labels if label is not None)
        names = [] if self.data is None or self.data.labels is None else self.data.classes or []
        return {name: counts[name] for name in dict.fromkeys([*names, *sorted(counts)])}

    @property
    def unlabelled(self) -> int:
        """Samples without a class."""
        return self.labels.count(None)

    @cached_property
    def size(self) -> tuple[str, list[float]]:
        """What size means, with its unit, and the least, median and greatest; empty where it is not known."""
        if self.data is None or not len(self.data):
            return "", []
        match self.data:
            case Images():
                what, values = "shorter side in pixels, as stored", self.data.sizes.amin(1).double()
            case Texts():
                what, values = "characters", torch.tensor([len(text) for text in self.data.texts]).double()
            case Sounds():
                what, values = "seconds", self.data.lengths.double() / self.data.sample_rate
            case _:
                return "", []
        ends = values.min(), values.sort().values[len(values) // 2], values.max()
        return what, [round(float(end), 3) for end in ends]


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
    """Correlation of fine detail of images, or share of stretches of characters that texts have in common."""
    mirrored: bool = False


@dataclass(frozen=True)
class Audit:
    """What was found; samples are numbered over all parts, in their order."""

    parts: list[Part]
    groups: list[list[int]]
    """Equal samples, those across parts first, then the largest groups first."""
    near: list[NearPair] | None
    """Near copies, by falling score, of a group of equal samples the first; None where they were not looked for."""
    thresholds: dict[str, float]
    """Lowest score of near copies, by kind of data."""
    flat: int
    """Images with too little detail to be compared, other than exactly."""
    copies: list[list[tuple[int, int]]]
    """Samples of the part in a row with an equal sample in the part in a column, and those with only a near copy."""

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
        at, row = self.place(number)
        part = self.parts[at]
        assert part.data is not None
        return Sample(part.name, part.data.paths[row], part.labels[row])

    @cached_property
    def across(self) -> list[list[int]]:
        """Equal samples of several parts."""
        return [group for group in self.groups if len({self.place(number)[0] for number in group}) > 1]

    @cached_property
    def near_across(self) -> list[NearPair]:
        """Near copies in two parts."""
        return [pair for pair in self.near or [] if self._crosses(pair)]

    @property
    def near_ordered(self) -> list[NearPair]:
        """All near copies, those in two parts first."""
        return [*self.near_across, *(pair for pair in self.near or [] if not self._crosses(pair))]

    @cached_property
    def disagreements(self) -> list[list[int]]:
        """Equal samples of different classes."""
        return [group for group in self.groups if self._differ(group)]

    @cached_property
    def near_disagreements(self) -> list[NearPair]:
        """Near copies of different classes."""
        return [pair for pair in self.near or [] if self._differ([pair.first, pair.second])]

    @cached_property
    def lonely_classes(self) -> dict[str, str]:
        """Classes that occur in one part only, with its name; of parts that have labels, if there are several."""
        labelled = [part for part in self.parts if any(part.classes.values())]
        homes: dict[str, list[str]] = {}
        for part in labelled:
            for name, count in part.classes.items():
                if count:
                    homes.setdefault(name, []).append(part.name)
        return (
            {name: where[0] for name, where in homes.items() if len(where) == 1} if len(labelled) > 1 else {}
        )

    @property
    def leaks(self) -> bool:
        """Whether samples or near copies of them are in several parts, or equal samples have different classes."""
        return bool(self.across or self.near_across or self.disagreements)

    def record(self) -> dict[str, Any]:
        """Everything as JSON types.

        `parts`: name, kind, samples, unlabelled, classes (samples by name), size, left_out (path and reason);
        `copies`: samples of one part (`of`) with an `equal` sample in another (`also_in`) or only a `near` one;
        `equal` and `disagreements`: lists of samples (part, path, label); `near` and `near_disagreements`: score,
        mirrored and two samples; `thresholds`, `flat`, `classes_in_one_part`.
        """

        def listed(numbers: Sequence[int]) -> list[dict[str, Any]]:
            return [vars(self.sample(number)) for number in numbers]

        def paired(pairs: Sequence[NearPair]) -> list[dict[str, Any]]:
            return [
                {"score": round(p.score, 4), "mirrored": p.mirrored, "samples": listed([p.first, p.second])}
                for p in pairs
            ]

        return {
            "schema": SCHEMA,
            "unlabeled": __version__,
            "parts": [_described(part) for part in self.parts],
            "copies": [
                {"of": part.name, "also_in": other.name, "equal": equal, "near": near}
                for part, row in zip(self.parts, self.copies, strict=True)
                for other, (equal, near) in zip(self.parts, row, strict=True)
            ],
            "equal": [listed(group) for group in self.groups],
            "near": None if self.near is None else paired(self.near),
            "thresholds": self.thresholds,
            "flat": self.flat,
            "disagreements": [listed(group) for group in self.disagreements],
            "near_disagreements": paired(self.near_disagreements),
            "classes_in_one_part": self.lonely_classes,
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `record` to a file."""
        with atomic(Path(path)) as temporary:
            temporary.write_text(
                json.dumps(self.record(), indent=1), encoding="utf-8", errors="backslashreplace"
            )

    def findings(self) -> list[str]:
        """What may be wrong, a sentence each; one that says so where nothing is."""
        pairs = self.near or []
        skipped = sum(len(part.skipped) for part in self.parts)
        said = [
            (self.across, f"{_many(self.across, 'group')} of equal samples across parts."),
            (self.near_across, f"{_many(self.near_across, 'pair')} of near copies across parts."),
            (
                self.disagreements,
                f"{_many(self.disagreements, 'group')} of equal samples with different classes.",
            ),
            (
                self.near_disagreements,
                f"{_many(self.near_disagreements, 'pair')} of near copies with different classes.",
            ),
            (self.groups, f"{_many(self.groups, 'group')} of equal samples in all."),
            (pairs, f"{_many(pairs, 'pair')} of near copies in all."),
            (self.lonely_classes, f"Classes in one part only: {', '.join(self.lonely_classes)}."),
            (skipped, f"Files left out: {skipped:,}."),
            (self.flat, f"Images with too little detail, compared only exactly: {self.flat:,}."),
        ]
        return [sentence for true, sentence in said if true] or [_CLEAN]

    def _crosses(self, pair: NearPair) -> bool:
        return self.place(pair.first)[0] != self.place(pair.second)[0]

    def _differ(self, numbers: Sequence[int]) -> bool:
        """Whether samples have different classes; names are not compared with numbers."""
        labels: dict[bool, set[str]] = {True: set(), False: set()}
        for at, row in map(self.place, numbers):
            part = self.parts[at]
            if (label := part.labels[row]) is not None:
                labels[bool(part.data and part.data.classes)].add(label)
        return any(len(names) > 1 for names in labels.values())

    def table(self) -> str:
        """Everything in a few lines: the parts, the copies by part, and examples of each finding."""
        return "\n".join([*_parts_table(self.parts), *_copies_table(self), *_examples(self)])


def audit(
    *sources: Openable,
    kind: str | None = None,
    near: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Audit:
    """Look for copies, broken files and labels that disagree, within and across the parts of data.

    Equal samples are found in data of every kind, near copies among images and texts: see `auditing.near_images` and
    `auditing.near_texts`. Broken files never stop an audit.

    Args:
        *sources: As in `open_data`; all splits of each are parts.
        kind: As in `open_data`.
        near: Whether near copies are looked for too.
        seed: Seed of the sample of images to which the search for near copies is fitted.
        progress: Called with a line on what is done.
        **options: As in `open_data`, without `split` and `max_broken`.

    Raises:
        ValueError: There is no source, or nothing of that name.
    """
    if not sources:
        raise UserError("audit must get at least one source, got none")
    say = progress or (lambda _: None)
    found = [
        part
        for source, name in zip(sources, _names(sources), strict=True)
        for part in _opened(source, name, kind, say, options)
    ]
    say(f"comparing {sum(map(len, found)):,} samples")
    digests = torch.cat(
        [part.data.digests() if part.data is not None else torch.zeros(0).long() for part in found]
    )
    _, content = digests.unique(return_inverse=True)
    at = torch.arange(len(found)).repeat_interleave(torch.tensor([len(part) for part in found]))
    pairs, thresholds, flat = _near(found, first_rows(digests), seed, say) if near else ([], {}, 0)
    return Audit(
        found,
        _groups(content, at),
        pairs if near else None,
        thresholds,
        flat,
        _copies(content, at, pairs, len(found)),
    )


def _names(sources: Sequence[Openable]) -> list[str]:
    """Short names of sources, full ones where short ones are alike."""
    full = [called(source) for source in sources]
    short = [Path(name).name or name for name in full]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, full, strict=True)]


def _opened(
    source: Openable, name: str, kind: str | None, say: Callable[[str], None], options: dict[str, Any]
) -> list[Part]:
    """The parts of a source; files that several parts list as left out stay with the first."""
    try:
        splits = parts(source, kind=kind, max_broken=1, **options)
    except ValueError as error:
        there = isinstance(source, str | os.PathLike) and Path(source).expanduser().exists()
        if not there or kind not in (None, *KINDS):
            raise
        return [Part(name, None, [Skipped(name, check.reason(error))])]
    found, listed = [], set()
    for split in sorted(splits, key=lambda split: (*_ORDER, split).index(split)):
        called = name if split == "all" else f"{name}/{split}"
        say(f"opening {called}")
        try:
            data = splits[split]()
        except ValueError as error:
            data, skipped = None, [Skipped(called, check.reason(error))]
        else:
            skipped = [skip for skip in data.skipped if skip not in listed]
        listed.update(skipped)
        found.append(Part(called, data, skipped))
    return found


def _groups(content: Tensor, at: Tensor) -> list[list[int]]:
    """Numbers of equal samples, those across parts first, then the largest groups first."""
    order = content.argsort(stable=True)
    groups = [group.tolist() for group in order.split(content.bincount().tolist()) if len(group) > 1]
    where = at.tolist()
    return sorted(groups, key=lambda group: (len({where[n] for n in group}) < 2, -len(group), group[0]))


def _copies(
    content: Tensor, at: Tensor, pairs: Sequence[NearPair], count: int
) -> list[list[tuple[int, int]]]:
    """As in `Audit.copies`."""
    contents = int(content.max()) + 1 if len(content) else 0
    holds = torch.zeros(contents, count, dtype=torch.int64)
    holds.index_put_((content, at), torch.ones(len(content), dtype=torch.int64), accumulate=True)
    beside = torch.zeros(contents, count, dtype=torch.bool)
    for pair in pairs:
        first, second = content[pair.first], content[pair.second]
        beside[first] |= holds[second] > 0
        beside[second] |= holds[first] > 0
    table = []
    for part in range(count):
        own = content[at == part]
        equal = holds[own] > (torch.arange(count) == part)
        near = beside[own] & ~equal
        table.append(list(zip(equal.sum(0).tolist(), near.sum(0).tolist(), strict=True)))
    return table


def _near(
    found: Sequence[Part], numbers: Tensor, seed: int, say: Callable[[str], None]
) -> tuple[list[NearPair], dict[str, float], int]:
    """Near copies among samples of some numbers, the lowest score of each kind, and the number of flat images."""
    starts = np.cumsum([0, *map(len, found)])
    rows = [numbers[(numbers >= low) & (numbers < high)] for low, high in pairwise(starts)]
    pairs: list[NearPair] = []
    thresholds, flat = {}, 0
    images, texts = [], []
    for part, row, start in zip(found, rows, starts[:-1].tolist(), strict=True):
        if isinstance(part.data, Images):
            images.append((part.data, row, start))
        elif isinstance(part.data, Texts):
            texts.append((part.data, row, start))
    if images:
        small = thumbnails_of([(data, row - start) for data, row, start in images])
        own = torch.cat([row for _, row, _ in images])
        say(f"looking for near copies among {len(own):,} images")
        flat = int((~detailed_thumbnails(small)).sum())
        near = near_pairs(small, seed=seed)
        thresholds["image"] = round(near.threshold, 3)
        columns = zip(own[near.pairs].tolist(), near.score.tolist(), near.mirrored.tolist(), strict=True)
        pairs += [NearPair(first, second, score, mirrored) for (first, second), score, mirrored in columns]
    if texts:
        own = torch.cat([row for _, row, _ in texts])
        say(f"looking for near copies among {len(own):,} texts")
        chosen, share = near_texts(
            [data.texts[row] for data, numbers, start in texts for row in (numbers - start).tolist()]
        )
        thresholds["text"] = LEAST_SHARE
        columns = zip(own[chosen].tolist(), share.tolist(), strict=True)
        pairs += [NearPair(first, second, score) for (first, second), score in columns]
    return sorted(pairs, key=lambda pair: -pair.score), thresholds, flat


def _described(part: Part) -> dict[str, Any]:
    """A part as JSON types."""
    what, ends = part.size
    size = dict(zip(("least", "median", "greatest"), ends, strict=True)) if ends else None
    return {
        "name": part.name,
        "kind": part.kind,
        "samples": len(part),
        "unlabelled": part.unlabelled,
        "classes": part.classes,
        "size": size and {"of": what, **size},
        "left_out": [skip._asdict() for skip in part.skipped],
    }


def _many(things: Sequence[Any], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _parts_table(found: Sequence[Part]) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("part", "samples", "classes", "unlabelled", "left out", "size: least, median, greatest")
    ]
    for part in found:
        what, ends = part.size
        size = f"{', '.join(f'{end:,g}' for end in ends)} {what}" if ends else "-"
        counts = (len(part), sum(1 for n in part.classes.values() if n), part.unlabelled, len(part.skipped))
        rows.append((part.name, *(f"{count:,}" for count in counts), size))
    return _aligned(rows)


def _copies_table(found: Audit) -> list[str]:
    if not (found.groups or found.near):
        return []
    rows = [("of", *(f"in {part.name}" for part in found.parts))]
    for part, cells in zip(found.parts, found.copies, strict=True):
        texts = [f"{equal:,}" + ("" if found.near is None else f" + {near:,}") for equal, near in cells]
        rows.append((part.name, *texts))
    head = "samples of a part that have an equal sample in a part (in their own: another one)"
    return [
        "",
        head + (":" if found.near is None else ", + those that only have a near copy there:"),
        *_aligned(rows),
    ]


def _examples(found: Audit) -> list[str]:
    """What was found, a sentence with a few examples each."""

    def told(number: int) -> str:
        sample = found.sample(number)
        return f"{sample.path}" + (f" ({sample.label})" if sample.label is not None else "")

    def pair(near: NearPair) -> str:
        return f"{told(near.first)} ~ {told(near.second)}, {near.score:.3f}{', mirrored' * near.mirrored}"

    def group(numbers: Sequence[int]) -> str:
        more = f" and {len(numbers) - 4:,} more" if len(numbers) > 4 else ""
        return " = ".join(map(told, numbers[:4])) + more

    skipped = [f"{skip.path}: {check.one_line(skip.reason)}" for part in found.parts for skip in part.skipped]
    lonely = [f"{name}: only in {part}" for name, part in found.lonely_classes.items()]
    sections = [
        (
            f"{_many(found.groups, 'group')} of equal samples, {len(found.across):,} across parts",
            map(group, found.groups),
        ),
        (
            f"{_many(found.near or (), 'pair')} of near copies, {len(found.near_across):,} across parts",
            map(pair, found.near_ordered),
        ),
        (
            f"{_many(found.disagreements, 'group')} of equal samples with different classes",
            map(group, found.disagreements),
        ),
        (
            f"{_many(found.near_disagreements, 'pair')} of near copies with different classes",
            map(pair, found.near_disagreements),
        ),
        (f"{len(lonely):,} of the classes in one part only", lonely),
        (f"{_many(skipped, 'file')} left out", skipped),
    ]
    lines = []
    for head, items in sections:
        listed = list(items)
        if listed:
            more = f"  ... and {len(listed) - _EXAMPLES:,} more" if len(listed) > _EXAMPLES else ""
            lines += [
                "",
                f"{head}:",
                *(f"  {item}" for item in listed[:_EXAMPLES]),
                *([more] if more else []),
            ]
    if found.flat:
        lines += ["", f"{found.flat:,} images with too little detail were compared only exactly"]
    return lines or ["", _CLEAN]
