"""Tables beside images that say what these are: metadata.csv, labels.tsv, train.jsonl, lists of paths in .txt.

A table belongs to the images if one of its columns names them: by path from the table's folder or the root, by name,
or by name without ending. Its labels are in the column with a usual name, or the only other one, or in columns of
which each row has a single 1. A column `split`, or tables for training and test, tell the parts apart.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SPLITS, File, by_name, split_column, split_words, walk
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.labels import NO_LABELS, NoColumn, label_column, recur
from unlabeled.data.notes import note
from unlabeled.data.samples import Skipped
from unlabeled.data.tables import ENDINGS, JsonLines, json_lines, open_table, read_delimited

__all__ = ["LISTS", "TABLES", "Annotations", "annotate", "images_listed", "lists_images"]

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst")
"""Endings of files that may list images."""
TABLES = (*LISTS, *ENDINGS)
_LARGEST, _MOST_TABLES = 2**28, 20
"""Bytes of the largest table that is read; of how many files of one ending each may be one: more are of samples."""
_FILE_WORDS = re.compile(r"id(?![a-z])|image|img|file|path|name|photo|picture|column 1$")
_SAMPLED, _FEW, _HEAD = 200, 20, 2**14


class Annotations(NamedTuple):
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

    def column(self, place: int) -> list[Any]:
        return [row[place] if place < len(row) else None for row in self.rows]

    def without_heading(self) -> "_Rows":
        """The same table where its first row, which was taken for a heading, is like the others."""
        rows = [self.columns, *self.rows] if self.columns else self.rows
        return _Rows([f"column {number + 1}" for number in range(max(map(len, rows)))], rows)


class _Names:
    """Files by every name that a table may call them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = {path.replace(os.sep, "/"): path for path in paths}
        self.names: dict[str, list[str]] = {}
        for path in self.paths:
            name = path.rpartition("/")[2]
            for spelling in {name, os.path.splitext(name)[0]}:
                self.names.setdefault(spelling, []).append(path)

    def find(self, value: Any, table: str) -> str | None:
        """The one file that a value in a table names, if need be with another ending or in another case."""
        if (path := self._find(value, table)) is not None or not isinstance(value, str):
            return path
        stem, ending = os.path.splitext(value.strip())
        if ending[1:2].isalpha() and ending[1:].isalnum() and (path := self._find(stem, table)) is not None:
            return path
        path = self._folded._find(value.casefold(), table.casefold()) if self._fold else None
        return self._fold.get(path) if path else None

    @cached_property
    def _fold(self) -> dict[str, str]:
        """Files by their paths in lower case, where these differ from all others too."""
        paths = [*self.paths.values()]
        count = Counter(path.casefold() for path in paths)
        return {path.casefold(): path for path in paths if count[path.casefold()] == 1}

    @cached_property
    def _folded(self) -> "_Names":
        return _Names(self._fold)

    def _find(self, value: Any, table: str) -> str | None:
        if not isinstance(value, str | int) or isinstance(value, bool):
            return None
        folder, name = os.path.dirname(table).replace(os.sep, "/"), _spelled(value)
        for path in (f"{folder}/{name}".lstrip("/"), name):
            if path in self.paths:
                return self.paths[path]
        near = self.names.get(name.rpartition("/")[2], [])
        if "/" in name:
            stems = [path for path in near if _end_alike(os.path.splitext(path)[0], name)]
            near = [path for path in near if _end_alike(path, name)] or stems
        if len(near) > 1:  # of train/1.png and test/1.png the table train.csv means the first
            own = os.path.splitext(os.path.basename(table))[0].lower()
            near = [path for path in near if own in path.lower().split("/")[:-1]]
        return self.paths[near[0]] if len(near) == 1 else None

    def several(self, value: Any) -> list[str]:
        """Files that a value may name, where these are more than one."""
        near = self.names.get(_spelled(value), [])
        return near if len(near) > 1 else []


def _spelled(value: Any) -> str:
    return str(value).strip().replace("\\", "/").removeprefix("./")


def _end_alike(path: str, name: str) -> bool:
    return f"/{path}".endswith(f"/{name}") or name.endswith(f"/{path}")


