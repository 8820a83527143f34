"""Test samples that were met before: in pre-training, or in the training part of the labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.auditing.near_images import near_pairs, thumbnails_of
from unlabeled.data import Images, store_size
from unlabeled.data.splits import contradictions, first_rows
from unlabeled.evaluation.opening import Opened, reopened
from unlabeled.files import printable
from unlabeled.run import Run
from unlabeled.training.settings import READING

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["account", "as_in_training", "as_told", "together"]

NAMED = 3
"""Samples that a sentence names; scores.json has all of them."""
MOST_COMPARED, SMALLEST_COMPARED = 10_000, 16
"""Images of both parts up to which near copies are looked for (about 5 seconds of one core), and their least height and
width in pixels: smaller ones differ in too little."""
CHANCE = 0.1
"""Pairs that may be there by chance: a note that is wrong costs more trust than one that is missing."""


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
        is not known; `near_in_training_part`, of images, with `copies` beside: their paths in the training part; None
        where there are too many to look; and `note`, sentences without their full stop. What there is nothing to say of
        is left out.
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
        if isinstance(train, Images) and isinstance(tested, Images):
            near, note = _near_copies(train, tested, known, digests)
            about |= near
            notes += [note] if note else []
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


def as_told(run: Any, data: Any) -> dict[str, str]:
    """How to read data, as a run that was trained on the same was told it; empty for other data."""
    if not isinstance(run, Run) or not _is_source(run, data):
        return {}
    settings = run.config.get("settings", {})
    return {name: settings[name] for name in READING if name in settings}


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


def _near_copies(train: Images, test: Images, known: Tensor, digests: Tensor) -> tuple[dict[str, Any], str]:
    """Test images that are no equal but probably a near copy of one in the training part, and a sentence on them."""
    rows, own = first_rows(known), first_rows(digests)
    own = own[~torch.isin(digests[own], known)]
    rows, own = (
        index[data.sizes[index].amin(1) >= SMALLEST_COMPARED] for data, index in ((train, rows), (test, own))
    )
    if not len(rows) or not len(own):
        return {}, ""
    if (count := len(rows) + len(own)) > MOST_COMPARED:
        most = f"they are looked for among at most {MOST_COMPARED:,}; unlabeled audit looks for them in all"
        return {
            "near_in_training_part": None
        }, f"near copies among the {count:,} {test.unit} are not counted: {most}"
    found = near_pairs(
        thumbnails_of([(train, rows), (test, own)]),
        part=torch.arange(count) >= len(rows),
        chance=CHANCE,
    )
    first, second = rows[found.pairs[:, 0]].tolist(), own[found.pairs[:, 1] - len(rows)].tolist()
    copy_of: dict[int, str] = {}
    for original, row in zip(first, second, strict=True):  # by falling score
        copy_of.setdefault(int(digests[row]), printable(train.paths[original]))
    if not copy_of:
        return {}, ""
    copies = [
        (printable(path), copy_of[digest])
        for path, digest in zip(test.paths, digests.tolist(), strict=True)
        if digest in copy_of
    ]
    paths, originals = map(list, zip(*copies, strict=True))
    note = (
        f"{len(copies):,} of the {len(test):,} test {test.unit} are probably near copies of some in the training part "
        f"({_named([f'{path} of {original}' for path, original in copies])})"
    )
    return {
        "near_in_training_part": {
            "samples": len(copies),
            "of": len(test),
            "paths": paths,
            "copies": originals,
        }
    }, note


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
