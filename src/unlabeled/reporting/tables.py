"""Scores become tables in which a winner is named only where the intervals say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from unlabeled.evaluation.verdict import CHOSEN, OURS, PROBES, comparisons, independent, lead, name
from unlabeled.reporting.charts import Dot, dots, finite, legend

__all__ = ["Row", "Table", "arrange", "beats", "draw", "measures", "winner"]

Record = dict[str, Any]
Key = tuple[str, str | None, int | str]

STYLES = {  # style and shape, in the order of the rows
    "raw": ("control-raw", "square"),
    "random": ("control-random", "diamond"),
    "rescaled": ("control-rescaled", "triangle"),
    "supervised": ("control-supervised", "ring"),
    "unlabeled": ("s0", "circle"),
}


@dataclass
class Row:
    """One kind of features and its record, or None, for each column."""

    name: str
    style: str
    shape: str
    cells: list[Record | None]


@dataclass
class Table:
    """Rows are features; columns are numbers of labels, layers, or probes."""

    title: str
    axis: str
    columns: list[str]
    rows: list[Row]

    @property
    def records(self) -> list[Record]:
        """All records of the table."""
        return [cell for row in self.rows for cell in row.cells if cell is not None]


def arrange(runs: Sequence[tuple[str, Sequence[Record]]]) -> list[Table]:
    """Sort score records into tables: one for each probe, and one for all probes of a single column.

    Where layers were probed, each number of labels has a table of its own.

    Args:
        runs: Label and score records of each run. A control that is the same for all runs is listed once.

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
    return [
        _table(group, runs) for group in [single, *columns] if group and (group is single or len(group) > 1)
    ]


def _by_count(count: int | str) -> tuple[int, float]:
    """Numbers of labels by their size, then shares such as 1 %, then all."""
    text = str(count)
    return (2, 0.0) if text == "all" else (int(text.endswith("%")), float(text.rstrip("%")))


def _key(record: Record) -> Key:
    return record["probe"], record.get("layer"), record["labels_per_class"]


def _table(keys: Sequence[Key], runs: Sequence[tuple[str, Sequence[Record]]]) -> Table:
    rows: list[Row] = []
    for features, (style, shape) in STYLES.items():
        found = [(index, _cells(keys, records, features)) for index, (_, records) in enumerate(runs)]
        found = [(index, cells) for index, cells in found if any(cells)]
        if features == "unlabeled":
            rows += [
                Row(runs[index][0] if len(runs) > 1 else name(features), f"s{index % 6}", shape, cells)
                for index, cells in found
            ]
        elif len(found) == len(runs) and all(cells == found[0][1] for _, cells in found):
            rows.append(Row(name(features), style, shape, found[0][1]))
        else:
            rows += [
                Row(f"{name(features)} · {runs[index][0]}", style, shape, cells) for index, cells in found
            ]
    probes, layers, counts = (len(set(part)) > 1 for part in zip(*keys, strict=True))
    columns = [
        " · ".join(
            [
                *([PROBES.get(probe, probe)] if probes else []),
                *([layer or "encoder"] if layers else []),
                *([str(count)] if counts or not (probes or layers) else []),
            ]
        )
        for probe, layer, count in keys
    ]
    names = [PROBES.get(probe, probe) for probe in dict.fromkeys(probe for probe, _, _ in keys)]
    axis = "probe" if probes else "layer" if layers else "labels per class"
    title = " and ".join(names)
    if not counts and (probes or layers):
        title += " · all labels" if keys[0][2] == "all" else f" · {keys[0][2]} per class"
    return Table(title[:1].upper() + title[1:], axis, columns, rows)


def _cells(keys: Sequence[Key], records: Sequence[Record], features: str) -> list[Record | None]:
    """Record of one kind of features for each column; pixels measured once stand beside every layer."""
    found = {_key(record): record for record in records if record["features"] == features}
    once = {(probe, count): record for (probe, layer, count), record in found.items() if layer is None}
    return [found.get(key) or (once.get((key[0], key[2])) if features == "raw" else None) for key in keys]


def beats(first: Record, second: Record) -> bool:
    """Whether one record lies above another beyond doubt, as the verdict has it."""
    if second["features"] == OURS:
        return lead(second, first) == "behind"
    if (
        first["features"] != OURS
    ):  # a margin says how far ours lies above a control, not one control above another
        second = {key: value for key, value in second.items() if not key.startswith("margin")}
    return lead(first, second) == "ahead"


def winner(cells: Sequence[Record | None]) -> int | None:
    """Index of the cell that beats all others of its column; None where there is none, or no other."""
    known = [index for index, cell in enumerate(cells) if cell is not None]
    for index in known:
        others = [cells[other] for other in known if other != index]
        if others and all(beats(cells[index], other) for other in others):  # type: ignore[arg-type]
            return index
    return None


