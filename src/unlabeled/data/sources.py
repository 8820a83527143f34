"""One split of samples in files that were not decoded yet, and what folders and tables beside them say of them.

A source knows cheaply what its content depends on (places, names, sizes and times of its files) and reads when asked.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import hub
from unlabeled.check import UserError
from unlabeled.data import listings, tars
from unlabeled.data.files import SPLITS, File, Walk, by_folder, digest, gc_paused, parents, separate, walk
from unlabeled.data.labels import NO_LABELS, class_name, in_order
from unlabeled.data.listings import Annotations
from unlabeled.data.samples import Item, Skipped

__all__ = [
    "Reading",
    "Source",
    "common_endings",
    "find_files",
    "from_folders",
    "of_paths",
    "open_hub",
    "skipped_files",
    "with_tables",
]

_BESIDE = "beside the splits"


class Reading(NamedTuple):
    """A stream of samples with what is known before it starts."""

    classes: list[str] | None
    total: int | None
    items: Iterable[Item]


@dataclass(frozen=True)
class Source:
    """One split of samples that were not decoded yet."""

    name: str
    read: Callable[[], Reading]
    fingerprint: Any
    """What the content depends on, of JSON types; None where nobody knows."""
    prefix: str = ""
    """What stands before the paths that are read: their folder."""
    skipped: list[Skipped] = field(default_factory=list)
    broken: int = 0
    """How many of the skipped files were meant to be samples."""
    labels: Mapping[str, Any] | None = None
    """Labels by path with the prefix, which go before those of the items."""
    archives: tuple[str, ...] = ()
    """Archives that the paths begin with; the folders in them are classes and splits as they are outside."""
    label: str | None = None
    """Column of labels that is still to be found in what the items tell of themselves."""

    def labels_of(self, paths: Sequence[str], values: list[Any]) -> list[Any]:
        """Labels of samples: those that tables beside the files state, else the ones that the items had."""
        if self.labels is None:
            return values
        # A page of an image file has the label of the file.
        return [self.labels.get(path, self.labels.get(path.rpartition("#")[0])) for path in paths]

    def inside(self, paths: Sequence[str]) -> dict[str, tuple[list[int], list[str] | None]]:
        """Rows and names of their classes (None without classes) by split, as the folders in archives say them."""
        inner = tars.inner_paths([path.removeprefix(self.prefix) for path in paths], self.archives)
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(inner):
            rows.setdefault(path, []).append(row)
        folders = _folders([File(path, "") for path in rows], {})
        parts = {}
        for split, files in folders.parts.items():
            places = [
                (row, folders.class_of(file)) for file in files for row in rows[folders.above + file.path]
            ]
            names = [str(name) for _, name in places] if folders.classes[split] else None
            parts[split] = ([row for row, _ in places], names)
        return parts


@gc_paused()
def find_files(
    path: Path, name: str, suffixes: tuple[str, ...], what: str, label: str | None = None
) -> dict[str, Source]:
    """Sources by split of files of any kind, one sample each, perhaps in class folders and these in split folders.

    Tables beside the files may say what they are, and which part each is of, as beside images.

    Args:
        path: A folder, or one file.
        name: What messages call it.
        suffixes: Endings of the files' names, in lower case, with the dot.
        what: What messages call the files, a plural.
        label: Column of labels in a table beside the files; None looks for a usual name.

    Raises:
        ValueError: Nothing of that kind is there, or no table has the column.
    """
    below = walk(path)
    files = [file for file in below.files if file.ends(suffixes)]
    if not files:
        listing = common_endings(below.files)
        raise UserError(f"no {what} in {name}; expected {', '.join(suffixes)} files, found {listing}")
    below = below._replace(skipped=[skip for skip in below.skipped if skip.path.lower().endswith(suffixes)])
    return with_tables(below, name, files, label, lambda _: f"not among the {what}")


def with_tables(
    below: Walk,
    name: str,
    files: list[File],
    label: str | None,
    why_not: Callable[[File], str],
    broken: int = 0,
) -> dict[str, Source]:
    """Sources by split of some files below a folder, as folders and tables beside them say it.

    `why_not` says why each other file is no sample, and `broken` how many of these were meant to be.
    """
    samples = {file.path for file in files}
    tables = [file for file in below.files if file.path not in samples and file.ends(listings.TABLES)]
    annotations = listings.annotate(below.root, files, tables, label)
    reasons = {skip.path: skip.reason for skip in annotations.skipped}
    inputs = samples | annotations.used.keys()
    skipped = skipped_files(below, inputs, lambda file: reasons.get(file.path) or why_not(file))
    return from_folders(below.root, name, files, skipped, broken, annotations)


def skipped_files(below: Walk, inputs: Collection[str], why_not: Callable[[File], str]) -> list[Skipped]:
    """All below a folder that was not taken, with the reason."""
    others = [Skipped(file.path, why_not(file)) for file in below.files if file.path not in inputs]
    return [
        Skipped(os.path.join(below.root, skip.path), skip.reason) for skip in sorted(below.skipped + others)
    ]


def common_endings(files: Iterable[File]) -> str:
    """The commonest endings of files with their numbers, as messages list them."""
    endings = Counter(file.suffix or "without ending" for file in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5)) or "nothing"


def of_paths(
    root: Path, name: str, paths: Sequence[str], missing: list[Skipped], tables: Annotations | None = None
) -> dict[str, Source]:
    """Sources by split of files that are there, with what was meant to be and is not."""
    files = [File.of(path, os.stat(root / path)) for path in paths]
    skipped = missing + (tables.skipped if tables else [])
    return from_folders(root, name, files, skipped, len(missing), tables)


class _Folders(NamedTuple):
    """What folders say of the files in them: split folders hold class folders, these hold files at any depth.

    Where every class folder holds nothing but split folders, it is the other way round. A folder that holds one folder
    and no other file of the kind distinguishes nothing, so what is in that counts.
    """

    above: str
    """Folders that all files lie in and that say nothing; paths in `parts` are below them."""
    parts: dict[str, list[File]]
    """Files by split."""
    beside: list[File]
    reason: str
    """Why those beside are in no split."""
    names: dict[str, str | None]
    """Class of each folder, None for files beside the folders of classes."""
    wrappers: dict[str, str]
    """Parts to test on whose one folder is no class of the training part, as around a flat part, and that folder."""
    classes: dict[str, list[str] | None]
    """Names of the classes of each split, those of training, test and validation taken together."""

    def class_of(self, file: File) -> str | None:
        return self.names[file.path.rpartition(os.sep)[0]]

    def why_no_classes(self, split: str) -> str:
        """Why folders of a part give no classes though there are some, else empty."""
        if split in self.wrappers:
            return f"{self.wrappers[split]}, the only folder of its {split} part, is no class in training"
        names = {file.path: self.class_of(file) for file in self.parts[split]}
        beside = next((path for path, name in names.items() if not name), None)
        return f"{beside} lies beside the folders of classes" if beside and len({*names.values()}) > 2 else ""


def _folders(files: list[File], splits: Mapping[str, str]) -> _Folders:
    """What folders say of files; `splits` has the split of files that a table knows."""
    above = ""
    if shared := _shared(parents(files), 0, SPLITS):
        above = os.path.join(*files[0].path.split(os.sep)[:shared], "")
        files = [file._replace(path=file.path.removeprefix(above)) for file in files]
    parts, beside, reason = _parted(files, {path.removeprefix(above): to for path, to in splits.items()})
    depth = int(parts.keys() != {"all"} and reason == _BESIDE)
    folders = {split: parents(part) for split, part in parts.items()}
    depth += _shared(set().union(*folders.values()), depth, ())
    names = {folder: _class_at(folder, depth) for part in folders.values() for folder in part}
    by_split = {split: {names[folder] for folder in part} for split, part in folders.items()}
    wrappers = _wrappers(by_split)
    by_split |= {split: {None} for split in wrappers}

    def classes(split: str) -> list[str] | None:
        alike = parts.keys() & set(SPLITS.values()) if split in SPLITS.values() else {split}
        together = {
            name for other in alike if None not in by_split[other] for name in by_split[other] if name
        }
        return in_order(together) if None not in by_split[split] and len(together) > 1 else None

    return _Folders(above, parts, beside, reason, names, wrappers, {split: classes(split) for split in parts})


def from_folders(
    root: Path,
    name: str,
    files: list[File],
    skipped: list[Skipped],
    broken: int,
    tables: Annotations | None = None,
) -> dict[str, Source]:
    """Sources by split of files, as folders say it.

    Args:
        root: Where the files are.
        name: What messages call it.
        files: The files.
        skipped: What was not taken.
        broken: How many of these were meant to be samples.
        tables: What tables beside the files say of classes, and of splits where no folders do.
    """
    folders = _folders(files, tables.splits if tables else {})
    start = os.path.join(root, "") if root != Path() else ""
    root, prefix = root / folders.above, start + folders.above
    labels = {start + path: value for path, value in tables.labels.items()} if tables else {}
    skipped = skipped + [Skipped(prefix + file.path, folders.reason) for file in folders.beside]
    tabled = {
        split
        for split, part in folders.parts.items()
        if labels
        and (
            (tables and tables.explicit)
            or (not folders.classes[split] and any(prefix + file.path in labels for file in part))
        )
    }
    if tables:
        beaten = "" if tabled else ", but folders of classes take precedence"
        skipped += [
            Skipped(start + path, f"labels: of its {column}{beaten}") for path, column in tables.used.items()
        ]

    def items(part: list[File], classes: list[str] | None) -> Iterator[Item]:
        for file in part:
            yield Item(file.path, folders.class_of(file) if classes else None, root / file.path)

    def source(split: str, part: list[File]) -> Source:
        classes = None if split in tabled else folders.classes[split]
        fingerprint = ["folder", os.path.realpath(root), digest(part), classes]
        reason = "" if split in tabled else folders.why_no_classes(split)
        own = [Skipped(name, NO_LABELS + reason)] if reason else []

        def read() -> Reading:
            return Reading(classes, len(part), items(part, classes))

        stated = labels if split in tabled else None
        return Source(name, read, fingerprint, prefix, skipped + own, broken, stated)

    return {split: source(split, part) for split, part in folders.parts.items()}


def _parted(files: list[File], splits: Mapping[str, str]) -> tuple[dict[str, list[File]], list[File], str]:
    """Files by split of their folders, else of tables; those of no split; and what these are."""
    parts, beside = by_folder(files)
    if parts.keys() == {"all"} and (below := _below_classes(files)):
        return below, [], "in no split"
    names = {*splits.values()}
    # Where lists name a smaller part to test on and none for training, that is all the rest.
    rest = "train" if "test" in names and "train" not in names and 2 * len(splits) < len(files) else ""
    if parts.keys() != {"all"} or not separate(names | {rest}):
        return parts, beside, _BESIDE
    listed: dict[str, list[File]] = {}
    for file in files:
        listed.setdefault(splits.get(file.path, rest), []).append(file)
    return listed, listed.pop("", []), "in no split of the tables"


def _below_classes(files: list[File]) -> dict[str, list[File]]:
    """Files by split where each lies in a split folder in one of several class folders; nothing where one does not."""
    levels = {folder: _levels(folder) for folder in parents(files)}
    if any(len(path) < 2 for path in levels.values()) or len({path[0] for path in levels.values()}) < 2:
        return {}
    splits = {folder: SPLITS.get(path[1].lower(), "") for folder, path in levels.items()}
    parts: dict[str, list[File]] = {}
    for file in files:
        parts.setdefault(splits[file.path.rpartition(os.sep)[0]], []).append(file)
    return parts if "" not in parts and separate(parts) else {}


def _wrappers(names: Mapping[str, set[str | None]]) -> dict[str, str]:
    known = names.get("train", set())
    if None in known or len(known) < 2:
        return {}
    tests = [(split, names[split]) for split in ("test", "validation") if len(names.get(split, ())) == 1]
    return {split: name for split, alone in tests for name in alone - known if name}


def _class_at(folder: str, depth: int) -> str | None:
    levels = _levels(folder)[depth:]
    return class_name(levels[0]) if levels else None


def _levels(folder: str) -> list[str]:
    return folder.split(os.sep) if folder else []


def _shared(folders: Collection[str], depth: int, splits: Collection[str]) -> int:
    """How many folders below some depth all have in common, up to one that names a split."""
    count, paths = 0, [_levels(folder)[depth:] for folder in folders]
    while all(len(path) > count for path in paths):
        names = {path[count] for path in paths}
        if len(names) > 1 or names.pop().lower() in splits:
            break
        count += 1
    return count


def open_hub(address: str) -> tuple[Any, dict[str, Any]]:
    """The builder of a data set on the Hugging Face hub, OWNER/NAME or OWNER/NAME:CONFIG, and its splits as streams."""
    from datasets import load_dataset_builder

    name, _, config = address.partition(":")
    with hub.asked_once() as why:
        try:
            builder = load_dataset_builder(name, config or None)
            splits: dict[str, Any] = builder.as_streaming_dataset()  # type: ignore[assignment]
        except Exception as error:  # the hub, the network and the loader all have errors of their own
            reason = f"{why}; {error}" if why else error
            raise UserError(f"cannot open hub:{address}: {reason}") from error
    return builder, splits
