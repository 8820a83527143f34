"""From what a user names to `Data`: which kind it is, and what opens each of its splits."""

import copy
import importlib
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import FILMS, SOUNDS, SPLITS, walk
from unlabeled.data.groups import ALONE, FOLDER, folder_groups, group_by, names_column, usual_groups
from unlabeled.data.image.annotated import AnnotatedImages, NoAnnotations
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.image.levels import Levels
from unlabeled.data.labels import NoColumn, in_order, refuse_column
from unlabeled.data.listings import lists_images
from unlabeled.data.notes import note
from unlabeled.data.options import STORE_SIZE, STORE_SIZES, OpenOptions, Options, refuse_fold, refuse_unknown
from unlabeled.data.samples import Data
from unlabeled.data.splits import divide
from unlabeled.data.tables import ENDINGS as TABLES
from unlabeled.data.tables import open_table

__all__ = [
    "BUILT_IN",
    "KINDS",
    "STORE_SIZE",
    "called",
    "kind_of",
    "levels_of",
    "name_of",
    "open_data",
    "open_splits",
    "parts",
    "refuse_missing",
    "same_classes",
    "store_size",
]

BUILT_IN = {
    "digits": "image",
    "photos": "image",
    "seasons": "image",
    "topics": "text",
    "puzzles": "text",
    "tones": "audio",
    "moving_digits": "video",
    "balls": "video",
    "blobs": "video",
    "chiming_shapes": "audio-visual",
    "orbit": "cameras",
    "arm": "cameras",
    "rooms": "trajectory",
    "pans": "trajectory",
}
"""Built-in sets and the kind of each."""
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
    "audio": SOUNDS,
    "video": FILMS,
}
"""Endings of files that give away a kind that nobody names; all else is taken for images."""
_PACKED = re.compile(r"(?i)\.(gz|bz2|zst)$")
_WITH_COLUMNS = ("image", "text", "audio", "video", "audio-visual")
"""Kinds of data that may come in tables or beside one, of which one column may be named as that of the labels."""
_OF_ONE_KIND = {
    "text": ("encoding", "text_column", "segmenter"),
    "image": ("levels", "pages", "annotations"),
    "video": ("fold",),
}
"""Options that mean something for one kind of data only."""
_HUBS = ("hub", "torchvision")
"""What stands before the colon in the names of data that others keep."""
_PATTERN = re.compile(r"[*?\[]")
_PEEKED = 3
"""Videos in which sounds without pictures are looked for."""
_LISTED = 200
"""Files of a tar file that tell the kind of data in it."""
_TEXTS_BESIDE = 5
"""Files for each picture, sound or video, up to which the texts among them are taken for labels or captions."""

_log = logging.getLogger("unlabeled.data")

Openable = str | os.PathLike[str] | Data | np.ndarray | Tensor | Any
"""A name or path, `Data`, an array, or images in another form that `image.objects` reads."""
Openers = Mapping[str, Callable[[], Data]]


def open_data(
    source: Openable, *, split: str | None = None, kind: str | None = None, **options: Unpack[Options]
) -> Data:
    """Open data of any kind, decoding it once.

    Args:
        source: Of every kind, a built-in name such as `digits` (a folder of that name is `./digits`), a
            folder of files, perhaps in class folders, and these perhaps in `train` and `test` folders, or
            `Data`, which is returned as it is; the module of each kind in `unlabeled.data`, such as `image.read`, says
            what else. A name is a str: a `Path` is always one of a file or folder.
        split: Part of the source, such as "test"; None takes "train" where there are several.
        kind: image, text, audio, video, audio-visual, cameras or trajectory; None looks at the built-in name
            or at the endings of the files, and takes for images what gives nothing away.
        **options: The fields of `OpenOptions`: store_size, channels, sample_rate, levels, pages, annotations, workers,
            max_broken, cache, progress, label, encoding, text_column, segmenter, group and fold.

    Raises:
        ValueError: There is nothing of that name, no sample in it, no such split, or too much of it is broken; or
            `group` names nothing.
    """
    refuse_unknown(open_data, options)
    openers, chosen = parts(source, kind=kind, **options), split is None
    if split is None:
        split = "train" if "train" in openers else next(iter(openers))
    elif split not in openers:
        split = SPLITS.get(split, split)
    if split not in openers:
        raise UserError(f"split of {called(source)} must be one of {', '.join(openers)}, got {split}")
    data = openers[split]()
    if chosen and len(openers) > 1:
        data.split, data.other_splits = split, tuple(other for other in openers if other != split)
    return data


