"""What data of every kind can do: give out samples in batches, and keep what is known of each apart."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Required, Self, TypedDict, Unpack

import torch
from torch import Tensor

from unlabeled.data.digests import digest

__all__ = ["About", "Batch", "Data", "Item", "Samples", "Skipped", "Temporary", "unread", "was_meant"]

Batch = dict[str, Tensor]


class Skipped(NamedTuple):
    """A file that is not in the data, and why."""

    path: str
    reason: str


_NO_SAMPLE = re.compile(
    r"not (an image|a \.\w+) file|hidden|folder .*|mask of .*|(no )?labels: .*|list of .*|names files of .*|"
    r"no table that can be read: .*"
)
"""Reasons of files that were not meant to be samples, and of remarks on labels, which are listed with them."""


def was_meant(reason: str) -> bool:
    """Whether a file that was skipped for this reason was meant to be a sample, unlike a README beside images."""
    return _NO_SAMPLE.fullmatch(reason) is None


def unread(skipped: "Sequence[Skipped]") -> str:
    """One line on the files that were meant to be samples and could not be read; empty where there are none."""
    broken = [skip for skip in skipped if was_meant(skip.reason)]
    if not broken:
        return ""
    first = f"{broken[0].path}: {broken[0].reason}"
    return (
        f"{len(broken):,} skipped, as {'it' if len(broken) == 1 else 'they'} cannot be read (first {first})"
    )


class Temporary(str):
    """A reason that may be gone the next time: of the machine, not of the file."""


class Item(NamedTuple):
    """A sample that was not decoded yet."""

    path: str
    label: Any
    content: Any
    """A file as `Path`, its bytes, what a reader has opened of it, or, as text, the reason why there is none."""
    factors: Mapping[str, float | int] = {}


class About(TypedDict, total=False):
    """What `Data` of any kind may be told beside its samples."""

    labels: Tensor | None
    classes: list[str] | None
    factors: Mapping[str, Tensor] | None
    groups: Tensor | None
    skipped: Sequence[Skipped]
    group_unit: str | None
    group_names: Mapping[int, str]


class Samples(About, total=False):
    """What `Data` of any kind is told of its samples."""

    name: Required[str]
    paths: Required[Sequence[str]]


class Data:
    """Samples ready for training; a subclass for each kind says what a batch of them is.

    Random choices of a batch, such as where a clip starts, come from torch's default generator alone.

    Args:
        name: What the data is called in reports.
        paths: Where each sample came from.
        labels: Class of each sample, int64, shape (samples,), -1 where unknown; None where nothing is known.
            They are for evaluation and never part of a batch.
        classes: Names of the classes by label.
        factors: What else is known of each sample, by name: classes as int64 or quantities as float, shape
            (samples,); like labels, for evaluation only.
        groups: Number of the recording, document, speaker or other source of each sample, int64, shape
            (samples,): samples of one group are not independent, so splits and intervals keep them together.
            None where all samples are independent.
        skipped: What was found but could not be used.
        group_unit: What people call the groups, a plural; as the kind of data does if None.
        group_names: What groups are called by number, the same in all parts of a source; empty where that is not known.
    """

    kind: ClassVar[str]
    """image, text, audio, video, audio-visual, cameras or trajectory."""
    unit: str
    """What people call the samples, a plural."""
    split: str = ""
    other_splits: tuple[str, ...] = ()
    """Part of the source that was opened where none was named, and the parts that were not; empty where it has one."""
    group_unit = "groups"
    """What people call the groups, a plural."""
    per_sample: ClassVar[tuple[str, ...]] = ()
    """Names of attributes of a subclass, tensors or None, that have a row for each sample."""
    _digests: Tensor | None = None

    def __init__(self, *, name: str, paths: Sequence[str], **about: Unpack[About]) -> None:
        self.name, self.paths = name, list(paths)
        self.labels, self.classes = about.get("labels"), about.get("classes")
        self.factors, self.groups = dict(about.get("factors") or {}), about.get("groups")
        self.skipped = list(about.get("skipped", ()))
        if (unit := about.get("group_unit")) is not None:
            self.group_unit = unit
        self.group_names = dict(about.get("group_names", {}))
        self.columns: dict[str, list[object]] = {}
        """What a table says of each sample, None where nothing, by the name of the column: what `group` names."""
        self.device = torch.device("cpu")

    def __copy__(self) -> Self:
        """A copy may be changed, so it computes its digests anew."""
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_digests": None}
        return other

    @property
    def about(self) -> About:
        """Labels, classes, factors, groups and skipped files, as other data made of the same samples takes them."""
        return {name: getattr(self, name) for name in About.__annotations__}  # type: ignore[return-value]

    @property
    def shape(self) -> dict[str, int]:
        """Facts that an encoder is built for, by name, such as `channels` and `image_size`."""
        return {}

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same where a run is resumed, beside the shape and the digests."""
        return {}

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        facts = "".join(f", {name.replace('_', ' ')} {value}" for name, value in self.shape.items())
        return f"{type(self).__name__}({self.name}: {len(self)} {self.unit}{facts})"

    def batch(self, index: Tensor) -> Batch:
        """Give out samples.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            Tensors by key on the device of the data, axis 0 the sample; `index` among them.
        """
        raise NotImplementedError

    def announce(self, batches: Iterator[Tensor], further: int = 0) -> None:
        """Hear which batches will be asked for next: data that is slow to read reads them ahead.

        Args:
            batches: Rows of each, int64, shape (batch,), in order.
            further: Batches before one at which preparing what they are in, such as files, is of use.
        """

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` at a time; the last batch may be smaller."""
        return map(self.batch, torch.arange(len(self)).split(size))

    def sample(self, count: int, seed: int = 0) -> Batch:
        """Up to `count` random samples, the same for the same seed."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.batch(order[:count])

    def subset(self, index: Tensor) -> Self:
        """The samples of some rows, sharing the memory of all.

        Args:
            index: Rows, int64, shape (rows,), or a mask, bool, shape (samples,).
        """
        rows = torch.arange(len(self))[index.cpu()]
        part = copy.copy(self)
        part.paths = [self.paths[row] for row in rows.tolist()]
        part.labels = None if self.labels is None else self.labels[rows]
        part.factors = {name: values[rows] for name, values in self.factors.items()}
        part.groups = None if self.groups is None else self.groups[rows]
        part.columns = {name: [values[row] for row in rows.tolist()] for name, values in self.columns.items()}
        part._digests = None if self._digests is None else self._digests[rows]
        part._keep(rows)
        return part

    def digests(self) -> Tensor:
        """A number for the content of each sample, computed once: samples are equal where their numbers are.

        Names, places and labels do not count, nor does what a batch chooses at random, such as where a clip starts,
        nor whether grey pixels are kept in one channel or in several.

        Returns:
            int64, shape (samples,), on the CPU.
        """
        if self._digests is None:
            self._digests = torch.tensor([*self._contents()], dtype=torch.int64)
        return self._digests

    def class_names(self, rows: slice = slice(None)) -> list[str | None]:
        """Class of each sample by name, else number; None where it has none."""
        if self.labels is None:
            return [None] * len(self.paths[rows])
        names, numbers = self.classes or [], self.labels[rows].tolist()
        return [None if n < 0 else names[n] if n < len(names) else str(n) for n in numbers]

    def groups_of(self, rows: Tensor) -> Tensor:
        """Groups of other samples that are made of these, such as clips of videos.

        Args:
            rows: Row that each of them comes from, int64, shape (others,).

        Returns:
            int64, shape (others,); where no groups are known, each of these samples is one.
        """
        return rows if self.groups is None else self.groups[rows]

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device."""
        moved = copy.copy(self)
        moved.device, moved._digests = torch.device(device), self._digests
        return moved

    def on_device(self, batch: Mapping[str, Any]) -> Batch:
        """Tensors of a batch on the device of the data."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def _contents(self) -> Iterable[int]:
        """The digest of each sample."""
        with torch.random.fork_rng(devices=[]):
            for row in range(len(self)):
                torch.manual_seed(0)
                batch = self.batch(torch.tensor([row]))
                yield digest(*(batch[name].cpu() for name in sorted(batch) if name != "index"))

    def _keep(self, rows: Tensor) -> None:
        """Narrow what a subclass holds to some rows; `self` is a fresh copy that shares memory."""
        for name in self.per_sample:
            values = getattr(self, name)
            setattr(self, name, None if values is None else values[rows.to(values.device)])
