"""The parts of data that an audit compares: what each holds, and how sources are opened as parts."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from unlabeled import check
from unlabeled.data import KINDS, Data, Images, Skipped
from unlabeled.data.audio.data import Sounds
from unlabeled.data.opening import Openable, called
from unlabeled.data.opening import parts as splits_of
from unlabeled.data.text.data import Texts

__all__ = ["Part", "open_parts", "parts_table"]

ORDER = ("train", "validation", "test")


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
        return [] if self.data is None else self.data.class_names()

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
        """What size means, with its unit, and the smallest, median and largest; empty where it is not known."""
        if self.data is None or not len(self.data):
            return "", []
        match self.data:
            case Images():
                meaning, sizes = "shorter side in pixels, as stored", self.data.sizes.amin(1).double()
            case Texts():
                meaning, sizes = "characters", torch.tensor([len(text) for text in self.data.texts]).double()
            case Sounds():
                meaning, sizes = "seconds", self.data.lengths.double() / self.data.sample_rate
            case _:
                return "", []
        sizes = sizes.sort().values
        return meaning, [round(float(size), 3) for size in (sizes[0], sizes[len(sizes) // 2], sizes[-1])]

    def record(self) -> dict[str, Any]:
        """Everything as JSON types."""
        meaning, sizes = self.size
        size = (
            {"of": meaning, **dict(zip(("least", "median", "greatest"), sizes, strict=True))}
            if sizes
            else None
        )
        return {
            "name": self.name,
            "kind": self.kind,
            "samples": len(self),
            "unlabelled": self.unlabelled,
            "classes": self.classes,
            "size": size,
            "left_out": [skip._asdict() for skip in self.skipped],
        }


def parts_table(parts: Sequence[Part]) -> list[tuple[str, ...]]:
    """Rows of a table of parts, its head first."""
    rows: list[tuple[str, ...]] = [
        ("part", "samples", "classes", "unlabelled", "skipped", "size: smallest, median, largest")
    ]
    for part in parts:
        meaning, sizes = part.size
        size = f"{', '.join(f'{size:,g}' for size in sizes)} {meaning}" if sizes else "–"
        counts = (len(part), sum(map(bool, part.classes.values())), part.unlabelled, len(part.skipped))
        rows.append((part.name, *(f"{count:,}" for count in counts), size))
    return rows


def open_parts(
    sources: Sequence[Openable], kind: str | None, options: dict[str, Any], progress: Callable[[str], None]
) -> list[Part]:
    """All splits of all sources.

    Args:
        sources: As in `open_data`.
        kind: As in `open_data`.
        options: As in `open_data`, without `split` and `max_broken`.
        progress: Called with a line on each part.

    Raises:
        ValueError: There is nothing of a name.
    """
    names = zip(sources, _names(sources), strict=True)
    return [part for source, name in names for part in _splits(source, name, kind, options, progress)]


def _names(sources: Sequence[Openable]) -> list[str]:
    """Short names of sources, full ones where short ones are alike."""
    full = [called(source) for source in sources]
    short = [Path(name).name or name for name in full]
    return [name if short.count(name) == 1 else whole for name, whole in zip(short, full, strict=True)]


def _splits(
    source: Openable, name: str, kind: str | None, options: dict[str, Any], progress: Callable[[str], None]
) -> list[Part]:
    """The parts of a source; files that several of them list as skipped stay with the first."""
    try:
        splits = splits_of(source, kind=kind, max_broken=1, **options)
    except ValueError as error:
        exists = isinstance(source, str | os.PathLike) and Path(source).expanduser().exists()
        if not exists or kind not in (None, *KINDS):
            raise
        return [Part(name, None, [Skipped(name, check.reason(error))])]
    parts, listed = [], set()
    for split in sorted(splits, key=lambda split: (*ORDER, split).index(split)):
        full_name = name if split == "all" else f"{name}/{split}"
        progress(f"opening {full_name}")
        try:
            data = splits[split]()
        except ValueError as error:
            data, skipped = None, [Skipped(full_name, check.reason(error))]
        else:
            skipped = [skip for skip in data.skipped if skip not in listed]
        listed.update(skipped)
        parts.append(Part(full_name, data, skipped))
    return parts
