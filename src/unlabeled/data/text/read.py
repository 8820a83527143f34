"""Texts in files: plain text, tables of labels and texts, JSON, parquet, the Hugging Face hub.

Read are, in UTF-8 or in an encoding that is detected (see `encodings`), packed by gzip, bzip2 or zstd too:
a folder of .txt files (or .md), one text each, perhaps in class folders, and these perhaps in split folders;
one .txt file, whose paragraphs (lines, where there is no blank line) are gathered into texts of at least 2,000
characters, of a file below 200,000 characters at least a hundredth of it;
.tsv or .csv files, whatever stands between their cells, with names above their columns or without;
.jsonl, .json (a list, an object that holds one, or columns) or .parquet files of records or texts;
`hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, a data set on the Hugging Face hub.
Which columns hold the texts and the classes is recognised by their names and contents (see `columns`), said, and can be
set. Tables, JSON and parquet files are splits by their names, train.tsv, test.tsv, else by a column `split`. Of several
kinds in a folder, that with the most bytes is read.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.columns import Columns, choose, flat
from unlabeled.data.files import SPLITS, File, Walk, by_name, separate, split_column, split_words, walk
from unlabeled.data.labels import numbered, recur
from unlabeled.data.limits import refuse_unpacked
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Source, common_endings, find_files, open_hub
from unlabeled.data.tables import Delimited, json_lines, open_table, read_delimited
from unlabeled.data.text.data import Texts
from unlabeled.data.text.encodings import Decoder

__all__ = ["find", "groups"]

GROUP = 2000
"""Characters after which a group of paragraphs of a single file ends."""
GROUPS = 100
"""Groups of a file that is too short for as many of that length, so that some can be held out."""

_PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PARQUET, _MARKED = (".parquet",), (".md", ".rst")
_JSON, _TABLES, _PLAIN = (
    tuple(ending + packing for packing in ("", *_PACKED) for ending in endings)
    for endings in ((".jsonl", ".ndjson", ".json"), (".tsv", ".csv"), (".txt",))
)
"""Endings of the kinds of files."""
_OTHER_FORMATS = {".html", ".htm", ".xml", ".pdf", ".doc", ".docx", ".epub", ".rtf", ".tex", ".xls", ".xlsx"}
_ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog", "citation")
"""Names of files that are about the data."""
_LOOKED_AT = 2**14
"""Bytes in which the name of a column is looked for."""
_BLOCK = 2**20
"""Bytes that are unpacked at a time."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_PEEKED = 1000
"""Records by which columns are recognised."""
_EVEN = 0.9
"""Fraction of the rows that have the same number of cells where a table is one."""


