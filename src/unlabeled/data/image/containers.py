"""Images of a folder or file: in tables, in archives or in files of their own, whichever holds the most."""

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import listings, tars
from unlabeled.data.files import File, Walk, by_name, digest, gc_paused, separate, walk
from unlabeled.data.image.decode import SUFFIXES, is_image
from unlabeled.data.image.layouts import image_sets, separate_masks
from unlabeled.data.image.rasters import ARRAYS
from unlabeled.data.image.tables import ImageTable, images_of, table_reading
from unlabeled.data.labels import label_column
from unlabeled.data.notes import note
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Reading, Source, common_endings, of_paths, skipped_files, with_tables
from unlabeled.data.tables import ENDINGS, open_table

__all__ = ["find_path"]

_WORDS = {"table": "rows of tables", "archive": "images of archives", "image": "image files"}
_ENDINGS = {"table": ENDINGS, "archive": tars.ENDINGS, "image": SUFFIXES}
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw")
_HELP = {
    **dict.fromkeys((".heic", ".heif"), "pip install pillow-heif"),
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys(_RAW, "convert them, such as with rawpy"),
    ".dcm": "convert them, such as with pydicom",
    **dict.fromkeys((".svg", ".psd"), "convert them to PNG or TIFF"),
}
"""Endings of images that nothing here reads, but for those that a plugin of Pillow adds to `SUFFIXES`; what helps."""
_NO_IMAGES = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".yaml", ".yml", ".toml", ".log"),
    *(".py", ".parquet", ".arrow", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip", ".7z", ".rar", ".pkl"),
    *(".safetensors", ".wav", ".flac", ".ogg", ".mp3", ".mp4", ".mkv", ".avi", ".mov", ".webm", ".pdf"),
    *(".h5", ".hdf5", ".mat", ".cls", *_HELP, *ARRAYS),
)
"""Endings of files whose content is not looked at, as they are something else or cannot be read."""
_OF_TORCHVISION = re.compile(r"(^|/)(data_batch_\d|test_batch|batches\.meta|[\w-]+-ubyte(\.gz)?)$")
"""Files of CIFAR and MNIST as they are published."""
_HEAD = 32
_log = logging.getLogger("unlabeled.data")


@gc_paused()
def find_path(
    path: Path, name: str, label: str | None = None, annotations: str | None = None
) -> dict[str, Source]:
    """Sources by split of a folder or a file of images, tables or archives, or a list of paths; "all" without splits.

    Masks of images are no images. For `annotations` (boxes or masks) lists of VOC are those for them, and rows of
    tables are called by their numbers.

    Raises:
        ValueError: Nothing of that kind is there, or the column `label` is not.
    """
    if path.is_file() and path.name.lower().endswith(listings.LISTS):
        return _find_listed(path, name, label)
    below = _without_annotations(walk(path), name, annotations)
    root, files = below.root, {kind: [f for f in below.files if f.ends(_ENDINGS[kind])] for kind in _WORDS}
    # Beside tables and archives an array is features or masks, not an image.
    beside = files["table"] or files["archive"]
    images = _image_files(root, [file for file in below.files if not (beside and file.suffix in ARRAYS)])
    archives, files["image"] = files["archive"], images
    tables, reasons, failure = _open_tables(root, files["table"], label, bool(images or archives))
    counts = {
        "table": sum(table.table.rows or 0 for _, table in tables),
        "archive": len(archives),
        "image": len(images),
    }
    if archives and (tables or images):
        counts["archive"] = _count(root, archives, max(counts["table"], counts["image"]), reasons)
    refers = any(table.refers for _, table in tables)  # to files, which are its images
    kind = "table" if refers else _commonest(counts)
    if failure is not None and (kind == "table" or not counts[kind]):
        if path.is_file():  # it may be a list of paths
            with suppress(ValueError):
                return _find_listed(path, name, label)
        raise failure
    if not counts[kind]:
        raise UserError(_nothing(below, name, reasons))
    if refers:
        counts["image"] = max(0, counts["image"] - counts["table"])
    if left := [f"{count} {_WORDS[other]}" for other, count in counts.items() if other != kind and count]:
        most = f"{counts[kind]} {_WORDS[kind]}"
        _log.warning("%s: %s used; ignored: %s", name, most, " and ".join(left))
    broken = sum(path.lower().endswith((os.sep, *SUFFIXES)) for path in below.unreadable)

    def why_not(file: File) -> str:
        general = "not an image file" if kind == "image" else f"not a {_ENDINGS[kind][0]} file"
        if kind == "image" and file.suffix in _HELP:
            general = _unreadable(file.suffix)
        return reasons.get(file.path) or general

    if kind == "image":
        broken += sum(file.suffix in _HELP and not file.ends(SUFFIXES) for file in below.files)
        return with_tables(below, name, images, label, why_not, broken)
    files["table"] = [file for file, _ in tables]
    inputs = {file.path for file in files[kind] + (images if refers else [])}
    skipped = skipped_files(below, inputs, why_not)
    if kind == "table":
        return _tables(root, name, tables, skipped, broken, digest(images), annotations is not None)
    return _archives(root, name, archives, skipped, broken, label)


