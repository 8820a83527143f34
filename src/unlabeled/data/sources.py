"""Where encoded images come from: folders, parquet files, tar archives, the Hugging Face hub, torchvision.

A source knows cheaply what its content depends on (names, sizes and times of its files) and reads when asked.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled.data.decode import SUFFIXES, Item
from unlabeled.data.images import Skipped

__all__ = ["Reading", "Source", "find_hub", "find_path", "find_torchvision"]

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
_SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"},
}
_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLITS)})(?=[-_./]|$)")
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


class _File(NamedTuple):
    path: str
    size: int
    time: int

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()


class _Walk(NamedTuple):
    files: list[_File]
    skipped: list[Skipped]
    broken: int


def find_path(path: Path, name: str) -> dict[str, Source]:
    """Sources by split of a folder or a file; "all" where nothing tells splits apart.

    Args:
        path: A folder of images, parquet files or tar archives, or one parquet file or tar archive.
        name: What messages call it.

    Raises:
        ValueError: Nothing of that kind is there.
    """
    if path.is_file():
        status = path.stat()
        walk = _Walk([_File(path.name, status.st_size, status.st_mtime_ns)], [], 0)
        path = path.parent
    else:
        walk = _walk(path)
    kinds: list[tuple[tuple[str, ...], Callable]] = [
        (SUFFIXES, _image_folder),
        ((".parquet",), _parquet),
        ((".tar", ".tar.gz", ".tgz"), _tar),
    ]
    for suffixes, open_files in kinds:
        files = [file for file in walk.files if file.path.lower().endswith(suffixes)]
        if files:
            others = [file for file in walk.files if not file.path.lower().endswith(suffixes)]
            skipped = walk.skipped + [Skipped(file.path, _why_not(file, suffixes)) for file in others]
            skipped = [Skipped(os.path.join(path, skip.path), skip.reason) for skip in sorted(skipped)]
            broken = walk.broken
            if suffixes is SUFFIXES:
                broken += sum(file.suffix in _UNREADABLE for file in others)
            return open_files(path, name, files, skipped, broken)
    found = Counter(file.suffix or "without ending" for file in walk.files)
    listing = ", ".join(f"{count} {suffix}" for suffix, count in found.most_common(5)) or "nothing"
    expected = f"{', '.join(SUFFIXES[:4])} or similar files, .parquet or .tar"
    reasons = "".join(f"; {skip.path or name}: {skip.reason}" for skip in walk.skipped[:3])
    raise ValueError(f"no images in {name}; expected {expected}, found {listing}{reasons}")


def _why_not(file: _File, suffixes: tuple[str, ...]) -> str:
    if suffixes is not SUFFIXES:
        return f"not a {suffixes[0]} file"
    return f"{file.suffix} images cannot be read" if file.suffix in _UNREADABLE else "not an image file"


def _walk(root: Path) -> _Walk:
    """All regular files below a folder in the order of their paths, and whatever else was met."""
    files: list[_File] = []
    skipped: list[Skipped] = []
    broken, seen, folders = 0, set(), [""]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                skipped.append(Skipped(folder, "folder seen before, through a symbolic link"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(Skipped(folder, error.strerror or str(error)))
            broken += 1
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            try:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    skipped.append(Skipped(path, "hidden"))
                elif entry.is_dir():  # links come last, so that a folder is known by its own name
                    folders.insert(0 if entry.is_symlink() else len(folders), path)
                elif entry.is_file():
                    status = entry.stat()
                    files.append(_File(path, status.st_size, status.st_mtime_ns))
                else:
                    skipped.append(
                        Skipped(path, "broken link" if entry.is_symlink() else "not a regular file")
                    )
                    broken += entry.name.lower().endswith(SUFFIXES)
            except OSError as error:
                skipped.append(Skipped(path, error.strerror or str(error)))
                broken += entry.name.lower().endswith(SUFFIXES)
    return _Walk(sorted(files), skipped, broken)


def _image_folder(
    root: Path, name: str, files: list[_File], skipped: list[Skipped], broken: int
) -> dict[str, Source]:
    """Images in folders: split folders hold class folders, class folders hold images at any depth."""
    tops = {file.path.split(os.sep)[0] for file in files if os.sep in file.path}
    has_splits = all(os.sep in file.path for file in files) and all(top.lower() in _SPLITS for top in tops)
    parts: dict[str, list[_File]] = {}
    for file in files:
        split = _SPLITS[file.path.split(os.sep)[0].lower()] if has_splits else "all"
        parts.setdefault(split, []).append(file)

    def folder(file: _File) -> str | None:
        parents = file.path.split(os.sep)[int(has_splits) : -1]
        return parents[0] if parents else None

    names = {folder(file) for file in files}
    classes = sorted(name for name in names if name) if None not in names and len(names) > 1 else None

    def reading(part: list[_File]) -> Reading:
        items = (Item(file.path, folder(file) if classes else None, root / file.path) for file in part)
        return Reading(classes, len(part), items)

    return {
        split: Source(
            name,
            lambda part=part: reading(part),
            ["folder", part, classes],
            os.path.join(root, ""),
            skipped,
            broken,
        )
        for split, part in parts.items()
    }


def _by_split(files: list[_File]) -> dict[str, list[_File]]:
    """Files by the split that their path names, or all together."""
    named: dict[str, list[_File]] = {}
    for file in files:
        found = _SPLIT_IN_NAME.findall(file.path.lower())
        named.setdefault(_SPLITS[found[-1]] if found else "all", []).append(file)
    return {"all": files} if "all" in named else named


def _tar(root: Path, name: str, files: list[_File], skipped: list[Skipped], broken: int) -> dict[str, Source]:
    return {
        split: Source(
            name,
            lambda part=part: Reading(None, None, _tar_items([root / file.path for file in part])),
            ["tar", part],
            os.path.join(root, ""),
            skipped,
            broken,
        )
        for split, part in _by_split(files).items()
    }


def _tar_items(archives: list[Path]) -> Iterator[Item]:
    """Images of archives in the webdataset layout: files of one sample stand together and share their name.

    The label is a sample's .cls file, else the folder in which it lies.
    """
    for archive in archives:
        try:
            with tarfile.open(archive, "r|*") as members:
                key, image, label = "", None, None
                for member in members:
                    folder, _, file = member.name.rpartition("/")
                    if not member.isfile() or file.startswith("."):
                        continue
                    if (sample := f"{folder}/{file.split('.')[0]}") != key:
                        if image is not None:
                            yield image._replace(label=image.label if label is None else label)
                        key, image, label = sample, None, None
                    content = members.extractfile(member)
                    assert content is not None
                    if file.lower().endswith(SUFFIXES):
                        parent = folder.rpartition("/")[2] or None
                        image = Item(f"{archive.name}/{member.name}", parent, content.read())
                    elif file.endswith(".cls"):
                        text = content.read().decode().strip()
                        label = int(text) if text.lstrip("-").isdigit() else text
                if image is not None:
                    yield image._replace(label=image.label if label is None else label)
        except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{archive} must be a readable tar archive: {error}") from error


def _parquet(
    root: Path, name: str, files: list[_File], skipped: list[Skipped], broken: int
) -> dict[str, Source]:
    def reading(part: list[_File]) -> Reading:
        from datasets import load_dataset
        from pyarrow.parquet import read_metadata

        paths = [str(root / file.path) for file in part]
        try:
            total = sum(read_metadata(path).num_rows for path in paths)
            rows: Any = load_dataset("parquet", data_files={"all": paths}, split="all", streaming=True)
        except Exception as error:
            raise ValueError(f"{name} must hold readable parquet files: {error}") from error
        classes, items = _rows(rows, name, part[0].path)
        return Reading(classes, total, items)

    return {
        split: Source(
            name, lambda part=part: reading(part), ["parquet", part], os.path.join(root, ""), skipped, broken
        )
        for split, part in _by_split(files).items()
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
        _SPLITS.get(split, split): Source(
            address, lambda split=split: reading(split), ["hub", address, split, builder.hash]
        )
        for split in splits
    }


def _rows(rows: Any, name: str, file: str) -> tuple[list[str] | None, Iterator[Item]]:
    """Class names and items of a `datasets.IterableDataset`."""
    from datasets import ClassLabel, Image, Value

    features = rows.features or rows._resolve_features().features

    def is_image(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return isinstance(feature, Image) or encoded or feature in (Value("binary"), Value("large_binary"))

    images = [column for column, feature in features.items() if is_image(feature)]
    if not images:
        raise ValueError(f"{name} must have a column of images, got {', '.join(features)}")
    image = images[0]
    if isinstance(features[image], Image):
        rows = rows.cast_column(image, Image(decode=False))
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    labels += [column for column in _LABELS if isinstance(features.get(column), Value)]
    label = min(labels, key=lambda column: column not in _LABELS, default=None)
    classes = features[label].names if label and isinstance(features[label], ClassLabel) else None
    columns = [image, label] if label else [image]

    def items() -> Iterator[Item]:
        number = 0
        for batch in rows.select_columns(columns).iter(64):
            for value, known in zip(batch[image], batch[label] if label else [None] * len(batch[image])):
                value = value if isinstance(value, dict) else {"bytes": value}
                path, content = value.get("path"), value.get("bytes")
                if content is None:
                    content = Path(path) if path else b""
                known = known if isinstance(known, int | str) else None
                yield Item(path or f"{file}#{number}", known, content)
                number += 1

    return classes, items()


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
    files = _walk(Path(root)).files

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
        split: (dataset, Source(name, lambda d=dataset: reading(d), ["torchvision", name, split, files]))
        for split, dataset in found.items()
    }
