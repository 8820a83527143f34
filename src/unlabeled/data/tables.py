"""Tables in parquet and Arrow files, and which of their columns hold images and labels.

Damaged files are told in one line, before they take memory for what they only claim.
"""

import base64
import binascii
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.labels import NO_LABELS, NoColumn, label_column
from unlabeled.data.limits import refuse_unpacked
from unlabeled.data.samples import Skipped

__all__ = ["ENDINGS", "ImageTable", "Table", "count_rows", "images_of", "open_table", "told"]

ENDINGS = (".parquet", ".arrow", ".feather", ".ipc")
_ROWS = 2**14
"""Rows that any file may have; a larger one may have as many as bytes, for a row that differs takes some."""
_BATCH = 64
_IMAGES = ("image", "img", "images", "picture", "photo", "pixels", "jpg", "jpeg", "png", "bytes")
"""Usual names of columns of images, where several hold some."""
_MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\0\0\1\0"),
)
"""How encoded images begin."""


class Table(NamedTuple):
    """A table in a file; `batches` gives some columns, a few rows at a time, as lists."""

    path: Path
    schema: Any
    rows: int
    batches: Callable[[Sequence[str]], Iterator[dict[str, list[Any]]]]

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the classes by column, where the file says what the numbers of a column stand for."""
        try:
            about = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            features = about.get("info", {}).get("features", {})
            return {
                column: [str(name) for name in its["names"]]
                for column, its in features.items()
                if isinstance(its, dict) and isinstance(its.get("names"), list)
            }
        except (ValueError, AttributeError, RecursionError):
            return {}


class ImageTable(NamedTuple):
    """A table of images."""

    table: Table
    image: str
    label: str | None
    sure: bool
    """Whether a value was seen that is an image, and not only a column that may hold some."""
    names_files: bool
    """Whether its column of images is text: names of files, which may lie beside it."""
    refers: bool
    """Whether the images are files, by any kind of column."""
    skipped: list[Skipped]
    """What must be said of its columns."""

    def rows(self, root: Path) -> Iterator[tuple[str | None, Any, Path | bytes | str]]:
        """Path, label, and file, bytes or the reason why there are none, of each row."""
        wanted = [self.image, *([self.label] if self.label else [])]
        folders = [self.table.path.parent, root]
        for batch in self.table.batches(wanted):
            labels = batch[self.label] if self.label else [None] * len(batch[self.image])
            for value, label in zip(batch[self.image], labels, strict=True):
                content = _content(value, folders)
                path = value.get("path") if isinstance(value, dict) else None
                yield os.path.relpath(content, root) if isinstance(content, Path) else path, label, content


@contextmanager
def told(path: Path | str) -> Iterator[None]:
    """Turn whatever a table is refused for into one line that names it.

    Raises:
        ValueError: Anything went wrong.
    """
    try:
        yield
    except NoColumn:
        raise
    except Exception as error:  # errors of pyarrow and of datasets share no class below Exception
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        kind = "Arrow" if str(path).lower().endswith(ENDINGS[1:]) else "parquet"
        raise UserError(f"{path} must be a readable {kind} file: {check.reason(error)}") from error


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of parquet files.

    Raises:
        ValueError: One cannot be read, or claims more than can be in it.
    """
    from pyarrow.parquet import read_metadata

    total = 0
    for path in paths:
        with told(path):
            about, size = read_metadata(path), path.stat().st_size
            unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            rows, groups = about.num_rows, [about.row_group(i).num_rows for i in range(about.num_row_groups)]
            if max(rows, sum(groups)) > max(_ROWS, size) or min(rows, *groups, 0) < 0:
                raise UserError(f"{rows} rows cannot be in {size} bytes")
            refuse_unpacked(unpacked, size)
            total += rows
    return total


def open_table(path: Path) -> Table:
    """Open a parquet file, or one of Arrow (feather, or a stream as `datasets` saves it).

    Raises:
        ValueError: It cannot be read, or claims more than can be in it.
    """
    if path.suffix.lower() != ".parquet":
        return _arrow(path)
    from pyarrow.parquet import ParquetFile, read_schema

    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        with told(path):
            for batch in ParquetFile(path).iter_batches(_BATCH, columns=list(columns)):
                yield batch.to_pydict()

    rows = count_rows([path])
    with told(path):
        return Table(path, read_schema(path), rows, batches)


def _arrow(path: Path) -> Table:
    import pyarrow as pa

    def reader(stream: Any) -> tuple[Any, Iterator[Any]]:
        try:
            file = pa.ipc.open_file(stream)
            return file.schema, map(file.get_batch, range(file.num_record_batches))
        except pa.ArrowInvalid:
            stream.seek(0)
            file = pa.ipc.open_stream(stream)
            return file.schema, iter(file)

    def whole() -> Iterator[Any]:
        unpacked, rows, size = 0, 0, path.stat().st_size
        with told(path), pa.memory_map(str(path)) as stream:
            for batch in reader(stream)[1]:
                batch.validate()
                unpacked, rows = unpacked + batch.nbytes, rows + batch.num_rows
                refuse_unpacked(unpacked, size)
                if rows > max(_ROWS, size):
                    raise UserError(f"{rows} rows cannot be in {size} bytes")
                yield batch

    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        with told(path):
            for batch in whole():
                picked = batch.select(list(columns))
                picked.validate(full=True)
                for start in range(0, picked.num_rows, _BATCH):
                    yield picked.slice(start, _BATCH).to_pydict()

    with told(path), pa.memory_map(str(path)) as stream:
        schema = reader(stream)[0]
    return Table(path, schema, sum(batch.num_rows for batch in whole()), batches)