def _without_annotations(below: Walk, name: str, annotations: str | None) -> Walk:
    """A walk without masks of images, and without lists of VOC that do not say the parts."""
    images, masks = separate_masks([file for file in below.files if file.ends(SUFFIXES)])
    if masks:
        note(f"{name}: {len(masks):,} masks of {len(images):,} images are not read as images")
    left = masks + image_sets(below.files, annotations == "masks")
    paths = {skip.path for skip in left}
    files = [file for file in below.files if file.path not in paths]
    return below._replace(files=files, skipped=sorted(below.skipped + left))


def _find_listed(path: Path, name: str, label: str | None) -> dict[str, Source]:
    """Sources by split of the images that a table or a list of paths names; without labels folders are classes."""
    root, paths, missing, annotations = listings.images_listed(path, label)
    return of_paths(root, name, paths, missing, annotations)


def _commonest(counts: Mapping[str, int]) -> str:
    """Of what there is most; of equal ones the table, then files, but one beside an archive is a logo."""
    order = {"table": 2, "image": 1 if counts["image"] > 1 else -1, "archive": 0}
    return max(counts, key=lambda kind: (counts[kind], order[kind]))


def _image_files(root: Path, files: Sequence[File]) -> list[File]:
    """Files that are images, in their order: by their ending, or by their content where that is no usual one.

    Where there are none, arrays of one image each are taken (see `rasters`).
    """
    images = [file for file in files if file.ends(SUFFIXES) or _begins_as_image(root, file)]
    if not images:
        images = [file for file in files if file.suffix in ARRAYS]
        if kinds := sorted({file.suffix for file in images}):
            note(f"{root}: every {' or '.join(kinds)} file is read as one image")
    return images


def _begins_as_image(root: Path, file: File) -> bool:
    if file.suffix in _NO_IMAGES:
        return False
    try:
        with (root / file.path).open("rb") as content:
            return is_image(content.read(_HEAD))
    except OSError:
        return False


def _unreadable(suffix: str) -> str:
    return f"{suffix} images cannot be read: {_HELP[suffix]}"


def _open_tables(
    root: Path, files: list[File], label: str | None, beside: bool
) -> tuple[list[tuple[File, ImageTable]], dict[str, str], ValueError | None]:
    """Tables of images; why the others are none; and the first error of one.

    Beside images of their own, tables that only name files, or hold bytes that are no images, are none.
    """
    tables: list[tuple[File, ImageTable]] = []
    reasons: dict[str, str] = {}
    failure = None
    alike: dict[Any, ImageTable | None] = {}
    for file in files:
        path = root / file.path
        try:
            table = open_table(path)
            columns = check.one_line(", ".join(table.schema.names))
            reasons[file.path] = f"no column of images among {columns}"
            if (key := table.schema.serialize().to_pybytes()) not in alike:
                alike[key] = images_of(table, root, label, strict=not beside and len(files) == 1)
            images = alike[key]
        except ValueError as error:
            failure = failure or error
            reasons[file.path] = check.one_line(str(error).removeprefix(f"{path} "))
            continue
        if images is not None and not (beside and (images.names_files or not images.sure)):
            tables.append((file, images._replace(table=table)))
            reasons[file.path] = f"table of {table.rows} images"
    if files and not tables and failure is None and not beside:
        got = reasons[files[0].path].rpartition("among ")[2]
        failure = UserError(f"{root / files[0].path} must have a column of images, got {got}")
    if tables and label is not None and not any(table.label for _, table in tables):
        label_column(tables[0][1].table.schema.names, label, tables[0][0].path)
    return tables, reasons, failure


