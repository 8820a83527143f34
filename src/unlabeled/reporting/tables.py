"""Scores become tables in which a winner is named only where the intervals say so."""

from collections.abc import Sequence
from typing import NamedTuple

from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.verdict import (
    CHOSEN,
    OURS,
    PROBES,
    Record,
    column,
    comparisons,
    images_in_words,
    independent,
    lead,
    name,
    readouts,
)
from unlabeled.reporting.charts import Row, finite

__all__ = ["Table", "arrange", "beats", "tasks", "winner"]

Runs = Sequence[tuple[str, Sequence[Record]]]
"""Label and score records of each run."""
Key = tuple[str, str | None, int | str]
"""Probe, layer and labels per class."""

COLOURS, SHAPES = 6, ("square", "diamond", "triangle", "ring")


class Table(NamedTuple):
    """Rows are features; columns are numbers of labels, layers, probes, or the units of a task.

    Attributes:
        axis: What the columns are; empty for tasks, whose values are no accuracies to be shown in percent.
        note: What the numbers and intervals are.
        winners: Row of each column that beats all others; None where there is none.
    """

    title: str
    axis: str
    columns: list[str]
    rows: list[Row]
    note: str
    winners: list[int | None]


def arrange(runs: Runs) -> list[Table]:
    """Sort records of probes into tables: one for each probe, and one for all probes of a single column.

    Where layers were probed, each number of labels has a table of its own. A control that is the same for all runs is
    listed once.

    Returns:
        Tables in the order in which the probes were measured; tasks are left to `tasks`.
    """
    if len(runs) > 1:  # a lead over one run says nothing of another
        runs = [(label, list(map(_without_margin, records))) for label, records in runs]
    runs = [(label, [record for record in records if record["probe"] in PROBES]) for label, records in runs]
    keys = list(dict.fromkeys(_key(r) for _, records in runs for r in records if r["features"] != "raw"))
    layered = {probe for probe, layer, _ in keys if layer is not None}
    groups: dict[tuple[str, int | str | None], list[Key]] = {}
    sizes = {r["labels_per_class"]: r.get("labels") for _, records in runs for r in records}
    known = None not in sizes.values()  # older scores do not say how many labels they are of
    for key in sorted(keys, key=lambda key: (sizes[key[2]], 0.0) if known else _by_count(key[2])):
        groups.setdefault((key[0], key[2] if key[0] in layered else None), []).append(key)
    order = list(dict.fromkeys(probe for probe, _, _ in keys))
    in_order = sorted(groups.values(), key=lambda group: order.index(group[0][0]))
    single = [group[0] for group in in_order if len(group) == 1]
    wide = [group for group in in_order if len(group) > 1]
    return [_table(group, runs) for group in [single, *wide] if group]


def _by_count(count: int | str) -> tuple[int, float]:
    """Numbers of labels by their size, then fractions such as 1 %, then all."""
    text = str(count)
    return (2, 0.0) if text == "all" else (int(text.endswith("%")), float(text.rstrip("%")))


def _key(record: Record) -> Key:
    return record["probe"], record.get("layer"), record["labels_per_class"]


def _table(keys: Sequence[Key], runs: Runs) -> Table:
    title, axis, columns = _headings(keys)
    features = dict.fromkeys(record["features"] for _, records in runs for record in records)
    in_order = sorted(features, key=lambda one: one == OURS)
    rows = [row for one in in_order for row in _rows(one, keys, runs)]
    winners = [winner(cells) for cells in zip(*(row.cells for row in rows), strict=True)]
    if CHOSEN in columns:  # of many layers the best one would win by luck
        winners = [best if column == CHOSEN else None for column, best in zip(columns, winners, strict=True)]
    note = _note([cell for row in rows for cell in row.cells if cell is not None])
    return Table(title, axis, columns, rows, note, winners)


def _headings(keys: Sequence[Key]) -> tuple[str, str, list[str]]:
    """Title of a table, what its columns are, and their names."""
    probes, layers, counts = (len(set(part)) > 1 for part in zip(*keys, strict=True))
    columns = []
    for probe, layer, count in keys:
        words = [PROBES[probe]] if probes else []
        words += [layer or "encoder"] if layers else []
        words += [str(count)] if counts or not words else []
        columns.append(" · ".join(words))
    title = " and ".join(dict.fromkeys(PROBES[probe] for probe, _, _ in keys))
    if not counts and (probes or layers):
        title += " · all labels" if keys[0][2] == "all" else f" · {keys[0][2]} per class"
    axis = "probe" if probes else "layer" if layers else "labels per class"
    return title[:1].upper() + title[1:], axis, columns


