"""What public weights a run is measured beside, and what that comparison decides.

With data at hand one can train on the labels alone, pre-train from scratch without labels, continue from public
weights, or use these as they are. A run that started from weights has continued from them; the control public is the
same weights without that training: frozen beside frozen features, fine-tuned beside what is fine-tuned.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.tasks import TASKS
from unlabeled.evaluation.verdict import (
    OURS,
    PUBLIC,
    Column,
    Record,
    column,
    labels,
    lead,
    separate,
)
from unlabeled.run import Run

__all__ = ["Best", "Choice", "Weights", "choices", "decide", "of"]

Choice = Literal["train from scratch", "continue from these weights"]
"""What a run is beside weights: pre-trained from scratch without labels, or from these."""
SCRATCH: Choice = "train from scratch"
CONTINUE: Choice = "continue from these weights"
EARLIER: Mapping[str, Choice] = {"go on from these weights": CONTINUE}
"""What earlier versions wrote into scores.json."""

Best = Literal["ours", "public", "supervised"]
"""Whose scores are best: those of the run, of the weights without it, or of training on the same labels alone."""
FROZEN_PARTS = ("frozen", "head only")
"""Layers of tasks that train nothing of the encoder."""
ADVICE: Mapping[tuple[bool, str], str] = {
    (False, CONTINUE): "continue from these weights without labels, and keep the features frozen",
    (True, CONTINUE): "continue from these weights without labels, then fine-tune",
    (False, SCRATCH): "pre-train from scratch without labels, and keep the features frozen",
    (True, SCRATCH): "pre-train from scratch without labels, then fine-tune",
    (False, "public"): "use these weights as they are, frozen",
    (True, "public"): "fine-tune these weights directly, without this run",
    (False, "supervised"): "train from random weights on the labels alone",
    (True, "supervised"): "train from random weights on the labels alone",
}
"""By whether the encoder is fine-tuned, and by what is best: for the run by what it is beside the weights."""


class Weights(NamedTuple):
    """Weights of the control public.

    Attributes:
        named: What the user or the run names; None for none.
        ours: What ours is beside them; None where it is neither.
    """

    named: Any = None
    ours: Choice | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The same for the record of an evaluation."""
        return {"weights": str(self.named), "ours": self.ours}


def of(run: Any, named: Any) -> Weights:
    """The weights that an evaluation is measured beside.

    Args:
        run: What is evaluated.
        named: What the user names; None takes those that the run started from.
    """
    if not isinstance(run, Run):
        return Weights(named)
    start = run.config.get("settings", {}).get("weights")
    if start is None:
        return Weights(named, SCRATCH)
    return Weights(start, CONTINUE) if named is None or str(named) == start else Weights(named)


def decide(rows: Mapping[str, Record]) -> Best | None:
    """Whose scores in one column are best, beyond noise; None where they leave it open.

    Args:
        rows: Score records by their features: ours, public, and perhaps supervised.
    """
    ahead = lead(rows[OURS], rows[PUBLIC])
    if (scratch := rows.get("supervised")) is None:
        return "ours" if ahead == "ahead" else "public" if ahead == "behind" else None
    beside = lead(rows[OURS], scratch)
    best: list[Best] = []
    if ahead == beside == "ahead":
        best.append("ours")
    if ahead == "behind" and (beside == "ahead" or separate(rows[PUBLIC], scratch)):
        best.append("public")
    if beside == "behind" and (ahead == "ahead" or separate(scratch, rows[PUBLIC])):
        best.append("supervised")
    return best[0] if len(best) == 1 else None


def choices(records: Sequence[Record], about: Mapping[str, Any]) -> list[str]:
    """Lines that say what was compared, what is best by each probe or task, and where noise leaves it open.

    Args:
        records: Score records of one evaluation.
        about: What is known of it; `public` says what the weights are.
    """
    known = about.get("public") or {}
    ours: Any = known.get("ours")
    ours = EARLIER.get(ours, ours)
    judged = _judged(records)
    if ours is None or not judged:
        return []
    lines = [f"These weights: {known['weights']}."]
    decided = {key: decide(rows) for key, rows in judged.items()}
    lacking: list[str] = []
    for title in dict.fromkeys(map(_title, judged)):
        own = [key for key in judged if _title(key) == title]
        tuned = _is_tuned(own[0])
        scratch = all("supervised" in judged[key] for key in own)
        lines.append(f"{title} compares {_compared(tuned, scratch)}.")
        if not scratch and own[0][0] in PROBES:
            lacking.append(title)
        for best in ("ours", "supervised", "public", None):
            counts = [key[2] for key in own if decided[key] == best]
            words = (
                ADVICE[tuned, ours if best == "ours" else best] if best else "no recommendation beyond noise"
            )
            lines += [f"{title}: {words} with {labels(counts)}."] if counts else []
    if lacking:
        lines.append(
            f"Not compared by {' and '.join(lacking)}: the same network trained from random weights on the labels "
            "alone; --controls default,supervised adds it."
        )
    return lines


def _judged(records: Sequence[Record]) -> dict[Column, dict[str, Record]]:
    """Columns with ours and public, of tasks by their first unit: of probes those of the output, not of single maps."""
    columns: dict[Column, dict[str, Record]] = {}
    for record in records:
        columns.setdefault(column(record), {})[record["features"]] = record
    judged: dict[Column, dict[str, Record]] = {}
    for key, rows in columns.items():
        comparable = key[1] is None if key[0] in PROBES else key[0] in TASKS
        first = all(key[:3] != other[:3] for other in judged)
        if {OURS, PUBLIC} <= {*rows} and comparable and first:
            judged[key] = rows
    return judged


def _title(key: Column) -> str:
    return f"{key[0]} {key[1]}" if key[1] else key[0]


def _is_tuned(key: Column) -> bool:
    """Whether the encoder is trained on labels in a column."""
    probe, layer = key[:2]
    return PROBES.load(probe).trains_encoder if probe in PROBES else layer not in FROZEN_PARTS


def _compared(tuned: bool, scratch: bool) -> str:
    """What stands beside each other in a column, in words."""
    what = (
        "this run with these weights, both fine-tuned on the same labels"
        if tuned
        else "frozen features of this run with those of these weights as they are"
    )
    return what + (", and the same network trained on these labels from random weights" if scratch else "")
