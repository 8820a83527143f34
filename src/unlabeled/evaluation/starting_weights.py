"""What public weights a run is measured beside, and what that comparison decides.

With data at hand one can train from scratch, continue from public weights, or use these as they are. A run that started
from weights has continued from them; the control public is the same weights without that training.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from unlabeled.evaluation.verdict import OURS, PUBLIC, Record, column, labels, lead, separate
from unlabeled.run import Run

__all__ = ["Choice", "Weights", "choices", "decide", "of"]

Choice = Literal["train from scratch", "continue from these weights", "use these weights as they are"]
SCRATCH: Choice = "train from scratch"
CONTINUE: Choice = "continue from these weights"
USE: Choice = "use these weights as they are"
EARLIER: Mapping[str, Choice] = {"go on from these weights": CONTINUE, "just use these weights": USE}
"""What earlier versions wrote into scores.json."""


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


def decide(rows: Mapping[str, Record], ours: Choice) -> Choice | None:
    """What the scores of one probe say is best, beyond noise; None where they leave it open.

    Args:
        rows: Score records by their features: ours, public, and perhaps supervised, which is trained from scratch too.
        ours: What ours is.
    """
    ahead = lead(rows[OURS], rows[PUBLIC])
    if (scratch := rows.get("supervised")) is None:
        return ours if ahead == "ahead" else USE if ahead == "behind" else None
    beside = lead(rows[OURS], scratch)
    best: list[Choice] = []
    if ahead == beside == "ahead":
        best.append(ours)
    if ahead == "behind" and (beside == "ahead" or separate(rows[PUBLIC], scratch)):
        best.append(USE)
    if beside == "behind" and (ahead == "ahead" or separate(scratch, rows[PUBLIC])):
        best.append(SCRATCH)
    return best[0] if len(best) == 1 else None


def choices(records: Sequence[Record], about: Mapping[str, Any]) -> list[str]:
    """Lines that say which of the three is best by each probe, and where noise leaves it open.

    Args:
        records: Score records of one evaluation.
        about: What is known of it; `public` says what the weights are.
    """
    known = about.get("public") or {}
    ours: Any = known.get("ours")
    ours = EARLIER.get(ours, ours)
    columns: dict[Any, dict[str, Record]] = {}
    for record in records:
        columns.setdefault(column(record), {})[record["features"]] = record
    judged = {key: rows for key, rows in columns.items() if {OURS, PUBLIC} <= {*rows} and key[1] is None}
    if ours is None or not judged:
        return []
    lines = [f"These weights: {known['weights']}."]
    decided = {key: decide(rows, ours) for key, rows in judged.items()}
    for probe in dict.fromkeys(key[0] for key in judged):
        for choice in (CONTINUE, SCRATCH, USE, None):
            counts = [key[2] for key, best in decided.items() if key[0] == probe and best == choice]
            words = choice or "no recommendation, as the difference is within noise,"
            lines += [f"{probe}: {words} with {labels(counts)}."] if counts else []
    return lines
