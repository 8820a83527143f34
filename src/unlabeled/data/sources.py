"""Where encoded images come from: folders, lists, tables, archives, the Hugging Face hub, torchvision.

A source knows cheaply what its content depends on (places, names, sizes and times of its files) and reads when asked.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import listings, tables, tars
from unlabeled.data.files import (
    SPLITS,
    File,
    Walk,
    by_folder,
    by_name,
    digest,
    gc_paused,
    parents,
    separate,
    walk,
)
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.image.rasters import ARRAYS
from unlabeled.data.image.tables import ImageTable, images_of
from unlabeled.data.labels import NO_LABELS, class_name, in_order, label_column, raw
from unlabeled.data.notes import note
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sniff import UNREADABLE, image_files, unreadable

__all__ = [
    "Reading",
    "Source",
    "class_folders",
    "find_files",
    "find_hub",
    "find_listed",
    "find_path",
    "find_rows",
    "find_torchvision",
    "of_paths",
    "open_hub",
    "table_reading",
]

_OF_TORCHVISION = re.compile(r"(^|/)(data_batch_\d|test_batch|batches\.meta|[\w-]+-ubyte(\.gz)?)$")
"""Files of CIFAR and MNIST as they are published."""
_BESIDE = "beside the splits"
_log = logging.getLogger("unlabeled.data")


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
    """What the content depends on, of JSON types; None where nobody knows."""
    prefix: str = ""
    """What stands before the paths that are read: their folder."""
    skipped: list[Skipped] = field(default_factory=list)
    broken: int = 0
    """How many of the skipped files were meant to be images."""
    labels: Mapping[str, Any] | None = None
    """Labels by path with the prefix, which go before those of the items."""
    archives: tuple[str, ...] = ()
    """Archives that the paths begin with; the folders in them are classes and splits as they are outside."""
    label: str | None = None
    """Column of labels that is still to be found in what the items tell of themselves."""

    def stated(self, paths: Sequence[str], values: list[Any]) -> list[Any]:
        """Labels of samples: those that tables beside the files state, else the ones that the items had."""
        if self.labels is None:
            return values
        # A page of an image file has the label of the file.
        return [self.labels.get(path, self.labels.get(path.rpartition("#")[0])) for path in paths]


@gc_paused()
def find_path(path: Path, name: str, label: str | None = None) -> dict[str, Source]:
    """Sources by split of a folder or a file; "all" where nothing tells splits apart.

    Of images in tables, in archives and in files of their own, those are taken of which there are most.

    Args:
        path: A folder of images, tables of images or archives, or one such file, or a list of paths.
        name: What messages call it.
        label: Column of labels; None looks for a usual name.

    Raises:
        ValueError: Nothing of that kind is there, or the column is not.
    """
    if alone := path.is_file():
        found = walk(path)
        if found.files[0].ends(listings.LISTS):
            return find_listed(path, name, label)
        path = path.parent
    else:
        found = walk(path)
    broken = sum(item.lower().endswith((os.sep, *SUFFIXES)) for item in found.unreadable)
    kinds = [("table", tables.ENDINGS), ("archive", tars.ENDINGS), ("image", SUFFIXES)]
    files = {kind: [file for file in found.files if file.ends(endings)] for kind, endings in kinds}
    archives = files["archive"]
    # Beside tables and archives an array is features or masks, not an image.
    beside = files["table"] or archives
    maybe = [file for file in found.files if not (beside and file.suffix in ARRAYS)]
    images = files["image"] = image_files(path, maybe)
    opened, reasons, failure = _opened_tables(path, files["table"], label, bool(images or archives))
    counts = {
        "table": sum(table.table.rows for _, table in opened),
        "archive": len(archives),
        "image": len(images),
    }
    if archives and (opened or images):
        counts["archive"] = _count(path, archives, max(counts["table"], counts["image"]), reasons)
    named = any(table.refers for _, table in opened)  # by a table, so that the files are its images
    kind = "table" if named else _commonest(counts)
    if failure is not None and (kind == "table" or not counts[kind]):
        if alone:  # it may be a list of paths
            with suppress(ValueError):
                return find_listed(path / found.files[0].path, name, label)
        raise failure
    if not counts[kind]:
        raise UserError(_nothing(found, name, reasons))
    if named:
        counts["image"] = max(0, counts["image"] - counts["table"])
    taken = {file.path for file in (images if named else [])}
    taken |= {file.path for file, _ in opened} if kind == "table" else {file.path for file in files[kind]}
    known = None
    if kind == "image":
        lists = [file for file in found.files if file.ends((*listings.LISTS, *tables.ENDINGS))]
        known = listings.known_of(path, images, lists, label)
        taken |= known.used.keys()
        reasons |= {skip.path: skip.reason for skip in known.skipped}
    others = [file for file in found.files if file.path not in taken]
    skipped = [
        Skipped(file.path, reasons.get(file.path) or _why_not(file, dict(kinds)[kind])) for file in others
    ]
    skipped = [Skipped(os.path.join(path, s.path), s.reason) for s in sorted(found.skipped + skipped)]
    _tell(name, kind, counts)
    if kind == "table":
        return _tables(path, name, opened, skipped, broken, digest(images))
    if kind == "archive":
        return _archives(path, name, archives, skipped, broken, label)
    broken += sum(file.suffix in UNREADABLE for file in others)
    return _class_folders(path, name, files[kind], skipped, broken, known)


def _commonest(counts: Mapping[str, int]) -> str:
    """Of what there is most; of equal ones the table, then files, but one beside an archive is a logo."""
    order = {"table": 2, "image": 1 if counts["image"] > 1 else -1, "archive": 0}
    return max(counts, key=lambda kind: (counts[kind], order[kind]))


def _opened_tables(
    root: Path, files: list[File], label: str | None, beside: bool
) -> tuple[list[tuple[File, ImageTable]], dict[str, str], ValueError | None]:
    """Tables of images; why the others are none; and the first error of one.

    Beside images of their own, tables that only name files, or hold bytes that are no images, are none.
    """
    opened: list[tuple[File, ImageTable]] = []
    reasons: dict[str, str] = {}
    failure = None
    alike: dict[Any, ImageTable | None] = {}
    for file in files:
        try:
            table = tables.open_table(root / file.path)
            columns = check.one_line(", ".join(table.schema.names))
            reasons[file.path] = f"no column of images among {columns}"
            if (key := table.schema.serialize().to_pybytes()) not in alike:
                alike[key] = images_of(table, root, label, strict=not beside and len(files) == 1)
            found = alike[key]
        except ValueError as error:
            failure = failure or error
            reasons[file.path] = check.one_line(str(error).removeprefix(f"{root / file.path} "))
            continue
        if found is not None and not (beside and (found.names_files or not found.sure)):
            opened.append((file, found._replace(table=table)))
            reasons[file.path] = f"table of {table.rows} images"
    if files and not opened and failure is None and not beside:
        failure = ValueError(
            f"{root / files[0].path} must have a column of images, got {reasons[files[0].path].rpartition('among ')[2]}"
        )
    if opened and label is not None and not any(table.label for _, table in opened):
        label_column(opened[0][1].table.schema.names, label, opened[0][0].path)
    return opened, reasons, failure


def _count(root: Path, archives: list[File], most: int, reasons: dict[str, str]) -> int:
    """How many images archives hold, counted until they are more than the others."""
    count = 0
    for file in archives:
        try:
            inside = tars.count_images(root / file.path, most + 1 - count)
            reasons[file.path] = f"archive of {inside or 'no'} images" + (
                " or more" if count + inside > most else ""
            )
            count += inside
        except ValueError as error:
            reasons[file.path] = str(error)
        if count > most:
            break
    return count


def _nothing(found: Walk, name: str, reasons: Mapping[str, str]) -> str:
    endings = Counter(file.suffix or "without ending" for file in found.files)
    listing = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5)) or "nothing"
    expected = (
        f"{', '.join(SUFFIXES[:4])} or similar files, .parquet, .arrow, .tar or .zip, or a list of paths"
    )
    batches = [file.path for file in found.files if _OF_TORCHVISION.search(file.path)]
    said = [
        *(f"{file} is of a data set that torchvision:NAME:FOLDER opens" for file in batches[:1]),
        *(f"{skip.path or name}: {skip.reason}" for skip in found.skipped),
        *(f"{p}: {r}" for p, r in reasons.items()),
        *(unreadable(suffix) for suffix in endings if suffix in UNREADABLE),
    ]
    return f"no images in {name}; expected {expected}, found {listing}{''.join(f'; {text}' for text in said[:3])}"


def _tell(name: str, kind: str, counts: Mapping[str, int]) -> None:
    """Say what was taken where something else with images was left."""
    words = {"table": "rows of tables", "archive": "images of archives", "image": "image files"}
    left = [f"{count} {words[other]}" for other, count in counts.items() if other != kind and count]
    if left:
        _log.warning("%s: %d %s are taken; left out: %s", name, counts[kind], words[kind], " and ".join(left))


def find_listed(path: Path, name: str, label: str | None) -> dict[str, Source]:
    """Sources by split of the images that a table or a list of paths names; without labels folders are classes.

    Raises:
        ValueError: It cannot be read, or names no image.
    """
    root, paths, missing, known = listings.images_listed(path, label)
    return of_paths(root, name, paths, missing, known)


def of_paths(
    root: Path, name: str, paths: Sequence[str], missing: list[Skipped], known: listings.Known | None = None
) -> dict[str, Source]:
    """Sources by split of files that are there, with what was meant to be and is not."""
    files = [File.of(path, os.stat(root / path)) for path in paths]
    return _class_folders(root, name, files, missing + (known.skipped if known else []), len(missing), known)


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
    found = walk(path)
    root = path.parent if path.is_file() else path
    files = [file for file in found.files if file.path.lower().endswith(suffixes)]
    if not files:
        endings = Counter(file.suffix or "without ending" for file in found.files)
        listing = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5)) or "nothing"
        raise UserError(f"no {what} in {name}; expected {', '.join(suffixes)} files, found {listing}")
    others = [file for file in found.files if not file.path.lower().endswith(suffixes)]
    skipped = [skip for skip in found.skipped if Path(skip.path).suffix.lower() in suffixes]
    lists = [file for file in others if file.ends((*listings.LISTS, *tables.ENDINGS))]
    known = listings.known_of(root, files, lists, label)
    reasons = {skip.path: skip.reason for skip in known.skipped}
    skipped += [
        Skipped(file.path, reasons.get(file.path, f"not among the {what}"))
        for file in others
        if file.path not in known.used
    ]
    skipped = [Skipped(os.path.join(root, skip.path), skip.reason) for skip in sorted(skipped)]
    return _class_folders(root, name, files, skipped, 0, known)


def _why_not(file: File, suffixes: tuple[str, ...]) -> str:
    if suffixes is not SUFFIXES:
        return f"not a {suffixes[0]} file"
    return unreadable(file.suffix) if file.suffix in UNREADABLE else "not an image file"


def class_folders(paths: Sequence[str]) -> dict[str, tuple[list[int], list[str] | None]]:
    """Rows and class names by split of paths, as the folders of files say them; names None where they say none."""
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        rows.setdefault(path, []).append(row)
    parts = {}
    for split, source in _class_folders(Path(), "", [File(path, "") for path in rows], [], 0).items():
        read = source.read()
        items = list(read.items)
        places = [(row, item.label) for item in items for row in rows[source.prefix + item.path]]
        parts[split] = (
            [row for row, _ in places],
            [str(label) for _, label in places] if read.classes else None,
        )
    return parts


def _class_folders(
    root: Path,
    name: str,
    files: list[File],
    skipped: list[Skipped],
    broken: int,
    known: listings.Known | None = None,
) -> dict[str, Source]:
    """Files in folders: split folders hold class folders, class folders hold files at any depth.

    A folder that holds one folder and no other file of the kind tells nothing apart, so what is in that counts.
    Tables beside the files may say what they are, and which part each is of where no folders say so.
    """
    top = start = os.path.join(root, "") if root != Path() else ""
    stated = {top + path: value for path, value in known.labels.items()} if known else {}
    splits = {top + path: split for path, split in known.splits.items()} if known else {}
    if alone := _alone(parents(files), 0, SPLITS):
        above = os.path.join(*files[0].path.split(os.sep)[:alone], "")
        root, files = root / above, [file._replace(path=file.path[len(above) :]) for file in files]
        top += above
    parts, beside, reason = _parted(files, {path[len(top) :]: split for path, split in splits.items()})
    depth = int(parts.keys() != {"all"} and reason == _BESIDE)
    skipped = skipped + [Skipped(top + file.path, reason) for file in beside]
    folders = {split: parents(part) for split, part in parts.items()}
    depth += _alone(set().union(*folders.values()), depth, ())

    spelled = {folder: _class_of(folder, depth) for part in folders.values() for folder in part}
    names = {split: {spelled[folder] for folder in part} for split, part in folders.items()}
    wrapped = _wrapped(names)
    names |= {split: {None} for split in wrapped}

    def classes_of(split: str) -> list[str] | None:
        """Names of the class folders of a split, those of training, test and validation taken together."""
        alike = parts.keys() & set(SPLITS.values()) if split in SPLITS.values() else {split}
        found = {name for other in alike if None not in names[other] for name in names[other] if name}
        return in_order(found) if None not in names[split] and len(found) > 1 else None

    explicit = known is not None and known.explicit
    tabled = {
        split
        for split, part in parts.items()
        if stated
        and (explicit or (not classes_of(split) and any(top + file.path in stated for file in part)))
    }
    if known:
        beaten = "" if tabled else ", but folders of classes take precedence"
        skipped = skipped + [
            Skipped(start + path, f"labels: of its {column}{beaten}") for path, column in known.used.items()
        ]

    def source(split: str, part: list[File]) -> Source:
        classes = None if split in tabled else classes_of(split)

        def reading() -> Reading:
            return Reading(classes, len(part), _items(root, part, spelled if classes else {}))

        fingerprint = ["folder", os.path.realpath(root), digest(part), classes]
        labels = stated if split in tabled else None
        reason = "" if split in tabled else _why_not_classes(split, part, spelled, wrapped)
        own = [Skipped(name, NO_LABELS + reason)] if reason else []
        return Source(name, reading, fingerprint, top, skipped + own, broken, labels)

    return {split: source(split, part) for split, part in parts.items()}


def _class_of(folder: str, depth: int) -> str | None:
    levels = _levels(folder)[depth:]
    return class_name(levels[0]) if levels else None


def _items(root: Path, files: list[File], classes: Mapping[str, str | None]) -> Iterator[Item]:
    """Files that are not read yet, with the classes of their folders where there are some."""
    for file in files:
        yield Item(file.path, classes.get(file.path.rpartition(os.sep)[0]), root / file.path)


def _why_not_classes(
    split: str, part: list[File], spelled: Mapping[str, str | None], wrapped: Mapping[str, str]
) -> str:
    """Why folders of a part give no classes though there are some, else empty."""
    if split in wrapped:
        return f"{wrapped[split]}, the only folder of its {split} part, is no class in training"
    classes = {file.path: spelled[file.path.rpartition(os.sep)[0]] for file in part}
    beside = next((path for path, found in classes.items() if not found), None)
    return f"{beside} lies beside the folders of classes" if beside and len({*classes.values()}) > 2 else ""


def _wrapped(names: Mapping[str, set[str | None]]) -> dict[str, str]:
    """Parts to test on whose one folder is no class of the training part, as around a flat part, and that folder."""
    known = names.get("train", set())
    if None in known or len(known) < 2:
        return {}
    tests = [(split, names[split]) for split in ("test", "validation") if len(names.get(split, ())) == 1]
    return {split: name for split, found in tests for name in found - known if name}


def _parted(files: list[File], splits: Mapping[str, str]) -> tuple[dict[str, list[File]], list[File], str]:
    """Files by split of their folders, else of tables; those of no split; and what these are."""
    parts, beside = by_folder(files)
    named = {*splits.values()}
    # Where lists name a smaller part to test on and none for training, that is all the rest.
    rest = "train" if "test" in named and "train" not in named and 2 * len(splits) < len(files) else ""
    if parts.keys() != {"all"} or not separate(named | {rest}):
        return parts, beside, _BESIDE
    listed: dict[str, list[File]] = {}
    for file in files:
        listed.setdefault(splits.get(file.path, rest), []).append(file)
    return listed, listed.pop("", []), "in no split of the tables"


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


def _archives(
    root: Path, name: str, files: list[File], skipped: list[Skipped], broken: int, label: str | None
) -> dict[str, Source]:
    return {
        split: Source(
            name,
            lambda part=part: Reading(
                None, None, tars.tar_items([(file.path, root / file.path) for file in part])
            ),
            ["archive", os.path.realpath(root), part],
            os.path.join(root, ""),
            skipped,
            broken,
            archives=tuple(file.path for file in part),
            label=label,
        )
        for split, part in by_name(files).items()
    }


def _tables(
    root: Path,
    name: str,
    opened: list[tuple[File, ImageTable]],
    skipped: list[Skipped],
    broken: int,
    beside: str,
) -> dict[str, Source]:
    """Tables of images; `beside` changes when a file does that they may name."""
    by_path = {file.path: table for file, table in opened}
    skipped = skipped + [
        Skipped(os.path.join(root, file.path), said.reason)
        for file, table in opened[:1]
        for said in table.skipped
    ]

    def reading(part: list[File]) -> Reading:
        return table_reading([(file.path, by_path[file.path]) for file in part], root)

    return {
        split: Source(
            name,
            lambda part=part: reading(part),
            ["table", os.path.realpath(root), part, [by_path[file.path][1:3] for file in part], beside],
            os.path.join(root, ""),
            skipped,
            broken,
        )
        for split, part in by_name([file for file, _ in opened]).items()
    }


def table_reading(named: Sequence[tuple[str, ImageTable]], root: Path) -> Reading:
    """Images of tables, each with what its rows are called where they have no name of their own.

    Numbers of classes are kept where all tables name them alike, and become names where they do not.
    """
    spelled = {name: table.table.classes.get(table.label or "", []) for name, table in named}
    alike = len({*map(tuple, spelled.values())}) == 1
    classes = next(iter(spelled.values())) or None if alike else None

    def items() -> Iterator[Item]:
        for name, table in named:
            own = [] if classes else spelled[name]
            for number, (path, label, content) in enumerate(table.rows(root)):
                if own and isinstance(label, int):
                    label = own[label] if 0 <= label < len(own) else None
                yield Item(path or f"{name}#{number}", raw(label), content)

    return Reading(classes, sum(table.table.rows for _, table in named), items())


def find_hub(address: str, label: str | None = None) -> dict[str, Source]:
    """Sources by split of a data set on the Hugging Face hub, read as a stream.

    Args:
        address: OWNER/NAME or OWNER/NAME:CONFIG.
        label: Column of labels; None looks for a usual name.

    Raises:
        ValueError: The data set cannot be opened.
    """
    builder, splits = open_hub(address)
    known = builder.info.splits or {}

    def total(split: str) -> int | None:
        return known[split].num_examples if split in known else None

    return {
        SPLITS.get(split, split): Source(
            address,
            lambda split=split: find_rows(splits[split], address, split, total(split), label),
            ["hub", address, split, builder.hash, label],
        )
        for split in splits
    }


def open_hub(address: str) -> tuple[Any, dict[str, Any]]:
    """The builder of a data set on the Hugging Face hub, and its splits as streams.

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
        raise UserError(f"cannot open hub:{address}: {error}") from error
    return builder, splits


