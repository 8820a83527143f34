"""Tables in files: parquet and Arrow as columns and rows, delimited text and JSON lines as rows.

Damaged files are refused in one line, before they take memory for what they only claim.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.columns import is_known
from unlabeled.data.labels import NoColumn, recur
from unlabeled.data.limits import refuse_unpacked

__all__ = [
    "ENDINGS",
    "Delimited",
    "JsonLines",
    "Table",
    "json_lines",
    "open_table",
    "read_delimited",
]

ENDINGS = (".parquet", ".arrow", ".feather", ".ipc")
_ROWS = 2**14
"""Rows that any file may have; a larger one may have as many as bytes, for a row that differs takes some."""
_BATCH = 64
_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?')
_PEEKED = 1000
"""Rows by which a delimiter and a heading are recognised."""
_NUMBER = re.compile(r"[-+]?\d*[.,]?\d+(e[-+]?\d+)?")
_NAME = re.compile(r"(?=.*[^\W\d_])[#\w][\w .:/()#?-]*")


class Table:
    """A table in a file, of which a few rows are read at a time.

    Args:
        path: The file.
        schema: Schema of pyarrow.
        rows: Number of rows, None where a stream does not say it.
        batches: Gives the columns of some names, a few rows at a time, as lists by name.
    """

    def __init__(
        self,
        path: Path,
        schema: Any,
        rows: int | None,
        batches: Callable[[Sequence[str]], Iterator[dict[str, list[Any]]]],
    ) -> None:
        self.path, self.schema, self.rows, self.batches = path, schema, rows, batches

    def records(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as values by column, of all columns if None."""
        for batch in self.batches(self.schema.names if columns is None else columns):
            yield from (dict(zip(batch, row)) for row in zip(*batch.values(), strict=True))

    @cached_property
    def kinds(self) -> dict[str, str]:
        """What each column holds.

        `encoded` (a struct of bytes or a path, as `datasets` stores images and sounds), `bytes`, `text`, `number`
        (truth values too), `integers` (lists of them), `list` (of anything else), `nested` or `other`.
        """
        return {field.name: _kind(field.type) for field in self.schema}

    @cached_property
    def features(self) -> dict[str, dict[str, Any]]:
        """What `datasets` has noted of each column in the file."""
        try:
            about = json.loads((self.schema.metadata or {}).get(b"huggingface", b"{}"))
            features = about.get("info", {}).get("features", {})
            return {column: its for column, its in features.items() if isinstance(its, dict)}
        except (ValueError, AttributeError, RecursionError):
            return {}

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """Names of the classes by column, where the file says what the numbers of a column stand for."""
        features = self.features.items()
        return {
            column: [str(name) for name in its["names"]]
            for column, its in features
            if isinstance(its.get("names"), list)
        }


def _kind(type_: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_struct(type_):
        fields = {type_.field(number).name for number in range(type_.num_fields)}
        return "encoded" if fields & {"bytes", "path"} else "nested"
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return "bytes"
    if types.is_string(type_) or types.is_large_string(type_):
        return "text"
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return "integers" if types.is_integer(type_.value_type) else "list"
    if types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_):
        return "number"
    return "nested" if types.is_nested(type_) else "other"


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Refuse a table in one line that names it, whatever is wrong with it."""
    try:
        yield
    except NoColumn:
        raise
    except Exception as error:  # errors of pyarrow and of datasets share no class below Exception
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        kind = "Arrow" if str(path).lower().endswith(ENDINGS[1:]) else "parquet"
        raise UserError(f"{path} must be a readable {kind} file: {check.reason(error)}") from error


def _count_rows(path: Path) -> int:
    """Rows of a parquet file that can be read and claims no more than can be in it."""
    from pyarrow.parquet import read_metadata

    about, size = read_metadata(path), path.stat().st_size
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if max(about.num_rows, sum(rows)) > max(_ROWS, size) or min(about.num_rows, *rows, 0) < 0:
        raise UserError(f"{about.num_rows} rows cannot be in {size} bytes")
    refuse_unpacked(sum(group.total_byte_size for group in groups), size)
    return about.num_rows


def open_table(path: Path) -> Table:
    """Open a parquet file, or one of Arrow (feather, or a stream as `datasets` saves it).

    Raises:
        ValueError: It cannot be read, or claims more than can be in it.
    """
    if path.suffix.lower() != ".parquet":
        return _arrow(path)
    from pyarrow.parquet import ParquetFile, read_schema

    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        with _one_line_errors(path):
            for batch in ParquetFile(path).iter_batches(_BATCH, columns=list(columns)):
                yield batch.to_pydict()

    with _one_line_errors(path):
        return Table(path, read_schema(path), _count_rows(path), batches)


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
        with pa.memory_map(str(path)) as stream:
            for batch in reader(stream)[1]:
                batch.validate()
                unpacked, rows = unpacked + batch.nbytes, rows + batch.num_rows
                refuse_unpacked(unpacked, size)
                if rows > max(_ROWS, size):
                    raise UserError(f"{rows} rows cannot be in {size} bytes")
                yield batch

    def batches(columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        with _one_line_errors(path):
            for batch in whole():
                part = batch.select(list(columns))
                part.validate(full=True)
                for start in range(0, part.num_rows, _BATCH):
                    yield part.slice(start, _BATCH).to_pydict()

    with _one_line_errors(path):
        with pa.memory_map(str(path)) as stream:
            schema = reader(stream)[0]
        return Table(path, schema, sum(batch.num_rows for batch in whole()), batches)


class Delimited(NamedTuple):
    """Rows of delimited text (CSV and the like), each with the number of its line in the file."""

    heading: list[str] | None
    """Names of the columns; None where the first row is one like the others."""
    rows: list[tuple[int, list[str]]]
    """All rows with something in them, the heading not among them."""
    delimiter: str
    above: list[int]
    """Lines above the table, such as comments."""
    broken: list[tuple[int, str]]
    """Lines that are no rows, and why."""


def read_delimited(text: str, *, tabs: bool = False, heading: bool = False) -> Delimited:
    """Read a table by the delimiter that gives most rows the same number of cells.

    Args:
        text: The table, of which a first line such as `sep=;` may name the delimiter.
        tabs: Whether tabs stand between the cells, else the delimiter is guessed.
        heading: Whether the first row is taken as the heading, else that is guessed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # else the csv module refuses long texts
    first, _, rest = text.partition("\n")
    if announced := _SEPARATOR.fullmatch(first.strip("\r ")):
        rows, broken = _rows_of(rest, announced[1], 1, quoted=True)
        delimiter = announced[1]
    else:
        delimiter = "\t" if tabs else _delimiter(text)
        rows, broken = _rows_of(text, delimiter, 0, quoted=not tabs or _is_quoted(text, delimiter))
    if not rows:
        return Delimited(None, [], delimiter, [], broken)
    if heading:
        return Delimited([cell.strip() for cell in rows[0][1]], rows[1:], delimiter, [], broken)
    width = Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    start = next(place for place, (_, cells) in enumerate(rows) if len(cells) >= width)
    names = _heading([cells for _, cells in rows[start:]])
    if start and names is None:  # no heading stands out below those lines
        start, names = 0, _heading([cells for _, cells in rows])
    above = [line for line, _ in rows[:start]]
    return Delimited(names, rows[start + (names is not None) :], delimiter, above, broken)


