"""From what a user names to `Data`."""

import copy
import importlib
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data import arrays, builtin
from unlabeled.data.cache import Progress, folder_of, stored
from unlabeled.data.files import walk
from unlabeled.data.groups import folder_groups, group_by, names_column
from unlabeled.data.images import Images
from unlabeled.data.samples import Data, Skipped
from unlabeled.data.sources import Source, find_hub, find_path, find_torchvision
from unlabeled.data.splits import divide

__all__ = [
    "KINDS",
    "STORE_SIZE",
    "How",
    "kind_of",
    "open_data",
    "open_splits",
    "parts",
    "refuse_broken",
    "same_classes",
    "store_size",
]

STORE_SIZE = 160
STORE_SIZES = {"image": STORE_SIZE, "video": 112, "audio-visual": 112, "cameras": 64, "trajectory": 64}
"""Shorter side in pixels at which larger pictures are kept at least, by kind."""
KINDS = {
    "image": "images",
    "text": "text",
    "audio": "audio",
    "video": "video",
    "audio-visual": "audio_visual",
    "cameras": "cameras",
    "trajectory": "trajectories",
}
"""Kinds of data, and the module that opens each."""
_ENDINGS = {
    "text": (".txt", ".tsv", ".csv", ".jsonl", ".md"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".opus"),
    "video": (".mp4", ".mkv", ".avi", ".webm", ".mov"),
}
"""Endings of files by which a kind is told where nobody names it; all else is taken for images."""
_REASONS = 3
_DOCUMENT = re.compile(r"(?i)\.(txt|md|rst)(\.(gz|bz2|zst))?$")
"""Names of files that are one text each."""
_log = logging.getLogger("unlabeled.data")

Openable = str | os.PathLike[str] | Data | np.ndarray | Tensor


def open_data(
    source: Openable,
    *,
    split: str | None = None,
    kind: str | None = None,
    store_size: int | None = None,
    channels: int | None = None,
    sample_rate: int | None = None,
    workers: int | None = None,
    max_broken: float = 0.1,
    cache: str | os.PathLike[str] | bool | None = None,
    progress: Progress | None = None,
    group: str | None = None,
) -> Data:
    """Open data of any kind, decoding it once.

    Args:
        source: Of every kind, a built-in name such as `digits` (a folder of that name is `./digits`), a
            folder of files, perhaps in class folders, and these perhaps in `train` and `test` folders, or
            `Data`, which is returned as it is; the module of each kind in `unlabeled.data` says what else.
            Of images, one of
            a folder or file of parquet (Hugging Face layout) or tar archives (webdataset layout), which go
            before images in the same folder;
            a .npy or .npz file (see `arrays`);
            `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, a data set on the Hugging Face hub;
            `torchvision:NAME` or `torchvision:NAME:ROOT`, a data set that torchvision finds below ROOT;
            an array or tensor of images.
        split: Part of the source, such as "test"; None takes "train" where there are several.
        kind: image, text, audio, video, audio-visual, cameras or trajectory; None tells by the built-in name
            or by the endings of the files, and takes for images what tells nothing.
        store_size: Shorter side in pixels to which larger images are resized, 160 if None; smaller ones and
            arrays are kept as they are.
        channels: 1 for grey or 3 for colour; None makes everything grey only where every image is.
        sample_rate: Samples of sound per second, in hertz; None takes the commonest of the source.
        workers: Threads that decode, as many as processors if None.
        max_broken: Largest share, in 0..1, of the images that may be unreadable. Files that were never meant
            to be images (.txt, .json, hidden ones) are listed as skipped, but not counted.
        cache: Folder for decoded images, $UNLABELED_CACHE or ~/.cache/unlabeled if None; False keeps none.
        progress: Called with the images done so far and their number, None where that is unknown.
        group: What says which samples are not independent, so that they are never divided: a column of a table
            or a factor such as `speaker`; a regular expression with one part in brackets, such as
            `(speaker\\d+)_`, which is looked for in each path below the source; `folder`, for the files of one
            folder; or `none`, where each sample stands alone. None takes documents and recordings where they
            are known.

    Raises:
        ValueError: There is nothing of that name, no image in it, no such split, or too much of it is broken; or
            `group` names nothing.
    """
    how = How(store_size, channels, workers, max_broken, cache, progress, sample_rate, group=group)
    parts = _parts(source, kind, how)
    split = {"val": "validation", "valid": "validation", "dev": "validation"}.get(split or "", split)
    if split is None:
        split = "train" if "train" in parts else next(iter(parts))
    if split not in parts:
        raise ValueError(f"split of {_name(source)} must be one of {', '.join(parts)}, got {split}")
    return parts[split]()


