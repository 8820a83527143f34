"""Scores become tables in which a winner is named only where the intervals say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from unlabeled.report.charts import Dot, dots, finite, legend

__all__ = ["Row", "Table", "arrange", "beats", "draw", "measures", "verdict", "winner"]

Record = dict[str, Any]
Key = tuple[str, str | None, int | str]

FEATURES = {  # in the order of the rows: name, style, shape
    "raw": ("raw input", "control-raw", "square"),
    "random": ("random weights", "control-random", "diamond"),
    "rescaled": ("rescaled random weights", "control-rescaled", "triangle"),
    "supervised": ("trained on those labels only", "control-supervised", "ring"),
    "unlabeled": ("unlabeled", "s0", "circle"),
}
PROBES = {
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "finetune": "fine-tuning",
    "layers": "linear probe, layer by layer",
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
    for features, (name, style, shape) in FEATURES.items():
        found = [(index, _cells(keys, records, features)) for index, (_, records) in enumerate(runs)]
        found = [(index, cells) for index, cells in found if any(cells)]
        if features == "unlabeled":
            rows += [
                Row(runs[index][0] if len(runs) > 1 else name, f"s{index % 6}", shape, cells)
                for index, cells in found
            ]
        elif len(found) == len(runs) and all(cells == found[0][1] for _, cells in found):
            rows.append(Row(name, style, shape, found[0][1]))
        else:
            rows += [Row(f"{name} · {runs[index][0]}", style, shape, cells) for index, cells in found]
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
    """Whether one record lies above another beyond doubt.

    Where the margin of ours over a control was measured, sample by sample, its interval decides; else the two
    intervals must lie apart.
    """
    ours = "unlabeled" in (first["features"], second["features"])
    if ours and finite(second.get("margin_low")):
        return second["margin_low"] > 0
    if ours and finite(first.get("margin_high")):
        return first["margin_high"] < 0
    low, high = first.get("low"), second.get("high")
    return finite(low) and finite(high) and low > high


def winner(cells: Sequence[Record | None]) -> int | None:
    """Index of the cell that beats all others of its column; None where there is none, or no other."""
    known = [index for index, cell in enumerate(cells) if cell is not None]
    for index in known:
        others = [cells[other] for other in known if other != index]
        if others and all(beats(cells[index], other) for other in others):  # type: ignore[arg-type]
            return index
    return None


def verdict(records: Sequence[Record]) -> str:
    """Say whether the learned features beat their controls.

    Args:
        records: Score records of one run.

    Returns:
        Plain text; empty where nothing can be compared.
    """
    compared = clear = losses = 0
    behind: dict[str, list[str]] = {}
    taught: list[tuple[bool, bool]] = []
    for table in arrange([("", records)]):
        for place, cells in zip(table.columns, zip(*(row.cells for row in table.rows)), strict=True):
            column = {cell["features"]: cell for cell in cells if cell is not None}
            ours, supervised = column.pop("unlabeled", None), column.pop("supervised", None)
            if ours is not None and supervised is not None:
                taught.append((beats(ours, supervised), beats(supervised, ours)))
            if ours is not None and column:
                compared += 1
                clear += all(beats(ours, control) for control in column.values())
                if any(beats(control, ours) for control in column.values()):
                    losses += 1
                    behind.setdefault(table.title, []).append(place)
    sentences = []
    if compared:
        where = "; ".join(f"{title}: {', '.join(places)}" for title, places in behind.items())
        unclear = compared - clear - losses
        said = [f"beat the raw input and untrained weights beyond doubt in {clear} of {compared} comparisons"]
        said += [f"lose to one of them in {losses} ({where})"] if losses else []
        said += [f"are within noise of the best of them in {unclear}"] if unclear else []
        *most, last = said
        joined = f"{', '.join(most)} and {last}" if most else last
        sentences.append(f"The frozen features {joined}.")
    if taught:
        won, lost = (sum(column) for column in zip(*taught, strict=True))
        sentences.append(
            f"Against the same encoder trained on those labels only they win {won} and lose {lost} "
            f"of {len(taught)}."
        )
    return " ".join([*sentences, *_task_verdicts(records)])


def _task_verdicts(records: Sequence[Record]) -> list[str]:
    """A sentence for each task that has controls."""
    sentences = []
    for task in dict.fromkeys(record["probe"] for record in records if record["probe"] not in PROBES):
        units: dict[str, list[str]] = {}
        found = [record for record in records if record["probe"] == task and finite(record.get("margin_low"))]
        for unit in dict.fromkeys(record.get("unit", "accuracy") for record in found):
            margins = [record for record in found if record.get("unit", "accuracy") == unit]
            won = all(margin["margin_low"] > 0 for margin in margins)
            lost = any(margin["margin_high"] < 0 for margin in margins)
            how = "lose to one of them" if lost else "are within noise of the best of them"
            units.setdefault("beat every control beyond doubt" if won else how, []).append(unit)
        if units:
            *most, last = [f"{how} in {', '.join(names)}" for how, names in units.items()]
            sentences.append(f"In {task} they {', '.join(most)}{' and ' if most else ''}{last}.")
    return sentences


def draw(table: Table) -> str:
    """Write a table and its chart.

    Args:
        table: The table.

    Returns:
        HTML; a cell shows percent and its interval, a winner has a dot.
    """
    winners = [winner(cells) for cells in zip(*(row.cells for row in table.rows), strict=True)]
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
    tables = []
    for label, records in runs:
        for task in dict.fromkeys(r["probe"] for r in records if r["probe"] not in PROBES):
            found = [{"unit": "accuracy", "better": "higher", **r} for r in records if r["probe"] == task]
            units = list(dict.fromkeys(record["unit"] for record in found))
            rows = []
            for features in dict.fromkeys(record["features"] for record in found):
                cells = {record["unit"]: record for record in found if record["features"] == features}
                ours = features == "unlabeled"
                shown = "".join(_measure(cells.get(unit), ours and _clear(found, unit)) for unit in units)
                name = FEATURES[features][0] if features in FEATURES else features
                kind = ' class="ours"' if ours else ""
                rows.append((ours, f'<tr{kind}><th scope="row">{escape(name)}</th>{shown}</tr>'))
            head = "".join(f'<th scope="col">{escape(unit)}</th>' for unit in units)
            title = task.capitalize() + (f" · {label}" if len(runs) > 1 else "")
            lower = [
                unit for unit in units if any(r["unit"] == unit and r["better"] == "lower" for r in found)
            ]
            note = "95 % intervals over test samples" + (
                f" · lower is better: {', '.join(lower)}" if lower else ""
            )
            body = "".join(row for _, row in sorted(rows, key=lambda row: row[0]))
            tables.append(
                f'<div class="scores"><h3>{escape(title)}</h3><p class="note">{escape(note)}</p>'
                f'<div class="scroll"><table class="score"><thead><tr><td></td>{head}</tr></thead>'
                f"<tbody>{body}</tbody></table></div></div>"
            )
    return "".join(tables)


def _clear(records: Sequence[Record], unit: str) -> bool:
    margins = [r["margin_low"] for r in records if r["unit"] == unit and finite(r.get("margin_low"))]
    return bool(margins) and min(margins) > 0


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
    return " · ".join(["Accuracy in % with 95 % interval", *tested, *drawn, *common])


def _cell(cell: Record | None, best: bool) -> str:
    if cell is None or not finite(cell.get("value")):
        return "<td>–</td>"
    low, high = cell.get("low"), cell.get("high")
    interval = f"<small>{100 * low:.1f}–{100 * high:.1f}</small>" if finite(low) and finite(high) else ""
    kind = ' class="best"' if best else ""
    about = f' title="{escape(str(cell["detail"]))}"' if cell.get("detail") else ""
    return f"<td{kind}{about}>{100 * cell['value']:.1f}{interval}</td>"