def annotate(root: Path, files: Sequence[File], tables: Sequence[File], label: str | None) -> Annotations:
    """What tables beside files say of them, of which one must have the column `label` if it is given."""
    result = Annotations({}, {}, True, {}, [])
    endings = Counter(file.suffix for file in tables)
    names = _Names(file.path for file in files) if tables else _Names(())
    guesses: dict[str, Any] = {}
    columns: list[str] = []
    for file in tables:
        if endings[file.suffix] > _MOST_TABLES or "submission" in file.path.lower():
            continue
        try:
            rows = _rows(root / file.path)
        except Exception as error:  # of csv, json or pyarrow: a file that is no table says nothing of images
            reason = f"no table that can be read: {check.reason(error)}"
            result.skipped.append(Skipped(file.path, reason))
            continue
        rows, place, paths = _matched(rows, partial(names.find, table=file.path))
        if 2 * len({*paths} - {None}) < min(len(rows.rows), len(names.paths)):
            place = None
        if place is not None:
            columns += _gather(rows, place, paths, file.path, label, result, guesses)
        elif reason := _why_unmatched(rows, names):
            result.skipped.append(Skipped(file.path, NO_LABELS + reason))
    if label is not None and not result.labels:
        listing = check.one_line(", ".join(dict.fromkeys(columns)))
        there = f"tables with the columns {listing}" if columns else "no such table"
        raise NoColumn(
            f"label must be a column of a table beside the images in {root}, got {label} and {there}"
        )
    if result.labels or not recur([*guesses.values()], _FEW):
        covers = label is not None or 2 * len(result.labels) >= len(files)
        return result._replace(used=result.used if result.labels else {}, explicit=covers)
    return result._replace(labels=guesses, explicit=False)


def images_listed(table: Path, label: str | None) -> tuple[Path, list[str], list[Skipped], Annotations]:
    """Images that a table or a list of paths names, each one once.

    Paths are relative to the folder of the table, else to the working directory.

    Returns:
        The folder above all of them, their paths below it, those that are not there, and what is said of them.

    Raises:
        ValueError: It cannot be read, names no image that is there, or does not have the column `label`.
    """
    try:
        rows = _rows(table)
    except Exception as error:
        raise UserError(f"{table} must be a table or a list of paths: {check.reason(error)}") from error
    rows, place, files = _matched(rows, partial(_file_at, table.parent))
    if place is None:  # paths of another machine
        names = _Names(file.path for file in walk(table.parent).files if file.ends(SUFFIXES))
        rows, place, paths = _matched(rows, partial(names.find, table=table.name))
        files = [path and str(table.parent / path) for path in paths]
        if place is None:
            first = check.one_line(str(next(chain(rows.columns, *rows.rows[:1]), "nothing")))
            below = f"{table.parent} or the working directory"
            raise UserError(f"{table} must name images below {below}, got {first}")
        note(
            f"{table}: its paths are not there; images below {table.parent} are found by the ends of these paths"
        )
    cells = rows.column(place)
    missing = [
        Skipped(str(row if cell is None else cell), "No such file")
        for row, cell, path in zip(rows.rows, cells, files)
        if path is None
    ]
    absolute = [path and os.path.abspath(path) for path in files]
    top = Path(os.path.commonpath([os.path.dirname(path) for path in absolute if path]))
    paths = [path and os.path.relpath(path, top) for path in absolute]
    result, guesses = Annotations({}, {}, True, {}, []), dict[str, Any]()
    others = _gather(rows, place, paths, "", label, result, guesses)
    if recur([*guesses.values()], _FEW):
        result.labels.update(guesses)  # before folders: who gives a list means what it says
    elif guesses:
        result.skipped.append(Skipped("", _no_labels(rows)))
    if label is not None and not result.labels:
        listing = ", ".join(others) or "beside the paths"
        raise NoColumn(f"label must be one of the columns {listing}, got {label}")
    remarks = [Skipped(table.name, skip.reason) for skip in result.skipped if NO_LABELS in skip.reason]
    result = result._replace(used={}, skipped=remarks)
    return top, [path for path in dict.fromkeys(paths) if path], missing, result


