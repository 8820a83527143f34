"""Scores become tables in which a winner is named only where the intervals say so."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from unlabeled.evaluation.verdict import CHOSEN, OURS, PROBES, comparisons, independent, lead, name
from unlabeled.reporting.charts import Dot, dots, finite

__all__ = ["Row", "Table", "arrange", "beats", "measures", "winner"]

Record = dict[str, Any]
Runs = Sequence[tuple[str, Sequence[Record]]]
"""Label and score records of each run."""
Key = tuple[str, str | None, int | str]
"""Probe, layer and labels per class."""

STYLES = {  # style and shape, in the order of the rows
    "raw": ("control-raw", "square"),
    "random": ("control-random", "diamond"),
    "rescaled": ("control-rescaled", "triangle"),
    "supervised": ("control-supervised", "ring"),
    OURS: ("s0", "circle"),
}


@dataclass
class Row:
    """One kind of features and its record, or None, for each column; `style` and `shape` are those of its mark."""

    name: str
    ours: bool
    cells: list[Record | None]
    style: str = ""
    shape: str = ""


@dataclass
class Table:
    """Rows are features; columns are numbers of labels, layers, probes, or the units of a task.

    Attributes:
        note: What the numbers and intervals are.
        winners: Row of each column that beats all others; None where there is none.
        percent: Whether values are accuracies in 0..1, to be shown in percent and in a chart.
    """

    title: str
    axis: str
    columns: list[str]
    rows: list[Row]
    note: str
    winners: list[int | None] = field(default_factory=list)
    percent: bool = True

    @property
    def chart(self) -> Markup:
        """Accuracies with their intervals, column by column; empty for tasks."""
        columns = [
            (
                column,
                [
                    Dot(row.name, row.style, row.shape, cell["value"], cell.get("low"), cell.get("high"))
                    for row in self.rows
                    if (cell := row.cells[index]) is not None and finite(cell.get("value"))
                ],
            )
            for index, column in enumerate(self.columns)
        ]
        return dots(columns, self.axis) if self.percent else Markup()


def arrange(runs: Runs) -> list[Table]:
    """Sort records of probes into tables: one for each probe, and one for all probes of a single column.

    Where layers were probed, each number of labels has a table of its own. A control that is the same for all runs is
    listed once.

    Returns:
        Tables in the order in which the probes were measured; tasks are left to `measures`.
    """
    if len(runs) > 1:  # a lead over one run says nothing of another
        runs = [
            (label, [{key: record[key] for key in record if "margin" not in key} for record in records])
            for label, records in runs
        ]
    runs = [(label, [record for record in records if record["probe"] in PROBES]) for label, records in runs]
    keys = list(dict.fromkeys(_key(r) for _, records in runs for r in records if r["features"] != "raw"))
    layered = {probe for probe, layer, _ in keys if layer is not None}
    groups: dict[tuple[str, int | str | None], list[Key]] = {}
    for key in sorted(keys, key=lambda key: _by_count(key[2])):
        groups.setdefault((key[0], key[2] if key[0] in layered else None), []).append(key)
    order = list(dict.fromkeys(probe for probe, _, _ in keys))
    columns = sorted(groups.values(), key=lambda group: order.index(group[0][0]))
    single = [group[0] for group in columns if len(group) == 1]
    groups_of_many = [group for group in columns if len(group) > 1]
    return [_table(group, runs) for group in [single, *groups_of_many] if group]


def _by_count(count: int | str) -> tuple[int, float]:
    """Numbers of labels by their size, then fractions such as 1 %, then all."""
    text = str(count)
    return (2, 0.0) if text == "all" else (int(text.endswith("%")), float(text.rstrip("%")))


def _key(record: Record) -> Key:
    return record["probe"], record.get("layer"), record["labels_per_class"]


def _table(keys: Sequence[Key], runs: Runs) -> Table:
    rows = [row for features in STYLES for row in _rows(features, keys, runs)]
    columns, axis, title = _headings(keys)
    winners = [winner(cells) for cells in zip(*(row.cells for row in rows), strict=True)]
    if CHOSEN in columns:  # of many layers the best one would win by luck
        winners = [best if column == CHOSEN else None for column, best in zip(columns, winners, strict=True)]
    note = _note([cell for row in rows for cell in row.cells if cell is not None])
    return Table(title, axis, columns, rows, note, winners)


def _rows(features: str, keys: Sequence[Key], runs: Runs) -> list[Row]:
    """The rows of one kind of features: one for each run, or one where all runs have the same."""
    style, shape = STYLES[features]
    cells = [(number, _cells(keys, records, features)) for number, (_, records) in enumerate(runs)]
    cells = [(number, row) for number, row in cells if any(row)]
    if features == OURS:
        return [
            Row(runs[number][0] if len(runs) > 1 else name(OURS), True, row, f"s{number % 6}", shape)
            for number, row in cells
        ]
    if len(cells) == len(runs) and all(row == cells[0][1] for _, row in cells):
        return [Row(name(features), False, cells[0][1], style, shape)]
    return [Row(f"{name(features)} · {runs[number][0]}", False, row, style, shape) for number, row in cells]


def _cells(keys: Sequence[Key], records: Sequence[Record], features: str) -> list[Record | None]:
    """Record of one kind of features for each column; pixels measured once stand beside every layer."""
    cells = {_key(record): record for record in records if record["features"] == features}
    once = {(probe, count): record for (probe, layer, count), record in cells.items() if layer is None}
    return [cells.get(key) or (once.get((key[0], key[2])) if features == "raw" else None) for key in keys]


def _headings(keys: Sequence[Key]) -> tuple[list[str], str, str]:
    """Names of the columns, what they are, and the title of a table."""
    probes, layers, counts = (len(set(part)) > 1 for part in zip(*keys, strict=True))
    columns = [
        " · ".join(
            [
                *([PROBES[probe]] if probes else []),
                *([layer or "encoder"] if layers else []),
                *([str(count)] if counts or not (probes or layers) else []),
            ]
        )
        for probe, layer, count in keys
    ]
    title = " and ".join(PROBES[probe] for probe in dict.fromkeys(probe for probe, _, _ in keys))
    if not counts and (probes or layers):
        title += " · all labels" if keys[0][2] == "all" else f" · {keys[0][2]} per class"
    axis = "probe" if probes else "layer" if layers else "labels per class"
    return columns, axis, title[:1].upper() + title[1:]


def beats(first: Record, second: Record) -> bool:
    """Whether one record lies above another beyond doubt, as the verdict has it."""
    if second["features"] == OURS:
        return lead(second, first) == "behind"
    if first["features"] != OURS:  # a margin compares ours with a control, not one control with another
        second = {key: value for key, value in second.items() if not key.startswith("margin")}
    return lead(first, second) == "ahead"


def winner(cells: Sequence[Record | None]) -> int | None:
    """Index of the cell that beats all others of its column; None where there is none, or no other."""
    present = [(index, cell) for index, cell in enumerate(cells) if cell is not None]
    for index, cell in present:
        others = [other for place, other in present if place != index]
        if others and all(beats(cell, other) for other in others):
            return index
    return None


def measures(runs: Runs) -> list[Table]:
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
    columns = list(dict.fromkeys((record.get("layer"), record["unit"]) for record in records))
    won = {comparison.column[1::2] for comparison in comparisons(records) if comparison.outcome == "won"}
    kinds = sorted(dict.fromkeys(record["features"] for record in records), key=lambda kind: kind == OURS)
    rows = []
    for kind in kinds:
        cells = {(r.get("layer"), r["unit"]): r for r in records if r["features"] == kind}
        rows.append(Row(name(kind), kind == OURS, [cells.get(column) for column in columns]))
    lower = dict.fromkeys(record["unit"] for record in records if record["better"] == "lower")
    notes = [_intervals(records), *([f"lower is better: {', '.join(lower)}"] if lower else [])]
    headings = [" · ".join(filter(None, column)) for column in columns]
    winners = [len(rows) - 1 if rows[-1].ours and column in won else None for column in columns]
    return Table(title, "", headings, rows, " · ".join(notes), winners, percent=False)


def _note(records: Sequence[Record]) -> str:
    samples = sorted({record["samples"] for record in records if record.get("samples")})
    draws = max((record.get("draws") or 1 for record in records), default=1)
    details = {str(r["detail"]) for r in records if r["features"] == OURS and r.get("detail")}
    notes = ["Accuracy in %"]
    notes += [f"{' / '.join(f'{count:,}' for count in samples)} test samples"] if samples else []
    notes += [f"mean of {draws} draws of the labels"] if draws > 1 else []
    notes.append(_intervals(records))
    # Penalties that differ by column would drown the caption; they stand in the tooltip of each cell.
    return " · ".join([*notes, *(details if len(details) == 1 else [])])


def _intervals(records: Sequence[Record]) -> str:
    """How intervals were made."""
    units = independent(records)
    if not any(finite(record.get("low")) for record in records) and units:
        return f"no intervals, as there is {units}"
    return f"95 % intervals over {units or 'test samples'}"
