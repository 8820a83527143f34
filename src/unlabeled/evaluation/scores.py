"""Scores: what was measured, as records, as a table, and as a verdict that claims nothing within noise."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from unlabeled import notebook
from unlabeled.evaluation import starting_weights, table, verdict
from unlabeled.evaluation.measurement import Measurement, Record, record_of
from unlabeled.evaluation.verdict import OURS, column
from unlabeled.files import atomic
from unlabeled.run import read_scores

__all__ = ["Scores", "side_by_side"]


class Scores:
    """What `evaluate` measured.

    Args:
        records: One dict for each number: `probe`, `features`, `layer`, `labels_per_class`, `unit`, `better`
            (higher or lower), `value` (of an accuracy in 0..1) with its 95 % interval `low`, `high`,
            None where there is a single independent unit, `std` over draws of the labels (None for one draw),
            `draws`, `samples` (test samples), `units` (independent ones), `counted` (what these are), `interval`
            (how it was made), `detail`, and `readout`, where features were read through one that learns; of probes
            `labels`, the training labels of a draw; for controls `margin`,
            `margin_low`, `margin_high`: how far ours lies above them, on the same draws and samples.
        about: What they were measured on: `data` (its name), `training_samples`, `test_samples`, `encoder`
            (fingerprint of its state), `seed`, `options`, perhaps `note`, which a reader must know, and `unfinished`,
            where more was to be measured, with what is `unmeasured`; empty if unknown.
        pictures: What tasks predicted for a few test samples, by task and row, float, shape (pictures, 3, height,
            width), in 0..1; not stored in JSON.
    """

    def __init__(
        self,
        records: Sequence[Record],
        about: Mapping[str, Any] | None = None,
        pictures: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.records, self.about, self.pictures = list(records), dict(about or {}), dict(pictures or {})

    @classmethod
    def of(cls, measurements: Sequence[Measurement], about: Mapping[str, Any] | None = None) -> "Scores":
        """Turn measurements into records, each control compared with ours sample by sample."""
        ours = {column(m.__dict__): m for m in measurements if m.features == OURS}
        pictures: dict[str, dict[str, Tensor]] = {}
        for one in measurements:
            if one.pictures:  # later ones, with more labels, replace earlier ones
                pictures.setdefault(one.probe, {}).update(one.pictures)
        return cls([record_of(m, ours.get(column(m.__dict__))) for m in measurements], about, pictures)

    @classmethod
    def from_json(cls, path: str | Path) -> "Scores":
        """Read what `to_json` wrote, or a bare list of records."""
        about = read_scores(path)
        return cls(about.pop("records"), about)

    def to_json(self, path: str | Path) -> None:
        """Write a JSON object of `about` and the `records`, whole or not at all."""
        with atomic(Path(path)) as temporary:
            content = {**self.about, "records": self.records}
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.verdict()}"

    def _repr_html_(self) -> str:
        """The tables and the verdict, for notebooks."""
        bold = (verdict.name(OURS),)
        tables = [
            notebook.table(title, head, rows, bold)
            for title, head, rows in table.blocks(self.records, self.about.get("unmeasured", ()))
        ]
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.verdict().splitlines())
        return f"<div>{''.join(tables)}{lines}</div>"

    @property
    def best(self) -> Record:
        """Our record of highest value: picked on the test set, so for orientation only."""
        return max((r for r in self.records if r["features"] == OURS), key=lambda record: record["value"])

    def table(self) -> str:
        """Plain text, one block for each probe: rows are features, columns numbers of labels and layers."""
        return table.table(self.records, self.about.get("unmeasured", ()))

    def verdict(self) -> str:
        """What `unlabeled.evaluation.verdict` says of the records, and the note, line by line."""
        advice = starting_weights.choices(self.records, self.about)
        return "\n".join([verdict.verdict(self.records), *advice, *verdict.caveats(self.about)])


def side_by_side(runs: Sequence[tuple[str, Scores]]) -> str:
    """Several runs on the same data: one table, what is claimed of each, and what must be known of all or some.

    Args:
        runs: Name and scores of each.
    """
    lines = [table.side_by_side([(label, scores.records) for label, scores in runs])]
    remarks: dict[str, list[str]] = {}
    for label, scores in runs:
        lines += verdict.claims(scores.records, label)
        advice = starting_weights.choices(scores.records, scores.about)
        for line in [*verdict.notes(scores.records), *advice, *verdict.caveats(scores.about)]:
            remarks.setdefault(line, []).append(label)
    for line, labels in remarks.items():
        lines.append(line if len(labels) == len(runs) else f"{' and '.join(labels)}: {line}")
    return "\n".join(lines)
