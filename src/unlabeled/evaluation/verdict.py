"""The verdict: what score records say of the learned features against their controls, and no more.

Command line and page both take it from here. A column is a probe or task, a layer, a number of labels and a unit; every
column in which ours stands beside a control is judged and named, so that none can be picked. Of layers that were probed
one by one only the one counts that was chosen on training labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "CHOSEN",
    "NAMES",
    "OURS",
    "PROBES",
    "Column",
    "Comparison",
    "Record",
    "amount",
    "column",
    "comparisons",
    "counted",
    "independent",
    "lead",
    "name",
    "verdict",
]

Record = Mapping[str, Any]
Column = tuple[str, str | None, int | str, str]
"""Probe, layer, labels per class and unit."""
Lead = Literal["ahead", "behind", "open", "unknown"]
Outcome = Literal["won", "lost", "open", "unknown"]

PROBES = {
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "finetune": "fine-tuning",
    "layers": "linear probe, layer by layer",
}
"""Probes that are trained on labels, with their titles; whatever else was measured is a task."""
NAMES = {
    "raw": "raw input",
    "random": "random weights",
    "rescaled": "rescaled random weights",
    "supervised": "trained on those labels only",
    "unlabeled": "unlabeled",
}
"""What features are called, in the order of rows; a task's own controls are called what they are."""
OURS = "unlabeled"
CHOSEN = "chosen"
"""Layer of the row whose layer was chosen on training labels."""
FEW = 8
"""Independent units below which a reader is told that an interval rests on few."""


@dataclass(frozen=True)
class Comparison:
    """Ours against the controls of one column.

    Attributes:
        column: Where.
        leads: How ours stands to each control that was measured there, by name of the features.
        margins: How far ours lies above each, in its unit and so that more is better; NaN where that is unknown.
        units: Independent units of the intervals and what they are called; None where that is not recorded.
    """

    column: Column
    leads: dict[str, Lead]
    margins: dict[str, float]
    units: tuple[int, str] | None

    @property
    def outcome(self) -> Outcome:
        """Won where ours is ahead of every control, lost where it is behind one, unknown where an interval lacks."""
        stands = set(self.leads.values())
        if "behind" in stands:
            return "lost"
        if "unknown" in stands:
            return "unknown"
        return "won" if stands == {"ahead"} else "open"

    @property
    def hardest(self) -> str:
        """The control to which ours is nearest or furthest behind."""
        behind = [features for features, stands in self.leads.items() if stands == "behind"]
        return min(behind or self.margins, key=lambda features: self.margins[features])


def column(record: Record) -> Column:
    """Where a record stands."""
    unit = record.get("unit", "accuracy")
    return record["probe"], record.get("layer"), record["labels_per_class"], unit


def name(features: str) -> str:
    """What features are called."""
    return NAMES.get(features, features)


def amount(value: float, where: Column, *, signed: bool = False) -> str:
    """A number in its unit: accuracies in percent with one digit, others with three digits that count."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if where[3] == "accuracy" else f"{value:{sign}.3g}"


def counted(number: int, things: str) -> str:
    """A number with what it counts, a plural in s."""
    return f"{number:,} {things if number != 1 else things.removesuffix('s')}"


def independent(records: Sequence[Record]) -> str:
    """On how many independent units intervals rest, such as "16 walks"; empty where these are the samples."""
    grouped = [r for r in records if _finite(r.get("units")) and r["units"] != r["samples"]]
    if not grouped:
        return ""
    counts, things = sorted({record["units"] for record in grouped}), grouped[0]["counted"]
    number = counted(counts[0], things) if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} {things}"
    return f"{number} only" if counts[0] < FEW else number


def lead(ours: Record, control: Record) -> Lead:
    """How ours stands to a control.

    Where the margin was measured, sample by sample, its interval decides; else the two intervals must lie apart.
    """
    if "margin" in control or "margin_low" in control:
        low, high = control.get("margin_low"), control.get("margin_high")
    else:
        low, high = _apart(ours, control)
    if low is None or high is None or not _finite(low) or not _finite(high):
        return "unknown"
    return "ahead" if low > 0 else "behind" if high < 0 else "open"


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Every column in which ours stands beside at least one control, in the order of the records."""
    chosen = any(record.get("layer") == CHOSEN for record in records)
    found = []
    for where in dict.fromkeys(map(column, records)):
        probe, layer, count, unit = where
        if probe == "layers" and chosen and layer != CHOSEN:
            continue
        rows = {record["features"]: record for record in records if column(record) == where}
        if layer is not None:  # the input is the same beside every layer
            once = [r for r in records if column(r) == (probe, None, count, unit) and r["features"] == "raw"]
            rows = {record["features"]: record for record in once} | rows
        ours = rows.pop(OURS, None)
        if ours is not None and rows:
            found.append(_comparison(where, ours, rows))
    return found


