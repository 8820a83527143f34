"""Which columns of a table hold images and their labels, and what is in them."""

import base64
import binascii
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import split_column, split_words
from unlabeled.data.image.decode import SUFFIXES, is_image
from unlabeled.data.labels import NO_LABELS, label_column, raw
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Reading
from unlabeled.data.tables import Table

__all__ = ["ImageTable", "images_of", "table_reading"]

_USUAL = frozenset(["image", "img", "images", "picture", "photo", "pixels", "jpg", "jpeg", "png", "bytes"])
"""Usual names of columns of images, where several hold some."""
_MAGIC = (b"GIF8", b"RIFF", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\0\0\0\x0cjP  ", b"\0\0\1\0")
"""How encoded images begin that only a table is trusted to hold."""
_LINK = "a link, which is not fetched"


class ImageTable(NamedTuple):
    """A table of images."""

    table: Table
    image: str
    label: str | None
    sure: bool
    """Whether one of its values is an image; else it is only a column that may hold some."""
    names_files: bool
    """Whether its column of images is text: names of files, which may lie beside it."""
    refers: bool
    """Whether the images are files, by any kind of column."""
    skipped: list[Skipped]
    """Remarks on its columns."""

    @property
    def splits(self) -> list[str] | None:
        """The split of each row, as a column says it; None where none does."""
        column = split_column(
            name for name in self.table.schema.names if name not in (self.image, self.label)
        )
        if column is None or self.table.kinds[column] not in ("text", "other"):
            return None
        return split_words(row[column] for row in self.table.records([column]))

    def rows(self, root: Path) -> Iterator[tuple[str | None, Any, Path | bytes | str]]:
        """Path, label, and file, bytes or the reason why there are none, of each row."""
        folders = [self.table.path.parent, root]
        for row in self.table.records([self.image, *([self.label] if self.label else [])]):
            value, content = row[self.image], _content(row[self.image], folders)
            path = value.get("path") if isinstance(value, dict) else None
            path = os.path.relpath(content, root) if isinstance(content, Path) else path
            yield path, row[self.label] if self.label else None, content


def images_of(
    table: Table, root: Path, label: str | None = None, *, strict: bool = True
) -> ImageTable | None:
    """The columns of a table that hold images and labels; None where no column can hold images.

    Images are the column whose values begin as images do, or are paths of such: bytes, perhaps in a struct or as
    lists of numbers or in base64, or names of files beside the table or below `root`.

    Args:
        table: The table.
        root: Folder that paths may be relative to.
        label: Column of labels that the user asked for.
        strict: Whether that column must be there.

    Raises:
        ValueError: It cannot be read, its images are links, or the column of labels is not there.
    """
    kinds = {
        column: kind
        for column, kind in table.kinds.items()
        if kind in ("encoded", "bytes", "text", "integers")
        and table.features.get(column, {}).get("_type") != "Audio"
    }
    head = next(table.batches([*kinds]), {}) if kinds else {}
    folders, ranks, links = [table.path.parent, root], {}, []
    for column, kind in kinds.items():
        contents = [_content(value, folders) for value in head.get(column, []) if value is not None]
        links += [column] if _LINK in contents else []
        sure = any(map(_is_image, contents))
        if sure or kind in ("encoded", "bytes"):
            ranks[column] = sure, column.lower() in _USUAL, kind == "encoded"
    if not any(sure for sure, _, _ in ranks.values()) and links:
        raise UserError(
            f"{table.path} has links in the column {links[0]}, which are not fetched; download them first"
        )
    if not ranks:
        return None
    image = max(ranks, key=lambda column: ranks[column])  # the first of equal ones
    files = [value for value in head.get(image, []) if isinstance(_content(value, folders), Path)]
    names_files = any(isinstance(value, str) for value in files)
    column, remarks = _label_of(table, image, label, strict)
    return ImageTable(table, image, column, ranks[image][0], names_files, bool(files), remarks)


def _label_of(
    table: Table, image: str, request: str | None, strict: bool
) -> tuple[str | None, list[Skipped]]:
    """The column of labels, and a remark on the choice."""
    others = {column: kind for column, kind in table.kinds.items() if column != image}
    if request is not None:
        return label_column(others, request, str(table.path), strict=strict), []
    simple = [column for column, kind in others.items() if kind in ("text", "number", "other")]
    enumerated = [column for column in table.classes if column in simple]
    lists = [column for column, kind in others.items() if kind in ("integers", "list")]
    label = label_column(simple) or next(iter(enumerated), None) or label_column(lists)
    remark = ""
    if label is None and others:
        remark = f"{NO_LABELS}its columns are {check.one_line(', '.join(others))}; choose one with --label"
    elif rivals := [
        column for column in simple if column != label and (label_column([column]) or column in enumerated)
    ]:
        remark = f"labels: of the column {label}; other candidates, chosen with label: {', '.join(rivals)}"
    return label, [Skipped(table.path.name, remark)] if remark else []


def _content(value: Any, folders: Sequence[Path]) -> Path | bytes | str:
    """A file, bytes, or the reason why a value is neither."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, list):
        try:
            return bytes(value)
        except (TypeError, ValueError):
            return "numbers that are not bytes"
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        return b""
    if value.startswith(("http://", "https://", "s3://", "gs://")):
        return _LINK
    if value.startswith("data:") or len(value) > 1000:
        content = _of_base64(value.partition("base64,")[2] or value, strict=False)
        return "text that is not base64" if content is None else content
    name = value if "/" in value else value.replace("\\", os.sep)
    paths = [*(folder / name for folder in folders), Path(name)]
    if (path := next(filter(_is_file, paths), None)) is None:
        content = _of_base64(value)
        return content if content is not None and _is_image(content) else paths[0]
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _of_base64(text: str, *, strict: bool = True) -> bytes | None:
    try:
        return base64.b64decode(text, validate=strict)
    except (binascii.Error, ValueError):
        return None


def _is_image(content: Path | bytes | str) -> bool:
    if isinstance(content, Path):
        return _is_file(content) and content.name.lower().endswith(SUFFIXES)
    return isinstance(content, bytes) and (
        is_image(content[:32]) or content.startswith(_MAGIC) or content[4:8] == b"ftyp"
    )


def table_reading(
    tables: Sequence[tuple[str, ImageTable]],
    root: Path,
    *,
    by_row: bool = False,
    rows: Mapping[str, Collection[int]] | None = None,
) -> Reading:
    """Images of tables, each with what its rows are called where they have no name of their own, or `by_row`.

    Numbers of classes are kept where all tables name them alike, and become names where they do not. Of each table
    only some rows are read where `rows` has their numbers by the name of the table.
    """
    names = {name: table.table.classes.get(table.label or "", []) for name, table in tables}
    alike = len({*map(tuple, names.values())}) == 1
    classes = next(iter(names.values())) or None if alike else None

    def items() -> Iterator[Item]:
        for name, table in tables:
            own = [] if classes else names[name]
            for number, (path, label, content) in enumerate(table.rows(root)):
                if rows is not None and number not in rows[name]:
                    continue
                if own and isinstance(label, int):
                    label = own[label] if 0 <= label < len(own) else None
                called = f"{name}#{number}" if by_row or not path else path
                yield Item(called, raw(label), content)

    totals = [table.table.rows if rows is None else len(rows[name]) for name, table in tables]
    return Reading(classes, None if None in totals else sum(filter(None, totals)), items())
