"""Texts in files: plain text, tables of labels and texts, JSON, parquet, the Hugging Face hub."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.columns import Columns, choose, flat, is_known
from unlabeled.data.files import SPLITS, File, by_name, walk
from unlabeled.data.limits import refuse_unpacked
from unlabeled.data.notes import note
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Source, find_files, open_hub
from unlabeled.data.tables import open_table
from unlabeled.data.text.encodings import Decoder, Errors, checked

__all__ = ["Reader", "Rows", "find_hub_texts", "find_texts", "groups"]

GROUP = 2000
"""Characters after which a group of paragraphs of a single file ends."""

_PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PARQUET = (".parquet",)


def _also_packed(*endings: str) -> tuple[str, ...]:
    return tuple(ending + packed for packed in ("", *_PACKED) for ending in endings)


_PLAIN, _TABLES, _JSON = (
    _also_packed(".txt"),
    _also_packed(".tsv", ".csv"),
    _also_packed(".jsonl", ".ndjson", ".json"),
)
_MARKED = (".md", ".rst")
_OTHER_FORMATS = (".html", ".htm", ".xml", ".pdf", ".doc", ".docx", ".epub", ".rtf", ".tex", ".xls", ".xlsx")
_ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog", "citation")
"""Names of files that are about the data."""
_BLOCK = 2**20
"""Bytes that are unpacked at a time."""
_HALF = re.compile("[\ud800-\udfff]")
_PEEKED = 1000
_NUMBER = re.compile(r"[-+]?\d*[.,]?\d+(e[-+]?\d+)?")
_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?')
_EVEN = 0.9
"""Share of the rows that have the same number of cells where a table is one."""


@dataclass
class Rows:
    """Texts of one split and what is known of each."""

    texts: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    """Name or number of a class, None where unknown."""
    classes: list[str] | None = None
    """Names of the classes, where numbers stand for them."""
    skipped: list[Skipped] = field(default_factory=list)
    broken: list[Skipped] = field(default_factory=list)
    """Those of the skipped that were meant to be texts."""
    undecoded: str = ""
    """Why a text with U+FFFD is left out; nothing where it stays."""

    def add(self, text: str, path: str, label: Any = None) -> None:
        """Append a text, unless there is nothing in it."""
        if _HALF.search(text):  # JSON and parquet can hold what no file in UTF-8 can
            self.skipped.append(Skipped(path, "unpaired surrogate, replaced"))
            text = _HALF.sub("\ufffd", text)
        if self.undecoded and "\ufffd" in text:
            self.leave_out(path, self.undecoded)
        elif text.strip():
            self.texts.append(text)
            self.paths.append(path)
            self.labels.append(label)
        else:
            self.skipped.append(Skipped(path, "empty"))

    def leave_out(self, path: str, reason: str) -> None:
        """Note what was meant to be a text."""
        skipped = Skipped(path, check.one_line(reason))
        self.skipped.append(skipped)
        self.broken.append(skipped)


@dataclass
class Reader:
    """How the texts of a source are read.

    Attributes:
        name: What messages call the source.
        errors: What happens to bytes that cannot be decoded: "replace" or "skip".
        encoding: Encoding of all files, None finds out.
        text_column: Column of the texts, or several with commas between them; None chooses.
        label: Column of the classes, None chooses.
        chosen: Columns by the names that a table has, so that all files are read alike.
    """

    name: str
    errors: Errors = "replace"
    encoding: str | None = None
    text_column: str | None = None
    label: str | None = None
    chosen: dict[tuple[str, ...], Columns] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check.choice(("replace", "skip"), errors=self.errors)
        if self.encoding is not None:
            checked(self.encoding.removesuffix("?"))

    def decoder(self) -> Decoder:
        """What decodes the files of one split."""
        return Decoder(self.name, self.errors, self.encoding)

    def columns(
        self, records: Sequence[Mapping[str, Any]], name: str, classes: Mapping[str, Any], named: bool = True
    ) -> Columns:
        """Columns of texts and classes, which are said where they were chosen among several."""
        names = tuple(dict.fromkeys(column for record in records for column in record))
        if names not in self.chosen:
            found = choose(records, name, self.text_column, self.label, classes, named)
            self.chosen[names] = found
            texts = " and ".join(found.texts)
            labels = f"labels from {found.label}" if found.label else "no labels"
            others = [column for column in names if column not in (*found.texts, found.label)]
            listed = f" (also there: {check.one_line(', '.join(others))})" if others else ""
            note(f"{name}: texts from {texts}, {labels}{listed}; --text-column and --label choose others")
        return self.chosen[names]


def find_texts(path: Path, reader: Reader) -> Mapping[str, Callable[[], Rows]]:
    """What reads each split of a folder or file, by the split's name; "all" where nothing tells splits apart.

    Args:
        path: The folder or file.
        reader: How it is read.

    Raises:
        ValueError: No text is there.
    """
    found = walk(path)
    root = path.parent if path.is_file() else path
    endings = _commonest(found.files, reader.name)
    if endings in (_PLAIN, _MARKED):
        if path.is_file():
            return {"all": partial(_single, path, reader)}
        return {
            split: partial(_files, source, reader)
            for split, source in find_files(path, reader.name, endings, "texts", reader.label).items()
        }
    files = [file for file in found.files if file.path.lower().endswith(endings)]
    if len(files) > 1:  # such as package.json and the like, which are no data
        files = [file for file in files if not _is_about(file)] or files
    others = [Skipped(file.path, f"not a {endings[0]} file") for file in found.files if file not in files]
    skipped = [Skipped(str(root / skip.path), skip.reason) for skip in [*found.skipped, *others]]
    read = {_PARQUET: _parquet, _JSON: _json, _TABLES: _table}[endings]

    def reading(part: list[File]) -> Rows:
        rows, decoder = Rows(skipped=list(skipped)), reader.decoder()
        errors = []
        for file in part:
            try:
                read(root / file.path, rows, reader, decoder)
            except ValueError as error:
                errors.append(error)
                rows.leave_out(str(root / file.path), str(error).removeprefix(f"{root / file.path} "))
        decoder.tell()
        if errors and not rows.texts:
            raise errors[0]
        return rows

    return {split: partial(reading, part) for split, part in by_name(files).items()}


def _commonest(files: list[File], name: str) -> tuple[str, ...]:
    """Endings of the kind of texts that the files hold most bytes of; README and the like count only alone."""
    about = [file for file in files if not _is_about(file)] or files
    sizes = {
        endings: sum(int(file.state.split()[0]) for file in about if file.path.lower().endswith(endings))
        for endings in (_PARQUET, _JSON, _TABLES, _PLAIN, _MARKED)
    }
    there = {e: size for e, size in sizes.items() if any(file.path.lower().endswith(e) for file in about)}
    if there:
        return max(there, key=lambda endings: there[endings])
    kinds = Counter(file.suffix or "without ending" for file in files)
    listing = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(5)) or "nothing"
    expected = ", ".join(
        ending for endings in sizes for ending in endings if not ending.endswith(tuple(_PACKED))
    )
    hint = "; convert them to .txt first" if kinds.keys() & {*_OTHER_FORMATS} else ""
    raise UserError(f"no texts in {name}; expected {expected} files (or .gz of them), found {listing}{hint}")


def _is_about(file: File) -> bool:
    return Path(file.path).name.lower().split(".")[0] in _ABOUT


def find_hub_texts(address: str, reader: Reader) -> Mapping[str, Callable[[], Rows]]:
    """What reads each split of a data set on the Hugging Face hub.

    Args:
        address: OWNER/NAME or OWNER/NAME:CONFIG.
        reader: How it is read.

    Raises:
        ValueError: The data set cannot be opened.
    """
    _, splits = open_hub(address)

    def reading(split: str) -> Rows:
        rows, stream = Rows(), splits[split]
        known = stream.features or {}
        classes = {
            column: list(feature.names) for column, feature in known.items() if hasattr(feature, "names")
        }
        _take(stream, f"{address}/{split}", rows, reader, classes)
        return rows

    return {SPLITS.get(split, split): partial(reading, split) for split in splits}


def groups(text: str, characters: int = GROUP) -> list[str]:
    """Paragraphs that follow each other, gathered until they are long enough; a short rest belongs to the last.

    Args:
        text: Paragraphs with blank lines between them, or lines.
        characters: Fewest characters of a group.
    """
    separator = "\n\n" if re.search(r"\S\s*?\n[^\S\n]*\n\s*\S", text) else "\n"
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n" if separator == "\n\n" else r"\n", text)]
    found: list[list[str]] = []
    for paragraph in filter(None, paragraphs):
        if found and sum(map(len, found[-1])) < characters:
            found[-1].append(paragraph)
        else:
            found.append([paragraph])
    if len(found) > 1 and sum(map(len, found[-1])) < characters // 2:
        rest = found.pop()
        found[-1] += rest
    return [separator.join(group) for group in found]


def _files(source: Source, reader: Reader) -> Rows:
    """One text for each file."""
    reading = source.read()
    rows, decoder = Rows(skipped=list(source.skipped), classes=reading.classes), reader.decoder()
    read = []
    for item in reading.items:
        path = source.prefix + item.path
        content = _content(Path(path), rows)
        if content is not None:
            read.append((path, item.label, content))
    unknown = [content for _, _, content in read if _is_unknown(content, decoder)]
    decoder.look_at(unknown)
    for path, label, content in read:
        text = _decoded(content, path, rows, decoder)
        if text is not None:
            rows.add(text, path, label)
    rows.labels = source.stated(rows.paths, rows.labels)
    decoder.tell()
    return rows


def _is_unknown(content: bytes, decoder: Decoder) -> bool:
    try:
        return decoder.known(content) is None
    except ValueError:  # it is said where it is decoded
        return False


def _single(path: Path, reader: Reader) -> Rows:
    rows, decoder = Rows(), reader.decoder()
    content = _content(path, rows)
    text = None if content is None else _decoded(content, str(path), rows, decoder)
    decoder.tell()
    for number, group in enumerate(groups(text or "")):
        rows.add(group, f"{path}[{number}]")
    return rows


def _content(path: Path, rows: Rows) -> bytes | None:
    """Bytes of a file, unpacked where its ending says so."""
    try:
        if not path.name.lower().endswith(tuple(_PACKED)):
            return path.read_bytes()
        return _unpacked(path)
    except (OSError, EOFError, ValueError) as error:
        rows.leave_out(str(path), check.reason(error))
        return None


def _unpacked(path: Path) -> bytes:
    import pyarrow

    size, unpacked, pieces = path.stat().st_size, 0, []
    with (
        pyarrow.OSFile(str(path)) as file,
        pyarrow.input_stream(file, _PACKED[path.suffix.lower()]) as stream,
    ):
        while piece := stream.read(_BLOCK):
            pieces.append(piece)
            unpacked += len(piece)
            refuse_unpacked(unpacked, size)
    return b"".join(pieces)


def _suffixes(path: Path) -> list[str]:
    """The last endings of a name: that of what is packed, and that of the packing."""
    return [suffix.lower() for suffix in path.suffixes[-2:]]


def _decoded(content: bytes, path: str, rows: Rows, decoder: Decoder) -> str | None:
    """Characters of a file with newlines as Unix writes them; None where it is left out."""
    try:
        text, replaced, reason = decoder.decode(content)
    except ValueError as error:
        rows.leave_out(path, str(error))
        return None
    rows.undecoded = f"{reason}; left out" if replaced and decoder.errors == "skip" else ""
    if replaced and decoder.errors == "replace":
        rows.skipped.append(Skipped(path, f"{reason}; replaced"))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


class _Table(NamedTuple):
    """A table as its file has it: place and cells of each row, and what stood between the cells."""

    rows: list[tuple[str, list[str]]]
    delimiter: str


def _table(path: Path, rows: Rows, reader: Reader, decoder: Decoder) -> None:
    """Rows of texts and perhaps labels, with or without the names of the columns above."""
    content = _content(path, rows)
    text = None if content is None else _decoded(content, str(path), rows, decoder)
    if not text or not text.strip():
        return
    table = _cells(path, text, rows)
    table = table._replace(rows=_below_preamble(table.rows, rows))
    if not table.rows:
        return
    head = _heading([cells for _, cells in table.rows])
    if head is None:
        _take_unnamed(table, str(path), rows, reader)
    else:
        _take_named(head, table._replace(rows=table.rows[1:]), str(path), rows, reader)


def _cells(path: Path, text: str, rows: Rows) -> _Table:
    """Cells of a table by the delimiter that gives most rows the same number of them."""
    tabs = ".tsv" in _suffixes(path)
    first, _, rest = text.partition("\n")
    if announced := _SEPARATOR.fullmatch(first.strip("\r ")):
        return _Table(list(_rows_of(path, rest, rows, announced[1], 1)), announced[1])
    delimiter = "\t" if tabs else _delimiter(text)
    quoted = not tabs or _is_quoted(text, delimiter)
    return _Table(list(_rows_of(path, text, rows, delimiter, 0, quoted)), delimiter)


def _delimiter(text: str) -> str:
    def evenness(delimiter: str) -> float:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            widths = Counter(len(row) for row in islice(lines, _PEEKED) if any(row))
        except csv.Error:
            return 0.0
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        return count / widths.total() if width > 1 else 0.0

    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # else the csv module refuses long texts
    first = text.partition("\n")[0]
    scores = {delimiter: evenness(delimiter) for delimiter in _DELIMITERS}
    named = [delimiter for delimiter in _DELIMITERS if any(map(is_known, first.split(delimiter)))]
    possible = [delimiter for delimiter in named if delimiter in first] or _DELIMITERS
    return max(possible, key=lambda delimiter: scores[delimiter])


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
    path: Path, text: str, rows: Rows, delimiter: str, before: int, quoted: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each row that is not empty, those that cannot be told apart noted.

    Args:
        path: The file.
        text: Its characters.
        rows: Where it is noted.
        delimiter: What stands between cells.
        before: Lines of the file that are not in the text.
        quoted: Whether quotes enclose cells.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    while True:
        try:
            row = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"{path}:{lines.line_num + before}"
            rows.leave_out(where, f"is not a row of a table: {check.reason(error)}")
            continue
        if any(cell.strip() for cell in row):
            yield f"{path}:{lines.line_num + before}", row


def _below_preamble(table: list[tuple[str, list[str]]], rows: Rows) -> list[tuple[str, list[str]]]:
    """A table without the lines of comments above its heading, which have fewer cells."""
    if not table:
        return table
    width = Counter(len(cells) for _, cells in table).most_common(1)[0][0]
    start = next(place for place, (_, cells) in enumerate(table) if len(cells) >= width)
    if start == 0 or _heading([cells for _, cells in table[start:]]) is None:
        return table
    rows.skipped += [Skipped(where, "stands above the table") for where, _ in table[:start]]
    return table[start:]


def _heading(table: list[list[str]]) -> list[str] | None:
    """Names of the columns in the first row, None where it is a row like the others.

    It is a heading where a cell has a usual name, or where all cells are short words and the rows below differ: numbers
    under a word, values that come back under one that does not, or texts of several words under a single one.
    """
    first = [cell.strip() for cell in table[0]]
    below = [row for row in table[1:_PEEKED] if len(row) == len(first)]
    counted = [str(number) for number in range(len(first))]
    if len(below) and len(first) > 1 and first in (counted, ["", *counted[:-1]]):  # as pandas names columns
        return _distinct(first)
    short = all(len(cell) <= 40 and len(cell.split()) <= 4 and not _NUMBER.fullmatch(cell) for cell in first)
    if short and any(map(is_known, first)):
        return _distinct(first)
    alike = len(set(first) - {""}) < len([cell for cell in first if cell])
    if not short or alike or len(below) < 2 or len(first) < 2:
        return None
    for place, cell in enumerate(first):
        column = [row[place].strip() for row in below]
        numbers = all(_NUMBER.fullmatch(value) for value in column if value) and any(column)
        comes_back = cell not in column and 2 * len(set(column)) <= len(column)
        if numbers or (comes_back and _is_name(cell)):
            return _distinct(first) if all(map(_is_name, first)) else None
    return None


def _is_name(cell: str) -> bool:
    """Whether it may be the name of a column."""
    return not cell or bool(re.fullmatch(r"[#\w][\w .:/()#?-]*", cell) and re.search(r"[^\W\d_]", cell))


def _distinct(names: list[str]) -> list[str]:
    """Names of columns, those without one by their number."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        name = name or f"column {number}"
        found.append(f"{name} {number}" if name in found else name)
    return found