def open_splits(source: Openable, **options: Any) -> tuple[Data, Data]:
    """Open the training part and the test part of data.

    These are the source's own splits `train` and `test`, or `validation` where there is no test part or its
    labels are kept secret. A source without them is divided 80 to 20 within each class, always in the same
    way; equal samples and those of one group (a document, a recording) stay together, and each class of two
    groups or more is in both parts.

    Args:
        source: As in `open_data`.
        **options: As in `open_data`, without `split`.

    Raises:
        ValueError: As in `open_data`, or there are no two samples or groups of a class to be divided.
    """
    splits = parts(source, **options)
    tests = [split for split in ("test", "validation") if split in splits]
    if "train" not in splits or not tests:
        whole = splits.get("train", next(iter(splits.values())))()
        if whole.groups is None and options.get("group") is None:
            _suggest_folders(whole)
        return divide(whole)
    train, test = splits["train"](), splits[tests[0]]()
    if len(tests) > 1 and (test.labels is None or bool((test.labels < 0).all())):
        test = splits["validation"]()
    if train.kind == "image" and train.shape["channels"] != test.shape["channels"]:
        return open_splits(source, **options | {"channels": 3})
    return same_classes(train, test)


def store_size(kind: str, image_size: int | None) -> int | None:
    """Shorter side in pixels at which pictures are kept for an encoder's input of a size, None for no pictures."""
    return max(STORE_SIZES[kind], image_size or 0) if kind in STORE_SIZES else None


def parts(source: Openable, *, kind: str | None = None, **options: Any) -> Mapping[str, Callable[[], Data]]:
    """What opens each split of a source, by the split's name; "all" where it has none.

    Args:
        source: As in `open_data`.
        kind: As in `open_data`.
        **options: As in `open_data`, without `split`.
    """
    return _parts(source, kind, How(**options))


def kind_of(source: Openable) -> str:
    """Kind of data that a source holds: as built in, else by the commonest ending of its files, else images."""
    if isinstance(source, Data):
        return source.kind
    if isinstance(source, (np.ndarray, Tensor)):
        return "image"
    name = os.fspath(source)
    if name.partition(":")[0] in builtin.NAMES:
        return builtin.NAMES[name.partition(":")[0]]
    path = Path(name).expanduser()
    files = [path.name] if path.is_file() else []
    if path.is_dir():
        files = [name for _, _, names in os.walk(path) for name in names if not name.startswith(".")]
        files = files or [file.path for file in walk(path).files]  # behind links, which take longer to follow
    found = Counter(os.path.splitext(file)[1] for file in files)
    counts = {
        kind: sum(count for ending, count in found.items() if ending.lower() in endings)
        for kind, endings in _ENDINGS.items()
    }
    kind, count = max(counts.items(), key=lambda item: item[1])
    return kind if 2 * count > len(files) else "image"


def refuse_broken(
    name: str, skipped: Sequence[Skipped], decoded: int, max_broken: float, count: int | None = None
) -> None:
    """Refuse a source of which too much cannot be read.

    Args:
        name: What messages call the source.
        skipped: What could not be read, though it was meant to be.
        decoded: How many could be read.
        max_broken: Largest share that may be unreadable, in 0..1.
        count: How many of `skipped` were meant to be read, all if None.

    Raises:
        ValueError: More of it is broken, or nothing could be read.
    """
    count = len(skipped) if count is None else count
    if count > max_broken * (count + decoded) or not decoded:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in skipped[:_REASONS])
        raise ValueError(
            f"{count} of {count + decoded} files in {name} cannot be read, which is more than "
            f"max_broken={max_broken:g} allows: {reasons}"
        )