def lists_images(path: Path) -> bool:
    """Whether a file in a format that texts have too begins with lines that name images, which are there."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".lst"):
        return False
    with path.open("rb") as file:
        lines = file.read(_HEAD).decode("utf-8-sig", "replace").splitlines()[1 : _FEW + 1]
    cells = [[cell.strip().strip('"') for cell in re.split(r"[,;\t]", line)] for line in lines]
    named = [any(map(partial(_file_at, path.parent), filter(_is_image_name, own))) for own in cells]
    return 2 * sum(named) > len(named)


def _is_image_name(cell: str) -> bool:
    return cell.lower().endswith(SUFFIXES)


def _no_labels(rows: _Rows) -> str:
    return f"{NO_LABELS}its columns are {check.one_line(', '.join(rows.columns))}; choose one with --label"


def _gather(
    rows: _Rows,
    place: int,
    paths: Sequence[str | None],
    table: str,
    label: str | None,
    result: Annotations,
    guesses: dict[str, Any],
) -> list[str]:
    """Add what a table says of files, several labels of one that differ as a list.

    Args:
        rows: The table.
        place: The column that names the files.
        paths: The file of each row.
        table: The path of the table, whose name may be that of a split.
        label: Column of labels that the user asked for.
        result: Where it is added.
        guesses: Where labels are added whose column has no usual name.

    Returns:
        Names of the columns beside those of files and splits.
    """
    split_place, splits = _splits(rows, table)
    for path, split in zip(paths, splits):
        if path and split:
            result.splits.setdefault(path, split)
    others = [column for number, column in enumerate(rows.columns) if number not in (place, split_place)]
    column, values, explicit = _label_values(rows, others, label)
    if values is not None:
        own: dict[str, list[Any]] = {}
        for path, value in zip(paths, values, strict=True):
            if path and value not in own.setdefault(path, []):
                own[path].append(value)
        labels, others_say = result.labels if explicit else guesses, 0
        for path, several in own.items():
            value = several[0] if len(several) == 1 else several
            others_say += str(labels.setdefault(path, value)) != str(value)
        if others_say:
            note(
                f"{table}: {others_say:,} of its labels differ from those of {next(iter(result.used))}, which are used"
            )
        result.used[table] = column if column.startswith("column") else f"column {column}"
        if nowhere := [
            row[place] for row, path in zip(rows.rows, paths) if path is None and place < len(row)
        ]:
            count = f"{len(nowhere):,} of its {len(paths):,} rows name no file"
            result.used[table] += f"; {count}, such as {check.one_line(str(nowhere[0]))}"
    elif others:
        result.skipped.append(Skipped(table, _no_labels(rows)))
    elif parts := " and ".join(sorted({split for split in splits if split})):
        result.skipped.append(Skipped(table, f"names files of the {parts} part"))
    return others


def _file_at(folder: Path, value: Any) -> str | None:
    """The file at the path in a cell."""
    if not isinstance(value, str) or not value.strip() or len(value) > 4096:
        return None
    name = Path(value.strip().replace("\\", "/"))
    return next((str(path) for path in (folder / name, name) if path.is_file()), None)


def _rows(path: Path) -> _Rows:
    """Columns and rows of a table of any kind; one without a heading has its first row as columns."""
    if path.stat().st_size > _LARGEST:
        raise UserError(f"larger than {_LARGEST // 2**20} MB")
    suffix = path.suffix.lower()
    if suffix in ENDINGS:
        table = open_table(path)
        simple = [
            column for column, kind in table.kinds.items() if kind in ("text", "number", "bytes", "other")
        ]
        return _Rows(simple, [[*row.values()] for row in table.records(simple)] if simple else [])
    content = path.read_bytes()
    coding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = content.decode(coding, "replace")
    if suffix == ".json":
        return _of_json(json.loads(text))
    table = json_lines(text) if suffix in (".jsonl", ".ndjson") else read_delimited(text, heading=True)
    if table.broken:
        raise UserError(table.broken[0][1])
    rows: list[Any] = [row for _, row in table.rows]
    if isinstance(table, JsonLines):
        return _of_json(rows)
    columns = table.heading or []
    if max(map(len, [columns, *rows])) > 1:
        return _Rows(columns, [[cell.strip() for cell in row] for row in rows])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # The paths of a list may hold spaces, its labels not.
    rows = [[line] if line.lower().endswith(SUFFIXES) else line.rsplit(None, 1) for line in lines]
    return _Rows(rows[0], rows[1:]) if rows else _Rows([], [])


def _of_json(records: Any) -> _Rows:
    if isinstance(records, Mapping) and isinstance(records.get("images"), list):
        records = _of_coco(records)
    if isinstance(records, Mapping) and isinstance(records.get("labels"), list):  # as StyleGAN has it
        records = records["labels"]
    if isinstance(records, Mapping) and all(
        isinstance(names, list) for names in records.values()
    ):  # by class
        records = [(name, label) for label, names in records.items() for name in names]
    if isinstance(records, Mapping):  # names to labels
        records = [*records.items()]
    if all(isinstance(row, list | tuple) and len(row) == 2 for row in records):
        return _Rows(["file_name", "label"], [list(row) for row in records])
    records = [record for record in records if isinstance(record, Mapping)]
    columns = list(dict.fromkeys(column for record in records for column in record))
    return _Rows(columns, [[record.get(column) for column in columns] for record in records])


def _of_coco(records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Images of COCO and of the many sets in its format, each with what its annotations say, the same once."""
    images, annotations, categories = (
        [entry for entry in records.get(name) or () if isinstance(entry, Mapping)]
        for name in ("images", "annotations", "categories")
    )
    names = {entry.get("id"): entry.get("name") for entry in categories}
    labels: dict[Any, list[Any]] = {}
    for entry in annotations:
        number = entry.get("category_id")
        labels.setdefault(entry.get("image_id"), []).append(names.get(number, number))
    rows = []
    for image in images:
        own = list(dict.fromkeys(labels.get(image.get("id"), ())))
        label = {"label": own[0] if len(own) == 1 else own} if own else {}
        rows.append({"file_name": image.get("file_name")} | label)
    return rows