def draw(table: Table) -> str:
    """Write a table and its chart.

    Args:
        table: The table.

    Returns:
        HTML; a cell shows percent and its interval, a winner has a dot.
    """
    winners = [winner(cells) for cells in zip(*(row.cells for row in table.rows), strict=True)]
    if CHOSEN in table.columns:  # of many layers the best one would win by luck
        winners = [
            best if column == CHOSEN else None for column, best in zip(table.columns, winners, strict=True)
        ]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    body = []
    for place, row in enumerate(table.rows):
        cells = "".join(_cell(cell, best == place) for cell, best in zip(row.cells, winners, strict=True))
        mark = legend([("", row.style, row.shape)]).replace('class="legend"', 'class="legend key"')
        kind = ' class="ours"' if row.shape == "circle" else ""
        body.append(f'<tr{kind}><th scope="row">{mark}{escape(row.name)}</th>{cells}</tr>')
    drawn = [
        (
            column,
            [
                Dot(row.name, row.style, row.shape, cell["value"], cell.get("low"), cell.get("high"))
                for row in table.rows
                if (cell := row.cells[index]) is not None and finite(cell.get("value"))
            ],
        )
        for index, column in enumerate(table.columns)
    ]
    chart = dots(drawn, table.axis) if any(column for _, column in drawn) else ""
    return (
        f'<div class="scores"><h3>{escape(table.title)}</h3>'
        f'<p class="note">{escape(_note(table.records))}</p><div class="scroll"><table class="score">'
        f"<thead><tr><td>{escape(table.axis)}</td>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>{chart}</div>"
    )


def measures(runs: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """Write the tables of tasks, which have units and controls of their own.

    Args:
        runs: Label and score records of each run.

    Returns:
        HTML, one table for each task of each run; a dot marks ours where it beats every control beyond doubt.
    """
    return "".join(
        _task([{"unit": "accuracy", "better": "higher", **r} for r in records if r["probe"] == task], label)
        for run, records in runs
        for task in dict.fromkeys(r["probe"] for r in records if r["probe"] not in PROBES)
        for label in [task.capitalize() + (f" · {run}" if len(runs) > 1 else "")]
    )


def _task(records: Sequence[Record], title: str) -> str:
    """The table of one task: rows are features, columns units, those of each layer where there are layers."""
    columns = list(dict.fromkeys((record.get("layer"), record["unit"]) for record in records))
    won = {one.column[1::2] for one in comparisons(records) if one.outcome == "won"}
    rows = []
    for features in dict.fromkeys(record["features"] for record in records):
        cells = {(r.get("layer"), r["unit"]): r for r in records if r["features"] == features}
        ours = features == OURS
        shown = "".join(_measure(cells.get(place), ours and place in won) for place in columns)
        kind = ' class="ours"' if ours else ""
        rows.append((ours, f'<tr{kind}><th scope="row">{escape(name(features))}</th>{shown}</tr>'))
    named = [" · ".join(filter(None, place)) for place in columns]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in named)
    lower = list(dict.fromkeys(record["unit"] for record in records if record["better"] == "lower"))
    notes = [_intervals(records), *([f"lower is better: {', '.join(lower)}"] if lower else [])]
    body = "".join(row for _, row in sorted(rows, key=lambda row: row[0]))
    return (
        f'<div class="scores"><h3>{escape(title)}</h3><p class="note">{escape(" · ".join(notes))}</p>'
        f'<div class="scroll"><table class="score"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _intervals(records: Sequence[Record]) -> str:
    """How intervals were made."""
    units = independent(records)
    if not any(finite(record.get("low")) for record in records) and units:
        return f"no intervals, as there is {units}"
    return f"95 % intervals over {units or 'test samples'}"


def _measure(cell: Record | None, best: bool) -> str:
    if cell is None or not finite(cell.get("value")):
        return "<td>–</td>"
    low, high = cell.get("low"), cell.get("high")
    known = finite(low) and finite(high) and low != high
    interval = f"<small>{low:.3g}–{high:.3g}</small>" if known else ""
    about = f' title="{escape(str(cell["detail"]))}"' if cell.get("detail") else ""
    kind = ' class="best"' if best else ""
    return f"<td{kind}{about}>{cell['value']:.3g}{interval}</td>"


def _note(records: Sequence[Record]) -> str:
    samples = sorted({record["samples"] for record in records if record.get("samples")})
    draws = max((record.get("draws") or 1 for record in records), default=1)
    ours = [record for record in records if record["features"] == "unlabeled"]
    details = dict.fromkeys(str(record["detail"]) for record in ours if record.get("detail"))
    tested = [f"{' / '.join(f'{count:,}' for count in samples)} test samples"] if samples else []
    drawn = [f"mean of {draws} draws of the labels"] if draws > 1 else []
    # Penalties chosen anew for each number would drown the caption; they stand in each cell's tooltip.
    common = list(details) if len(details) == 1 else []
    return " · ".join(["Accuracy in %", *tested, *drawn, _intervals(records), *common])


def _cell(cell: Record | None, best: bool) -> str:
    if cell is None or not finite(cell.get("value")):
        return "<td>–</td>"
    low, high = cell.get("low"), cell.get("high")
    interval = f"<small>{100 * low:.1f}–{100 * high:.1f}</small>" if finite(low) and finite(high) else ""
    kind = ' class="best"' if best else ""
    about = f' title="{escape(str(cell["detail"]))}"' if cell.get("detail") else ""
    return f"<td{kind}{about}>{100 * cell['value']:.1f}{interval}</td>"