def open_splits(
    source: Openable, *, kind: str | None = None, **options: Unpack[Options]
) -> tuple[Data, Data]:
    """Open the training part and the test part of data.

    These are the source's own splits `train` and `test`, or `validation` where there is no test part or its
    labels are kept secret. A source without them is divided 80 to 20 within each class, always in the same
    way; equal samples and those of one group (a document, a recording) stay together, and each class of two
    groups or more is in both parts.

    Args:
        source: As in `open_data`.
        kind: As in `open_data`.
        **options: As in `open_data`.

    Raises:
        ValueError: As in `open_data`, or there are no two samples or groups of a class to be divided.
    """
    refuse_unknown(open_splits, options)
    openers = parts(source, kind=kind, **options)
    tests = [split for split in ("test", "validation") if split in openers]
    if "train" not in openers or not tests:
        whole = openers.get("train", next(iter(openers.values())))()
        if whole.groups is None and options.get("group") is None:
            _suggest_folders(whole)
        return divide(whole)
    train, test = openers["train"](), _test_part(openers, tests)
    alike: Options = {}
    if train.kind == "image" and train.shape["channels"] != test.shape["channels"]:
        alike["channels"] = max(train.shape["channels"], test.shape["channels"])
    levels, others = levels_of(train), levels_of(test)
    if not alike and any(levels[numbers] != others[numbers] for numbers in levels.keys() & others.keys()):
        alike["levels"] = others | levels
    if alike:
        return open_splits(source, kind=kind, **options | alike)
    return same_classes(train, test)


def _test_part(openers: Openers, tests: list[str]) -> Data:
    """The first part whose labels are known, or whose annotations are where these are read; else the last."""
    for split in tests[:-1]:
        try:
            test = openers[split]()
        except NoAnnotations:
            continue
        if isinstance(test, AnnotatedImages) or (test.labels is not None and bool((test.labels >= 0).any())):
            return test
    return openers[tests[-1]]()


def parts(source: Openable, *, kind: str | None = None, **options: Unpack[Options]) -> Openers:
    """What opens each split of a source, by the split's name; "all" where it has none.

    Args:
        source: As in `open_data`.
        kind: As in `open_data`.
        **options: As in `open_data`.
    """
    opening = OpenOptions(**options)
    if opening.label is None or not opening.label.endswith("?"):
        return _grouped(source, kind, opening)
    strict = replace(opening, label=opening.label.removesuffix("?"))
    usual = replace(opening, label=None)
    try:
        openers = _grouped(source, kind, strict)
    except NoColumn:
        return _grouped(source, kind, usual)

    def read(split: str) -> Data:
        try:
            return openers[split]()
        except NoColumn:
            return _grouped(source, kind, usual)[split]()

    return {split: partial(read, split) for split in openers}


def levels_of(data: Data) -> Levels:
    """Values that became 0 and 255 in images of more than 8 bits; empty where there are none."""
    return getattr(data, "levels", None) or {}


def store_size(kind: str | None, image_size: int | None) -> int | None:
    """Shorter side in pixels at which pictures are kept for an encoder's input of a size, None for no pictures."""
    return max(STORE_SIZES[kind], image_size or 0) if kind in STORE_SIZES else None