def _matched(rows: _Rows, find: Callable[[Any], str | None]) -> tuple[_Rows, int | None, list[str | None]]:
    """The rows, the place of the column that names most files, None where none does, and the file of each row."""
    if any(find(cell) for cell in rows.columns):
        rows = rows.without_heading()
    best: tuple[int, int | None, list[str | None]] = 0, None, []
    sample = rows.rows[:: max(1, len(rows.rows) // _SAMPLED)]
    for place, column in enumerate(rows.columns):
        cells = [row[place] for row in sample if place < len(row)]
        says_file = _FILE_WORDS.search(column.lower()) is not None
        # Numbers may be anything: they are names only in a column that says so.
        cells = cells if says_file else [cell for cell in cells if not str(cell).strip().isdigit()]
        if label_column([column]) or not (says_file or any(map(find, cells))):
            continue
        paths = [find(cell) for cell in rows.column(place)]
        if (count := len(set(paths) - {None})) > best[0]:
            best = count, place, paths
    return rows, best[1], best[2]


def _why_unmatched(rows: _Rows, names: _Names) -> str:
    """Why a column that should name files does not; empty where there is none."""
    for place, column in enumerate(rows.columns):
        # Numbers and classes may happen to be names of files.
        if not _FILE_WORDS.search(column.lower()) or label_column([column]):
            continue
        cells = [row[place] for row in rows.rows[:_SAMPLED] if place < len(row)]
        for cell in cells:
            if near := names.several(cell):
                return f"{cell} of its column {column} may be {near[0]} or {near[1]}; give paths"
        if cells and label_column(rows.columns):
            return f"{cells[0]} of its column {column} is no file"
    return ""


def _splits(rows: _Rows, table: str) -> tuple[int | None, list[str | None]]:
    """The place of the column that tells parts apart, and the part of each row; else the one of the table's name."""
    for place, column in enumerate(rows.columns):
        if split_column([column]) and (words := split_words(rows.column(place))) is not None:
            return place, [*words]
    own = next(iter(by_name([File(table, "")]))) if table else "all"
    return None, [own if own in SPLITS.values() else None] * len(rows.rows)


def _label_values(rows: _Rows, others: list[str], label: str | None) -> tuple[str, list[Any] | None, bool]:
    """The column of labels, their values, and whether it is named so; values None where there are none."""
    column = label_column(others, label, strict=False)
    explicit = column is not None
    if column is None and label is None and len(others) == 1:
        column = others[0]
    if column is not None:
        return column, rows.column(rows.columns.index(column)), explicit
    if label is not None or len(others) < 2:
        return "", None, False
    if values := _one_hot(rows, others):
        return f"columns {others[0]} to {others[-1]}", values, False
    if all(re.fullmatch(r"column \d+", name) for name in rows.columns):
        columns = {name: rows.column(rows.columns.index(name)) for name in others}
        texts = [name for name, cells in columns.items() if not any(map(_is_number, cells))]
        texts = [name for name in texts if recur(columns[name], _FEW)]
        if len(texts) == 1:
            return texts[0], columns[texts[0]], False
    return "", None, False


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


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
