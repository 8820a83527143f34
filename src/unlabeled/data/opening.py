"""From what a user names to `Data`."""

import copy
import importlib
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import builtin, tars
from unlabeled.data.cache import Progress, folder_of, stored
from unlabeled.data.files import walk
from unlabeled.data.groups import ALONE, FOLDER, folder_groups, group_by, names_column, numbers_of
from unlabeled.data.image import arrays
from unlabeled.data.image.data import Images
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.image.levels import Levels, parsed
from unlabeled.data.labels import NO_LABELS, NoColumn, from_records, in_order, numbered
from unlabeled.data.notes import note
from unlabeled.data.objects import find_object
from unlabeled.data.options import OpenOptions, Pages, refuse_broken
from unlabeled.data.samples import Data, Skipped
from unlabeled.data.sources import Source, class_folders, find_hub, find_path, find_torchvision
from unlabeled.data.splits import divide

__all__ = [
    "KINDS",
    "STORE_SIZE",
    "called",
    "kind_of",
    "levels_of",
    "name_of",
    "open_data",
    "open_splits",
    "parts",
    "same_classes",
    "store_size",
]

STORE_SIZE = 160
STORE_SIZES = {"image": STORE_SIZE, "video": 112, "audio-visual": 112, "cameras": 64, "trajectory": 64}
"""Shorter side in pixels at which larger pictures are kept at least, by kind."""
KINDS = {
    "image": "image",
    "text": "text",
    "audio": "audio",
    "video": "video",
    "audio-visual": "audio_visual",
    "cameras": "cameras",
    "trajectory": "trajectories",
}
"""Kinds of data, and the package of each, whose module `read` finds the splits of a source."""
_ENDINGS = {
    "text": (".txt", ".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".md"),
    "audio": (
        *(".wav", ".wave", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".opus", ".m4a", ".m4b", ".aac"),
        *(".wma", ".amr", ".mka", ".weba", ".ac3"),
    ),
    "video": (".mp4", ".m4v", ".mkv", ".avi", ".webm", ".mov", ".mpg", ".mpeg", ".wmv", ".3gp"),
}
"""Endings of files by which a kind is told where nobody names it; all else is taken for images."""
_PACKED = re.compile(r"(?i)\.(gz|bz2|zst)$")
_WITH_COLUMNS = ("image", "text", "audio", "video", "audio-visual")
"""Kinds of data that may come in tables or beside one, of which one column may be named as that of the labels."""
_OF_ONE_KIND = {"text": ("encoding", "text_column", "segmenter"), "image": ("levels", "pages")}
"""Options of `OpenOptions` that say something of one kind of data only."""
_LOOKED_AT = 3
_TEXTS_BESIDE = 5
"""Files for each picture, sound or video, up to which the texts among them are taken for labels or captions."""
_DOCUMENT = re.compile(r"(?i)\.(txt|md|rst)(\.(gz|bz2|zst))?$")
"""Names of files that are one text each."""

_log = logging.getLogger("unlabeled.data")

Openable = str | os.PathLike[str] | Data | np.ndarray | Tensor | Any
"""A name or path, `Data`, an array, or images in another form that `objects` reads."""


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
    label: str | None = None,
    encoding: str | None = None,
    text_column: str | None = None,
    segmenter: str | None = None,
    group: str | None = None,
) -> Data:
    """Open data of any kind, decoding it once.

    Args:
        source: Of every kind, a built-in name such as `digits` (a folder of that name is `./digits`), a
            folder of files, perhaps in class folders, and these perhaps in `train` and `test` folders, or
            `Data`, which is returned as it is; the module of each kind in `unlabeled.data` says what else.
            Of images, one of
            a folder of image files, perhaps with a table beside them (`listings`) such as metadata.csv; or a
            folder or file of parquet or Arrow tables (`tables`), or of tar or zip archives (`tars`): what holds the
            most images in a folder is taken, and the rest is listed as skipped;
            a table or a list of paths in .csv, .tsv, .jsonl or .txt;
            a .npy or .npz file (see `arrays`);
            `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, a data set on the Hugging Face hub;
            `torchvision:NAME` or `torchvision:NAME:ROOT`, a data set that torchvision finds below ROOT;
            an array or tensor of images;
            a list, data set or data frame of images (see `objects`).
            A name is a str: a `Path` is always one of a file or folder.
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
        label: Column of the labels in a table of samples, or in one beside the files; None looks for a usual name
            (`labels.COLUMNS`), and so does a name with a ? behind it where there is no such column.
        encoding: Encoding of texts, such as gbk or cp1252; None detects it, and with a ? behind it the encoding is only
            that of files that are neither UTF-8 nor UTF-16.
        text_column: Column of a table that holds the texts, or several with commas between them, which are joined;
            None chooses, and so does a name with a ? behind it where there is no such column.
        segmenter: Word segmenter for languages without spaces: characters, jieba or pythainlp.
        group: Groups of samples that stay in one part, as they are not independent: a column of a table
            or a factor such as `speaker`; a regular expression with one capture group, such as
            `(speaker\\d+)_`, which is looked for in each path below the source; `folder`, for the files of one
            folder; or `none`, for independent samples. None takes documents, recordings and files of
            several pages where they are known.

    Raises:
        ValueError: There is nothing of that name, no image in it, no such split, or too much of it is broken; or
            `group` names nothing.
    """
    how = OpenOptions(
        store_size=store_size,
        channels=channels,
        workers=workers,
        max_broken=max_broken,
        cache=cache,
        progress=progress,
        sample_rate=sample_rate,
        levels=levels,
        pages=pages,
        label=label,
        encoding=encoding,
        text_column=text_column,
        segmenter=segmenter,
        group=group,
    )
    parts = _parts(source, kind, how)
    split = {"val": "validation", "valid": "validation", "dev": "validation"}.get(split or "", split)
    if split is None:
        split = "train" if "train" in parts else next(iter(parts))
    if split not in parts:
        raise UserError(f"split of {called(source)} must be one of {', '.join(parts)}, got {split}")
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
    """Shorter side in pixels at which pictures are kept for an encoder's input of a size, None for no pictures."""
    return max(STORE_SIZES[kind], image_size or 0) if kind in STORE_SIZES else None