def _parts(source: Openable, kind: str | None, how: "How") -> Mapping[str, Callable[[], Data]]:
    found = _found(source, kind, how)
    if isinstance(source, Data) and how.group is None:
        return found

    def grouped(split: str) -> Data:
        data = copy.copy(found[split]())
        _group(data, source, kind, how, split)
        return data

    return {split: partial(grouped, split) for split in found}


def _group(data: Data, source: Openable, kind: str | None, how: "How", split: str) -> None:
    """Say which samples of what was opened are not independent, as far as that is known or the user says it."""
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else Path()
    if how.group is not None:
        column = names_column(data, how.group) and not isinstance(source, (Data, np.ndarray, Tensor))
        if column and "label" in How.__dataclass_fields__:
            data.columns = {how.group: _column(source, kind, how, split, data)}
        group_by(data, how.group, os.path.join(path if path.is_dir() else path.parent, ""))
    elif data.kind == "text" and data.groups is None and path.is_file() and _DOCUMENT.search(path.name):
        data.groups = torch.zeros(len(data), dtype=torch.int64)
    elif data.kind in ("audio", "video", "audio-visual") and data.groups is None:
        data.groups = folder_groups(data.paths, data.labels)


def _column(source: Openable, kind: str | None, how: "How", split: str, data: Data) -> list[object]:
    """What a column of a table says of each sample; it is read as that of the labels is."""
    wanted: dict[str, Any] = {"label": how.group, "group": None}
    try:
        read = _found(source, kind, replace(how, **wanted))[split]()
    except ValueError as error:
        raise ValueError(f"group must be a column of {data.name}, got {how.group}: {error}") from error
    known, labels = read.labels, data.labels
    if known is None or read.paths != data.paths or (labels is not None and torch.equal(known, labels)):
        raise ValueError(f"group must be a column of {data.name} beside that of the labels, got {how.group}")
    return [number if number >= 0 else None for number in known.tolist()]


def _found(source: Openable, kind: str | None, how: "How") -> Mapping[str, Callable[[], Data]]:
    if isinstance(source, Data):
        if kind not in (None, source.kind):
            raise ValueError(f"data must be of kind {kind}, got {source.name}, of kind {source.kind}")
        return {"all": lambda: source}
    named = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    word = named.partition(":")[0]
    if word in builtin.NAMES and kind not in (None, builtin.NAMES[word]):
        fitting = ", ".join(name for name, its in builtin.NAMES.items() if its == kind)
        raise ValueError(
            f"data must be of kind {kind}, such as the built-in {fitting}, got {named}, of kind {builtin.NAMES[word]}"
        )
    if not kind and not isinstance(source, (str, os.PathLike, np.ndarray, Tensor)):
        raise ValueError(f"data must be a path, a name, an array or Data, got {type(source).__name__}")
    kind = kind or kind_of(source)
    check.choice(KINDS, kind=kind)
    if kind == "image":
        return _Opener(how).parts(source)
    opener = importlib.import_module(f"unlabeled.data.{KINDS[kind]}")
    if word in builtin.NAMES:
        return {split: partial(opener.built_in, named, split) for split in ("train", "test")}
    if named and not named.startswith("hub:") and not Path(named).expanduser().exists():
        raise ValueError(_not_found(named, Path(named).expanduser()))
    return opener.find(source, how)


@dataclass(frozen=True)
class How:
    """How data is opened: the options of `open_data` that every kind is given."""

    store_size: int | None = None
    channels: int | None = None
    workers: int | None = None
    max_broken: float = 0.1
    cache: str | os.PathLike[str] | bool | None = None
    progress: Progress | None = None
    sample_rate: int | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check.fraction(max_broken=self.max_broken)
        check.choice((None, 1, 3), channels=self.channels)
        for name in ("store_size", "workers", "sample_rate"):
            if (value := getattr(self, name)) is not None:
                check.at_least(1, **{name: value})


