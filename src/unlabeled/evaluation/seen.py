"""Test samples that were seen before: in pre-training, or in the training part of the labels."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.data import Images
from unlabeled.data.splits import contradictions
from unlabeled.evaluation import near_copies
from unlabeled.evaluation.near_copies import Account, listing, named, subject, training_options
from unlabeled.evaluation.sources import Parts, is_source
from unlabeled.run import Run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["account", "together", "training_options"]


SOURCE = re.compile(
    r"(?i)(author|document|participant|patient|person|reader|recording|session|singer|speaker|subject|user|writer)(_id)?"
)
"""Names of factors that say whom or what a sample is from."""


def account(run: Any, parts: Parts) -> Account:
    """Which test samples were seen before.

    Without labels it is common to pre-train on the test samples too, so this is a note and no error.

    Args:
        run: What was evaluated; what it was pre-trained on is known of a run only.
        parts: Training part, if there is one, and test part.

    Returns:
        `seen_in_pretraining` and `in_training_part`, each with `samples`, `of` and `paths`, the first None where it
        is not known; `near_in_pretraining` and `near_in_training_part`, as `near_copies.account` has them; and `note`,
        sentences without their full stop. What does not apply is omitted.
    """
    train, test = parts.train, parts.test
    assert test is not None
    train, seen = None if train is test else train, torch.zeros(len(test), dtype=torch.bool)
    about: Account = {}
    notes = []
    if isinstance(run, Run):
        about["seen_in_pretraining"], note, seen = _in_pretraining(run, parts)
        notes.append(note)
    train_digests = torch.zeros(0, dtype=torch.int64) if train is None else train.digests()
    if both := listing(test, torch.isin(test.digests(), train_digests).nonzero().flatten().tolist()):
        about["in_training_part"] = both
        verb = "is" if both["samples"] == 1 else "are"
        notes.append(f"{subject(both, test)} {verb} in the training part too ({named(both['paths'])})")
    if train is not None and train.name == test.name:
        crossing = [_crossing(train, test, name) for name in test.factors if SOURCE.fullmatch(name)]
        notes += crossing if any(crossing) else [_groups_crossing(train, test)]
    if isinstance(test, Images):
        images = train if isinstance(train, Images) else None
        near, some = near_copies.account(run if isinstance(run, Run) else None, images, test, seen)
        about |= near
        notes += some
    if train is not None and train.labels is not None and test.labels is not None:
        labels = torch.cat([train.labels, test.labels])
        if count := contradictions(torch.cat([train_digests, test.digests()]), labels):
            notes.append(f"{count:,} equal {test.unit} have contradictory labels")
    note = "; ".join(filter(None, notes))
    return about | ({"note": note} if note else {})


def together(accounts: Sequence[Account]) -> Account:
    """Several accounts in one, where the last takes precedence, with the notes of all."""
    notes = dict.fromkeys(about["note"] for about in accounts if "note" in about)
    whole = {name: value for about in accounts for name, value in about.items()}
    return whole | ({"note": "; ".join(notes)} if notes else {})


def _in_pretraining(run: Run, parts: Parts) -> tuple[Account | None, str, Tensor]:
    """Test samples that a run was trained on, a sentence about them, empty where there are none, and which they are."""
    test, digests = parts.test, run.digests
    assert test is not None
    unknown = f"so whether the encoder was pre-trained on these test {test.unit} is not known"
    seen = torch.zeros(len(test), dtype=torch.bool)
    if digests is None:
        if _was_trained_on_all(run, parts):
            return (
                None,
                f"the encoder was pre-trained on these test {test.unit} too, without their labels",
                seen,
            )
        return None, f"the run keeps no record of the samples that it was trained on, {unknown}", seen
    if run.kind != test.kind:
        return None, f"the run was trained on data of another kind, {run.kind}, {unknown}", seen
    test = parts.source.reopened_test(training_options(run)) or test
    seen = torch.isin(test.digests(), digests)
    samples = listing(test, seen.nonzero().flatten().tolist())
    if samples is None:
        return {"samples": 0, "of": len(test), "paths": []}, "", seen
    count = f"all test {test.unit}" if samples["samples"] == len(test) else subject(samples, test)
    label = "its label" if samples["samples"] == 1 else "their labels"
    note = f"the encoder was pre-trained on {count} too, without {label} ({named(samples['paths'])})"
    return samples, note, seen


def _crossing(train: "Data", test: "Data", factor: str) -> str:
    """A sentence on the speakers of the test part, or what else a factor names, that are in the training part too."""
    known, values = (data.factors.get(factor, torch.zeros(0)).double() for data in (train, test))
    values = values[values.isfinite() & (values >= 0)].unique()
    count = int(torch.isin(values, known).sum())
    if not count:
        return ""
    number = "all" if count == len(values) else f"{count:,} of the {len(values):,}"
    remedy = "" if test.groups is not None else f"; --group {factor} takes each as one unit"
    return f"{number} values of {factor} in the test part are in the training part too{remedy}"


def _groups_crossing(train: "Data", test: "Data") -> str:
    """A sentence on the groups of the test part, as the user names them, that are in the training part too."""

    def names(data: "Data") -> set[str]:
        numbers = [] if data.groups is None else data.groups.unique().tolist()
        return {data.group_names[number] for number in numbers if number in data.group_names}

    known, both = names(test), sorted(names(test) & names(train))
    if not both:
        return ""
    number = "all" if len(both) == len(known) else f"{len(both):,} of the {len(known):,}"
    return f"{number} {test.group_unit} of the test part are in the training part too ({named(both)})"


def _was_trained_on_all(run: Run, parts: Parts) -> bool:
    """Whether a run read the same source, and more samples of it than are in the training part."""
    samples = run.config.get("data", {}).get("samples", 0)
    return parts.train is not None and samples > len(parts.train) and is_source(run, parts.source.data)