def parts(source: Openable, *, kind: str | None = None, **options: Any) -> Mapping[str, Callable[[], Data]]:
    """What opens each split of a source, by the split's name; "all" where it has none.

    Args:
        source: As in `open_data`.
        kind: As in `open_data`.
        **options: As in `open_data`, without `split`.
    """
    return _parts(source, kind, OpenOptions(**options))


def kind_of(source: Openable) -> str:
    """Kind of data that a source holds: as built in, else by the commonest ending of its files, else images."""
    if isinstance(source, Data):
        return source.kind
    if not isinstance(source, (str, os.PathLike)):
        return "image"
    name = name_of(source)
    if name.partition(":")[0] in builtin.NAMES:
        return builtin.NAMES[name.partition(":")[0]]
    path = Path(name).expanduser()
    files = [path.name] if path.is_file() else []
    if path.is_dir():
        files = [name for names in _names_below(path) for name in names if not name.startswith(".")]
        files = files or [file.path for file in walk(path).files]  # behind links, which take longer to follow
    found = Counter(os.path.splitext(re.sub(_PACKED, "", file))[1] for file in files)
    counts = {
        kind: sum(count for ending, count in found.items() if ending.lower() in endings)
        for kind, endings in _ENDINGS.items()
    }
    total = len(files)
    pictures = sum(count for ending, count in found.items() if ending.lower() in (*SUFFIXES, ".arrow"))
    if _TEXTS_BESIDE * (pictures + sum(counts.values()) - counts["text"]) >= total:
        total -= counts.pop("text")  # texts beside the others, such as their labels, are no data of their own
    kind, count = max(counts.items(), key=lambda item: item[1])
    kind = kind if 2 * count > total else "image"
    return "audio" if kind == "video" and _only_heard(path) else kind