def _rows(features: str, keys: Sequence[Key], runs: Runs) -> list[Row]:
    """The rows of one kind of features: one for each run, or one where all runs have the same."""
    style, shape = _mark(features)
    cells = [(number, label, _cells(keys, records, features)) for number, (label, records) in enumerate(runs)]
    cells = [row for row in cells if any(row[2])]
    if features == OURS:
        several = len(runs) > 1
        return [
            Row(label if several else name(OURS), row, f"s{n % 6}", shape, True) for n, label, row in cells
        ]
    if len(cells) == len(runs) and all(row == cells[0][2] for _, _, row in cells):
        return [Row(name(features), cells[0][2], style, shape)]
    return [Row(f"{name(features)} · {label}", row, style, shape) for _, label, row in cells]


def _mark(features: str) -> tuple[str, str]:
    """Style and shape of the mark, the same in every table; colours and shapes together tell 24 controls apart."""
    number = list(CONTROLS).index(features) if features in CONTROLS else 0
    shape = SHAPES[(number + number // (2 * COLOURS)) % len(SHAPES)]
    return ("s0", "circle") if features == OURS else (f"c{number % COLOURS}", shape)


def _cells(keys: Sequence[Key], records: Sequence[Record], features: str) -> list[Record | None]:
    """Record of one kind of features for each column; pixels measured once stand beside every layer."""
    cells = {_key(record): record for record in records if record["features"] == features}
    once = {(probe, count): record for (probe, layer, count), record in cells.items() if layer is None}
    return [cells.get(key) or (once.get((key[0], key[2])) if features == "raw" else None) for key in keys]


def _without_margin(record: Record) -> Record:
    return {key: value for key, value in record.items() if not key.startswith("margin")}


def beats(first: Record, second: Record) -> bool:
    """Whether one record lies above another beyond doubt, as the verdict has it."""
    if second["features"] == OURS:
        return lead(second, first) == "behind"
    if first["features"] != OURS:  # a margin compares ours with a control, not one control with another
        second = _without_margin(second)
    return lead(first, second) == "ahead"


def winner(cells: Sequence[Record | None]) -> int | None:
    """Index of the cell that beats all others of its column; None where there is none, or no other."""
    present = [(index, cell) for index, cell in enumerate(cells) if cell is not None]
    for index, cell in present:
        others = [other for place, other in present if place != index]
        if others and all(beats(cell, other) for other in others):
            return index
    return None


def tasks(runs: Runs) -> list[Table]:
    """Tables of tasks, which have units and controls of their own: one for each task of each run.

    Ours wins a column where it beats every control beyond doubt; controls are not compared with one another.
    """
    return [
        _task([{"unit": "accuracy", "better": "higher", **r} for r in records if r["probe"] == task], title)
        for label, records in runs
        for task in dict.fromkeys(record["probe"] for record in records if record["probe"] not in PROBES)
        for title in [task.capitalize() + (f" · {label}" if len(runs) > 1 else "")]
    ]


def _task(records: Sequence[Record], title: str) -> Table:
    """The table of one task: columns are units, of each layer where there are layers."""
    columns = list(dict.fromkeys(column(record)[1:] for record in records))
    won = {comparison.column[1:] for comparison in comparisons(records) if comparison.outcome == "won"}
    rows = []
    for features in sorted(
        dict.fromkeys(record["features"] for record in records), key=lambda kind: kind == OURS
    ):
        cells = {column(r)[1:]: r for r in records if r["features"] == features}
        rows.append(Row(name(features), [cells.get(key) for key in columns], ours=features == OURS))
    lower = dict.fromkeys(record["unit"] for record in records if record["better"] == "lower")
    notes = [_intervals(records), *([f"lower is better: {', '.join(lower)}"] if lower else [])]
    headings = [
        " · ".join(filter(None, (layer, f"{unit}{images_in_words(count)}"))) for layer, count, unit in columns
    ]
    winners = [len(rows) - 1 if rows[-1].ours and key in won else None for key in columns]
    return Table(title, "", headings, rows, " · ".join(notes), winners)


def _note(records: Sequence[Record]) -> str:
    samples = sorted({record["samples"] for record in records if record.get("samples")})
    draws = max((record.get("draws") or 1 for record in records), default=1)
    details = {str(r["detail"]) for r in records if r["features"] == OURS and r.get("detail")}
    notes = ["Accuracy in %"]
    notes += [f"{' / '.join(f'{count:,}' for count in samples)} test samples"] if samples else []
    notes += [f"mean of {draws} draws of the labels"] if draws > 1 else []
    notes += [words] if (words := readouts(records)) else []
    notes.append(_intervals(records))
    # Penalties that differ by column would drown the caption; they stand in the tooltip of each cell.
    return " · ".join([*notes, *(details if len(details) == 1 else [])])


def _intervals(records: Sequence[Record]) -> str:
    """How intervals were made."""
    units = independent(records)
    if not any(finite(record.get("low")) for record in records) and units:
        return f"no intervals, as there is {units}"
    return f"95 % intervals over {units or 'test samples'}"
