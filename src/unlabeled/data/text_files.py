"""Texts in files: plain text, tables of labels and texts, JSON lines, parquet, the Hugging Face hub."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unlabeled import check
from unlabeled.data.files import SPLITS, File, Walk, by_name, walk
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Source, find_files
from unlabeled.data.tables import count_rows, told

__all__ = ["Errors", "Rows", "decoded", "find_hub_texts", "find_texts", "groups"]

GROUP = 2000
"""Characters after which a group of paragraphs of a single file ends."""

Errors = Literal["replace", "skip"]

_PLAIN, _TABLES, _LINES, _PARQUET = (".txt",), (".tsv", ".csv"), (".jsonl", ".ndjson"), (".parquet",)
_MARKED = (".md", ".rst")
_TEXTS = ("text", "sentence", "content", "document", "review", "question", "passage", "body")
_HALF = re.compile("[\ud800-\udfff]")
_LABELS = ("label", "labels", "class", "category", "target", "cls")


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

    def add(self, text: str, path: str, label: Any = None) -> None:
        """Append a text, unless there is nothing in it."""
        if _HALF.search(text):  # JSON and parquet can hold what no file in UTF-8 can
            self.skipped.append(Skipped(path, "half of a pair of surrogates is no character; replaced"))
            text = _HALF.sub("\ufffd", text)
        if text.strip():
            self.texts.append(text)
            self.paths.append(path)
            self.labels.append(None if label == "" else label)
        else:
            self.skipped.append(Skipped(path, "empty"))

    def leave_out(self, path: str, reason: str) -> None:
        """Note what was meant to be a text."""
        skipped = Skipped(path, check.one_line(reason))
        self.skipped.append(skipped)
        self.broken.append(skipped)


def find_texts(path: Path, name: str, errors: Errors) -> Mapping[str, Callable[[], Rows]]:
    """What reads each split of a folder or file, by the split's name; "all" where nothing tells splits apart.

    Args:
        path: The folder or file.
        name: What messages call it.
        errors: What happens to bytes that are not UTF-8.

    Raises:
        ValueError: No text is there.
    """
    found = Walk([File.of(path.name, path.stat())], [], 0) if path.is_file() else walk(path)
    root = path.parent if path.is_file() else path
    counts = {
        endings: sum(file.path.lower().endswith(endings) for file in found.files)
        for endings in (_PARQUET, _LINES, _TABLES, _PLAIN, _MARKED)
    }
    endings = max(counts, key=lambda endings: counts[endings])
    if not counts[endings]:
        kinds = Counter(file.suffix or "without ending" for file in found.files)
        listing = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(5)) or "nothing"
        expected = ", ".join(ending for endings in counts for ending in endings)
        raise ValueError(f"no texts in {name}; expected {expected} files, found {listing}")
    if endings in (_PLAIN, _MARKED):
        if path.is_file():
            return {"all": partial(_single, path, errors)}
        return {
            split: partial(_files, source, errors)
            for split, source in find_files(path, name, endings, "texts").items()
        }
    files = [file for file in found.files if file.path.lower().endswith(endings)]
    others = [
        Skipped(file.path, f"not a {endings[0]} file")
        for file in found.files
        if not file.path.lower().endswith(endings)
    ]
    skipped = [Skipped(str(root / skip.path), skip.reason) for skip in [*found.skipped, *others]]
    read = {_PARQUET: _parquet, _LINES: _json_lines, _TABLES: _table}[endings]

    def reading(part: list[File]) -> Rows:
        rows = Rows(skipped=list(skipped))
        for file in part:
            read(root / file.path, rows, errors)
        return rows

    return {split: partial(reading, part) for split, part in by_name(files).items()}


def find_hub_texts(address: str) -> Mapping[str, Callable[[], Rows]]:
    """What reads each split of a data set on the Hugging Face hub.

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
        raise ValueError(f"cannot open hub:{address}: {error}") from error

    def reading(split: str) -> Rows:
        rows, stream = Rows(), splits[split]
        known = stream.features or {}
        classes = {
            column: list(feature.names) for column, feature in known.items() if hasattr(feature, "names")
        }
        _take(stream, f"{address}/{split}", rows, classes)
        return rows

    return {SPLITS.get(split, split): partial(reading, split) for split in splits}