def _only_heard(path: Path) -> bool:
    """Whether the first of some files in formats of videos hold sounds without pictures."""
    from unlabeled.data.video.decode import has_pictures

    files = [path] if path.is_file() else [path / file.path for file in walk(path).files]
    videos = [file for file in files if file.suffix.lower() in _ENDINGS["video"]]
    return not any(map(has_pictures, videos[:_LOOKED_AT]))


def name_of(source: str | os.PathLike[str]) -> str:
    """A name or path as text; a `Path` that reads like a name of something else begins with ./ then."""
    if isinstance(source, str):
        if source in builtin.NAMES and Path(source).exists():
            note(f"{source} is the built-in set; ./{source} would be the folder of that name")
        return source
    path = os.fspath(source)
    is_name = path.partition(":")[0] in (*builtin.NAMES, "hub", "torchvision")
    return os.path.join(".", path) if is_name else path


def _names_below(path: Path) -> Iterator[list[str]]:
    """Names of the files in each folder, those of runs left out."""
    for folder, below, names in os.walk(path):
        if "run.toml" in names and folder != str(path):
            below.clear()
        else:
            yield names


def _parts(source: Openable, kind: str | None, how: OpenOptions) -> Mapping[str, Callable[[], Data]]:
    if how.label is None or not how.label.endswith("?"):
        return _grouped(source, kind, how)
    wanted, open_label = replace(how, label=how.label.removesuffix("?")), replace(how, label=None)
    try:
        found = _grouped(source, kind, wanted)
    except NoColumn:
        return _grouped(source, kind, open_label)

    def read(split: str) -> Data:
        try:
            return found[split]()
        except NoColumn:
            return _grouped(source, kind, open_label)[split]()

    return {split: partial(read, split) for split in found}


def _grouped(source: Openable, kind: str | None, how: OpenOptions) -> Mapping[str, Callable[[], Data]]:
    found = _found(source, kind, how)
    if isinstance(source, Data) and how.group is None:
        return found

    def grouped(split: str) -> Data:
        data = copy.copy(found[split]())
        _group(data, source, kind, how, split)
        return data

    return {split: partial(grouped, split) for split in found}


def _group(data: Data, source: Openable, kind: str | None, how: OpenOptions, split: str) -> None:
    """Say which samples of what was opened are not independent, as far as that is known or the user says it."""
    path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else Path()
    if how.group is not None:
        column = names_column(data, how.group) and not isinstance(source, (Data, np.ndarray, Tensor))
        if column:
            data.columns = {how.group: _column(source, kind, how, split, data)}
        group_by(data, how.group, os.path.join(path if path.is_dir() else path.parent, ""))
    elif data.kind == "text" and data.groups is None and path.is_file() and _DOCUMENT.search(path.name):
        data.groups = torch.zeros(len(data), dtype=torch.int64)
    elif data.kind == "image" and how.pages == "all" and data.groups is None:
        # Rows of tables have a number behind a # too, but behind the name of a table.
        above = [name.rpartition("#")[0] for name in data.paths]
        files = [file if file.lower().endswith(SUFFIXES) else name for file, name in zip(above, data.paths)]
        if len({*files}) < len(files):
            data.groups, data.group_unit = numbers_of(files), "files"
    elif data.kind in ("audio", "video", "audio-visual") and data.groups is None:
        data.groups = folder_groups(data.paths, data.labels)


