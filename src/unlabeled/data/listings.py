"""Tables beside images that say what these are: metadata.csv, labels.tsv, train.jsonl, lists of paths in .txt.

A table belongs to the images if one of its columns names them: by path from the table's folder or the root, by name,
or by name without ending. Its labels are in the column with a usual name, or the only other one, or in columns of
which each row has a single 1. A column `split`, or tables for training and test, tell the parts apart.
"""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS, File, by_name, walk
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.labels import NO_LABELS, NoColumn, label_column
from unlabeled.data.notes import note
from unlabeled.data.samples import Skipped
from unlabeled.data.tables import ENDINGS, open_table

__all__ = ["LISTS", "Known", "images_listed", "known_of"]

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst")
"""Endings of files that may list images."""
_LARGEST, _MOST_TABLES = 2**28, 20
"""Bytes of the largest table that is read; of how many files of one ending each may be one: more are of samples."""
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "fold")
_FILE_WORDS = re.compile(r"id(?![a-z])|image|img|file|path|name|photo|picture|column 1$")
_SAMPLED, _FEW = 200, 20


class Known(NamedTuple):
    """What tables say of files, by path below the root."""

    labels: dict[str, Any]
    splits: dict[str, str]
    explicit: bool
    """Whether they go before folders: of most files, from a column that is named so or was asked for."""
    used: dict[str, str]
    """Tables that belong to the files, and what was taken from each."""
    skipped: list[Skipped]


class _Rows(NamedTuple):
    columns: list[str]
    rows: list[list[Any]]


