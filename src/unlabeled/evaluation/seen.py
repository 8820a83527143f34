"""Test samples that were seen before: in pre-training, or in the training part of the labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.auditing.near_images import near_pairs, thumbnails_of
from unlabeled.data import Images, store_size
from unlabeled.data.splits import contradictions, first_rows
from unlabeled.evaluation.sources import Parts, is_source
from unlabeled.files import printable
from unlabeled.run import Run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["account", "together", "training_options"]

NAMED = 3
"""Samples that a sentence names; scores.json has all of them."""
MOST_COMPARED, SMALLEST_COMPARED = 10_000, 16
"""Images of both parts up to which near-duplicates are looked for (about 5 seconds of one core), and their least height
and width in pixels: smaller ones differ in too little."""
CHANCE = 0.1
"""Pairs that may be there by chance: a note that is wrong costs more trust than one that is missing."""

Account = dict[str, Any]


def account(run: Any, parts: Parts) -> Account:
    """Which test samples were seen before.

    Without labels it is common to pre-train on the test samples too, so this is a note and no error.

    Args:
        run: What was evaluated; what it was pre-trained on is known of a run only.
        parts: Training part, if there is one, and test part.

    Returns:
        `seen_in_pretraining` and `in_training_part`, each with `samples`, `of` and `paths`, the first None where it
        is not known; `near_in_training_part`, of images, with `copies` beside: their paths in the training part; None
        where there are too many to compare; and `note`, sentences without their full stop. What does not apply is
        omitted.
    """
    train, test = parts.train, parts.test
    assert test is not None
    about: Account = {}
    notes = []
    if isinstance(run, Run):
        about["seen_in_pretraining"], note = _in_pretraining(run, parts)
        notes.append(note)
    if train is not None and train is not test:
        trained, digests = train.digests(), test.digests()
        if both := _listing(test, digests, trained):
            about["in_training_part"] = both
            count = f"{both['samples']:,} of the {both['of']:,} test {test.unit}"
            notes.append(f"{count} are in the training part too ({_names(both['paths'])})")
        if isinstance(train, Images) and isinstance(test, Images):
            near, note = _near_copies(train, test, trained, digests)
            about |= near
            notes.append(note)
        if train.labels is not None and test.labels is not None:
            labels = torch.cat([train.labels, test.labels])
            if count := contradictions(torch.cat([trained, digests]), labels):
                notes.append(f"{count:,} equal {test.unit} have contradictory labels")
    note = "; ".join(filter(None, notes))
    return about | ({"note": note} if note else {})


def together(accounts: Sequence[Account]) -> Account:
    """Several accounts in one, where the last takes precedence, with the notes of all."""
    notes = dict.fromkeys(about["note"] for about in accounts if "note" in about)
    whole = {name: value for about in accounts for name, value in about.items()}
    return whole | ({"note": "; ".join(notes)} if notes else {})


def training_options(run: Run) -> dict[str, Any]:
    """Options of `open_data` with which a run opened its training data, where samples depend on them."""
    settings, chosen = run.config.get("settings", {}), run.config.get("chosen", [])
    size = None if "image_size" in chosen else settings.get("image_size")
    return {
        "store_size": settings.get("store_size") or store_size(run.kind, size),
        "sample_rate": run.config.get("data", {}).get("sample_rate"),
    }


def _in_pretraining(run: Run, parts: Parts) -> tuple[Account | None, str]:
    """Test samples that a run was trained on, and a sentence about them, empty where there are none."""
    test, trained = parts.test, run.digests
    assert test is not None
    unknown = f"so whether the encoder was pre-trained on these test {test.unit} is not known"
    if trained is None:
        if _was_trained_on_all(run, parts):
            return None, f"the encoder was pre-trained on these test {test.unit} too, without their labels"
        return None, f"the run keeps no record of the samples that it was trained on, {unknown}"
    if run.kind != test.kind:
        return None, f"the run was trained on data of another kind, {run.kind}, {unknown}"
    test = parts.source.reopened_test(training_options(run)) or test
    listing = _listing(test, test.digests(), trained)
    if listing is None:
        return {"samples": 0, "of": len(test), "paths": []}, ""
    count = "all" if listing["samples"] == len(test) else f"{listing['samples']:,} of the {len(test):,}"
    samples = f"{count} test {test.unit} too, without their labels"
    return listing, f"the encoder was pre-trained on {samples} ({_names(listing['paths'])})"


def _was_trained_on_all(run: Run, parts: Parts) -> bool:
    """Whether a run read the same source, and more samples of it than are in the training part."""
    samples = run.config.get("data", {}).get("samples", 0)
    return parts.train is not None and samples > len(parts.train) and is_source(run, parts.source.data)


def _near_copies(train: Images, test: Images, trained: Tensor, digests: Tensor) -> tuple[Account, str]:
    """Test images that are not equal to one in the training part but probably a near-duplicate, and a sentence on them.

    Args:
        train: Training images.
        test: Test images.
        trained: Digests of the training images, int64, shape (training images,).
        digests: Digests of the test images, int64, shape (test images,).
    """
    rows, tested = first_rows(trained), first_rows(digests)
    tested = tested[~torch.isin(digests[tested], trained)]
    rows, tested = (
        index[data.sizes[index].amin(1) >= SMALLEST_COMPARED]
        for data, index in ((train, rows), (test, tested))
    )
    if not len(rows) or not len(tested):
        return {}, ""
    if (count := len(rows) + len(tested)) > MOST_COMPARED:
        most = f"they are looked for among at most {MOST_COMPARED:,}; unlabeled audit looks for them in all"
        note = f"near-duplicates among the {count:,} {test.unit} are not counted: {most}"
        return {"near_in_training_part": None}, note
    thumbnails = thumbnails_of([(train, rows), (test, tested)])
    pairs = near_pairs(thumbnails, part=torch.arange(count) >= len(rows), chance=CHANCE).pairs
    originals: dict[int, str] = {}
    for first, second in pairs.tolist():  # by falling score
        digest = int(digests[tested[second - len(rows)]])
        originals.setdefault(digest, printable(train.paths[int(rows[first])]))
    copies = [
        (printable(path), originals[digest])
        for path, digest in zip(test.paths, digests.tolist(), strict=True)
        if digest in originals
    ]
    if not copies:
        return {}, ""
    names = _names([f"{path} of {original}" for path, original in copies])
    count = f"{len(copies):,} of the {len(test):,} test {test.unit}"
    listing = {"samples": len(copies), "of": len(test)} | dict(
        zip(("paths", "copies"), map(list, zip(*copies)))
    )
    note = f"{count} are probably near-duplicates of some in the training part ({names})"
    return {"near_in_training_part": listing}, note


def _listing(test: "Data", digests: Tensor, trained: Tensor) -> Account | None:
    """The samples whose digests are among others, None where there are none."""
    rows = torch.isin(digests, trained).nonzero().flatten().tolist()
    if not rows:
        return None
    return {"samples": len(rows), "of": len(test), "paths": [printable(test.paths[row]) for row in rows]}


def _names(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more
