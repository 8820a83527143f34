"""Scores: what was measured, as records, as a table, and as one sentence that claims nothing within noise."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unlabeled.evaluate.intervals import Interval, interval, of_replicates
from unlabeled.run import read_scores

__all__ = ["Measurement", "Record", "Scores"]

Record = dict[str, Any]

PROBES = ("knn", "linear", "finetune", "layers")
"""Probes that are trained on labels; whatever else was measured is a task."""

NAMES = {
    "raw": "raw input",
    "random": "random weights",
    "rescaled": "rescaled random weights",
    "supervised": "trained on those labels only",
    "unlabeled": "unlabeled",
}


@dataclass(frozen=True)
class Measurement:
    """One number with what it was computed from.

    Attributes:
        probe: knn, linear, finetune or layers, or a task such as propagation.
        layer: Name of a map, or None for the encoder's output.
        labels_per_class: A number, or "all".
        features: unlabeled, raw, random, rescaled or supervised, or a task's own control in words.
        values: What the number is the mean of, such as 1 where a sample was predicted rightly, float, shape
            (draws, test samples), the same samples for all features.
        detail: Settings that the number depends on.
        unit: What the number is, "accuracy" or for instance "J&F".
        better: Whether a good number is high or low.
        replicates: Of a statistic that is no mean of samples (`values` then holds only it), what it is on
            samples drawn again, float, shape (resamples,), with the same draws for all features.
        units: How many test samples the statistic was computed from.
    """

    probe: str
    layer: str | None
    labels_per_class: int | str
    features: str
    values: Tensor
    detail: str = ""
    unit: str = "accuracy"
    better: Literal["higher", "lower"] = "higher"
    replicates: Tensor | None = None
    units: int | None = None


class Scores:
    """What `evaluate` measured.

    Args:
        records: One dict for each number: `probe`, `features`, `layer`, `labels_per_class`, `unit`, `better`
            (higher or lower), `value` (of an accuracy in 0..1) with its 95 % interval `low`, `high`,
            `std` over draws of the labels (None for one draw),
            `draws`, `samples` (test samples), `interval` (how it was found), `detail`; for controls `margin`,
            `margin_low`, `margin_high`: how far ours lies above them, on the same draws and samples.
        about: What they were measured on: `data` (its name), `training_samples`, `test_samples`, `encoder`
            (fingerprint of its state), `seed`, and perhaps `note`, which a reader must know; empty if unknown.
    """

    def __init__(self, records: Sequence[Record], about: Mapping[str, Any] | None = None) -> None:
        self.records, self.about = list(records), dict(about or {})

    @classmethod
    def of(
        cls, measurements: Sequence[Measurement], seed: int = 0, about: Mapping[str, Any] | None = None
    ) -> "Scores":
        """Turn predictions into records, each control compared with ours sample by sample."""
        ours = {_column(m.__dict__): m for m in measurements if m.features == "unlabeled"}
        return cls([_record(m, ours.get(_column(m.__dict__)), seed) for m in measurements], about)

    @classmethod
    def from_json(cls, path: str | Path) -> "Scores":
        """Read what `to_json` wrote, or a bare list of records."""
        about = read_scores(path)
        return cls(about.pop("records"), about)

    def to_json(self, path: str | Path) -> None:
        """Write a JSON object of `about` and the `records`, whole or not at all."""
        from unlabeled.files import atomic

        with atomic(Path(path)) as temporary:
            content = {**self.about, "records": self.records}
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict()}"

    @property
    def best(self) -> Record:
        """Our record of highest value: chosen on the test set, so for orientation only."""
        return max(
            (r for r in self.records if r["features"] == "unlabeled"), key=lambda record: record["value"]
        )

    def table(self) -> str:
        """Plain text, one block for each probe: rows are features, columns numbers of labels and layers."""
        return "\n\n".join(self._block(probe) for probe in dict.fromkeys(r["probe"] for r in self.records))

    def verdict(self) -> str:
        """Where ours beats every control, where one beats ours, where noise leaves it open; then the note."""
        note = f" Mind that {self.about['note']}." if "note" in self.about else ""
        return self._comparison() + note

    def _comparison(self) -> str:
        won, lost, undecided = {}, {}, {}
        for column in dict.fromkeys(map(_column, self.records)):
            controls = [r for r in self.records if _column(r) == column and "margin" in r]
            if not controls:
                continue
            hardest = min(controls, key=lambda record: record["margin"])
            place = f"{_place(column)} ({_amount(hardest['margin'], column, signed=True)})"
            if any(record["margin_high"] < 0 for record in controls):
                found, place = lost, f"{place[:-1]} to {_name(hardest['features'])})"
            else:
                found = won if all(record["margin_low"] > 0 for record in controls) else undecided
            probe, layer, _, _ = column
            found.setdefault(f"{probe} {layer}" if layer else probe, []).append(place)
        parts = [
            ("beats every control beyond noise", won),
            ("is within noise of the best control", undecided),
            ("loses", lost),
        ]
        said = [f"{words} in {_listed(found)}" for words, found in parts if found]
        if not said:
            return "Nothing was compared with a control, so nothing can be said."
        points = "points of accuracy above the best control"
        if any(_unit(record) != "accuracy" for record in self.records):
            points = "how much better than the best control, in points of accuracy or in the unit named"
        return f"unlabeled {'; '.join(said)}. In brackets: {points}."

    def _block(self, probe: str) -> str:
        records = [r for r in self.records if r["probe"] == probe]
        columns = list(dict.fromkeys(map(_column, records)))
        cells = {(r["features"], _column(r)): _cell(r) for r in records}
        order = [features for features in NAMES if features != "unlabeled"]
        known = sorted(
            dict.fromkeys(r["features"] for r in records),
            key=lambda features: (features == "unlabeled", features in order and order.index(features)),
        )
        rows = [[_name(features), *(cells.get((features, c), "") for c in columns)] for features in known]
        if probe in PROBES:
            rows.insert(0, ["labels per class", *(str(count) for _, _, count, _ in columns)])
        elif len(columns) > 1:
            rows.insert(0, ["", *(unit for _, _, _, unit in columns)])
        if any(layer for _, layer, _, _ in columns):
            rows.insert(0, ["layer", *(layer or "" for _, layer, _, _ in columns)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
            )
            for row in rows
        ]
        return "\n".join([self._title(probe, records), *lines])

    def _title(self, probe: str, records: list[Record]) -> str:
        draws = max(record["draws"] for record in records)
        how = f" ({_neighbours(records)})" if probe == "knn" else ""
        units = list(dict.fromkeys("accuracy in %" if _unit(r) == "accuracy" else _unit(r) for r in records))
        parts = [f"{probe}{how}: {', '.join(units)} on {records[0]['samples']:,} test samples"]
        if draws > 1:
            parts.append(f"± standard deviation over {draws} draws of the labels")
        if any(record["draws"] == 1 for record in records):
            parts.append("[95 % interval]")
        return ", ".join(parts)


def _neighbours(records: list[Record]) -> str:
    """Settings of ours, with the number of neighbours wherever it differs."""
    details = [record["detail"].partition(", ") for record in records if record["features"] == "unlabeled"]
    counts = dict.fromkeys(count.removeprefix("k=") for count, _, _ in details)
    others = dict.fromkeys(rest for _, _, rest in details)
    return ", ".join([f"k={' or '.join(counts)}", *others])


Column = tuple[str, str | None, int | str, str]
"""Probe, layer, labels per class and unit."""


def _unit(record: Record) -> str:
    return record.get("unit", "accuracy")


def _column(record: Record) -> Column:
    return record["probe"], record["layer"], record["labels_per_class"], _unit(record)


def _name(features: str) -> str:
    return NAMES.get(features, features)


def _place(column: Column) -> str:
    probe, _, count, unit = column
    return str(count) if probe in PROBES else unit


def _amount(value: float, column: Column, *, signed: bool = False) -> str:
    """A number in its unit: accuracies in percent with one digit, others with three digits that count."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" if column[3] == "accuracy" else f"{value:{sign}.3g}"