@dataclass(frozen=True)
class _Opener:
    """Opens images."""

    how: How

    def parts(self, source: Openable) -> Mapping[str, Callable[[], Data]]:
        """What opens each split of a source; "all" where it has none."""
        assert not isinstance(source, Data)
        if isinstance(source, (np.ndarray, Tensor)):
            return {"all": lambda: arrays.from_array(source, channels=self.how.channels)}
        name = os.fspath(source)
        if name in builtin.NAMES:
            load = partial(builtin.load, name, channels=self.how.channels)
            return {split: partial(load, split) for split in ("train", "test")}
        if name.startswith("hub:"):
            return self._encoded(find_hub(name.removeprefix("hub:")))
        if name.startswith("torchvision:"):
            return self._torchvision(name)
        path = Path(name).expanduser()
        if not path.exists():
            raise ValueError(_not_found(name, path))
        if path.suffix.lower() in (".npy", ".npz") and path.is_file():
            return arrays.find_file(path, self.how.channels)
        return self._encoded(find_path(path, name))

    def _encoded(self, sources: dict[str, Source]) -> Mapping[str, Callable[[], Data]]:
        return {split: lambda found=found: self._decoded(found) for split, found in sources.items()}

    def _torchvision(self, name: str) -> Mapping[str, Callable[[], Data]]:
        def load(dataset: Any, source: Source) -> Data:
            images = getattr(dataset, "data", None)
            if not isinstance(images, (np.ndarray, Tensor)):
                return self._decoded(source)
            labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
            return arrays.from_array(
                images, labels, name, self.how.channels, getattr(dataset, "classes", None)
            )

        found = find_torchvision(name.removeprefix("torchvision:"))
        return {split: lambda part=part: load(*part) for split, part in found.items()}

    def _decoded(self, source: Source) -> Data:
        with warnings.catch_warnings():  # Pillow warns about files that it reads all the same
            warnings.simplefilter("ignore")
            pixels, about = stored(
                source,
                store_size=self.how.store_size or STORE_SIZE,
                channels=self.how.channels,
                workers=self.how.workers or os.cpu_count() or 1,
                folder=folder_of(self.how.cache),
                progress=self.how.progress,
            )
        broken = [Skipped(source.prefix + path, reason) for path, reason in about["skipped"]]
        paths = [source.prefix + path for path in about["paths"]]
        count = source.broken + sum(skip.reason != "hidden" for skip in broken)
        refuse_broken(source.name, broken or source.skipped, len(paths), self.how.max_broken, count)
        sizes = torch.tensor(about["sizes"])
        return Images(
            pixels,
            sizes if len(sizes) == len(paths) else sizes.repeat(len(paths), 1),
            channels=about["channels"],
            name=source.name,
            paths=paths,
            labels=None if about["labels"] is None else torch.tensor(about["labels"]),
            classes=about["classes"],
            skipped=source.skipped + broken,
        )


def _name(source: Openable) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "array")


def _not_found(name: str, path: Path) -> str:
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    options = [*builtin.NAMES, *(str(path.parent / sibling) for sibling in siblings)]
    near = get_close_matches(name, options, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    expected = f"a path or one of {', '.join(builtin.NAMES)}, or start with hub: or torchvision:"
    return f"data must be {expected}, got {name}{hint}"


def _suggest_folders(data: Data) -> None:
    """Say that folders below those of the classes may be sources, such as the frames of a video."""
    folders = folder_groups(data.paths, data.labels)
    if folders is not None:
        count = f"{len(folders.unique()):,} folders below those of the classes"
        _log.warning("%s has %s; group=folder would not divide what lies in one", data.name, count)


def same_classes(train: Data, test: Data) -> tuple[Data, Data]:
    """Number the classes of both parts alike where each part brought its own names."""
    if train.classes and test.classes and train.classes != test.classes:
        classes = sorted({*train.classes, *test.classes})
        for data in (train, test):
            if data.labels is not None:
                numbers = torch.tensor([classes.index(name) for name in data.classes or []])
                data.labels = torch.where(data.labels < 0, -1, numbers[data.labels])
            data.classes = classes
    return train, test
