"""Score records as tables in plain text."""

import math
from collections.abc import Sequence
from typing import Any

from unlabeled.evaluation.measurement import Record
from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.verdict import (
    OURS,
    Column,
    amount,
    column,
    images_in_words,
    independent,
    name,
    readouts,
)

__all__ = ["aligned", "blocks", "by_class", "side_by_side", "table"]

NOT_MEASURED = "not measured"
"""What a cell says where an evaluation was stopped."""


def table(records: Sequence[Record], missing: Sequence[Sequence[Any]] = ()) -> str:
    """One block for each probe or task: rows are features, columns are numbers of labels, layers and units.

    Args:
        records: Score records.
        missing: What was to be measured too, as `verdict.Missing`; in columns that there are, its cells say so.
    """
    return "\n\n".join(_lines(title, [*head, *rows]) for title, head, rows in blocks(records, missing))


def blocks(
    records: Sequence[Record], missing: Sequence[Sequence[Any]] = ()
) -> list[tuple[str, list[list[str]], list[list[str]]]]:
    """Title, rows of the head, and the other rows of each table, with what is missing, as in `table`."""
    probes = dict.fromkeys(record["probe"] for record in records)
    tables = [_block(probe, [r for r in records if r["probe"] == probe], missing) for probe in probes]
    shown: set[str] = set()
    for title, rows in by_class(records):  # of the main unit of each task
        if (task := title.partition(":")[0]) not in shown:
            shown.add(task)
            tables.append((title, rows[:1], rows[1:]))
    return tables


def side_by_side(runs: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """As `table`, of several runs: a row for each by its name, and controls that are the same for all runs once.

    Args:
        runs: Name and score records of each.
    """
    controls: dict[str, dict[str, list[Record]]] = {}
    rows, ours = [], []
    for label, records in runs:
        for record in records:
            if record["features"] == OURS:
                ours.append({**record, "features": label, "is_run": True})
            else:
                controls.setdefault(record["features"], {}).setdefault(label, []).append(record)
    for features, by_run in controls.items():
        scores = {tuple((column(r), r["value"]) for r in records) for records in by_run.values()}
        if len(scores) == 1:
            rows += next(iter(by_run.values()))
            continue
        for label, records in by_run.items():
            rows += [{**record, "features": f"{name(features)} of {label}"} for record in records]
    return table([*rows, *ours])


def by_class(records: Sequence[Record]) -> list[tuple[str, list[list[str]]]]:
    """Tables of the scores of single classes, where records have some: a title, and rows, the head first.

    Of each task and unit they are those with most labels; rows are features, of each part of a network that trained.
    """
    tables = []
    for probe, unit in dict.fromkeys((r["probe"], _unit(r)) for r in records if r.get("by_class")):
        own = [r for r in records if (r["probe"], _unit(r)) == (probe, unit) and r.get("by_class")]
        count = own[-1]["labels_per_class"]
        own = [r for r in own if r["labels_per_class"] == count]
        classes = list(own[0]["by_class"])
        rows = [
            [
                name(r["features"]),
                r["layer"] or "",
                *(amount(r["by_class"].get(c, math.nan), unit) for c in classes),
            ]
            for feature in _features(own)
            for r in own
            if r["features"] == feature
        ]
        layers = len({row[1] for row in rows}) > 1
        head = ["", "layer", *classes]
        rows = [row if layers else [row[0], *row[2:]] for row in [head, *rows]]
        tables.append((f"{probe}: {unit.replace('mean ', '')} by class{images_in_words(count)}", rows))
    return tables


def _block(
    probe: str, records: list[Record], missing: Sequence[Sequence[Any]]
) -> tuple[str, list[list[str]], list[list[str]]]:
    columns = list(dict.fromkeys(map(column, records)))
    lacking = {(features, (*key, "accuracy")): NOT_MEASURED for *key, features in missing}
    lacking = {(features, key): words for (features, key), words in lacking.items() if key in columns}
    cells = lacking | {(r["features"], column(r)): _cell(r) for r in records}
    features = dict.fromkeys([*_features(records), *(one for one, _ in lacking)])
    in_order = sorted(features, key=lambda one: one == OURS)
    rows = [[name(f), *(cells.get((f, c), "") for c in columns)] for f in in_order]
    return _title(probe, records), _header(probe, columns), rows


def _lines(title: str, rows: list[list[str]]) -> str:
    return f"{title}\n{aligned(rows)}"


def aligned(rows: list[list[str]]) -> str:
    """Rows as plain text: first cells begin below one another, all others end so."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


def _features(records: list[Record]) -> list[str]:
    """Features in the order of rows: controls as they were measured, ours last."""
    return sorted(dict.fromkeys(record["features"] for record in records), key=lambda one: one == OURS)


def _header(probe: str, columns: list[Column]) -> list[list[str]]:
    """Rows that say what the columns are."""
    rows = []
    if any(layer for _, layer, _, _ in columns):
        rows.append(["layer", *(layer or "" for _, layer, _, _ in columns)])
    if probe in PROBES:
        rows.append(["labels per class", *(str(count) for _, _, count, _ in columns)])
    elif len(columns) > 1:
        if any(count != "all" for _, _, count, _ in columns):
            rows.append(["labelled images", *(str(count) for _, _, count, _ in columns)])
        rows.append(["", *(unit for _, _, _, unit in columns)])
    return rows


def _title(probe: str, records: list[Record]) -> str:
    draws = max(record["draws"] for record in records)
    settings = f" ({_neighbours(records)})" if probe == "knn" else ""
    units = dict.fromkeys("accuracy in %" if _unit(r) == "accuracy" else _unit(r) for r in records)
    parts = [f"{probe}{settings}: {', '.join(units)} on {records[0]['samples']:,} test samples"]
    if draws > 1:
        parts.append(f"± standard deviation over {draws} draws of the labels")
    return ", ".join([*parts, *filter(None, [readouts(records)]), *_intervals(records)])


def _neighbours(records: list[Record]) -> str:
    """Settings of ours, with the number of neighbours wherever it differs."""
    own = [record for record in records if record["features"] == OURS or record.get("is_run")]
    ours = [record["detail"].partition("; features ")[0] for record in own]
    details = [detail.partition(", ") for detail in ours]
    counts = dict.fromkeys(count.removeprefix("k=") for count, _, _ in details)
    others = dict.fromkeys(rest for _, _, rest in details)
    return ", ".join([f"k={' or '.join(counts)}", *others])


def _unit(record: Record) -> str:
    return record.get("unit", "accuracy")


def _intervals(records: list[Record]) -> list[str]:
    """How intervals in the table were made, and of how many independent units."""
    single = any(record["draws"] == 1 for record in records)
    units = independent(records)
    if not units:
        return ["[95 % interval]"] if single else []
    if all(record["low"] is None for record in records):
        return [f"no interval, as there is {units}"]
    return [f"[95 % interval over {units}]" if single else f"margins over {units}"]


def _cell(record: Record) -> str:
    unit = _unit(record)
    value = amount(record["value"], unit)
    if record["std"] is not None:
        return f"{value} ± {amount(record['std'], unit)}"
    if record["low"] is None or record["high"] is None:
        return value
    return f"{value} [{amount(record['low'], unit)}, {amount(record['high'], unit)}]"
