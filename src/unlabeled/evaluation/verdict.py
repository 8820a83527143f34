"""The verdict: what score records say of the learned features against their controls, and no more.

Command line and page both take it from here. A column is a probe or task, a layer, a number of labels and a unit; every
column in which ours stands beside a control is judged and named, so that none can be picked. Of layers that were probed
one by one only the one counts that was chosen on training labels.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.probes import PROBES

__all__ = [
    "CHOSEN",
    "OURS",
    "OUTCOMES",
    "PROBES",
    "PUBLIC",
    "Column",
    "Comparison",
    "Evaluated",
    "Missing",
    "Record",
    "amount",
    "caveats",
    "claims",
    "column",
    "comparisons",
    "counted",
    "headline",
    "images_in_words",
    "independent",
    "labels",
    "lead",
    "name",
    "notes",
    "readouts",
    "separate",
    "verdict",
]

Record = Mapping[str, Any]
Column = tuple[str, str | None, int | str, str]
"""Probe, layer, labels per class and unit."""
Missing = tuple[str, str | None, int | str | None, str | None]
"""Probe, layer, labels per class and features of what was not measured; no labels where a task or probe had not begun,
and no features where a task had."""
Lead = Literal["ahead", "behind", "open", "unknown"]
Outcome = Literal["won", "open", "lost", "unknown"]
LEADS: tuple[Lead, ...] = ("behind", "unknown", "open", "ahead")
"""From the worst to the best."""
OUTCOMES: tuple[Outcome, ...] = ("lost", "unknown", "open", "won")
"""The same."""

OURS = "unlabeled"
PUBLIC = "public"
"""Row of public weights."""
CHOSEN = "chosen"
"""Layer of the row whose layer was chosen on training labels."""
CLAIMS: dict[Outcome, str] = {
    "won": "beats every control beyond noise",
    "open": "is within noise of the best control",
    "lost": "loses",
    "unknown": "cannot be judged",
}
UNFINISHED = "The evaluation was stopped before everything was measured"
TOO_FEW = 5
"""Independent units below which nothing is claimed: whether two books differ beyond noise, two books cannot tell."""
FEW = 8
"""Independent units below which a reader is told that an interval rests on few."""


class Evaluated(NamedTuple):
    """An evaluation, as `headline` counts it.

    Attributes:
        data: Name of the data.
        records: Score records.
        features: Which features of the encoder were measured.
        missing: What was to be measured too.
    """

    data: str
    records: Sequence[Record]
    features: str = "output"
    missing: Sequence[Sequence[Any]] = ()


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
        """What is claimed."""
        return _outcome(self.leads.values())

    @property
    def hardest(self) -> str:
        """The control to which ours is nearest or furthest behind."""
        behind = [features for features, lead in self.leads.items() if lead == "behind"]
        return min(behind or self.margins, key=lambda features: self.margins[features])


def column(record: Record) -> Column:
    """The column of a record."""
    unit = record.get("unit", "accuracy")
    return record["probe"], record.get("layer"), record["labels_per_class"], unit


def name(features: str) -> str:
    """What features are called; a task's own controls are called what they are."""
    return CONTROLS.get(features, features)


