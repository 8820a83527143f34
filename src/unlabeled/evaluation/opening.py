"""The data that an encoder is judged on, opened as that encoder needs it."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from unlabeled.check import UserError
from unlabeled.method import Method
from unlabeled.run import Run, reading

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["Opened", "both", "for_task", "given", "is_divided", "options", "pair", "parts", "reopened"]

TASK_KINDS = {"alignment": "cameras", "perplexity": "text", "zones": "trajectory"}
"""Kinds of the data of tasks that do not go by the encoder's."""
_KEPT, _OF_TEXTS = ("group", "max_broken"), ("label", "encoding", "text_column", "segmenter")
"""Options of the run that data of such a kind is opened with too, and those of texts."""
WHOLE = ("alignment", "localisation", "retrieval", "zones")
"""Tasks that are measured on all of what was opened before."""


class Opened(NamedTuple):
    """Training part, if there is one, and test part of some data, and the options they were opened with."""

    train: "Data | None"
    test: "Data"
    how: dict[str, Any]
    divided: bool = False
    """Whether data without a test part was divided, as far as the task asks for that."""


def options(run: Any, encoder: "Encoder") -> dict[str, Any]:
    """Options of `open_data` that suit a run, or an encoder alone."""
    if isinstance(run, Run):
        return run.reading
    kind = run.kind if isinstance(run, Method) else {"words": "text"}.get(encoder.kind, encoder.kind)
    return reading(encoder, kind)


def pair(data: Any, test: Any, how: dict[str, Any], encoder: "Encoder") -> tuple["Data", "Data"]:
    """Open training and test data as an encoder reads them, their classes numbered alike.

    Args:
        data: As in `both`.
        test: As in `both`.
        how: Options of `open_data`.
        encoder: The encoder.
    """
    train, tested = both(data, test, how)
    return encoder.evaluation_view(train), encoder.evaluation_view(tested)


def both(data: Any, test: Any, how: dict[str, Any]) -> tuple["Data", "Data"]:
    """Open training and test data, their classes numbered alike.

    Args:
        data: What `open_splits` takes, or a pair of training and test data where `test` is None.
        test: What `open_data` takes, of which the test split is read where there is one; or None.
        how: Options of `open_data`.

    Raises:
        ValueError: The two have no class in common.
    """
    from unlabeled.data import open_data, open_splits
    from unlabeled.data.opening import levels_of, same_classes

    source: Any
    source, test = data if isinstance(data, tuple) and test is None else (data, test)
    if test is None:
        return open_splits(source, **how)
    train = open_data(source, **how)
    tested = _test_part(test, _mapped_alike(how, levels_of(train)))
    if train.classes and tested.classes and not {*train.classes} & {*tested.classes}:
        raise UserError(f"test must have the training data's classes {train.classes}, got {tested.classes}")
    return same_classes(copy.copy(train), copy.copy(tested))


def parts(data: Any, how: dict[str, Any], encoder: "Encoder") -> Iterator[tuple[str, "Data"]]:
    """Open every split of a source as an encoder reads it, with its name; "all" where it has none."""
    from unlabeled.data import opening

    openers = opening.parts(data, **how)
    for split in list(openers):
        opened = openers[split]()
        if (alike := _mapped_alike(how, opening.levels_of(opened))) is not how:
            how, openers = alike, opening.parts(data, **alike)
        yield split, encoder.evaluation_view(opened)


def _mapped_alike(how: dict[str, Any], levels: dict[str, Any]) -> dict[str, Any]:
    """Options that map a further part to 8 bits as the first was mapped, unless the options say how."""
    return how if how.get("levels") or not levels else how | {"levels": levels}


def for_task(word: str, data: Any, test: Any, how: dict[str, Any]) -> Opened | None:
    """Open the data of a task.

    Args:
        word: Name of the task.
        data: As in `both`.
        test: As in `both`.
        how: Options of `open_data` that suit the encoder.

    Returns:
        What was opened; None where it has no samples such as `Data` knows: lists of words, or videos with masks for
        a run that was trained on something else.
    """
    from unlabeled.data import Data, store_size

    if word in ("analogies", "similarity"):
        return None
    if isinstance(data, Data) and test is None and word in WHOLE:
        return Opened(None, data, how)
    if word == "propagation":
        masked = _with_masks(data, how)
        return None if masked is None else Opened(None, masked, how)
    if word in TASK_KINDS:
        kind = TASK_KINDS[word]
        how = {name: how[name] for name in (*_KEPT, *(_OF_TEXTS if kind == "text" else ())) if name in how}
        how |= {"kind": kind, "store_size": store_size(kind, None)}
    divided = word == "perplexity" and is_divided(data, test, how)
    return Opened(*both(data, test, how), how, divided)


def is_divided(data: Any, test: Any, how: dict[str, Any]) -> bool:
    """Whether `both` divides data, as it has no training and test part of its own."""
    from unlabeled.data import opening

    if test is not None or isinstance(data, tuple):
        return False
    splits = opening.parts(data, **how)
    return "train" not in splits or not {"test", "validation"} & {*splits}


def given(word: str, data: Any, opened: Opened) -> Any:
    """What a task takes of what was opened for it; perplexity must know whether texts were divided."""
    if word == "perplexity":
        return opened
    return data if opened.train is None else (opened.train, opened.test)


def _with_masks(data: Any, how: dict[str, Any]) -> "Data | None":
    """Videos in which masks are followed, or their frames for a run of images."""
    from unlabeled.data import BUILT_IN, Data, open_data
    from unlabeled.data.files import davis_frames, is_davis
    from unlabeled.data.video.films import listed

    data = data[-1] if isinstance(data, tuple) else data
    if isinstance(data, Data):
        return data
    if str(data).partition(":")[0] in BUILT_IN:
        return open_data(data, split="test", **how) if how["kind"] == "video" else None
    root = Path(data).expanduser()
    if how["kind"] not in ("image", "video") or not is_davis(root):
        return None
    opened, names = open_data(davis_frames(root), **how), {*listed(root)}
    inside = [bool(names & {*Path(path).parts}) for path in opened.paths]
    return opened.subset(torch.tensor(inside)) if names and any(inside) else opened


def reopened(data: Any, test: Any, how: dict[str, Any], other: dict[str, Any]) -> "Data | None":
    """Open the test part once more, where other options may show other samples.

    Args:
        data: As in `both`.
        test: As in `both`.
        how: Options that it was opened with.
        other: Options that it is to be opened with.

    Returns:
        The test part; None where it would be the same.
    """
    named = [part for part in (*(data if isinstance(data, tuple) else (data,)), test) if part is not None]
    files = [
        part for part in named if isinstance(part, str | os.PathLike) and Path(part).expanduser().exists()
    ]
    if not files or all(how.get(name) == value for name, value in other.items()):
        return None
    return both(data, test, how | other)[1]


def _test_part(source: Any, how: dict[str, Any]) -> "Data":
    from unlabeled.data import opening

    splits = opening.parts(source, **how)
    chosen = next((name for name in ("test", "validation") if name in splits), None)
    return opening.open_data(source, split=chosen, **how)