def _column(source: Openable, kind: str | None, how: OpenOptions, split: str, data: Data) -> list[object]:
    """What a column of a table says of each sample; it is read as that of the labels is."""
    wanted: dict[str, Any] = {"label": how.group, "group": None}
    try:
        read = _found(source, kind, replace(how, **wanted))[split]()
    except ValueError as error:
        column = str(error).rpartition("label must be ")[2]
        raise UserError(
            f"group must be {ALONE}, {FOLDER}, an expression for paths with one part in brackets, or {column}"
        ) from error
    known, labels = read.labels, data.labels
    if known is None or read.paths != data.paths or (labels is not None and torch.equal(known, labels)):
        raise UserError(f"group must be a column of {data.name} beside that of the labels, got {how.group}")
    return [number if number >= 0 else None for number in known.tolist()]


def _found(source: Openable, kind: str | None, how: OpenOptions) -> Mapping[str, Callable[[], Data]]:
    if isinstance(source, Data):
        if kind not in (None, source.kind):
            raise UserError(f"data must be of kind {kind}, got {source.name}, of kind {source.kind}")
        return {"all": lambda: source}
    source = name_of(source) if isinstance(source, (str, os.PathLike)) else source
    named = source if isinstance(source, str) else ""
    word = named.partition(":")[0]
    if word in builtin.NAMES and kind not in (None, builtin.NAMES[word]):
        fitting = ", ".join(name for name, its in builtin.NAMES.items() if its == kind)
        raise UserError(
            f"data must be of kind {kind}, such as the built-in {fitting}, got {named}, of kind {builtin.NAMES[word]}"
        )
    kind = kind or kind_of(source)
    check.choice(KINDS, kind=kind)
    for only, names in _OF_ONE_KIND.items():
        if kind != only and (given := [name for name in names if getattr(how, name) not in (None, "first")]):
            name, value = given[0], getattr(how, given[0])
            raise UserError(f"{name} must be left out for data of kind {kind}, got {value}")
    if kind == "image":
        return _Opener(how).parts(source)
    check.choice((None, 1, 3), channels=how.channels)
    if how.label is not None and (kind not in _WITH_COLUMNS or word in builtin.NAMES):
        what = named if kind in _WITH_COLUMNS else f"data of kind {kind}"
        raise NoColumn(f"label must be left out for {what}, which has no columns, got {how.label}")
    if word in builtin.NAMES:
        if how.label is not None:
            raise UserError(f"label must be left out for {named}, which has no columns, got {how.label}")
        built_in = importlib.import_module("unlabeled.data.worlds").built_in
        return {split: partial(built_in, named, split) for split in ("train", "test")}
    if named and not named.startswith("hub:") and not Path(named).expanduser().exists():
        raise UserError(_not_found(named, Path(named).expanduser()))
    return importlib.import_module(f"unlabeled.data.{KINDS[kind]}.read").find(source, how)