def _count(root: Path, archives: list[File], most: int, reasons: dict[str, str]) -> int:
    """How many images archives hold, counted until they are more than the others."""
    count = 0
    for file in archives:
        try:
            inside = tars.count_images(root / file.path, most + 1 - count)
            more = " or more" if count + inside > most else ""
            reasons[file.path] = f"archive of {inside or 'no'} images{more}"
            count += inside
        except ValueError as error:
            reasons[file.path] = str(error)
        if count > most:
            break
    return count


def _nothing(below: Walk, name: str, reasons: Mapping[str, str]) -> str:
    expected = (
        f"{', '.join(SUFFIXES[:4])} or similar files, .parquet, .arrow, .tar or .zip, or a list of paths"
    )
    batches = [file.path for file in below.files if _OF_TORCHVISION.search(file.path)]
    remarks = [
        *(f"{file} is of a data set that torchvision:NAME:FOLDER opens" for file in batches[:1]),
        *(f"{skip.path or name}: {skip.reason}" for skip in below.skipped),
        *(f"{path}: {reason}" for path, reason in reasons.items()),
        *(
            _unreadable(suffix)
            for suffix in dict.fromkeys(file.suffix for file in below.files)
            if suffix in _HELP
        ),
    ]
    more = "".join(f"; {text}" for text in remarks[:3])
    return f"no images in {name}; expected {expected}, found {common_endings(below.files)}{more}"


def _archives(
    root: Path, name: str, files: list[File], skipped: list[Skipped], broken: int, label: str | None
) -> dict[str, Source]:
    def source(part: list[File]) -> Source:
        def read() -> Reading:
            return Reading(None, None, tars.tar_items([(file.path, root / file.path) for file in part]))

        fingerprint, names = ["archive", os.path.realpath(root), part], tuple(file.path for file in part)
        prefix = os.path.join(root, "")
        return Source(name, read, fingerprint, prefix, skipped, broken, archives=names, label=label)

    return {split: source(part) for split, part in by_name(files).items()}


def _tables(
    root: Path,
    name: str,
    tables: list[tuple[File, ImageTable]],
    skipped: list[Skipped],
    broken: int,
    beside: str,
    by_row: bool,
) -> dict[str, Source]:
    """Sources of tables of images, whose splits are in their names, else in a column of each that says them.

    `beside` changes when a file does that they may name.
    """
    by_path = {file.path: table for file, table in tables}
    first, table = tables[0]
    skipped = skipped + [Skipped(os.path.join(root, first.path), remark.reason) for remark in table.skipped]

    def source(
        part: list[File], split: str = "", rows: Mapping[str, Collection[int]] | None = None
    ) -> Source:
        columns = [by_path[file.path][1:3] for file in part]
        fingerprint = ["table", os.path.realpath(root), part, columns, beside]
        fingerprint += (["by row"] if by_row else []) + ([split] if split else [])

        def read() -> Reading:
            part_tables = [(file.path, by_path[file.path]) for file in part]
            return table_reading(part_tables, root, by_row=by_row, rows=rows)

        return Source(name, read, fingerprint, os.path.join(root, ""), skipped, broken)

    parts = by_name([file for file, _ in tables])
    if parts.keys() == {"all"} and (rows := _rows_of_splits(tables)):
        counts = ", ".join(f"{split} {sum(map(len, own.values())):,}" for split, own in rows.items())
        note(f"{name}: a column says the splits of the images: {counts}")
        return {split: source(parts["all"], split, own) for split, own in rows.items()}
    return {split: source(part) for split, part in parts.items()}


def _rows_of_splits(tables: Sequence[tuple[File, ImageTable]]) -> dict[str, dict[str, set[int]]]:
    """Rows of each table by split; nothing where a table does not say them, or they are no two parts."""
    words = {file.path: table.splits if table.table.rows != 0 else [] for file, table in tables}
    splits = {word for own in words.values() for word in own or ()}
    if None in words.values() or not separate(splits):
        return {}
    return {
        split: {
            path: {row for row, word in enumerate(own or ()) if word == split} for path, own in words.items()
        }
        for split in sorted(splits)
    }