class _Names:
    """Files by every name that a table may call them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {path.replace(os.sep, "/"): path for path in paths}
        self.names: dict[str, list[str]] = {}
        for path in self.paths:
            name = path.rpartition("/")[2]
            for called in {name, os.path.splitext(name)[0]}:
                self.names.setdefault(called, []).append(path)

    def find(self, value: Any, table: str) -> str | None:
        """The one file that a value in a table names, if need be with another ending."""
        if (found := self._find(value, table)) is not None or not isinstance(value, str):
            return found
        stem, ending = os.path.splitext(value.strip())
        return self._find(stem, table) if ending[1:2].isalpha() and ending[1:].isalnum() else None

    def _find(self, value: Any, table: str) -> str | None:
        if not isinstance(value, str | int) or isinstance(value, bool):
            return None
        folder, name = os.path.dirname(table).replace(os.sep, "/"), str(value).strip().replace("\\", "/")
        name = name.removeprefix("./")
        for path in (f"{folder}/{name}".lstrip("/"), name):
            if path in self.paths:
                return self.paths[path]
        near = self.names.get(name.rpartition("/")[2], ())
        if "/" in name:
            near = [path for path in near if f"/{path}".endswith(f"/{name}") or name.endswith(f"/{path}")]
            near = near or [path for path in self._stems(name)]
        if len(near) > 1:  # of train/1.png and test/1.png the table train.csv means the first
            own = os.path.splitext(os.path.basename(table))[0].lower()
            near = [path for path in near if own in path.lower().split("/")[:-1]]
        return self.paths[near[0]] if len(near) == 1 else None

    def several(self, value: Any) -> list[str]:
        """Files that a value may name, where these are more than one."""
        near = self.names.get(str(value).strip().replace("\\", "/").removeprefix("./"), [])
        return near if len(near) > 1 else []

    def _stems(self, name: str) -> list[str]:
        near = self.names.get(name.rpartition("/")[2], ())
        stems = {path: f"/{os.path.splitext(path)[0]}" for path in near}
        return [path for path in near if stems[path].endswith(f"/{name}") or name.endswith(stems[path])]


def known_of(root: Path, files: Sequence[File], tables: Sequence[File], label: str | None) -> Known:
    """What tables beside files say of them.

    Args:
        root: The folder.
        files: The files.
        tables: Files that may be such tables.
        label: Column of labels that the user asked for.

    Raises:
        ValueError: No table beside the files has that column.
    """
    known = Known({}, {}, True, {}, [])
    endings = Counter(file.suffix for file in tables)
    names = _Names(file.path for file in files) if tables else None
    guessed: dict[str, Any] = {}
    columns: list[str] = []
    for file in tables:
        if endings[file.suffix] > _MOST_TABLES or "submission" in file.path.lower():
            continue
        try:
            rows = _rows(root / file.path)
        except Exception as error:  # of csv, json or pyarrow: a file that is no table says nothing of images
            known.skipped.append(Skipped(file.path, f"no table that can be read: {check.reason(error)}"))
            continue
        assert names is not None
        rows, place, paths = _matched(rows, file.path, names)
        if place is None:
            if reason := _unmatched(rows, names):
                known.skipped.append(Skipped(file.path, NO_LABELS + reason))
            continue
        split = _splits(rows, paths, file.path)
        others = [column for number, column in enumerate(rows.columns) if number not in (place, split[0])]
        columns += others
        column, values, explicit = _label_values(rows, others, label, file.path)
        for path, to in zip(paths, split[1]):
            if path and to:
                known.splits.setdefault(path, to)
        if values is None:
            if others:
                listing = check.one_line(", ".join(rows.columns))
                reason = f"{NO_LABELS}its columns are {listing}; choose one with label"
                known.skipped.append(Skipped(file.path, reason))
            elif parts := " and ".join(sorted({to for to in split[1] if to})):
                known.skipped.append(Skipped(file.path, f"names files of the {parts} part"))
            continue
        _gather(known.labels if explicit else guessed, paths, values)
        known.used[file.path] = column if column.startswith("column") else f"column {column}"
    if label is not None and not known.labels:
        listing = check.one_line(", ".join(dict.fromkeys(columns)))
        there = f"tables with the columns {listing}" if columns else "no such table"
        raise NoColumn(
            f"label must be a column of a table beside the images in {root}, got {label} and {there}"
        )
    if known.labels or not _repeat([*guessed.values()]):
        covered = label is not None or 2 * len(known.labels) >= len(files)
        return known._replace(used=known.used if known.labels else {}, explicit=covered)
    return known._replace(labels=guessed, explicit=False)


def images_listed(table: Path, label: str | None) -> tuple[Path, list[str], list[Skipped], Known]:
    """Images that a table or a list of paths names, each one once.

    Args:
        table: The file; its paths are relative to its folder, else to the working directory.
        label: Column of labels that the user asked for.

    Returns:
        The folder above all of them, their paths below it, those that are not there, and what is known of them.

    Raises:
        ValueError: It cannot be read, or names no image that is there.
    """
    try:
        rows = _rows(table)
    except Exception as error:
        raise UserError(f"{table} must be a table or a list of paths: {check.reason(error)}") from error
    cells = [rows.columns, *rows.rows] if rows.columns else rows.rows
    width = max(map(len, cells), default=0)

    place_of = partial(_place, table.parent)
    step = max(1, len(cells) // _SAMPLED)
    hits = Counter(
        place for row in cells[::step] for place in range(len(row)) if place_of(row[place]) is not None
    )
    if not hits:  # paths of another machine
        hits, place_of = _moved(table, cells[::step], width)
    if not hits:
        first = check.one_line(str(cells[0][0])) if cells and cells[0] else "nothing"
        raise UserError(
            f"{table} must name images below {table.parent} or the working directory, got {first}"
        )
    (column, _), *_ = hits.most_common(1)
    if not rows.columns or place_of(rows.columns[column]) is not None:  # no heading
        rows = _Rows([f"column {number + 1}" for number in range(width)], cells)
    places, skipped = [], []
    for row in rows.rows:
        place = place_of(row[column]) if column < len(row) else None
        places.append(os.path.abspath(place) if place else None)
        if place is None:
            skipped.append(Skipped(str(row[column]) if column < len(row) else str(row), "No such file"))
    unique = list(dict.fromkeys(place for place in places if place))
    top = Path(os.path.commonpath([os.path.dirname(place) for place in unique]))
    paths = [place and os.path.relpath(place, top) for place in places]
    split = _splits(rows, paths, "")
    others = [name for number, name in enumerate(rows.columns) if number not in (column, split[0])]
    _, values, explicit = _label_values(rows, others, label, str(table))
    known = Known({}, {path: to for path, to in zip(paths, split[1]) if path and to}, True, {}, [])
    if values is not None and (explicit or _repeat(values)):
        _gather(known.labels, paths, values)  # before folders: who gives a list means what it says
    elif label is not None:
        raise NoColumn(
            f"label must be one of the columns {', '.join(others) or 'beside the paths'}, got {label}"
        )
    elif others:
        known.skipped.append(
            Skipped(
                table.name, f"{NO_LABELS}its columns are {', '.join(rows.columns)}; choose one with label"
            )
        )
    return top, [path for path in dict.fromkeys(paths) if path], skipped, known


def _moved(table: Path, cells: list[list[Any]], width: int) -> tuple[Counter[int], Any]:
    """Which columns name images below the folder of a table by the ends of their paths, and what finds these."""
    names = _Names(file.path for file in walk(table.parent).files if file.ends(SUFFIXES))

    def place_of(value: Any) -> Path | None:
        path = names.find(value, table.name) if isinstance(value, str) else None
        return table.parent / path if path else None

    hits = Counter(place for row in cells for place, cell in enumerate(row[:width]) if place_of(cell))
    if hits:
        note(
            f"{table}: its paths are not there; images below {table.parent} are found by the ends of these paths"
        )
    return hits, place_of


def _place(folder: Path, value: Any) -> Path | None:
    """The file that a cell names; None where there is none."""
    if not isinstance(value, str) or not value.strip() or len(value) > 4096:
        return None
    name = Path(value.strip().replace("\\", "/"))
    return next((path for path in (folder / name, name) if path.is_file()), None)


def _rows(path: Path) -> _Rows:
    """Columns and rows of a table of any kind; one without a heading has its first row as columns."""
    if path.stat().st_size > _LARGEST:
        raise UserError(f"larger than {_LARGEST // 2**20} MB")
    suffix = path.suffix.lower()
    if suffix in ENDINGS:
        table = open_table(path)
        from pyarrow import types

        simple = [field.name for field in table.schema if not types.is_nested(field.type)]
        batches = [batch for batch in table.batches(simple)] if simple else []
        return _Rows(simple, [list(row) for batch in batches for row in zip(*batch.values(), strict=True)])
    content = path.read_bytes()
    coding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = content.decode(coding, "replace")
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _of_json(
            json.loads(text) if suffix == ".json" else map(json.loads, filter(str.strip, text.splitlines()))
        )
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return _Rows([], [])
    counts = {mark: lines[0].count(mark) for mark in "\t,;|"}
    mark = max(counts, key=lambda mark: counts[mark])
    if counts[mark]:
        first, *rest = [
            list(map(str.strip, row)) for row in csv.reader(io.StringIO(text), delimiter=mark) if any(row)
        ]
        return _Rows(first, rest)
    # The paths of a list may hold spaces, its labels not.
    first, *rest = [
        [line.strip()] if line.strip().lower().endswith(SUFFIXES) else line.rsplit(None, 1) for line in lines
    ]
    return _Rows(first, rest)


def _of_json(records: Any) -> _Rows:
    if isinstance(records, Mapping) and isinstance(records.get("images"), list):
        records = _of_coco(records)
    if isinstance(records, Mapping) and isinstance(records.get("labels"), list):  # as StyleGAN has it
        records = records["labels"]
    if isinstance(records, Mapping) and all(
        isinstance(names, list) for names in records.values()
    ):  # by class
        records = [(name, label) for label, names in records.items() for name in names]
    if isinstance(records, list) and all(isinstance(row, list | tuple) and len(row) == 2 for row in records):
        return _Rows(["file_name", "label"], [list(row) for row in records])
    if isinstance(records, Mapping):  # names to labels
        return _Rows(["file_name", "label"], [[name, value] for name, value in records.items()])
    records = [record for record in records if isinstance(record, Mapping)]
    columns = list(dict.fromkeys(column for record in records for column in record))
    return _Rows(columns, [[record.get(column) for column in columns] for record in records])


def _of_coco(records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Images of COCO and of the many sets in its format, each with what its annotations say, the same once."""
    annotations, categories = (
        [entry for entry in records.get(name) or () if isinstance(entry, Mapping)]
        for name in ("annotations", "categories")
    )
    names = {entry.get("id"): entry.get("name") for entry in categories}
    said: dict[Any, list[Any]] = {}
    for entry in annotations:
        number = entry.get("category_id")
        said.setdefault(entry.get("image_id"), []).append(names.get(number, number))
    images = [image for image in records["images"] if isinstance(image, Mapping)]
    known = [list(dict.fromkeys(said.get(image.get("id"), ()))) for image in images]
    return [
        {"file_name": image.get("file_name")}
        | ({"label": label[0] if len(label) == 1 else label} if label else {})
        for image, label in zip(images, known)
    ]