def decoded(content: bytes, path: str, errors: Errors, rows: Rows, offset: int = 0) -> str | None:
    """Text of bytes; what is not UTF-8 is noted with the place of its first bad byte.

    Args:
        content: The bytes.
        path: Where they are from.
        errors: "replace" puts U+FFFD for each bad byte, "skip" gives None.
        rows: Where it is noted.
        offset: Place of the first byte in the file.
    """
    try:
        return content.decode("utf-8-sig" if not offset else "utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start} (0x{content[error.start]:02x}) is not UTF-8"
    if errors == "skip":
        rows.leave_out(path, f"{place}; left out")
        return None
    rows.skipped.append(Skipped(path, f"{place}; replaced"))
    return content.decode("utf-8", "replace").removeprefix("\ufeff")


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


def _files(source: Source, errors: Errors) -> Rows:
    """One text for each file."""
    reading = source.read()
    rows = Rows(skipped=list(source.skipped), classes=reading.classes)
    for item in reading.items:
        path = source.prefix + item.path
        content = _content(Path(path), rows)
        text = None if content is None else decoded(content, path, errors, rows)
        if text is not None:
            rows.add(text, path, item.label)
    return rows


def _single(path: Path, errors: Errors) -> Rows:
    rows = Rows()
    content = _content(path, rows)
    text = None if content is None else decoded(content, str(path), errors, rows)
    for number, group in enumerate(groups(text or "")):
        rows.add(group, f"{path}[{number}]")
    return rows


def _content(path: Path, rows: Rows) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        rows.leave_out(str(path), error.strerror or str(error))
        return None


def _lines(path: Path, rows: Rows, errors: Errors, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Name and text of each line, blank ones only where wanted."""
    content, offset = _content(path, rows) or b"", 0
    for number, line in enumerate(content.split(b"\n"), 1):
        where = f"{path}:{number}"
        text = decoded(line, where, errors, rows, offset)
        offset += len(line) + 1
        if text is not None and (blank or text.strip()):
            yield where, text.rstrip("\r")


def _table(path: Path, rows: Rows, errors: Errors) -> None:
    """Labels and texts, with or without the names of the columns.

    In .tsv the first tab ends the label and quotes are part of the text; .csv is read as spreadsheets write it.
    """
    tabs = path.suffix.lower() == ".tsv"
    lines = list(_lines(path, rows, errors, blank=not tabs))  # a quoted text may have blank lines
    if tabs:
        cells = [(where, line.split("\t")) for where, line in lines]
    else:
        cells = list(_rows_of(path, "\n".join(line for _, line in lines), rows))
    if not cells:
        return
    head = [cell.strip().lower() for cell in cells[0][1]]
    if any(name in head for name in _TEXTS):
        wanted = len(head)
        named = (
            (where, dict(zip(cells[0][1], values))) if len(values) == wanted else (where, None)
            for where, values in cells[1:]
        )
        _take_named(named, head, cells[0][1], rows)
        return
    labelled = sum(len(values) > 1 for _, values in cells) > len(cells) // 2
    for where, values in cells:
        if not labelled:
            rows.add(("\t" if tabs else ",").join(values), where)
        elif len(values) < 2:
            rows.leave_out(where, "has no label, a tab and a text" if tabs else "has no label and text")
        else:
            rows.add(("\t" if tabs else ",").join(values[1:]), where, values[0].strip())


def _rows_of(path: Path, content: str, rows: Rows) -> Iterator[tuple[str, list[str]]]:
    """Name and cells of each row of a .csv, those that cannot be told apart noted."""
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))  # else the csv module refuses long texts
    reader = csv.reader(io.StringIO(content, newline=""))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rows.leave_out(f"{path}:{reader.line_num}", f"is not a row of a table: {check.reason(error)}")
            continue
        if any(cell.strip() for cell in row):
            yield f"{path}:{reader.line_num}", row


def _take_named(
    named: Iterable[tuple[str, dict[str, str] | None]], head: list[str], columns: list[str], rows: Rows
) -> None:
    text = columns[head.index(next(name for name in _TEXTS if name in head))]
    label = next((columns[head.index(name)] for name in _LABELS if name in head), None)
    for where, values in named:
        if values is None:
            rows.leave_out(where, f"does not have {len(columns)} columns")
        else:
            rows.add(values[text], where, values[label] if label else None)


def _json_lines(path: Path, rows: Rows, errors: Errors) -> None:
    def records() -> Iterator[tuple[str, Any]]:
        for where, line in _lines(path, rows, errors):
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:  # of a long number too, or of brackets in brackets
                rows.leave_out(where, f"is not JSON: {check.reason(error)}")

    column = label = None
    for where, record in records():
        if isinstance(record, str):
            rows.add(record, where)
            continue
        if not isinstance(record, dict):
            rows.leave_out(where, "is neither an object nor a text")
            continue
        if column is None:
            column, label = _columns(record, str(path))
        if isinstance(record.get(column), str):
            rows.add(record[column], where, record.get(label) if label else None)
        else:
            rows.leave_out(where, f"has no text {column}")


def _parquet(path: Path, rows: Rows, errors: Errors) -> None:
    from pyarrow.parquet import ParquetFile

    def records(file: Any) -> Iterator[dict[str, Any]]:
        with told(path):
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()

    try:
        with told(path):
            count_rows([path])
            file = ParquetFile(path)
            about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            features = about.get("info", {}).get("features", {})
            classes = {
                column: [str(name) for name in its["names"]]
                for column, its in features.items()
                if isinstance(its, dict) and "names" in its
            }
        _take(records(file), str(path), rows, classes)
    except ValueError as error:
        rows.leave_out(str(path), str(error).removeprefix(f"{path} "))


def _take(records: Iterable[Any], name: str, rows: Rows, classes: dict[str, list[str]]) -> None:
    """Add records that map columns to values."""
    column = label = None
    for number, record in enumerate(records):
        if column is None:
            column, label = _columns(record, name)
            rows.classes = classes.get(label) if label else None
        where, text = f"{name}[{number}]", record.get(column)
        if isinstance(text, str):
            rows.add(text, where, _class_of(record.get(label) if label else None, rows.classes))
        else:
            rows.leave_out(where, f"has no text {column}")


def _class_of(value: Any, classes: list[str] | None) -> Any:
    """Name of a class; numbers that stand for none are unknown."""
    if not classes or not isinstance(value, int):
        return value
    return classes[value] if 0 <= value < len(classes) else None


def _columns(record: dict[str, Any], name: str) -> tuple[str, str | None]:
    """Names of the columns of texts and of labels."""
    label = next((column for column in record if column.lower() in _LABELS), None)
    strings = [column for column, value in record.items() if isinstance(value, str) and column != label]
    # The text of the first record may be missing.
    possible = [column for column, value in record.items() if value is None or column in strings]
    named = [column for wanted in _TEXTS for column in possible if column.lower() == wanted]
    if not named and not strings:
        raise ValueError(
            f"{name} must have a column of texts, got {check.one_line(', '.join(record)) or 'nothing'}"
        )
    return (named or strings)[0], label