def _take_named(head: list[str], table: _Table, path: str, rows: Rows, reader: Reader) -> None:
    """Add the rows of a table with names; a text that comes last may hold the delimiter."""
    fitting = [dict(zip(head, cells)) for _, cells in table.rows if len(cells) == len(head)]
    # Where no row fits, one column more may be a text with delimiters in it.
    peeked = fitting[:_PEEKED] or [dict(zip(head, cells)) for _, cells in table.rows[:_PEEKED]]
    if not peeked:
        return
    columns = reader.columns(peeked, path, {})
    last = head[-1] in columns.texts
    for where, cells in table.rows:
        if last and len(cells) > len(head):
            cells = [*cells[: len(head) - 1], table.delimiter.join(cells[len(head) - 1 :])]
        if len(cells) != len(head):
            rows.leave_out(where, f"does not have {len(head)} columns")
        else:
            _add(dict(zip(head, cells)), where, columns, rows)


def _take_unnamed(table: _Table, path: str, rows: Rows, reader: Reader) -> None:
    """Add the rows of a table without names; where they differ in their cells, only the first delimiter counts."""
    widths = Counter(len(cells) for _, cells in table.rows)
    width, count = widths.most_common(1)[0]
    if width > 1 and count >= _EVEN * len(table.rows):
        names = [f"column {number + 1}" for number in range(width)]
        even = [dict(zip(names, cells)) for _, cells in table.rows if len(cells) == width]
        columns = reader.columns(even[:_PEEKED], path, {}, False)
        for where, cells in table.rows:
            if len(cells) == width:
                _add(dict(zip(names, cells)), where, columns, rows)
            else:
                rows.leave_out(where, f"does not have {width} columns")
        return
    # Where rows differ in their cells, the text has the delimiter in it.
    labels = [cells[0].strip() for _, cells in table.rows if len(cells) > 1]
    labelled = 2 * len(labels) > len(table.rows) and (len(labels) < 10 or 2 * len(set(labels)) <= len(labels))
    between = "a tab" if table.delimiter == "\t" else f"a {table.delimiter}"
    for where, cells in table.rows:
        if not labelled:
            rows.add(table.delimiter.join(cells), where)
        elif len(cells) < 2:
            rows.leave_out(where, f"has no label, {between} and a text")
        else:
            rows.add(table.delimiter.join(cells[1:]), where, cells[0].strip())