def find_rows(rows: Any, name: str, file: str, total: int | None, label: str | None) -> Reading:
    """Images of a `datasets.Dataset` or `datasets.IterableDataset`.

    Args:
        rows: The data set.
        name: What messages call it.
        file: What its rows are called where they have no name.
        total: Number of its rows, None where that is unknown.
        label: Column of labels; None looks for a usual name.

    Raises:
        ValueError: It has no column of images, or not that of labels.
    """
    from datasets import ClassLabel, Image, Value

    features = rows.features or _features_of_first(rows)

    def is_image(feature: Any) -> bool:
        encoded = isinstance(feature, dict) and "bytes" in feature
        return isinstance(feature, Image) or encoded or feature in (Value("binary"), Value("large_binary"))

    images = [column for column, feature in features.items() if is_image(feature)]
    if not images:
        raise UserError(f"{name} must have a column of images, got {check.one_line(', '.join(features))}")
    image = next((column for column in images if isinstance(features[column], Image)), images[0])
    simple = [column for column, feature in features.items() if isinstance(feature, ClassLabel | Value)]
    named = [column for column in simple if isinstance(features[column], ClassLabel)]
    chosen = label_column(features if label else simple, label, name) or next(iter(named), None)
    chosen = chosen or label_column([column for column in features if column not in images])
    classes = features[chosen].names if chosen in named else None
    if isinstance(features[image], Image):
        rows = rows.cast_column(image, Image(decode=False))
    if (getattr(rows, "format", None) or {}).get("type") == "custom":
        note(f"{name}: its images are read as they are stored, without the transform that it was given")
    rows = rows.with_format(None).select_columns([column for column in (image, chosen) if column])

    def items() -> Iterator[Item]:
        number = 0
        for batch in rows.iter(64):
            for value, known in zip(batch[image], batch[chosen] if chosen else [None] * len(batch[image])):
                value = value if isinstance(value, dict) else {"bytes": value}
                path, content = value.get("path"), value.get("bytes")
                if content is None:
                    content = Path(path) if path else b""
                yield Item(path or f"{file}#{number}", raw(known), content)
                number += 1

    return Reading(classes, total, items())


def _features_of_first(rows: Any) -> Any:
    """Types of the columns of a stream that does not say them, as its first rows have them."""
    import pyarrow as pa
    from datasets import Features

    first = next(iter(rows.with_format(None).iter(batch_size=5)))
    return Features.from_arrow_schema(pa.Table.from_pydict(first).schema)


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
        raise UserError(f"torchvision has no data set {name}; the nearest name is {near}")
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
        raise UserError(f"torchvision:{name} must lie below {root}: {reason}")
    place = [os.path.realpath(root), walk(Path(root)).files]

    def reading(dataset: Any) -> Reading:
        if hasattr(dataset, "samples"):
            items = (Item(path, int(label), Path(path)) for path, label in dataset.samples)
        else:
            samples = ((row, dataset[row]) for row in range(len(dataset)))
            items = (Item(f"{name}[{row}]", raw(label), image) for row, (image, label, *_) in samples)
        classes = getattr(dataset, "classes", None)
        return Reading(classes and [str(name) for name in classes], len(dataset), items)

    return {
        split: (dataset, Source(name, lambda d=dataset: reading(d), ["torchvision", name, split, place]))
        for split, dataset in found.items()
    }
