"""Test samples that were met before: in pre-training, or in the training part of the labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.data import store_size
from unlabeled.data.splits import contradictions
from unlabeled.evaluate.opening import Opened, reopened
from unlabeled.files import printable
from unlabeled.run import Run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["account", "as_in_training", "grouping", "together"]

NAMED = 3
"""Samples that a sentence names; scores.json has all of them."""


def account(run: Any, opened: Opened, data: Any, test: Any = None) -> dict[str, Any]:
    """Say which test samples were met before.

    Without labels it is common to pre-train on the test samples too, so this is a note and no error.

    Args:
        run: What was evaluated; what it was pre-trained on is known of a run only.
        opened: Training part, if there is one, and test part.
        data: What the user named, as in `evaluate`.
        test: What the user named as test data, as in `evaluate`.

    Returns:
        `seen_in_pretraining` and `in_training_part`, each with `samples`, `of` and `paths`, the first None where it
        is not known, and `note`, sentences without their full stop; what there is nothing to say of is left out.
    """
    about: dict[str, Any] = {}
    notes = []
    train, tested = opened.train, opened.test
    if isinstance(run, Run):
        more = train is not None and run.config.get("data", {}).get("samples", 0) > len(train)
        same_source = more and _is_source(run, data)
        other = reopened(data, test, opened.how, as_in_training(run)) if run.kind == tested.kind else None
        about["seen_in_pretraining"], note = _pretrained(run, other or tested, same_source)
        notes += [note] if note else []
    if train is not None and train is not tested:
        known, digests = train.digests(), tested.digests()
        if both := _listed(tested, digests, known):
            about["in_training_part"] = both
            count = f"{both['samples']:,} of the {both['of']:,} test {tested.unit}"
            notes.append(f"{count} are in the training part too ({_named(both['paths'])})")
        if train.labels is not None and tested.labels is not None:
            labels = torch.cat([train.labels, tested.labels])
            if count := contradictions(torch.cat([known, digests]), labels):
                notes.append(f"{count:,} equal {tested.unit} have labels that disagree")
    return about | ({"note": "; ".join(notes)} if notes else {})


def together(accounts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several accounts in one, what the last says before the others, with the notes of all."""
    notes = dict.fromkeys(about["note"] for about in accounts if "note" in about)
    whole = {name: value for about in accounts for name, value in about.items()}
    return whole | ({"note": "; ".join(notes)} if notes else {})


def grouping(run: Any, data: Any) -> str | None:
    """What says which samples are not independent, where a run was trained on the same data and was told it."""
    same = isinstance(run, Run) and _is_source(run, data)
    return run.config.get("settings", {}).get("group") if same else None


def as_in_training(run: Run) -> dict[str, Any]:
    """Options of `open_data` with which a run opened its training data, where samples depend on them."""
    settings, chosen = run.config.get("settings", {}), run.config.get("chosen", [])
    size = None if "image_size" in chosen else settings.get("image_size")
    return {
        "store_size": settings.get("store_size") or store_size(run.kind, size),
        "sample_rate": run.config.get("data", {}).get("sample_rate"),
    }


def _pretrained(run: Run, test: "Data", same_source: bool) -> tuple[dict[str, Any] | None, str]:
    """Test samples that a run was trained on, and a sentence about them, empty where there are none."""
    known = run.digests
    unknown = f"so whether the encoder was pre-trained on these test {test.unit} is not known"
    if known is None:
        if same_source:
            return None, f"the encoder was pre-trained on these test {test.unit} too, without their labels"
        return None, f"the run keeps no record of the samples that it was trained on, {unknown}"
    if run.kind != test.kind:
        return None, f"the run was trained on data of another kind, {run.kind}, {unknown}"
    seen = _listed(test, test.digests(), known)
    if seen is None:
        return {"samples": 0, "of": len(test), "paths": []}, ""
    count = "all" if seen["samples"] == len(test) else f"{seen['samples']:,} of the {len(test):,}"
    those = f"{count} test {test.unit} too, without their labels"
    return seen, f"the encoder was pre-trained on {those} ({_named(seen['paths'])})"


def _is_source(run: Run, data: Any) -> bool:
    """Whether data is spelled as the source of a run was."""
    return isinstance(data, str | Path) and run.config.get("data", {}).get("source") == printable(data)


def _listed(test: "Data", digests: Tensor, known: Tensor) -> dict[str, Any] | None:
    """The samples whose digests are known, None where there are none."""
    rows = torch.isin(digests, known).nonzero().flatten().tolist()
    if not rows:
        return None
    return {"samples": len(rows), "of": len(test), "paths": [printable(test.paths[row]) for row in rows]}


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