@dataclass(frozen=True)
class _Opener:
    """Opens images."""

    how: OpenOptions

    def parts(self, source: Openable) -> Mapping[str, Callable[[], Data]]:
        """What opens each split of a source; "all" where it has none."""
        if isinstance(source, str):
            return self._named(source)
        if isinstance(source, (np.ndarray, Tensor)):
            self._without_columns("an array")
            return {"all": lambda: arrays.from_array(source, channels=self.how.channels, levels=self._levels)}
        objects = find_object(source, self.how.label, self.how.channels)
        return {
            split: lambda found=found: self._decoded(found) if isinstance(found, Source) else found
            for split, found in objects.items()
        }

    def _named(self, name: str) -> Mapping[str, Callable[[], Data]]:
        if name in builtin.NAMES:
            self._without_columns(name)
            load = partial(builtin.load, name, channels=self.how.channels)
            return {split: partial(load, split) for split in ("train", "test")}
        if name.startswith("hub:"):
            return self._encoded(find_hub(name.removeprefix("hub:"), self.how.label))
        if name.startswith("torchvision:"):
            self._without_columns(name)
            return self._torchvision(name)
        path = Path(name).expanduser()
        if not path.exists():
            raise UserError(_not_found(name, path))
        if path.suffix.lower() in (".npy", ".npz") and path.is_file():
            self._without_columns(name)
            return arrays.find_file(path, self.how.channels, self._levels)
        return self._encoded(find_path(path, name, self.how.label))

    def _without_columns(self, name: str) -> None:
        if self.how.label is not None:
            raise NoColumn(f"label must be left out for {name}, which has no columns, got {self.how.label}")

    @property
    def _levels(self) -> Levels:
        return parsed(self.how.levels)

    def _encoded(self, sources: dict[str, Source]) -> Mapping[str, Callable[[], Data]]:
        """What opens each split; where one archive or more hold several, these are known only when it is read."""
        if len(sources) > 1 or not next(iter(sources.values())).archives:
            return {split: lambda found=found: self._decoded(found) for split, found in sources.items()}
        ((split, source),) = sources.items()
        data = self._decoded(source)
        inside = _inside(data, source)
        if len(inside) < 2:
            return {split: lambda: data}
        return {part: lambda rows=rows: data.subset(torch.tensor(rows)) for part, (rows, _) in inside.items()}

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
                folder=None if source.fingerprint is None else folder_of(self.how.cache),
                levels=self._levels,
                pages=self.how.pages,
                progress=self.how.progress,
            )
        broken = [Skipped(source.prefix + path, reason) for path, reason in about["skipped"]]
        paths = [source.prefix + path for path in about["paths"]]
        count = source.broken + sum(skip.reason != "hidden" for skip in broken)
        refuse_broken(source.name, broken or source.skipped, len(paths), self.how.max_broken, count)
        sizes = torch.tensor(about["sizes"])
        data = Images(
            pixels,
            sizes if len(sizes) == len(paths) else sizes.repeat(len(paths), 1),
            channels=about["channels"],
            name=source.name,
            paths=paths,
            skipped=source.skipped + broken,
        )
        data.levels = about["levels"] or None
        _give_labels(data, about["labels"], about["classes"], source)
        return data


def _give_labels(data: Data, values: list[Any] | None, classes: list[str] | None, source: Source) -> None:
    """Number what the items, the tables beside them or the folders in archives say of samples."""
    values = source.stated(data.paths, values or [None] * len(data))
    values, said = from_records(values, source.label, source.name)
    if source.archives and all(value is None for value in values):
        parts = _inside(data, source)
        names = {row: name for rows, found in parts.values() for row, name in zip(rows, found or [])}
        values, classes = [names.get(row) for row in range(len(data))], sorted({*names.values()}) or None
    found = numbered(values, classes)
    data.labels, data.classes = found.tensor, found.classes
    data.skipped += [
        *found.skipped(source.name),
        *(Skipped(source.name, f"{NO_LABELS}{text}") for text in said),
    ]


def _inside(data: Data, source: Source) -> dict[str, tuple[list[int], list[str] | None]]:
    """Rows and class names by split, as the folders in archives say them."""
    below = [path.removeprefix(source.prefix) for path in data.paths]
    return class_folders(tars.inner_paths(below, source.archives))


def called(source: Openable) -> str:
    """What messages call data; arrays and data frames may have a name that is no text."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else type(source).__name__


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
        _log.warning("%s has %s; group=folder keeps each of them in one part", data.name, count)


def same_classes(train: Data, test: Data) -> tuple[Data, Data]:
    """Number the classes of both parts alike where each part brought its own names."""
    if train.classes and test.classes and train.classes != test.classes:
        classes = in_order({*train.classes, *test.classes})
        places = {name: number for number, name in enumerate(classes)}
        for data in (train, test):
            if data.labels is not None:
                numbers = torch.tensor([places[name] for name in data.classes or []])
                data.labels = torch.where(data.labels < 0, -1, numbers[data.labels])
            data.classes = classes
    return train, test