def amount(value: float, unit: str, *, signed: bool = False) -> str:
    """A number in its unit: accuracies in percent with one decimal, others with three significant digits."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if unit == "accuracy" else f"{value:{sign}#.3g}".removesuffix(".")


def counted(number: int, things: str) -> str:
    """A number with what it counts, a regular plural such as labels or trajectories."""
    if number == 1:
        things = f"{things[:-3]}y" if things.endswith("ies") else things.removesuffix("s")
    return f"{number:,} {things}"


def labels(counts: Sequence[int | str], notes: Sequence[str] = ()) -> str:
    """Labels per class in words, such as "all labels" or "1, 10, all labels per class".

    Args:
        counts: Numbers, fractions such as "1%", or "all".
        notes: What follows each number, such as a margin in brackets; empty for none.
    """
    notes = notes or [""] * len(counts)
    if len(counts) > 1:
        return f"{', '.join(f'{count}{note}' for count, note in zip(counts, notes))} labels per class"
    count = counts[0]
    if isinstance(count, int):
        return f"{counted(count, 'labels')} per class{notes[0]}"
    return f"{count if count == 'all' else f'{count} of the'} labels{notes[0]}"


def images_in_words(count: int | str) -> str:
    """With how many labelled images a task trained, after a unit; empty for all, and where none trained."""
    return "" if count == "all" else f" with {count if isinstance(count, int) else f'{count} of the'} images"


def independent(records: Sequence[Record]) -> str:
    """How many independent units intervals rest on, such as "16 trajectories"; empty where these are the samples."""
    grouped = [r for r in records if _finite(r.get("units")) and r["units"] != r["samples"]]
    if not grouped:
        return ""
    counts, things = sorted({record["units"] for record in grouped}), grouped[0]["counted"]
    number = counted(counts[0], things) if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} {things}"
    return f"{number} only" if counts[0] < FEW else number


def readouts(records: Sequence[Record]) -> str:
    """Which features alone were read through what learns, such as "contrast in unlabeled only"; else empty."""
    having = dict.fromkeys(record["features"] for record in records if record.get("readout"))
    if not having or all(record["features"] in having for record in records):
        return ""
    kinds = dict.fromkeys(record["readout"] for record in records if record.get("readout"))
    return f"{' and '.join(kinds)} in {_listing([name(one) for one in having])} only"


def lead(ours: Record, control: Record) -> Lead:
    """How ours stands to a control.

    Where the margin was measured, sample by sample, its interval decides; else the two intervals must lie apart. Of
    very few independent units it is not known.
    """
    if any(_finite(record.get("units")) and record["units"] < TOO_FEW for record in (ours, control)):
        return "unknown"
    if "margin" in control or "margin_low" in control:
        low, high = control.get("margin_low"), control.get("margin_high")
    else:
        low, high = _gap(ours, control)
    if low is None or high is None or not _finite(low) or not _finite(high):
        return "unknown"
    return "ahead" if low > 0 else "behind" if high < 0 else "open"


def separate(better: Record, worse: Record) -> bool:
    """Whether the interval of one record lies above that of another, and both rest on enough independent units."""
    if any(_finite(record.get("units")) and record["units"] < TOO_FEW for record in (better, worse)):
        return False
    low, _ = _gap(better, worse)
    return low is not None and low > 0


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Every column in which ours stands beside at least one control, in the order of the records."""
    chosen = any(record.get("layer") == CHOSEN for record in records)
    compared = []
    for key in dict.fromkeys(map(column, records)):
        probe, layer, count, unit = key
        if probe == "layers" and chosen and layer != CHOSEN:
            continue
        rows = {record["features"]: record for record in records if column(record) == key}
        if layer is not None:  # the input is the same beside every layer
            once = [r for r in records if column(r) == (probe, None, count, unit) and r["features"] == "raw"]
            rows = {record["features"]: record for record in once} | rows
        ours = rows.pop(OURS, None)
        if ours is not None and rows:
            compared.append(_comparison(key, ours, rows))
    return compared


def headline(evaluations: Sequence[Evaluated]) -> str:
    """One sentence on several evaluations of one encoder: what ours did in how many columns, beside which controls.

    A column that was measured several times on the same data with the same features counts once, with all its controls
    and their least lead. Where an evaluation was stopped before a control was measured, nothing but a loss counts.

    Args:
        evaluations: All evaluations.

    Returns:
        The sentence; empty where nothing was compared with a control.
    """
    pooled: dict[tuple[str, str, Column], dict[str, Lead]] = {}
    missing: dict[tuple[str, str, Column], set[str]] = {}
    for data, records, named, lacking in evaluations:
        for one in comparisons(records):
            lacks = {features for *key, features in lacking if (*key, "accuracy") == one.column}
            missing.setdefault((data, named, one.column), set()).update(lacks)
            leads = pooled.setdefault((data, named, one.column), {})
            for features, stands in one.leads.items():
                other = leads.get(features, stands)
                leads[features] = stands if LEADS.index(stands) < LEADS.index(other) else other
    if not pooled:
        return ""
    outcomes = [
        _outcome([*leads.values(), *("unknown" for one in missing[key] if one not in leads)])
        for key, leads in pooled.items()
    ]
    parts = [
        f"{claim} in {outcomes.count(outcome)}" for outcome, claim in CLAIMS.items() if outcome in outcomes
    ]
    measured = [features for leads in pooled.values() for features in leads]
    controls = [
        name(features)
        + ("" if measured.count(features) == len(pooled) else f" (in {measured.count(features)})")
        for features in dict.fromkeys(measured)
    ]
    return (
        f"In {counted(len(evaluations), 'evaluations')} with {counted(len(pooled), 'comparisons')}, {OURS} "
        f"{', '.join(parts)}. Controls: {'; '.join(controls)}."
    )