def _matched(rows: _Rows, table: str, names: _Names) -> tuple[_Rows, int | None, list[str | None]]:
    """The rows, the place of the column that names files, None where none does, and the file of each row."""
    if any(names.find(cell, table) for cell in rows.columns):  # no heading
        width = max(map(len, [rows.columns, *rows.rows]))
        rows = _Rows([f"column {number + 1}" for number in range(width)], [rows.columns, *rows.rows])
    best: tuple[int, int | None, list[str | None]] = 0, None, []
    sample = rows.rows[:: max(1, len(rows.rows) // _SAMPLED)]
    for place, column in enumerate(rows.columns):
        cells = [row[place] for row in sample if place < len(row)]
        named = _FILE_WORDS.search(column.lower()) is not None
        # Numbers may be anything: they are names only in a column that says so.
        cells = cells if named else [cell for cell in cells if not str(cell).strip().isdigit()]
        if label_column([column]) or not (named or any(names.find(cell, table) for cell in cells)):
            continue
        paths = [names.find(row[place], table) if place < len(row) else None for row in rows.rows]
        if (count := len(set(paths) - {None})) > best[0]:
            best = count, place, paths
    count, place, paths = best
    if 2 * count < min(len(rows.rows), len(names.paths)):
        return rows, None, []
    return rows, place, paths


def _unmatched(rows: _Rows, names: _Names) -> str:
    """Why a column that should name files does not; empty where there is none."""
    for place, column in enumerate(rows.columns):
        cells = [row[place] for row in rows.rows[:_SAMPLED] if place < len(row)]
        # Numbers and classes may happen to be names of files.
        wanted = _FILE_WORDS.search(column.lower()) and not label_column([column])
        for cell in cells if wanted else ():
            if near := names.several(cell):
                return f"{cell} of its column {column} may be {near[0]} or {near[1]}; give paths"
        if cells and wanted and label_column(rows.columns):
            return f"{cells[0]} of its column {column} is no file"
    return ""


def _splits(rows: _Rows, paths: Sequence[str | None], table: str) -> tuple[int | None, list[str | None]]:
    """The place of the column that tells parts apart, and the part of each row; else the one of the table's name."""
    for place, column in enumerate(rows.columns):
        if column.strip().lower() in _SPLIT_COLUMNS:
            values = [str(row[place]).strip().lower() if place < len(row) else "" for row in rows.rows]
            if {*values} <= {*SPLITS}:
                return place, [SPLITS[value] for value in values]
    own = next(iter(by_name([File(table, "")]))) if table else "all"
    return None, [own if own in SPLITS.values() else None] * len(paths)


def _label_values(
    rows: _Rows, others: list[str], label: str | None, where: str
) -> tuple[str, list[Any] | None, bool]:
    """The column of labels, their values, and whether it is named so; values None where there are none."""
    column = label_column(others, label, where, strict=False)
    explicit = column is not None
    if column is None and label is None and len(others) == 1:
        column = others[0]
    if column is not None:
        return column, _column(rows, column), explicit
    if label is None and len(others) > 1 and (values := _one_hot(rows, others)):
        return f"columns {others[0]} to {others[-1]}", values, False
    if label is None and len(others) > 1 and all(re.fullmatch(r"column \d+", name) for name in rows.columns):
        texts = [name for name in others if not any(map(_is_number, _column(rows, name)))]
        texts = [name for name in texts if _repeat(_column(rows, name))]
        if len(texts) == 1:
            return texts[0], _column(rows, texts[0]), False
    return "", None, False


def _column(rows: _Rows, name: str) -> list[Any]:
    place = rows.columns.index(name)
    return [row[place] if place < len(row) else None for row in rows.rows]


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _repeat(values: Sequence[Any]) -> bool:
    """Whether values may be of classes: those that are nearly all different are names or captions of samples."""
    different = len({str(value) for value in values})
    return different < len(values) and (len(values) < _FEW or 2 * different <= len(values))


def _one_hot(rows: _Rows, others: list[str]) -> list[str] | None:
    """The name of the one column that has a 1, if each row has a single 1 among zeros."""
    places, values = [rows.columns.index(column) for column in others], []
    for row in rows.rows:
        if len(row) != len(rows.columns):
            return None
        cells = [str(row[place]).strip().removesuffix(".0") for place in places]
        if {*cells} != {"0", "1"} or cells.count("1") != 1:
            return None
        values.append(others[cells.index("1")])
    return values


def _gather(labels: dict[str, Any], paths: Sequence[str | None], values: Sequence[Any]) -> None:
    """Add the labels of files; several that differ are kept as a list."""
    own: dict[str, list[Any]] = {}
    for path, value in zip(paths, values, strict=True):
        if path and value not in own.setdefault(path, []):
            own[path].append(value)
    for path, found in own.items():
        labels.setdefault(path, found[0] if len(found) == 1 else found)