def _listed(found: dict[str, list[str]]) -> str:
    labelled = {name: places for name, places in found.items() if name.partition(" ")[0] in PROBES}
    said = [f"{name} with {', '.join(places)}" for name, places in labelled.items()]
    others = [f"{name}: {', '.join(places)}" for name, places in found.items() if name not in labelled]
    first = [f"{', '.join(said)} labels per class"] if said else []
    return ", ".join([*first, *others])


def _cell(record: Record) -> str:
    column = _column(record)
    value = _amount(record["value"], column)
    if record["std"] is not None:
        return f"{value} ± {_amount(record['std'], column)}"
    return f"{value} [{_amount(record['low'], column)}, {_amount(record['high'], column)}]"


def _record(measurement: Measurement, ours: Measurement | None, seed: int) -> Record:
    draws, samples = measurement.values.shape
    own = _interval(measurement, seed)
    accuracy = measurement.unit == "accuracy"
    record = {
        "probe": measurement.probe,
        "features": measurement.features,
        "layer": measurement.layer,
        "labels_per_class": measurement.labels_per_class,
        "unit": measurement.unit,
        "better": measurement.better,
        "value": own.value,
        "low": max(0.0, own.low) if accuracy else own.low,
        "high": min(1.0, own.high) if accuracy else own.high,
        "std": own.std,
        "draws": draws,
        "samples": measurement.units or samples,
        "interval": "bootstrap over test samples"
        + (f" and {draws} draws of the labels" if draws > 1 else ""),
        "detail": measurement.detail,
    }
    if ours is not None and measurement.features != "unlabeled":
        margin = _margin(ours, measurement, seed)
        record |= {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
    return record


def _interval(measurement: Measurement, seed: int) -> Interval:
    if measurement.replicates is not None:
        return of_replicates(float(measurement.values), measurement.replicates)
    if measurement.values.numel() == 1 and measurement.unit != "accuracy":
        value = float(measurement.values)  # one number without what it was computed from has no interval
        return Interval(value, value, value, None)
    return interval(measurement.values, seed=seed, rates=measurement.unit == "accuracy")


def _margin(ours: Measurement, control: Measurement, seed: int) -> Interval:
    """How much better ours is, sample by sample or resample by resample."""
    sign = 1 if control.better == "higher" else -1
    values = sign * (ours.values - control.values)
    if ours.replicates is not None and control.replicates is not None:
        return of_replicates(float(values), sign * (ours.replicates - control.replicates))
    if ours.replicates is not None or control.replicates is not None:  # one of them is a constant
        spread = ours.replicates - float(control.values) if ours.replicates is not None else None
        spread = float(ours.values) - control.replicates if spread is None else spread  # type: ignore[operator]
        return of_replicates(float(values), sign * spread)
    return _interval(replace(control, values=values), seed)