def verdict(records: Sequence[Record]) -> str:
    """Where ours beats every control, where one beats ours, where noise leaves it open, and which controls there were.

    Args:
        records: Score records of one run.

    Returns:
        Plain text.
    """
    judged = comparisons(records)
    if not judged:
        return "Nothing was compared with a control, so nothing can be said."
    said = {
        "won": "beats every control beyond noise",
        "open": "is within noise of the best control",
        "lost": "loses",
        "unknown": "cannot be judged",
    }
    parts = [
        f"{words} in {_listed([one for one in judged if one.outcome == outcome])}"
        for outcome, words in said.items()
        if any(one.outcome == outcome for one in judged)
    ]
    points = "points of accuracy above the best control"
    if any(one.column[3] != "accuracy" for one in judged):
        points = "how much better than the best control, in points of accuracy or in the unit named"
    return " ".join(
        [f"unlabeled {'; '.join(parts)}. In brackets: {points}.", _controls(judged), *_few(judged)]
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _apart(ours: Record, control: Record) -> tuple[Any, Any]:
    """Least and greatest lead that two intervals leave; None where one of them lacks."""
    ends = [record.get(end) for record in (ours, control) for end in ("low", "high")]
    if not all(map(_finite, ends)):
        return None, None
    low, high, least, most = map(float, ends)  # type: ignore[arg-type]
    lower = control.get("better", ours.get("better")) == "lower"
    return (least - high, most - low) if lower else (low - most, high - least)


def _comparison(where: Column, ours: Record, controls: Mapping[str, Record]) -> Comparison:
    sign = -1 if ours.get("better") == "lower" else 1
    margins = {}
    for features, control in controls.items():
        margin = control.get("margin")
        if not _finite(margin):
            both = _finite(ours.get("value")) and _finite(control.get("value"))
            margin = sign * (ours["value"] - control["value"]) if both else math.nan
        margins[features] = margin
    units = (ours["units"], ours.get("counted", "test samples")) if _finite(ours.get("units")) else None
    return Comparison(where, {f: lead(ours, control) for f, control in controls.items()}, margins, units)


def _listed(judged: Sequence[Comparison]) -> str:
    """Places by probe, then those of tasks."""
    groups: dict[str, list[str]] = {}
    for one in judged:
        probe, layer, _, _ = one.column
        groups.setdefault(f"{probe} {layer}" if layer else probe, []).append(_place(one))
    labelled = {title: places for title, places in groups.items() if title.partition(" ")[0] in PROBES}
    said = [f"{title} with {', '.join(places)}" for title, places in labelled.items()]
    others = [f"{title}: {', '.join(places)}" for title, places in groups.items() if title not in labelled]
    first = [f"{', '.join(said)} labels per class"] if said else []
    return ", ".join([*first, *others])


def _place(one: Comparison) -> str:
    """Number of labels or unit, and in brackets the margin to the hardest control and what must be known of it."""
    probe, _, count, unit = one.column
    margin = one.margins[one.hardest]
    notes = [amount(margin, one.column, signed=True)] if math.isfinite(margin) else []
    if one.outcome == "lost":
        ahead = [name(features) for features, stands in one.leads.items() if stands == "ahead"]
        notes = [" ".join([*notes, f"to {name(one.hardest)}"])]
        notes += [f"but ahead of {' and '.join(ahead)}"] if ahead else []
    if one.outcome == "unknown":
        notes.append(f"no interval of {counted(*one.units)}" if one.units else "no interval")
    said = f" ({', '.join(notes)})" if notes else ""
    return f"{count if probe in PROBES else unit}{said}"


def _controls(judged: Sequence[Comparison]) -> str:
    """Which controls were measured, by probe or task where these differ."""
    sets: dict[tuple[str, ...], list[str]] = {}
    for one in judged:
        names = tuple(name(features) for features in sorted(one.leads, key=_order))
        sets.setdefault(names, []).append(one.column[0])
    if len(sets) == 1:
        return f"Controls: {', '.join(next(iter(sets)))}."
    parts = [f"{', '.join(names)} in {' and '.join(dict.fromkeys(places))}" for names, places in sets.items()]
    return f"Controls: {'; '.join(parts)}."


def _order(features: str) -> int:
    return list(NAMES).index(features) if features in NAMES else len(NAMES)


def _few(judged: Sequence[Comparison]) -> list[str]:
    """What rests on few independent units."""
    few: dict[str, list[str]] = {}
    for one in judged:
        if one.units and one.outcome != "unknown" and one.units[0] < FEW:
            few.setdefault(counted(*one.units), []).append(one.column[0])
    return [
        f"Intervals of {' and '.join(dict.fromkeys(probes))} rest on {units} only."
        for units, probes in few.items()
    ]
