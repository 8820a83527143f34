"""Where encoded images come from: folders, parquet files, tar archives, the Hugging Face hub, torchvision.

A source knows cheaply what its content depends on (places, names, sizes and times of its files) and reads when asked.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.data.decode import SUFFIXES, Item
from unlabeled.data.files import SPLITS, File, Walk, by_folder, by_name, digest, parents, uncollected, walk
from unlabeled.data.samples import Skipped
from unlabeled.data.sniff import image_files, unreadable
from unlabeled.data.tables import count_rows, told
from unlabeled.data.tars import tar_items

__all__ = ["Reading", "Source", "find_files", "find_hub", "find_path", "find_torchvision"]

_UNREADABLE = (
    ".heic",
    ".heif",
    ".jxl",
    ".svg",
    ".psd",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raw",
    ".dcm",
)
_LABELS = ("label", "labels", "class", "target", "cls", "fine_label")


class Reading(NamedTuple):
    """A stream of encoded images with what is known before it starts."""

    classes: list[str] | None
    total: int | None
    items: Iterable[Item]


@dataclass(frozen=True)
class Source:
    """One split of encoded images."""

    name: str
    read: Callable[[], Reading]
    fingerprint: Any
    """What the content depends on, of JSON types."""
    prefix: str = ""
    """What stands before the paths that are read: their folder."""
    skipped: list[Skipped] = field(default_factory=list)
    broken: int = 0
    """How many of the skipped files were meant to be images."""


@uncollected()
def find_path(path: Path, name: str) -> dict[str, Source]:
    """Sources by split of a folder or a file; "all" where nothing tells splits apart.

    Args:
        path: A folder of images, parquet files or tar archives, or one parquet file or tar archive.
        name: What messages call it.

    Raises:
        ValueError: Nothing of that kind is there.
    """
    if path.is_file():
        found = Walk([File.of(path.name, path.stat())], [], 0)
        path = path.parent
    else:
        found = walk(path)
    # Images come last: beside parquet files or archives they are a logo or a preview.
    kinds: list[tuple[tuple[str, ...], Callable]] = [
        ((".parquet",), _parquet),
        ((".tar", ".tar.gz", ".tgz"), _tar),
        (SUFFIXES, _class_folders),
    ]
    for suffixes, open_files in kinds:
        files = [file for file in found.files if file.path.lower().endswith(suffixes)]
        if suffixes is SUFFIXES:
            files = image_files(path, found.files)
        if files:
            taken = {file.path for file in files}
            others = [file for file in found.files if file.path not in taken]
            skipped = found.skipped + [Skipped(file.path, _why_not(file, suffixes)) for file in others]
            skipped = [Skipped(os.path.join(path, skip.path), skip.reason) for skip in sorted(skipped)]
            broken = found.broken
            if suffixes is SUFFIXES:
                broken += sum(file.suffix in _UNREADABLE for file in others)
            return open_files(path, name, files, skipped, broken)
    endings = Counter(file.suffix or "without ending" for file in found.files)
    listing = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5)) or "nothing"
    expected = f"{', '.join(SUFFIXES[:4])} or similar files, .parquet or .tar"
    reasons = "".join(f"; {skip.path or name}: {skip.reason}" for skip in found.skipped[:3])
    reasons += "".join(f"; {unreadable(suffix)}" for suffix in endings if suffix in _UNREADABLE)
    raise ValueError(f"no images in {name}; expected {expected}, found {listing}{reasons}")


@uncollected()
def find_files(path: Path, name: str, suffixes: tuple[str, ...], what: str) -> dict[str, Source]:
    """Sources by split of files of any kind, one sample each, perhaps in class folders and these in split folders.

    Args:
        path: A folder, or one file.
        name: What messages call it.
        suffixes: Endings of the files' names, in lower case, with the dot.
        what: What messages call the files, a plural.

    Raises:
        ValueError: Nothing of that kind is there.
    """
    found = Walk([File.of(path.name, path.stat())], [], 0) if path.is_file() else walk(path)
    root = path.parent if path.is_file() else path
    files = [file for file in found.files if file.path.lower().endswith(suffixes)]
    if not files:
        endings = Counter(file.suffix or "without ending" for file in found.files)
        listing = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5)) or "nothing"
        raise ValueError(f"no {what} in {name}; expected {', '.join(suffixes)} files, found {listing}")
    others = [file for file in found.files if not file.path.lower().endswith(suffixes)]
    skipped = [skip for skip in found.skipped if Path(skip.path).suffix.lower() in suffixes]
    skipped += [Skipped(file.path, f"not among the {what}") for file in others]
    skipped = [Skipped(os.path.join(root, skip.path), skip.reason) for skip in sorted(skipped)]
    return _class_folders(root, name, files, skipped, 0)


def _why_not(file: File, suffixes: tuple[str, ...]) -> str:
    if suffixes is not SUFFIXES:
        return f"not a {suffixes[0]} file"
    return unreadable(file.suffix) if file.suffix in _UNREADABLE else "not an image file"


def _class_folders(
    root: Path, name: str, files: list[File], skipped: list[Skipped], broken: int
) -> dict[str, Source]:
    """Files in folders: split folders hold class folders, class folders hold files at any depth.

    A folder that holds one folder and no other file of the kind tells nothing apart, so what is in that counts.
    """
    if alone := _alone(parents(files), 0, SPLITS):
        above = os.path.join(*files[0].path.split(os.sep)[:alone], "")
        root, files = root / above, [file._replace(path=file.path[len(above) :]) for file in files]
    parts, beside = by_folder(files)
    skipped = skipped + [Skipped(os.path.join(root, file.path), "beside the splits") for file in beside]
    depth = int(parts.keys() != {"all"})
    folders = {split: parents(part) for split, part in parts.items()}
    depth += _alone(set().union(*folders.values()), depth, ())

    def class_of(folder: str) -> str | None:
        return next(iter(_levels(folder)[depth:]), None)

    names = {split: {class_of(folder) for folder in found} for split, found in folders.items()}

    def classes_of(split: str) -> list[str] | None:
        """Names of the class folders of a split, those of training, test and validation taken together."""
        alike = parts.keys() & set(SPLITS.values()) if split in SPLITS.values() else {split}
        found = {name for other in alike if None not in names[other] for name in names[other] if name}
        return sorted(found) if None not in names[split] and len(found) > 1 else None

    def source(split: str, part: list[File]) -> Source:
        classes = classes_of(split)

        def reading() -> Reading:
            labels = {folder: class_of(folder) if classes else None for folder in folders[split]}
            items = (
                Item(file.path, labels[file.path.rpartition(os.sep)[0]], root / file.path) for file in part
            )
            return Reading(classes, len(part), items)

        fingerprint = ["folder", os.path.realpath(root), digest(part), classes]
        return Source(name, reading, fingerprint, os.path.join(root, ""), skipped, broken)

    return {split: source(split, part) for split, part in parts.items()}


def _levels(folder: str) -> list[str]:
    return folder.split(os.sep) if folder else []


def _alone(folders: Collection[str], depth: int, splits: Collection[str]) -> int:
    """How many folders below some depth all have in common, up to one that names a split."""
    alone, paths = 0, [_levels(folder)[depth:] for folder in folders]
    while all(len(path) > alone for path in paths):
        found = {path[alone] for path in paths}
        if len(found) > 1 or found.pop().lower() in splits:
            break
        alone += 1
    return alone


def _tar(root: Path, name: str, files: list[File], skipped: list[Skipped], broken: int) -> dict[str, Source]:
    return {
        split: Source(
            name,
            lambda part=part: Reading(None, None, tar_items([root / file.path for file in part])),
            ["tar", os.path.realpath(root), part],
            os.path.join(root, ""),
            skipped,
            broken,
        )
        for split, part in by_name(files).items()
    }


def _parquet(
    root: Path, name: str, files: list[File], skipped: list[Skipped], broken: int
) -> dict[str, Source]:
    def reading(part: list[File]) -> Reading:
        # Not by `load_dataset`, which asks the network also for what lies on this machine.
        from datasets import Features
        from pyarrow.parquet import ParquetFile, read_schema

        paths = [root / file.path for file in part]
        total = count_rows(paths)
        with told(paths[0]):
            features = Features.from_arrow_schema(read_schema(paths[0]))
        columns = _columns(features, name)

        def batches() -> Iterator[Mapping[str, list[Any]]]:
            wanted = [column for column in (columns.image, columns.label) if column]
            for path in paths:
                with told(path):
                    for batch in ParquetFile(path).iter_batches(64, columns=wanted):
                        yield batch.to_pydict()

        return Reading(columns.classes, total, _items(batches(), columns, part[0].path))

    return {
        split: Source(
            name,
            lambda part=part: reading(part),
            ["parquet", os.path.realpath(root), part],
            os.path.join(root, ""),
            skipped,
            broken,
        )
        for split, part in by_name(files).items()
    }


def find_hub(address: str) -> dict[str, Source]:
    """Sources by split of a data set on the Hugging Face hub, read as a stream.

    Args:
        address: OWNER/NAME or OWNER/NAME:CONFIG.

    Raises:
        ValueError: The data set cannot be opened.
    """
    from datasets import load_dataset_builder

    name, _, config = address.partition(":")
    try:
        builder = load_dataset_builder(name, config or None)
        splits: dict[str, Any] = builder.as_streaming_dataset()  # type: ignore[assignment]
    except Exception as error:  # the hub, the network and the loader all have errors of their own
        raise ValueError(f"cannot open hub:{address}: {error}") from error

    def reading(split: str) -> Reading:
        classes, items = _rows(splits[split], address, split)
        known = (builder.info.splits or {}).get(split)
        return Reading(classes, known.num_examples if known else None, items)

    return {
        SPLITS.get(split, split): Source(
            address, lambda split=split: reading(split), ["hub", address, split, builder.hash]
        )
        for split in splits
    }


def _rows(rows: Any, name: str, file: str) -> tuple[list[str] | None, Iterator[Item]]:
    """Class names and items of a `datasets.IterableDataset`."""
    from datasets import Image

    features = rows.features or rows._resolve_features().features
    columns = _columns(features, name)
    if isinstance(features[columns.image], Image):
        rows = rows.cast_column(columns.image, Image(decode=False))
    wanted = [column for column in (columns.image, columns.label) if column]
    return columns.classes, _items(rows.select_columns(wanted).iter(64), columns, file)


class _Columns(NamedTuple):
    """Columns of a table that hold the images and the labels, and the names of the classes."""

    image: str
    label: str | None
    classes: list[str] | None


def _columns(features: Mapping[str, Any], name: str) -> _Columns:
    from datasets import ClassLabel, Image, Value

    def is_image(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return isinstance(feature, Image) or encoded or feature in (Value("binary"), Value("large_binary"))

    images = [column for column, feature in features.items() if is_image(feature)]
    if not images:
        raise ValueError(f"{name} must have a column of images, got {check.one_line(', '.join(features))}")
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    labels += [column for column in _LABELS if isinstance(features.get(column), Value)]
    label = min(labels, key=lambda column: column not in _LABELS, default=None)
    classes = features[label].names if label and isinstance(features[label], ClassLabel) else None
    return _Columns(images[0], label, classes)


def _items(batches: Iterable[Mapping[str, list[Any]]], columns: _Columns, file: str) -> Iterator[Item]:
    """Images out of batches of rows."""
    image, label = columns.image, columns.label
    number = 0
    for batch in batches:
        for value, known in zip(batch[image], batch[label] if label else [None] * len(batch[image])):
            value = value if isinstance(value, dict) else {"bytes": value}
            path, content = value.get("path"), value.get("bytes")
            if content is None:
                content = Path(path) if path else b""
            known = known if isinstance(known, int | str) else None
            yield Item(path or f"{file}#{number}", known, content)
            number += 1


def find_torchvision(address: str) -> dict[str, tuple[Any, Source]]:
    """Data sets of torchvision that lie on this machine, with their sources, by split.

    Args:
        address: NAME or NAME:ROOT, such as CIFAR10:downloads; the root is `data` where none is given.

    Raises:
        ValueError: torchvision knows no such data set, or it is not below the root.
    """
    import inspect
    from difflib import get_close_matches

    from torchvision import datasets

    name, _, root = address.partition(":")
    root = root or "data"
    if name not in datasets.__all__ or "root" not in inspect.signature(getattr(datasets, name)).parameters:
        near = get_close_matches(name, datasets.__all__, 1, 0.0)[0]
        raise ValueError(f"torchvision has no data set {name}; the nearest name is {near}")
    kind = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    if "train" in parameters:
        options = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in parameters:
        options = {"train": {"split": "train"}, "test": {"split": "test"}, "validation": {"split": "val"}}
    else:
        options = {"all": {}}
    found, reason = {}, ""
    for split, option in options.items():
        try:
            found[split] = kind(root, **option)
        except Exception as error:  # each data set refuses a missing folder or split in its own way
            reason = reason or str(error)
    if not found:
        raise ValueError(f"torchvision:{name} must lie below {root}: {reason}")
    place = [os.path.realpath(root), walk(Path(root)).files]

    def reading(dataset: Any) -> Reading:
        if hasattr(dataset, "samples"):
            items = (Item(path, int(label), Path(path)) for path, label in dataset.samples)
        else:
            samples = ((row, dataset[row]) for row in range(len(dataset)))
            items = (
                Item(f"{name}[{row}]", label if isinstance(label, int) else None, image)
                for row, (image, label, *_) in samples
            )
        classes = getattr(dataset, "classes", None)
        return Reading(classes and [str(name) for name in classes], len(dataset), items)

    return {
        split: (dataset, Source(name, lambda d=dataset: reading(d), ["torchvision", name, split, place]))
        for split, dataset in found.items()
    }