class _Split:
    """Texts of one split with what is known of each, and what could not be read.

    Args:
        name: What messages call the source.
        options: How the source is opened.
        layouts: Columns by the names that a table has, so that all files of a source are read alike.
        skipped: Files that are not read.
    """

    def __init__(
        self,
        name: str,
        options: OpenOptions,
        layouts: dict[tuple[str, ...], Columns],
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.name, self.options, self.layouts = name, options, layouts
        self.decoder = Decoder(name, options.encoding)
        self.texts: list[str] = []
        self.paths: list[str] = []
        self.labels: list[Any] = []
        """Name or number of a class, None where unknown."""
        self.splits: list[Any] = []
        """What a column says of the part that a text is of, None where there is none."""
        self.classes: list[str] | None = None
        """Names of the classes, where numbers stand for them."""
        self.skipped = list(skipped)
        self.broken: list[Skipped] = []
        """Those of the skipped that were meant to be texts."""

    def add(self, text: str, path: str, label: Any = None, split: Any = None) -> None:
        """Append a text, unless there is nothing in it."""
        if _SURROGATE.search(text):  # JSON and parquet can hold what no file in UTF-8 can
            self.skipped.append(Skipped(path, "unpaired surrogate, replaced"))
            text = _SURROGATE.sub("\ufffd", text)
        if text.strip():
            self.texts.append(text)
            self.paths.append(path)
            self.labels.append(label)
            self.splits.append(split)
        else:
            self.skipped.append(Skipped(path, "empty"))

    def add_record(self, record: Mapping[str, Any], path: str, columns: Columns) -> None:
        """Append the text of a record, or the reason why it has none."""
        texts = [record.get(column) for column in columns.texts]
        if strings := [text for text in texts if isinstance(text, str)]:
            label = record.get(columns.label) if columns.label else None
            self.add(" ".join(strings), path, label, record.get(columns.split) if columns.split else None)
        else:
            self.omit(path, f"has no text {' or '.join(columns.texts)}")

    def add_records(
        self, records: Iterable[tuple[str, dict[str, Any]]], name: str, classes: Mapping[str, list[str]]
    ) -> None:
        """Append the texts of records, each with its path; `classes` are names of classes by column."""
        stream = iter(records)
        if head := list(islice(stream, _PEEKED)):
            columns = self.columns([record for _, record in head], name, classes)
            self.classes = classes.get(columns.label) if columns.label else None
            for path, record in chain(head, stream):
                self.add_record(record, path, columns)

    def omit(self, path: str, reason: str) -> None:
        """Note what was meant to be a text."""
        self.broken.append(Skipped(path, check.one_line(reason)))
        self.skipped.append(self.broken[-1])

    def columns(
        self,
        records: Sequence[Mapping[str, Any]],
        name: str,
        classes: Mapping[str, Any],
        named: bool = True,
    ) -> Columns:
        """Columns of texts and classes, which are said once for all tables that have the same ones."""
        names = tuple(dict.fromkeys(column for record in records for column in record))
        if names not in self.layouts:
            options = self.options
            columns = choose(records, name, options.text_column, options.label, classes, named)
            self.layouts[names] = columns
            labels = f"labels from {columns.label}" if columns.label else "no labels"
            parts = f", splits from {columns.split}" if columns.split else ""
            others = [column for column in names if column not in (*columns.texts, *columns[1:])]
            also = f" (also there: {check.one_line(', '.join(others))})" if others else ""
            texts = " and ".join(columns.texts)
            note(
                f"{name}: texts from {texts}, {labels}{parts}{also}; --text-column and --label choose others"
            )
        return self.layouts[names]

    def content(self, path: Path) -> bytes | None:
        """Bytes of a file, unpacked where its ending says so; None where it cannot be read."""
        try:
            packed = path.name.lower().endswith(tuple(_PACKED))
            return _unpacked(path) if packed else path.read_bytes()
        except (OSError, EOFError, ValueError) as error:
            self.omit(str(path), check.reason(error))
            return None

    def text(self, path: Path, content: bytes | None) -> str | None:
        """Characters of the content of a file with newlines as Unix writes them; None where it is omitted."""
        if content is None:
            return None
        try:
            text, reason = self.decoder.decode(content)
        except ValueError as error:
            self.omit(str(path), str(error))
            return None
        if reason:
            self.skipped.append(Skipped(str(path), f"{reason}; replaced"))
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        return text if "\n" in text else text.replace("\r", "\n")

    def data(self) -> Texts:
        """The texts as data, unless too many cannot be read."""
        self.decoder.report()
        if not self.texts and not self.broken:
            raise UserError(f"{self.name} must hold texts, got only empty ones")
        refuse_broken(self.name, self.broken, len(self.texts), self.options.max_broken)
        about = numbered(self.labels, self.classes).about(self.name, self.skipped)
        segmenter = self.options.segmenter
        return Texts(self.texts, name=self.name, paths=self.paths, segmenter=segmenter, **about)


def find(source: Any, options: OpenOptions) -> Mapping[str, Callable[[], Texts]]:
    """What opens each split of texts, by the split's name; "all" where it has none.

    U+FFFD stands for bytes that cannot be decoded, which are listed in `skipped` with the place of the first.

    Args:
        source: What the module names.
        options: How it is opened.

    Raises:
        ValueError: No text is there.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UserError(f"texts must be a path or a name, or Texts, got {type(source).__name__}")
    name = os.fspath(source)
    new = partial(_Split, name, options, {})
    new()  # refuses an encoding that is none before anything is read
    if name.startswith("hub:"):
        return _find_hub(name.removeprefix("hub:"), new)
    path = Path(name).expanduser()
    listing = walk(path)
    endings = _commonest(listing.files, name)
    if endings in (_PLAIN, _MARKED):
        if path.is_file():
            return {"all": lambda: _single(path, new())}
        sources = find_files(path, name, endings, "texts", options.label)
        return {split: lambda part=part: _files(part, new(part.skipped)) for split, part in sources.items()}
    return _find_tables(listing, endings, new)


def _commonest(files: list[File], name: str) -> tuple[str, ...]:
    """Endings of the kind of texts that the files hold most bytes of; README and the like count only alone."""
    files = [file for file in files if not _is_about(file)] or files
    sizes = {
        endings: sum(int(file.state.split()[0]) for file in files if file.ends(endings))
        for endings in (_PARQUET, _JSON, _TABLES, _PLAIN, _MARKED)
        if any(file.ends(endings) for file in files)
    }
    if sizes:
        return max(sizes, key=lambda endings: sizes[endings])
    endings = (*_PARQUET, *_JSON, *_TABLES, *_PLAIN, *_MARKED)
    expected = ", ".join(ending for ending in endings if not ending.endswith(tuple(_PACKED)))
    hint = "; convert them to .txt first" if any(file.suffix in _OTHER_FORMATS for file in files) else ""
    actual = common_endings(files)
    raise UserError(f"no texts in {name}; expected {expected} files (or .gz of them), found {actual}{hint}")


def _is_about(file: File) -> bool:
    return Path(file.path).name.lower().split(".")[0] in _ABOUT


def _find_hub(address: str, new: Callable[..., _Split]) -> Mapping[str, Callable[[], Texts]]:
    """What reads each split of OWNER/NAME or OWNER/NAME:CONFIG on the Hugging Face hub."""
    _, streams = open_hub(address)

    def read(split: str) -> Texts:
        rows, stream = new(), streams[split]
        features = (stream.features or {}).items()
        classes = {column: list(its.names) for column, its in features if hasattr(its, "names")}
        _take_rows(stream, f"{address}/{split}", rows, classes)
        return rows.data()

    return {SPLITS.get(split, split): partial(read, split) for split in streams}


def _find_tables(
    listing: Walk, endings: tuple[str, ...], new: Callable[..., _Split]
) -> Mapping[str, Callable[[], Texts]]:
    """What reads each split of files that hold several texts each."""
    root, files = listing.root, [file for file in listing.files if file.ends(endings)]
    if len(files) > 1:  # such as package.json and the like, which are no data
        files = [file for file in files if not _is_about(file)] or files
    others = [Skipped(file.path, f"not a {endings[0]} file") for file in listing.files if file not in files]
    skipped = [Skipped(str(root / skip.path), skip.reason) for skip in [*listing.skipped, *others]]
    take = {_PARQUET: _take_parquet, _JSON: _take_json, _TABLES: _take_table}[endings]

    def rows_of(part: list[File]) -> _Split:
        rows, errors = new(skipped), []
        for file in part:
            try:
                take(root / file.path, rows)
            except ValueError as error:
                errors.append(error)
                rows.omit(str(root / file.path), str(error).removeprefix(f"{root / file.path} "))
        if errors and not rows.texts:
            rows.decoder.report()
            raise errors[0]
        return rows

    def read(part: list[File]) -> Texts:
        return rows_of(part).data()

    splits = by_name(files)
    if splits.keys() == {"all"} and _may_have_splits(root / files[0].path):
        with suppress(ValueError):  # which is raised where the data is opened
            if parts := _by_column(rows_of(files)):
                return parts
    return {split: partial(read, part) for split, part in splits.items()}


def _may_have_splits(path: Path) -> bool:
    """Whether a column of a file may tell parts apart, by a look at its beginning."""
    if path.name.lower().endswith(_PARQUET):
        return split_column(open_table(path).schema.names) is not None
    try:
        content = _unpacked(path) if path.name.lower().endswith(tuple(_PACKED)) else _head(path)
    except (OSError, EOFError, ValueError):
        return False
    words = re.split(rb"[^a-z]+", content[:_LOOKED_AT].replace(b"\0", b"").lower())
    return split_column({word.decode() for word in words}) is not None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LOOKED_AT)


def _by_column(rows: _Split) -> Mapping[str, Callable[[], Texts]] | None:
    """Parts by a column that says of every text which it is of; None where there are no two."""
    words = split_words(rows.splits)
    if words is None or not separate(words):
        return None
    data, places = rows.data(), dict[str, list[int]]()
    for row, word in enumerate(words):
        places.setdefault(word, []).append(row)
    return {word: partial(data.subset, torch.tensor(own)) for word, own in places.items()}


def _files(source: Source, rows: _Split) -> Texts:
    """One text for each file."""
    reading = source.read()
    rows.classes = reading.classes
    paths = [(source.prefix + item.path, item.label) for item in reading.items]
    contents = {path: rows.content(Path(path)) for path, _ in paths}
    rows.decoder.examine(content for content in contents.values() if content is not None)
    for path, label in paths:
        if (text := rows.text(Path(path), contents[path])) is not None:
            rows.add(text, path, label)
    rows.labels = source.labels_of(rows.paths, rows.labels)
    return rows.data()


def _single(path: Path, rows: _Split) -> Texts:
    """The groups of paragraphs of one file."""
    text = rows.text(path, rows.content(path)) or ""
    for number, group in enumerate(groups(text, min(GROUP, len(text) // GROUPS))):
        rows.add(group, f"{path}[{number}]")
    return rows.data()


def groups(text: str, characters: int = GROUP) -> list[str]:
    """Paragraphs that follow each other, gathered until they are long enough; a short rest belongs to the last.

    Args:
        text: Paragraphs with blank lines between them, or lines.
        characters: Fewest characters of a group.
    """
    separator = "\n\n" if re.search(r"\S\s*?\n[^\S\n]*\n\s*\S", text) else "\n"
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n" if separator == "\n\n" else r"\n", text)]
    gathered: list[list[str]] = []
    for paragraph in filter(None, paragraphs):
        if gathered and sum(map(len, gathered[-1])) < characters:
            gathered[-1].append(paragraph)
        else:
            gathered.append([paragraph])
    if len(gathered) > 1 and sum(map(len, gathered[-1])) < characters // 2:
        rest = gathered.pop()
        gathered[-1] += rest
    return [separator.join(group) for group in gathered]


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


def _is_named(path: Path, ending: str) -> bool:
    """Whether the ending of a name, without that of the packing, is this one."""
    return ending in [suffix.lower() for suffix in path.suffixes[-2:]]


def _take_table(path: Path, rows: _Split) -> None:
    """Rows of texts and perhaps labels, with or without the names of the columns above."""
    text = rows.text(path, rows.content(path))
    if not text or not text.strip():
        return
    table = read_delimited(text, tabs=_is_named(path, ".tsv"))
    for line, reason in table.broken:
        rows.omit(f"{path}:{line}", reason)
    rows.skipped += [Skipped(f"{path}:{line}", "stands above the table") for line in table.above]
    if not table.rows:
        return
    width, count = Counter(len(cells) for _, cells in table.rows).most_common(1)[0]
    if table.heading is not None:
        _take_cells(table, table.heading, str(path), rows)
    elif width > 1 and count >= _EVEN * len(table.rows):
        _take_cells(table, [f"column {number + 1}" for number in range(width)], str(path), rows)
    else:
        _take_uneven(table, str(path), rows)


def _take_cells(table: Delimited, names: list[str], path: str, rows: _Split) -> None:
    """Rows of a table; with a heading, a text that comes last may hold the delimiter."""
    named, width = table.heading is not None, len(names)
    even = [cells for _, cells in table.rows if len(cells) == width]
    # Where no row fits, one column more may be a text with delimiters in it.
    head = [dict(zip(names, cells)) for cells in (even or [cells for _, cells in table.rows])[:_PEEKED]]
    columns = rows.columns(head, path, {}, named)
    for line, cells in table.rows:
        if named and len(cells) > width and names[-1] in columns.texts:
            cells = [*cells[: width - 1], table.delimiter.join(cells[width - 1 :])]
        if len(cells) == width:
            rows.add_record(dict(zip(names, cells)), f"{path}:{line}", columns)
        else:
            rows.omit(f"{path}:{line}", f"does not have {width} columns")


def _take_uneven(table: Delimited, path: str, rows: _Split) -> None:
    """Rows that differ in their cells, as the text has the delimiter in it: only the first one counts, if any does."""
    labels = [cells[0].strip() for _, cells in table.rows if len(cells) > 1]
    labelled = 2 * len(labels) > len(table.rows) and (len(labels) < 10 or recur(labels))
    between = "a tab" if table.delimiter == "\t" else f"a {table.delimiter}"
    for line, cells in table.rows:
        if not labelled:
            rows.add(table.delimiter.join(cells), f"{path}:{line}")
        elif len(cells) < 2:
            rows.omit(f"{path}:{line}", f"has no label, {between} and a text")
        else:
            rows.add(table.delimiter.join(cells[1:]), f"{path}:{line}", cells[0].strip())


def _take_parquet(path: Path, rows: _Split) -> None:
    table = open_table(path)
    _take_rows(table.records(), str(path), rows, table.classes)


def _take_rows(
    records: Iterable[Mapping[str, Any]], name: str, rows: _Split, classes: Mapping[str, list[str]]
) -> None:
    """Records of a table, which have no paths of their own."""
    named = ((f"{name}[{number}]", flat(record)) for number, record in enumerate(records))
    rows.add_records(named, name, classes)


def _take_json(path: Path, rows: _Split) -> None:
    """Objects or texts in a list or on lines of their own."""
    text = rows.text(path, rows.content(path)) or ""
    whole = _is_named(path, ".json") or text.lstrip().startswith("[")
    content = _whole_json(path, text) if whole else None
    if content is not None:
        values = [(f"{path}[{number}]", value) for number, value in enumerate(content)]
    else:
        lines, broken = json_lines(text)
        values = [(f"{path}:{line}", value) for line, value in lines]
        for line, reason in broken:
            rows.omit(f"{path}:{line}", reason)
    records = []
    for place, value in values:
        if isinstance(value, str):
            rows.add(value, place)
        elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            records.append((place, {f"column {number}": part for number, part in enumerate(value, 1)}))
        elif isinstance(value, Mapping):
            records.append((place, flat(value)))
        else:
            rows.omit(place, "is neither an object nor a text")
    rows.add_records(records, str(path), {})


def _whole_json(path: Path, text: str) -> list[Any] | None:
    """Records of a file that is one list, one object that holds a list, or columns; None where it is lines."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, Mapping):
        content = _records(content, path)
    return content if isinstance(content, list) else [content]


def _records(content: Mapping[str, Any], path: Path) -> list[Any]:
    """Records of one object: those of its longest list, its columns, its objects by name, or itself."""
    values = list(content.values())
    lists = [value for value in values if isinstance(value, list)]
    nested = any(isinstance(part, Mapping) for value in lists for part in value)
    if lists and not nested and len(lists) == len(values) and len({*map(len, lists)}) == 1:
        return [dict(zip(content, row)) for row in zip(*lists)]
    candidates = {
        key: value
        for key, value in content.items()
        if isinstance(value, list) and value and all(isinstance(part, Mapping | str) for part in value)
    }
    if candidates:
        longest = max(candidates, key=lambda key: len(candidates[key]))
        others = [
            key
            for key, value in candidates.items()
            if key != longest and any(isinstance(part, Mapping) for part in value)
        ]
        if others:
            note(f"{path}: records of {longest} alone (also there: {check.one_line(', '.join(others))})")
        return candidates[longest]
    inner = values[0].values() if len(values) == 1 and isinstance(values[0], Mapping) else ()
    if any(isinstance(value, list) for value in inner):
        return _records(values[0], path)
    if values and all(isinstance(value, Mapping) for value in values):
        keys = [list(value) for value in values]
        if all(key == keys[0] for key in keys) and all(str(key).isdigit() for key in keys[0]):
            return [dict(zip(content, row)) for row in zip(*(value.values() for value in values))]
        return values
    return [content]
