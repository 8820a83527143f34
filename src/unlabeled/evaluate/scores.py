"""Scores: what was measured, as records, as a table, and as one sentence that claims nothing within noise."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unlabeled.evaluate.intervals import interval
from unlabeled.run import read_scores

__all__ = ["Measurement", "Record", "Scores"]

Record = dict[str, Any]

NAMES = {
    "raw": "raw pixels",
    "random": "random weights",
    "rescaled": "rescaled random weights",
    "supervised": "trained on those labels only",
    "unlabeled": "unlabeled",
}


@dataclass(frozen=True)
class Measurement:
    """Which test samples were predicted rightly.

    Attributes:
        probe: knn, linear, finetune or layers.
        layer: Name of a map, or None for the encoder's output.
        labels_per_class: A number, or "all".
        features: unlabeled, raw, random, rescaled or supervised.
        right: 1 where right, else 0, float, shape (draws, test samples), the same samples for all features.
        detail: Settings that the number depends on.
    """

    probe: str
    layer: str | None
    labels_per_class: int | str
    features: str
    right: Tensor
    detail: str


class Scores:
    """What `evaluate` measured.

    Args:
        records: One dict for each number: `probe`, `features`, `layer`, `labels_per_class`, `value` (accuracy
            in 0..1) with its 95 % interval `low`, `high`, `std` over draws of the labels (None for one draw),
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
        ours = {_column(m.__dict__): m.right for m in measurements if m.features == "unlabeled"}
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
            probe, layer, count = column
            place = f"{count} ({100 * hardest['margin']:+.1f})"
            if any(record["margin_high"] < 0 for record in controls):
                found, place = lost, f"{place[:-1]} to {NAMES[hardest['features']]})"
            else:
                found = won if all(record["margin_low"] > 0 for record in controls) else undecided
            found.setdefault(f"{probe} {layer}" if layer else probe, []).append(place)
        parts = [
            ("beats every control beyond noise", won),
            ("is within noise of the best control", undecided),
            ("loses", lost),
        ]
        said = [f"{words} in {_listed(found)} labels per class" for words, found in parts if found]
        if not said:
            return "Nothing was compared with a control, so nothing can be said."
        return f"unlabeled {'; '.join(said)}. In brackets: points of accuracy above the best control."

    def _block(self, probe: str) -> str:
        records = [r for r in self.records if r["probe"] == probe]
        columns = list(dict.fromkeys((r["layer"], r["labels_per_class"]) for r in records))
        cells = {(r["features"], (r["layer"], r["labels_per_class"])): _cell(r) for r in records}
        rows = [
            [name, *(cells.get((features, column), "") for column in columns)]
            for features, name in NAMES.items()
            if any(r["features"] == features for r in records)
        ]
        rows.insert(0, ["labels per class", *(str(count) for _, count in columns)])
        if any(layer for layer, _ in columns):
            rows.insert(0, ["layer", *(layer or "" for layer, _ in columns)])
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
        parts = [f"{probe}{how}: accuracy in % on {records[0]['samples']:,} test samples"]
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


def _column(record: Record) -> tuple[str, str | None, int | str]:
    return record["probe"], record["layer"], record["labels_per_class"]


def _listed(found: dict[str, list[str]]) -> str:
    return ", ".join(f"{probe} with {', '.join(places)}" for probe, places in found.items())


def _cell(record: Record) -> str:
    value = f"{100 * record['value']:.1f}"
    if record["std"] is not None:
        return f"{value} ± {100 * record['std']:.1f}"
    return f"{value} [{100 * record['low']:.1f}, {100 * record['high']:.1f}]"


def _record(measurement: Measurement, ours: Tensor | None, seed: int) -> Record:
    own, (draws, samples) = interval(measurement.right, seed=seed), measurement.right.shape
    record = {
        "probe": measurement.probe,
        "features": measurement.features,
        "layer": measurement.layer,
        "labels_per_class": measurement.labels_per_class,
        "value": own.value,
        "low": max(0.0, own.low),
        "high": min(1.0, own.high),
        "std": own.std,
        "draws": draws,
        "samples": samples,
        "interval": "bootstrap over test samples"
        + (f" and {draws} draws of the labels" if draws > 1 else ""),
        "detail": measurement.detail,
    }
    if ours is not None and measurement.features != "unlabeled":
        margin = interval(ours - measurement.right, seed=seed)
        record |= {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
    return record