def _delimiter(text: str) -> str:
    def evenness(delimiter: str) -> float:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            widths = Counter(len(row) for row in islice(lines, _PEEKED) if any(row))
        except csv.Error:
            return 0.0
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        return count / widths.total() if width > 1 else 0.0

    first = text.partition("\n")[0]
    named = [delimiter for delimiter in _DELIMITERS if any(map(is_known, first.split(delimiter)))]
    possible = [delimiter for delimiter in named if delimiter in first] or _DELIMITERS
    return max(possible, key=evenness)


def _is_quoted(text: str, delimiter: str) -> bool:
    """Whether quotes enclose cells, as spreadsheets write them, instead of being a part of the text."""
    if not re.search(rf'(?:^|{delimiter})"', text, re.MULTILINE):
        return False
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            pass
    except csv.Error:
        return False
    return True


def _rows_of(
    text: str, delimiter: str, before: int, *, quoted: bool
) -> tuple[list[tuple[int, list[str]]], list[tuple[int, str]]]:
    """Rows that are not empty, and lines that are none with the reason; `before` is how many lines stand above."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    rows, broken = [], []
    while True:
        try:
            row = next(lines, None)
        except csv.Error as error:
            broken.append((lines.line_num + before, f"is not a row of a table: {check.reason(error)}"))
            continue
        if row is None:
            return rows, broken
        if any(cell.strip() for cell in row):
            rows.append((lines.line_num + before, row))


def _heading(table: Sequence[list[str]]) -> list[str] | None:
    """Names of the columns in the first row, None where it is a row like the others.

    It is a heading where a cell has a usual name, or where all cells are short words and the rows below differ: numbers
    under a word, values that recur under one that does not, or texts of several words under a single one.
    """
    first = [cell.strip() for cell in table[0]]
    below = [row for row in table[1:_PEEKED] if len(row) == len(first)]
    counted = [str(number) for number in range(len(first))]
    if below and len(first) > 1 and first in (counted, ["", *counted[:-1]]):  # as pandas names columns
        return _distinct(first)
    short = all(len(cell) <= 40 and len(cell.split()) <= 4 and not _NUMBER.fullmatch(cell) for cell in first)
    if short and any(map(is_known, first)):
        return _distinct(first)
    named = [cell for cell in first if cell]
    if not short or len({*named}) < len(named) or len(below) < 2 or len(first) < 2:
        return None
    for place, cell in enumerate(first):
        column = [row[place].strip() for row in below]
        numbers = all(_NUMBER.fullmatch(value) for value in column if value) and any(column)
        if numbers or (cell not in column and recur(column) and _is_name(cell)):
            return _distinct(first) if all(map(_is_name, first)) else None
    return None


def _is_name(cell: str) -> bool:
    """Whether it may be the name of a column."""
    return not cell or _NAME.fullmatch(cell) is not None


def _distinct(names: list[str]) -> list[str]:
    """Names of columns, those without one by their number."""
    distinct: list[str] = []
    for number, name in enumerate(names, 1):
        name = name or f"column {number}"
        distinct.append(f"{name} {number}" if name in distinct else name)
    return distinct


class JsonLines(NamedTuple):
    """Values of lines of JSON, and why others are none, each with the number of its line."""

    rows: list[tuple[int, Any]]
    broken: list[tuple[int, str]]


def json_lines(text: str) -> JsonLines:
    """Read lines of JSON, without the empty ones."""
    lines = JsonLines([], [])
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                lines.rows.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:  # of a long number too, or of brackets in brackets
                lines.broken.append((number, f"is not JSON: {check.reason(error)}"))
    return lines