def _add(record: Mapping[str, Any], where: str, columns: Columns, rows: Rows) -> None:
    """Add the text of a record, or the reason why it has none."""
    texts = [record.get(column) for column in columns.texts]
    given = [text for text in texts if isinstance(text, str)]
    if not given:
        rows.leave_out(where, f"has no text {' or '.join(columns.texts)}")
        return
    rows.add(" ".join(given), where, record.get(columns.label) if columns.label else None)


def _json(path: Path, rows: Rows, reader: Reader, decoder: Decoder) -> None:
    """Objects or texts in a list or on lines of their own."""
    content = _content(path, rows)
    text = None if content is None else _decoded(content, str(path), rows, decoder)
    if text is None:
        return
    whole = ".json" in _suffixes(path) or text.lstrip().startswith("[")
    records = _whole_json(path, text) if whole else None
    named: Iterable[tuple[str, Any]] = _lines_of_json(path, text, rows) if records is None else records
    _take_json(named, str(path), rows, reader)


def _whole_json(path: Path, text: str) -> list[tuple[str, Any]] | None:
    """Records of a file that is one list, one object that holds a list, or columns; None where it is lines."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, Mapping):
        content = _records(content, path)
    if not isinstance(content, list):
        content = [content]
    return [(f"{path}[{number}]", record) for number, record in enumerate(content)]


def _records(content: Mapping[str, Any], path: Path) -> list[Any]:
    """Records of one object: those of its longest list, its columns, its objects by name, or itself."""
    values = list(content.values())
    lists = [value for value in values if isinstance(value, list)]
    flat_lists = lists and not any(isinstance(part, Mapping) for value in lists for part in value)
    if flat_lists and len(lists) == len(values) and len({len(value) for value in lists}) == 1:
        return [dict(zip(content, row)) for row in zip(*lists)]
    if objects := {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(part, Mapping | str) for part in value)
    }:
        longest = max(objects, key=lambda key: len(objects[key]))
        if others := [
            key
            for key in objects
            if key != longest and any(isinstance(part, Mapping) for part in objects[key])
        ]:
            note(f"{path}: records of {longest} alone (also there: {check.one_line(', '.join(others))})")
        return objects[longest]
    if (
        len(values) == 1
        and isinstance(values[0], Mapping)
        and any(isinstance(value, list) for value in values[0].values())
    ):
        return _records(values[0], path)
    if values and all(isinstance(value, Mapping) for value in values):
        keys = [list(value) for value in values]
        if all(key == keys[0] for key in keys) and all(str(key).isdigit() for key in keys[0]):
            return [dict(zip(content, row)) for row in zip(*(value.values() for value in values))]
        return values
    return [content]


def _lines_of_json(path: Path, text: str, rows: Rows) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:  # of a long number too, or of brackets in brackets
                rows.leave_out(f"{path}:{number}", f"is not JSON: {check.reason(error)}")


def _take_json(named: Iterable[tuple[str, Any]], path: str, rows: Rows, reader: Reader) -> None:
    records: list[tuple[str, dict[str, Any]]] = []
    for where, record in named:
        if isinstance(record, str):
            rows.add(record, where)
        elif isinstance(record, list) and record and all(isinstance(part, str) for part in record):
            records.append((where, {f"column {number + 1}": part for number, part in enumerate(record)}))
        elif isinstance(record, Mapping):
            records.append((where, flat(record)))
        else:
            rows.leave_out(where, "is neither an object nor a text")
    if records:
        columns = reader.columns([record for _, record in records[:_PEEKED]], path, {})
        for where, record in records:
            _add(record, where, columns, rows)


def _parquet(path: Path, rows: Rows, reader: Reader, decoder: Decoder) -> None:
    table = open_table(path)
    batches = table.batches(table.schema.names)
    records = (dict(zip(batch, row)) for batch in batches for row in zip(*batch.values()))
    _take(records, str(path), rows, reader, table.classes)


def _take(
    records: Iterable[Any], name: str, rows: Rows, reader: Reader, classes: dict[str, list[str]]
) -> None:
    """Add records that map columns to values."""
    stream = map(flat, records)
    first = list(islice(stream, _PEEKED))
    if not first:
        return
    columns = reader.columns(first, name, classes)
    rows.classes = classes.get(columns.label) if columns.label else None
    for number, record in enumerate(chain(first, stream)):
        _add(record, f"{name}[{number}]", columns, rows)