def verdict(records: Sequence[Record]) -> str:
    """Where ours beats every control, where one beats ours, where noise leaves it open, and which controls there were.

    Args:
        records: Score records of one run.

    Returns:
        Plain text: a line for each claim on each probe or task, then what must be known to read them.
    """
    return "\n".join([*claims(records), *notes(records)])


def caveats(about: Mapping[str, Any]) -> list[str]:
    """Sentences that no reader of an evaluation may miss, from what is known about it."""
    lines = [f"Note that {about['note']}."] if "note" in about else []
    if not about.get("unfinished"):
        return lines
    words = "; ".join(_missing_in_words([(*one,) for one in about.get("unmeasured", ())]))
    return [*lines, f"{UNFINISHED}{f'; not measured: {words}' if words else ''}."]


def _missing_in_words(cells: Sequence[Missing]) -> list[str]:
    """What was not measured, such as "linear with all labels" or "raw input of knn and linear with all labels"."""
    columns = {(probe, count) for probe, _, count, features in cells if features == OURS}
    counts: dict[tuple[str | None, str], dict[int | str | None, None]] = {}
    for probe, _, count, features in cells:
        if features == OURS or (probe, count) not in columns:
            counts.setdefault((features, probe), {})[count] = None
    alike: dict[tuple[str | None, tuple[int | str | None, ...]], list[str]] = {}
    for (features, probe), numbers in counts.items():
        alike.setdefault((features, (*numbers,)), []).append(probe)
    lines = []
    for (features, numbers), probes in alike.items():
        what = "" if features == OURS else f"{'the rest' if features is None else name(features)} of "
        known = [count for count in numbers if count is not None]
        lines.append(f"{what}{_listing(probes)}{f' with {labels(known)}' if known else ''}")
    return lines


def claims(records: Sequence[Record], ours: str = OURS) -> list[str]:
    """A line for each claim on each probe or task; `ours` is what our features are called in it."""
    compared = comparisons(records)
    if not compared:
        return ["No control was measured, so nothing can be claimed."]
    lines = []
    for title in dict.fromkeys(map(_title, compared)):
        for outcome, claim in CLAIMS.items():
            if columns := [one for one in compared if _title(one) == title and one.outcome == outcome]:
                lines.append(f"{title}: {ours} {claim} {_columns(columns)}.")
    return lines


def notes(records: Sequence[Record]) -> list[str]:
    """Lines on what must be known to read the claims: what is in brackets, which controls there were, few units."""
    compared = comparisons(records)
    if not compared:
        return []
    units = {one.column[3] == "accuracy" for one in compared if math.isfinite(one.margins[one.hardest])}
    margin = {
        (True,): "points of accuracy above the best control",
        (False,): "difference to the best control, in the unit named",
        (False, True): "difference to the best control, in points of accuracy or in the unit named",
    }.get(tuple(sorted(units)))
    legend = [f"In parentheses: {margin}."] if margin else []
    return [*legend, *_controls(compared), *_single(records), *_few(compared)]


def _outcome(leads: Collection[Lead]) -> Outcome:
    """Won where ours is ahead of every control, lost where it is behind one, unknown where an interval lacks."""
    if "behind" in leads:
        return "lost"
    if "unknown" in leads:
        return "unknown"
    return "won" if {*leads} == {"ahead"} else "open"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _gap(ours: Record, control: Record) -> tuple[Any, Any]:
    """Least and greatest lead that two intervals leave; None where one of them lacks."""
    ends = [record.get(end) for record in (ours, control) for end in ("low", "high")]
    if not all(map(_finite, ends)):
        return None, None
    low, high, least, most = map(float, ends)  # type: ignore[arg-type]
    lower = control.get("better", ours.get("better")) == "lower"
    return (least - high, most - low) if lower else (low - most, high - least)