def called(source: Openable) -> str:
    """What messages call data; arrays and data frames may have a name that is no text."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else type(source).__name__


def same_classes(train: Data, test: Data) -> tuple[Data, Data]:
    """Number the classes of both parts alike where each part brought its own names."""
    if train.classes and test.classes and train.classes != test.classes:
        classes = in_order({*train.classes, *test.classes})
        index = {name: number for number, name in enumerate(classes)}
        for data in (train, test):
            if data.labels is not None:
                numbers = torch.tensor([index[name] for name in data.classes or []])
                data.labels = torch.where(data.labels < 0, -1, numbers[data.labels])
            data.classes = classes
    return train, test


def kind_of(source: Openable) -> str:
    """Kind of data that a source holds: as built in, else by the commonest ending of its files, else images.

    Of tar files the first tells, by the files in it, and of parquet and Arrow files the first, by its columns if they
    hold any of these, where no images, sounds or videos lie beside them. A table or list of paths of images is one of
    images.
    """
    if isinstance(source, Data):
        return source.kind
    if not isinstance(source, (str, os.PathLike)):
        return "image"
    name = name_of(source)
    if (word := name.partition(":")[0]) in BUILT_IN:
        return BUILT_IN[word]
    path = Path(name).expanduser()
    if path.is_file() and lists_images(path):
        return "image"
    files = [path.name] if path.is_file() else []
    if path.is_dir():
        files = [name for names in _names_below(path) for name in names if not name.startswith(".")]
        files = files or [file.path for file in walk(path).files]  # behind links, which take longer to follow
    sharded = 2 * sum(file.lower().endswith(".tar") for file in files) > len(files)
    if sharded:
        shards = (path,) if path.is_file() else sorted(path.rglob("*.[tT][aA][rR]"))
        files = _members(shards[0]) if shards else files
    endings = Counter(os.path.splitext(re.sub(_PACKED, "", file))[1].lower() for file in files)
    counts = {kind: sum(endings[ending] for ending in those) for kind, those in _ENDINGS.items()}
    total, pictures = len(files), sum(endings[ending] for ending in SUFFIXES)
    if not pictures + counts["audio"] + counts["video"] and any(endings[ending] for ending in TABLES):
        table = _first_table(path)  # none in a tar file, or where all are outputs of ours
        if table is not None and (known := _kind_of_table(table)) is not None:
            return known
    pictures += endings[".arrow"]
    if _TEXTS_BESIDE * (pictures + sum(counts.values()) - counts["text"]) >= total:
        total -= counts.pop("text")  # texts beside the others, such as their labels, are no data of their own
    kind, count = max(counts.items(), key=lambda item: item[1])
    if (
        counts["video"]
        and not sharded
        and 2 * (counts["audio"] + counts["video"]) > total
        and _only_heard(path)
    ):
        return "audio"
    return kind if 2 * count > total else "image"


def _first_table(path: Path) -> Path | None:
    """A table, or the first one below a folder; None where there is none."""
    below = walk(path) if path.is_dir() else None
    files = [path] if below is None else [below.root / file.path for file in below.files]
    return min((file for file in files if file.name.lower().endswith(TABLES)), default=None)


def _kind_of_table(path: Path) -> str | None:
    """Kind of data in the columns of a table, by what `datasets` has noted, else by their content; None for others."""
    from unlabeled.data.audio.decode import header
    from unlabeled.data.image.tables import images_of

    try:
        table = open_table(path)
        noted = {feature.get("_type") for feature in table.features.values()}
        if "Image" in noted or "Audio" in noted:
            return "image" if "Image" in noted else "audio"
        columns = [column for column, kind in table.kinds.items() if kind in ("encoded", "bytes")]
        for row in islice(table.records(columns) if columns else (), _PEEKED):
            contents = (value.get("bytes") if isinstance(value, dict) else value for value in row.values())
            for content in filter(None, contents):
                with suppress(ValueError):
                    header(content)
                    return "audio"
        images = images_of(table, path.parent, strict=False)
    except ValueError:  # it is reported when the data are opened
        return None
    return "image" if images is not None else "text" if "text" in table.kinds.values() else None


def _members(shard: Path) -> list[str]:
    """Names of the first files in a tar file whose endings tell a kind, rather than a label beside them."""
    known = {*SUFFIXES, *(ending for those in _ENDINGS.values() for ending in those)}
    try:
        with tarfile.open(shard) as archive:
            names = [member.name for member in islice(archive, _LISTED) if member.isfile()]
    except (OSError, tarfile.TarError):  # it is reported when the data are opened
        return []
    return [name for name in names if os.path.splitext(name)[1].lower() in known]


def _only_heard(path: Path) -> bool:
    """Whether the first of the files in formats of videos hold sounds without pictures."""
    from unlabeled.data.video.decode import has_pictures

    below = walk(path)
    videos = [below.root / file.path for file in below.files if file.ends(FILMS)]
    return not any(map(has_pictures, videos[:_PEEKED]))


def name_of(source: str | os.PathLike[str]) -> str:
    """A name or path as text; a `Path` that reads like a name of something else begins with ./ then."""
    if isinstance(source, str):
        if source in BUILT_IN and Path(source).exists():
            note(f"{source} is the built-in set; ./{source} would be the folder of that name")
        return source
    path = os.fspath(source)
    is_name = path.partition(":")[0] in (*BUILT_IN, *_HUBS)
    return os.path.join(".", path) if is_name else path


def _names_below(path: Path) -> Iterator[list[str]]:
    """Names of the files in each folder, those of runs omitted."""
    for folder, below, names in os.walk(path):
        if "run.toml" in names and folder != str(path):
            below.clear()
        else:
            yield names


def _ungrouped(source: Openable, kind: str | None, options: OpenOptions) -> Openers:
    if isinstance(source, Data):
        if kind not in (None, source.kind):
            raise UserError(f"data must be of kind {kind}, got {source.name}, of kind {source.kind}")
        return {"all": lambda: source}
    if kind is not None:
        check.choice(KINDS, kind=kind)
    source = name_of(source) if isinstance(source, (str, os.PathLike)) else source
    name = source if isinstance(source, str) else ""
    word = name.partition(":")[0]
    if word in BUILT_IN and kind not in (None, BUILT_IN[word]):
        fitting = ", ".join(other for other, its in BUILT_IN.items() if its == kind)
        raise UserError(
            f"data must be of kind {kind}, such as the built-in {fitting}, got {name}, of kind {BUILT_IN[word]}"
        )
    kind = kind or ("image" if options.annotations else kind_of(source))
    for only, names in _OF_ONE_KIND.items():
        for option in names if kind != only else ():
            if (value := getattr(options, option)) not in (None, "first"):
                raise UserError(f"{option} must be left out for data of kind {kind}, got {value}")
    if kind != "image":  # images may have any number of bands
        check.choice((None, 1, 3), channels=options.channels)
    path = Path(name).expanduser()
    if options.annotations and (not name or word in BUILT_IN or not path.exists()):
        raise UserError(
            f"annotations must be those of a folder or file, got {options.annotations} of {called(source)}"
        )
    if kind not in _WITH_COLUMNS or word in BUILT_IN:
        refuse_column(options.label, name if kind in _WITH_COLUMNS else f"data of kind {kind}")
    if word in BUILT_IN:
        refuse_fold(options.fold, name)
        worlds = importlib.import_module("unlabeled.data.worlds")
        if word == "pans" and (path := name.partition(":")[2]) not in worlds.PANS:
            return _pans_over(path, name, options)
        return {split: partial(worlds.built_in, name, split, options.channels) for split in ("train", "test")}
    refuse_missing(source)
    return importlib.import_module(f"unlabeled.data.{KINDS[kind]}.read").find(source, options)


def _pans_over(path: str, name: str, options: OpenOptions) -> Openers:
    """Openers of trajectories over images, which are read at the size of the frames so that none is blurred."""
    side = options.store_size or STORE_SIZES["trajectory"]
    openers = parts(path, kind="image", **vars(replace(options, store_size=side, group=None)))

    def read(split: str) -> Data:
        images = openers[split]()
        worlds = importlib.import_module("unlabeled.data.worlds")
        data = worlds.pans_over(images, name, split, min(side, images.shape["image_size"]))
        data.paths, data.groups, data.skipped = images.paths, images.groups, images.skipped
        return data

    return {split: partial(read, split) for split in openers}


def _grouped(source: Openable, kind: str | None, options: OpenOptions) -> Openers:
    openers = _ungrouped(source, kind, options)
    if isinstance(source, Data) and options.group is None:
        return openers

    def grouped(split: str) -> Data:
        data = copy.copy(openers[split]())
        path = Path(source).expanduser() if isinstance(source, (str, os.PathLike)) else Path()
        if options.group is None:
            usual_groups(data, path, options.pages == "all")
            return data
        if names_column(data, options.group) and not isinstance(source, (Data, np.ndarray, Tensor)):
            data.columns = {options.group: _column(source, kind, options, split, data)}
        group_by(data, options.group, os.path.join(path if path.is_dir() else path.parent, ""))
        return data

    return {split: partial(grouped, split) for split in openers}


def _column(source: Openable, kind: str | None, options: OpenOptions, split: str, data: Data) -> list[object]:
    """What a column of a table says of each sample; it is read as that of the labels is."""
    assert options.group is not None
    try:
        read = _ungrouped(source, kind, replace(options, label=options.group, group=None))[split]()
    except UserError as error:
        column = str(error).partition("label must be ")[2]
        if not column:  # it is not the name that is wrong
            raise
        raise UserError(
            f"group must be {ALONE}, {FOLDER}, an expression for paths with one part in brackets, or {column}"
        ) from error
    groups, labels = read.labels, data.labels
    if groups is None or read.paths != data.paths or (labels is not None and torch.equal(groups, labels)):
        raise UserError(
            f"group must be a column of {data.name} beside that of the labels, got {options.group}"
        )
    return [*read.class_names()]


def refuse_missing(source: object, called: str = "data") -> None:
    """Refuse a name or path that stands for nothing, before any work is done for it.

    Args:
        source: As in `open_data`; only names and paths are looked at.
        called: What messages call the source.

    Raises:
        ValueError: It is no built-in set, no address of one of the hubs and no path that exists.
    """
    if not isinstance(source, (str, os.PathLike)):
        return
    name = os.fspath(source)
    if not name:  # as of a variable of the shell that is not set, which would be the working directory
        raise UserError(f"{called} must be a name or a path, got an empty one; . is the working directory")
    path, (word, colon, _) = Path(name).expanduser(), name.partition(":")
    if path.exists() or word in BUILT_IN or (colon and word in _HUBS):
        return
    if "://" in name:
        raise UserError(
            f"{called} at an address must be shards that training streams (--stream), or a path, got {name}"
        )
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    beside = [str(path.parent / sibling) for sibling in siblings]
    if _PATTERN.search(name):
        raise UserError(
            f"{called} must be a path that exists, got {name}; patterns are read with --stream only, so name the folder"
        )
    if os.sep in name or path.suffix:
        missing = next((above for above in reversed(path.parents) if not above.exists()), None)
        why = f", but {missing} does not exist" if missing else ", which does not exist"
        raise UserError(
            f"{called} must be a path that exists, got {name}{why}{check.near(str(path), beside)}"
        )
    raise UserError(
        f"{called} must be a path that exists, one of {', '.join(BUILT_IN)}, or start with hub: or torchvision:, "
        f"got {name}, which does not exist{check.near(name, [*BUILT_IN, *beside])}"
    )


def _suggest_folders(data: Data) -> None:
    """Say that folders below those of the classes may be sources, such as the frames of a video."""
    folders = folder_groups(data.paths, data.labels)
    if folders is not None:
        count = f"{len(folders.unique()):,} folders below those of the classes"
        _log.warning("%s has %s; --group folder keeps each of them in one part", data.name, count)
