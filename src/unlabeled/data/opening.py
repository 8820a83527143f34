"""From what a user names to `Data`."""

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from unlabeled.data.decode import PAGES, Pages
from unlabeled.data.files import walk
from unlabeled.data.images import Images
from unlabeled.data.levels import Levels, parsed
from unlabeled.data.samples import Data, Skipped
from unlabeled.data.sources import Source, find_hub, find_path, find_torchvision

__all__ = [
    "KINDS",
    "STORE_SIZE",
    "How",
    "kind_of",
    "levels_of",
    "open_data",
    "open_splits",
    "parts",
    "refuse_broken",
    "same_classes",
    "store_size",
]

STORE_SIZE, VIDEO_STORE_SIZE = 160, 112
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
_TEST_SHARE = 0.2
_REASONS = 3

Openable = str | os.PathLike[str] | Data | np.ndarray | Tensor


def open_data(
    source: Openable,
    *,
    split: str | None = None,
    kind: str | None = None,
    store_size: int | None = None,
    channels: int | None = None,
    sample_rate: int | None = None,
    levels: Any = None,
    pages: Pages = "first",
    workers: int | None = None,
    max_broken: float = 0.1,
    cache: str | os.PathLike[str] | bool | None = None,
    progress: Progress | None = None,
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
        channels: 1 for grey or 3 for colour, or as many bands as the images have; None makes everything grey only
            where every image is.
        sample_rate: Samples of sound per second, in hertz; None takes the commonest of the source.
        levels: Values of images of more than 8 bits that become 0 and 255: "LOW,HIGH", such a pair, or a table of
            pairs as in `levels`; None takes those that suit all images of the split (see `levels`).
        pages: What is read of an image file of several pages: the first; all, each as an image of its own; or bands,
            one image whose bands are the pages.
        workers: Threads that decode, as many as processors if None.
        max_broken: Largest share, in 0..1, of the images that may be unreadable. Files that were never meant
            to be images (.txt, .json, hidden ones) are listed as skipped, but not counted.
        cache: Folder for decoded images, $UNLABELED_CACHE or ~/.cache/unlabeled if None; False keeps none.
        progress: Called with the images done so far and their number, None where that is unknown.

    Raises:
        ValueError: There is nothing of that name, no image in it, no such split, or too much of it is broken.
    """
    how = How(
        store_size, channels, workers, max_broken, cache, progress, sample_rate, levels=levels, pages=pages
    )
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
    way, and each class of two images or more is in both parts.

    Args:
        source: As in `open_data`.
        **options: As in `open_data`, without `split`.

    Raises:
        ValueError: As in `open_data`, or there are no two images of a class to be divided.
    """
    splits = parts(source, **options)
    tests = [split for split in ("test", "validation") if split in splits]
    if "train" not in splits or not tests:
        return _divided(splits.get("train", next(iter(splits.values())))())
    train, test = splits["train"](), splits[tests[0]]()
    if len(tests) > 1 and (test.labels is None or bool((test.labels < 0).all())):
        test = splits["validation"]()
    if train.kind == "image" and train.shape["channels"] != test.shape["channels"]:
        return open_splits(
            source, **options | {"channels": max(train.shape["channels"], test.shape["channels"])}
        )
    known, found = levels_of(train), levels_of(test)
    if any(known[kind] != found[kind] for kind in known.keys() & found.keys()):
        return open_splits(source, **options | {"levels": found | known})
    return same_classes(train, test)


def levels_of(data: Data) -> Levels:
    """Values that became 0 and 255 in images of more than 8 bits; empty where there are none."""
    return getattr(data, "levels", None) or {}


def store_size(kind: str, image_size: int | None) -> int | None:
    """Shorter side in pixels at which pictures are kept for an encoder's input of a size; None for the default."""
    if kind == "image":
        return max(STORE_SIZE, image_size or 0)
    return None if image_size is None else max(VIDEO_STORE_SIZE, image_size)


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
    check.choice((None, 1, 3), channels=how.channels)
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
    levels: Any = None
    pages: Pages = "first"

    def __post_init__(self) -> None:
        check.fraction(max_broken=self.max_broken)
        check.choice(PAGES, pages=self.pages)
        parsed(self.levels)
        for name in ("channels", "store_size", "workers", "sample_rate"):
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
            return {"all": lambda: arrays.from_array(source, channels=self.how.channels, levels=self._levels)}
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
            return arrays.find_file(path, self.how.channels, self._levels)
        return self._encoded(find_path(path, name))

    @property
    def _levels(self) -> Levels:
        return parsed(self.how.levels)

    def _encoded(self, sources: dict[str, Source]) -> Mapping[str, Callable[[], Data]]:
        return {split: lambda found=found: self._decoded(found) for split, found in sources.items()}

    def _torchvision(self, name: str) -> Mapping[str, Callable[[], Data]]:
        def load(dataset: Any, source: Source) -> Data:
            images = getattr(dataset, "data", None)
            if not isinstance(images, (np.ndarray, Tensor)):
                return self._decoded(source)
            labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
            return arrays.from_array(
                images, labels, name, self.how.channels, getattr(dataset, "classes", None), self._levels
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
                levels=self._levels,
                pages=self.how.pages,
                progress=self.how.progress,
            )
        broken = [Skipped(source.prefix + path, reason) for path, reason in about["skipped"]]
        paths = [source.prefix + path for path in about["paths"]]
        count = source.broken + sum(skip.reason != "hidden" for skip in broken)
        refuse_broken(source.name, broken or source.skipped, len(paths), self.how.max_broken, count)
        sizes = torch.tensor(about["sizes"])
        images = Images(
            pixels,
            sizes if len(sizes) == len(paths) else sizes.repeat(len(paths), 1),
            channels=about["channels"],
            name=source.name,
            paths=paths,
            labels=None if about["labels"] is None else torch.tensor(about["labels"]),
            classes=about["classes"],
            skipped=source.skipped + broken,
        )
        images.levels = about["levels"] or None
        return images


def _name(source: Openable) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "array")


def _not_found(name: str, path: Path) -> str:
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    options = [*builtin.NAMES, *(str(path.parent / sibling) for sibling in siblings)]
    near = get_close_matches(name, options, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    expected = f"a path or one of {', '.join(builtin.NAMES)}, or start with hub: or torchvision:"
    return f"data must be {expected}, got {name}{hint}"


def _divided(data: Data) -> tuple[Data, Data]:
    """Four fifths and one fifth of each class, in the order of the data."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
    test = torch.zeros(len(data), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator)
        count = max(round(_TEST_SHARE * len(rows)), min(len(rows) - 1, 1))
        test[rows[order[:count]]] = True
    if not test.any():
        raise ValueError(
            f"data must have at least 2 {data.unit} of a class to be divided into a training and a test part, "
            f"got {len(data)} of {len(labels.unique())} classes in {data.name}"
        )
    return data.subset(~test), data.subset(test)


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
