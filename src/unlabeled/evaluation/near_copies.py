"""Test images that are equal to none that was seen, but probably a near-duplicate of one.

They are looked for among the images of the training part, and among those that a run was pre-trained on, which are
opened again: the run itself keeps digests only, which recognise equal images. Images that were streamed, and data of
other kinds, are not compared.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.auditing.near_images import near_pairs, thumbnails_of
from unlabeled.check import UserError
from unlabeled.data import Images, open_data, store_size
from unlabeled.data.splits import first_rows
from unlabeled.evaluation.verdict import counted
from unlabeled.files import printable
from unlabeled.progress import report
from unlabeled.run import Run

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Account", "account", "listing", "named", "subject", "training_options"]

NAMED = 3
"""Samples that a sentence names; scores.json has all of them."""
MOST_COMPARED, SMALLEST_COMPARED = 10_000, 16
"""Test images and others up to which near-duplicates are looked for (about 5 seconds of one core), and their least
height and width in pixels: smaller ones differ in too little."""
CHANCE = 0.1
"""Pairs that may be there by chance: a note that is wrong costs more trust than one that is missing."""
OPENING = ("max_broken", "levels", "pages", "label")
"""Settings by which a run opened its images, beside their size."""

Account = dict[str, Any]
Copies = dict[int, str]
"""Path of the image that a test image is probably a near-duplicate of, by the row of the test image."""


def account(run: Run | None, train: Images | None, test: Images, seen: Tensor) -> tuple[Account, list[str]]:
    """Which test images are probably near-duplicates, and sentences on them without their full stop.

    Args:
        run: The run, if what was evaluated is one.
        train: Images of the training part, if there are any.
        test: Test images.
        seen: Which test images the run was pre-trained on, bool, shape (test images,).

    Returns:
        `near_in_pretraining` and `near_in_training_part`, each with `samples`, `of`, `paths` and `copies`, the paths of
        what they are near-duplicates of; None where they were not looked for. What does not apply is omitted.
    """
    digests = test.digests()
    train_digests = digests[:0] if train is None else train.digests()
    pretraining_digests = run.digests if run is not None and run.kind == test.kind else None
    tested = _large_enough(test, ~torch.isin(digests, train_digests))
    in_training: Copies | None = {}
    in_pretraining: Copies | None = {}
    notes = []
    if train is not None:
        rows = _originals(train, torch.ones_like(train_digests, dtype=torch.bool), test, tested)
        if rows is None:
            notes.append(f"near-duplicates among the {len(train) + len(test):,} images {_not_counted()}")
            in_training = None
        else:
            in_training = {row: train.paths[first] for row, first in rows.items()}
            both = torch.isin(
                train_digests, train_digests[:0] if pretraining_digests is None else pretraining_digests
            )
            in_pretraining = {
                row: in_training[row] for row, first in rows.items() if both[first] and not seen[row]
            }
    if run is not None and pretraining_digests is not None:
        others, note = _among_others(
            run, pretraining_digests[~torch.isin(pretraining_digests, train_digests)], test, tested & ~seen
        )
        notes += [note] if note else []
        in_pretraining = None if others is None else others | in_pretraining
    about, sentences = _summary(test, in_pretraining, in_training)
    return about, [*sentences, *notes]


def training_options(run: Run) -> dict[str, Any]:
    """Options of `open_data` with which a run opened its training data, where samples depend on them."""
    settings, chosen = run.config.get("settings", {}), run.config.get("chosen", [])
    size = None if "image_size" in chosen else settings.get("image_size")
    return {
        "store_size": settings.get("store_size") or store_size(run.kind, size),
        "sample_rate": run.config.get("data", {}).get("sample_rate"),
    }


def listing(test: "Data", rows: Sequence[int]) -> Account | None:
    """Some test samples as scores keep them; None where there are none."""
    if not rows:
        return None
    return {"samples": len(rows), "of": len(test), "paths": [printable(test.paths[row]) for row in rows]}


def subject(listing: Account, test: "Data") -> str:
    """How many test samples, to begin a sentence with."""
    return f"{listing['samples']:,} of the {listing['of']:,} test {test.unit}"


def named(paths: Sequence[str]) -> str:
    """The first of some paths, and how many more there are."""
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _summary(
    test: Images, in_pretraining: Copies | None, in_training: Copies | None
) -> tuple[Account, list[str]]:
    """Near-duplicates as scores keep them, and a sentence on each place, or one where both places hold the same."""
    pretraining, training = "that the encoder was pre-trained on", "in the training part"
    places = [
        ("near_in_pretraining", in_pretraining, pretraining),
        ("near_in_training_part", in_training, training),
    ]
    about: Account = {}
    sentences = []
    for name, copies, where in places:
        if copies is None:
            about[name] = None
        elif samples := listing(test, rows := sorted(copies)):
            about[name] = samples | {"copies": [printable(copies[row]) for row in rows]}
            pairs = zip(about[name]["paths"], about[name]["copies"], strict=True)
            what = "is probably a near-duplicate of an image"
            what = what if len(rows) == 1 else "are probably near-duplicates of images"
            names = named([f"{path} of {original}" for path, original in pairs])
            where = f"{training} {pretraining} too" if in_pretraining == in_training else where
            sentences.append(f"{subject(samples, test)} {what} {where} ({names})")
    return about, list(dict.fromkeys(sentences))


def _among_others(run: Run, digests: Tensor, test: Images, tested: Tensor) -> tuple[Copies | None, str]:
    """Near-duplicates of images that a run was pre-trained on and the training part does not hold.

    Args:
        run: The run.
        digests: Of these images, each once.
        test: Test images.
        tested: Which of them are looked at, bool, shape (test images,).

    Returns:
        The near-duplicates, None where none of these images can be compared, and a sentence on what was not compared.
    """
    if not len(digests) or not tested.any():
        return {}, ""
    clause, source = "that the encoder was pre-trained on", run.config.get("data", {}).get("source")
    what = f"near-duplicates of {counted(len(digests), 'images')} {clause}"
    if len(digests) + int(tested.sum()) > MOST_COMPARED:
        return None, f"{what} {_not_counted()}"
    if not source:
        return None, f"{what} are not looked for, as the run does not name its images"
    report(f"opening {source} again, to look for near-duplicates of images {clause}")
    settings = run.config.get("settings", {})
    options = {name: settings[name] for name in OPENING if name in settings}
    try:
        data = open_data(source, kind="image", store_size=training_options(run)["store_size"], **options)
    except (UserError, OSError) as error:
        report(check.reason(error))
        return None, f"{what} are not looked for, as its source cannot be opened again"
    assert isinstance(data, Images)
    among = torch.isin(data.digests(), digests)
    count = len(digests) - len(data.digests()[among].unique())
    rows = _originals(data, among, test, tested) or {}
    what = f"near-duplicates of {counted(count, 'images')} {clause}"
    note = f"{what} are not looked for, as its source does not hold them any more" if count else ""
    return None if count == len(digests) else {row: data.paths[first] for row, first in rows.items()}, note


def _originals(data: Images, among: Tensor, test: Images, tested: Tensor) -> dict[int, int] | None:
    """Rows of the images that test images are probably near-duplicates of; None where there are too many to compare.

    Args:
        data: Images that were seen.
        among: Which of them are looked at, bool, shape (images,).
        test: Test images.
        tested: Which of them are looked at, bool, shape (test images,).

    Returns:
        The row in `data` by the row in `test`.
    """
    digests = test.digests()
    rows, queries = _distinct(data, _large_enough(data, among)), _distinct(test, tested)
    if not len(rows) or not len(queries):
        return {}
    if (count := len(rows) + len(queries)) > MOST_COMPARED:
        return None
    thumbnails = thumbnails_of([(data, rows), (test, queries)])
    pairs = near_pairs(thumbnails, part=torch.arange(count) >= len(rows), chance=CHANCE).pairs
    originals: dict[int, int] = {}
    for first, second in pairs.tolist():  # by falling score
        originals.setdefault(int(digests[queries[second - len(rows)]]), int(rows[first]))
    return {row: originals[one] for row, one in enumerate(digests.tolist()) if one in originals}


def _distinct(data: Images, among: Tensor) -> Tensor:
    """Rows of some images, each content once, int64."""
    rows = first_rows(data.digests())
    return rows[among[rows]]


def _large_enough(data: Images, among: Tensor) -> Tensor:
    """Which of some images, bool, shape (images,), are large enough to be compared."""
    return among & (data.sizes.amin(1) >= SMALLEST_COMPARED)


def _not_counted() -> str:
    most = f"they are looked for among at most {MOST_COMPARED:,}"
    return f"are not counted: {most}; unlabeled audit looks for them in all"