def _comparison(key: Column, ours: Record, controls: Mapping[str, Record]) -> Comparison:
    sign = -1 if ours.get("better") == "lower" else 1
    margins = {}
    for features, control in controls.items():
        margin = control.get("margin")
        if not _finite(margin):
            both = _finite(ours.get("value")) and _finite(control.get("value"))
            margin = sign * (ours["value"] - control["value"]) if both else math.nan
        margins[features] = margin
    units = (ours["units"], ours.get("counted", "test samples")) if _finite(ours.get("units")) else None
    return Comparison(key, {f: lead(ours, control) for f, control in controls.items()}, margins, units)


def _title(comparison: Comparison) -> str:
    probe, layer, _, _ = comparison.column
    return f"{probe} {layer}" if layer else probe


def _columns(columns: Sequence[Comparison]) -> str:
    """Numbers of labels of a probe, or units of a task, each with what is in brackets."""
    notes = [f" ({'; '.join(note)})" if (note := _notes(one)) else "" for one in columns]
    if columns[0].column[0] in PROBES:
        return f"with {labels([one.column[2] for one in columns], notes)}"
    units = [f"{unit}{images_in_words(count)}" for _, _, count, unit in (one.column for one in columns)]
    return f"in {', '.join(f'{unit}{note}' for unit, note in zip(units, notes))}"


def _notes(comparison: Comparison) -> list[str]:
    """The margin to the hardest control, and what must be known of it."""
    margin, hardest = comparison.margins[comparison.hardest], comparison.hardest
    notes = [amount(margin, comparison.column[3], signed=True)] if math.isfinite(margin) else []
    if comparison.outcome == "lost":
        ahead = [name(features) for features, lead in comparison.leads.items() if lead == "ahead"]
        notes = [" ".join([*notes, f"to {name(hardest)}"])]
        notes += [f"but ahead of {' and '.join(ahead)}"] if ahead else []
    if comparison.outcome == "unknown":
        units = comparison.units
        few = units and f"{'only' if 1 < units[0] < TOO_FEW else 'no interval of'} {counted(*units)}"
        notes.append(few or "no interval")
    return notes


def _controls(compared: Sequence[Comparison]) -> list[str]:
    """Which controls were measured, by probe or task where these differ, by layer and labels where only these do."""
    probes: dict[str, list[str]] = {}
    different = [(a, b) for a, b in itertools.combinations(compared, 2) if [*a.leads] != [*b.leads]]
    layers = {a.column[0] for a, b in different if a.column[0] == b.column[0]}
    numbers = {_title(a) for a, b in different if a.column[:2] == b.column[:2] and a.column[2] != b.column[2]}
    for one in compared:
        title = _title(one) if one.column[0] in layers else one.column[0]
        if one.column[0] in PROBES and _title(one) in numbers:
            title += f" with {labels([one.column[2]])}"
        probes.setdefault("; ".join(map(name, one.leads)), []).append(title)
    if len(probes) == 1:
        return [f"Controls: {next(iter(probes))}."]
    return [f"Controls of {_listing(names)}: {controls}." for controls, names in probes.items()]


def _single(records: Sequence[Record]) -> list[str]:
    """Which controls were measured with one of the draws of the labels."""
    several = {column(r) for r in records if r["features"] == OURS and (r.get("draws") or 1) > 1}
    single = [r["features"] for r in records if r.get("draws") == 1 and column(r) in several]
    return [
        "Measured on the first draw of the labels only; its variation over draws is assumed to equal that of "
        f"{OURS}: {name(one)}."
        for one in dict.fromkeys(single)
    ]


def _few(compared: Sequence[Comparison]) -> list[str]:
    """What rests on few independent units, and what would help where they are too few."""
    few: dict[str, list[str]] = {}
    too_few: dict[str, list[str]] = {}
    for one in compared:
        if one.units and one.outcome == "unknown" and one.units[0] < TOO_FEW:
            too_few.setdefault(one.units[1], []).append(one.column[0])
        elif one.units and one.outcome != "unknown" and one.units[0] < FEW:
            few.setdefault(counted(*one.units), []).append(one.column[0])
    return [
        *(f"Intervals of {_listing(probes)} rest on {units} only." for units, probes in few.items()),
        *(
            f"To judge {_listing(probes)}, test on at least {TOO_FEW} {things}, or name with --group which samples "
            "belong together."
            for things, probes in too_few.items()
        ),
    ]


def _listing(probes: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(probes))
