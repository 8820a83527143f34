"""Scores: what was measured, as records, as a table, and as one sentence that claims nothing within noise."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unlabeled.evaluation import verdict
from unlabeled.evaluation.intervals import Bounds, Interval, LeftOut, interval, of_left_out
from unlabeled.evaluation.verdict import NAMES, PROBES, amount, column, name
from unlabeled.run import read_scores

__all__ = ["Measurement", "Record", "Scores", "interval_of", "of_groups"]

Record = dict[str, Any]


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
        left_out: Of a statistic that is no mean of samples (`values` then holds only it), or whose units share
            samples, what it is without each independent unit, the same units for all features.
        groups: Number of the independent unit of each value, such as its walk, int64, shape (test samples,); None
            where each sample is one.
        counted: What the independent units are called, a plural.
        samples: How many test samples a statistic was computed from.
        bounds: Range of the number, of which an end may be infinite; None for 0..1 of an accuracy and anything else.
    """

    probe: str
    layer: str | None
    labels_per_class: int | str
    features: str
    values: Tensor
    detail: str = ""
    unit: str = "accuracy"
    better: Literal["higher", "lower"] = "higher"
    left_out: LeftOut | None = None
    groups: Tensor | None = None
    counted: str = "test samples"
    samples: int | None = None
    bounds: Bounds | None = None


class Scores:
    """What `evaluate` measured.

    Args:
        records: One dict for each number: `probe`, `features`, `layer`, `labels_per_class`, `unit`, `better`
            (higher or lower), `value` (of an accuracy in 0..1) with its 95 % interval `low`, `high`,
            None where there is a single independent unit, `std` over draws of the labels (None for one draw),
            `draws`, `samples` (test samples), `units` (independent ones), `counted` (what these are), `interval`
            (how it was made), `detail`; for controls `margin`, `margin_low`, `margin_high`: how far ours lies above
            them, on the same draws and samples.
        about: What they were measured on: `data` (its name), `training_samples`, `test_samples`, `encoder`
            (fingerprint of its state), `seed`, `options`, and perhaps `note`, which a reader must know; empty if
            unknown.
    """

    def __init__(self, records: Sequence[Record], about: Mapping[str, Any] | None = None) -> None:
        self.records, self.about = list(records), dict(about or {})

    @classmethod
    def of(cls, measurements: Sequence[Measurement], about: Mapping[str, Any] | None = None) -> "Scores":
        """Turn predictions into records, each control compared with ours sample by sample."""
        ours = {column(m.__dict__): m for m in measurements if m.features == "unlabeled"}
        return cls([_record(m, ours.get(column(m.__dict__))) for m in measurements], about)

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
        """What `unlabeled.evaluation.verdict` says of the records; then the note."""
        note = f" Mind that {self.about['note']}." if "note" in self.about else ""
        return verdict.verdict(self.records) + note

    def _block(self, probe: str) -> str:
        records = [r for r in self.records if r["probe"] == probe]
        columns = list(dict.fromkeys(map(column, records)))
        cells = {(r["features"], column(r)): _cell(r) for r in records}
        order = [features for features in NAMES if features != "unlabeled"]
        known = sorted(
            dict.fromkeys(r["features"] for r in records),
            key=lambda features: (features == "unlabeled", features in order and order.index(features)),
        )
        rows = [[name(features), *(cells.get((features, c), "") for c in columns)] for features in known]
        if probe in PROBES:
            rows.insert(0, ["labels per class", *(str(count) for _, _, count, _ in columns)])
        elif len(columns) > 1:
            rows.insert(0, ["", *(unit for _, _, _, unit in columns)])
        if any(layer for _, layer, _, _ in columns):
            rows.insert(0, ["layer", *(layer or "" for _, layer, _, _ in columns)])
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
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
        return ", ".join([*parts, *_rests_on(records)])


def _neighbours(records: list[Record]) -> str:
    """Settings of ours, with the number of neighbours wherever it differs."""
    details = [record["detail"].partition(", ") for record in records if record["features"] == "unlabeled"]
    counts = dict.fromkeys(count.removeprefix("k=") for count, _, _ in details)
    others = dict.fromkeys(rest for _, _, rest in details)
    return ", ".join([f"k={' or '.join(counts)}", *others])


def _unit(record: Record) -> str:
    return record.get("unit", "accuracy")


def _rests_on(records: list[Record]) -> list[str]:
    """How intervals in the table were made, and of how many independent units."""
    single = any(record["draws"] == 1 for record in records)
    units = verdict.independent(records)
    if not units:
        return ["[95 % interval]"] if single else []
    if all(record["low"] is None for record in records):
        return [f"no interval, as there is {units}"]
    return [f"[95 % interval over {units}]" if single else f"margins over {units}"]


def _cell(record: Record) -> str:
    where = column(record)
    value = amount(record["value"], where)
    if record["std"] is not None:
        return f"{value} ± {amount(record['std'], where)}"
    if record["low"] is None or record["high"] is None:
        return value
    return f"{value} [{amount(record['low'], where)}, {amount(record['high'], where)}]"


def _record(measurement: Measurement, ours: Measurement | None) -> Record:
    draws, samples = measurement.values.shape
    own = interval_of(measurement)
    how = f"95 %, cluster-robust, over {verdict.counted(own.units, measurement.counted)}"
    record = {
        "probe": measurement.probe,
        "features": measurement.features,
        "layer": measurement.layer,
        "labels_per_class": measurement.labels_per_class,
        "unit": measurement.unit,
        "better": measurement.better,
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "std": own.std,
        "draws": draws,
        "samples": measurement.samples or samples,
        "units": own.units,
        "counted": measurement.counted,
        "interval": "none of a single unit"
        if own.low is None
        else how + (f" and {draws} draws of the labels" if draws > 1 else ""),
        "detail": measurement.detail,
    }
    if ours is not None and measurement.features != "unlabeled":
        margin = _margin(ours, measurement)
        record |= {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
    return record


def of_groups(data: Any) -> str:
    """What the independent units of test data are called: its samples, or the groups that it knows.

    Data that knows better than "groups" says so by an attribute `group_unit`, a plural.
    """
    return "test samples" if data.groups is None else getattr(data, "group_unit", "groups")


def interval_of(measurement: Measurement) -> Interval:
    """The number of a measurement with its interval."""
    bounds = _bounds(measurement)
    if measurement.left_out is not None:
        return of_left_out(float(measurement.values.mean()), measurement.left_out, bounds=bounds)
    return interval(measurement.values, measurement.groups, bounds=bounds)


def _bounds(measurement: Measurement) -> Bounds | None:
    return (0.0, 1.0) if measurement.bounds is None and measurement.unit == "accuracy" else measurement.bounds


def _margin(ours: Measurement, control: Measurement) -> Interval:
    """How much better ours is, on the same samples and without the same units."""
    sign = 1 if control.better == "higher" else -1
    low, high = _bounds(control) or (-math.inf, math.inf)
    bounds = low - high, high - low
    values = sign * (ours.values - control.values)
    if ours.left_out is None and control.left_out is None:
        return interval(values, control.groups, bounds=bounds, difference=True)
    # One of them may be a constant, which is the same whatever is left out.
    without = [m.left_out.values if m.left_out is not None else m.values.mean() for m in (ours, control)]
    known = ours.left_out or control.left_out
    assert known is not None
    left_out = LeftOut(sign * (without[0] - without[1]), known.shares, known.units)
    return of_left_out(float(values.mean()), left_out, bounds=bounds, difference=True)