def images_of(
    table: Table, root: Path, label: str | None = None, *, strict: bool = True
) -> ImageTable | None:
    """The columns of a table that hold images and labels; None where no column can hold images.

    Images are the column whose values begin as images do, or are paths of such: bytes, perhaps in a struct or as
    lists of numbers or in base64, or names of files beside the table or below the root.

    Args:
        table: The table.
        root: Folder that paths may be relative to.
        label: Column of labels that the user asked for.
        strict: Whether that column must be there.

    Raises:
        ValueError: It cannot be read, its images are links, or the column of labels is not there.
    """
    kinds = {field.name: kind for field in table.schema if (kind := _kind(field.type))}
    seen = next(table.batches([*kinds]), {}) if kinds else {}
    folders, ranks, links = [table.path.parent, root], {}, []
    for column, kind in kinds.items():
        values = [value for value in seen.get(column, []) if value is not None]
        contents = [_content(value, folders) for value in values]
        links += [column] if any(content == _LINK for content in contents) else []
        sure = any(map(_is_image, contents))
        if sure or kind != "text":
            usual = column.lower() in _IMAGES
            ranks[column] = sure, usual, kind == "struct"
    if not any(sure for sure, _, _ in ranks.values()) and links:
        raise UserError(
            f"{table.path} has links in the column {links[0]}, which are not fetched; download them first"
        )
    if not ranks:
        return None
    image = max(ranks, key=lambda column: ranks[column])  # the first of equal ones
    files = [value for value in seen[image] if isinstance(_content(value, folders), Path)]
    names_files = any(isinstance(value, str) for value in files)
    chosen, skipped = _label_of(table, image, label, strict)
    return ImageTable(table, image, chosen, ranks[image][0], names_files, bool(files), skipped)


def _label_of(table: Table, image: str, asked: str | None, strict: bool) -> tuple[str | None, list[Skipped]]:
    """The column of labels, and what must be said of the choice."""
    from pyarrow import types

    others = [field for field in table.schema if field.name != image]
    simple = [
        field.name
        for field in others
        if not (
            types.is_nested(field.type) or types.is_binary(field.type) or types.is_large_binary(field.type)
        )
    ]
    lists = [field.name for field in others if types.is_list(field.type)]
    numbered = [column for column in table.names if column in simple]
    every = [field.name for field in others]
    if asked is not None:
        return label_column(every, asked, str(table.path), strict=strict), []
    label = label_column(simple) or next(iter(numbered), None) or label_column(lists)
    if label is None:
        listing = check.one_line(", ".join(every))
        said = f"{NO_LABELS}its columns are {listing}; choose one with label" if every else ""
    else:
        usual = [column for column in simple if label_column([column]) or column in numbered]
        rivals = ", ".join(column for column in usual if column != label)
        said = (
            f"labels: of the column {label}; other candidates, chosen with label: {rivals}" if rivals else ""
        )
    return label, [Skipped(table.path.name, said)] if said else []


_LINK = "a link, which is not fetched"


def _kind(type_: Any) -> str | None:
    """How a column may hold images; None where it cannot."""
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_struct(type_):
        return (
            "struct" if {type_.field(i).name for i in range(type_.num_fields)} & {"bytes", "path"} else None
        )
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return "bytes"
    if types.is_string(type_) or types.is_large_string(type_):
        return "text"
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return "text" if types.is_integer(type_.value_type) else None
    return None


def _content(value: Any, folders: Sequence[Path]) -> Path | bytes | str:
    """A file, bytes, or the reason why a value is neither."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, list):
        try:
            value = bytes(value)
        except (TypeError, ValueError):
            return "numbers that are not bytes"
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        return b""
    if value.startswith(("http://", "https://", "s3://", "gs://")):
        return _LINK
    if value.startswith("data:") or len(value) > 1000:
        try:
            return base64.b64decode(value.partition("base64,")[2] or value, validate=False)
        except (binascii.Error, ValueError):
            return "text that is not base64"
    name = value if "/" in value else value.replace("\\", os.sep)
    places = [folder / name for folder in folders] + [Path(name)]
    found = next((place for place in places if _exists(place)), None)
    if found is None and (content := _of_base64(value)):
        return content
    return found or places[0]


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _of_base64(text: str) -> bytes | None:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if _is_image(content) else None


def _is_image(content: Path | bytes | str) -> bool:
    if isinstance(content, Path):
        return _exists(content) and content.name.lower().endswith(SUFFIXES)
    return isinstance(content, bytes) and (content.startswith(_MAGIC) or content[4:8] == b"ftyp")
