"""The data that an encoder is judged on, opened as that encoder needs it."""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from unlabeled.method import Method
from unlabeled.run import Run, reading

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["both", "options", "pair", "parts"]


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
    return encoder.reads(train), encoder.reads(tested)


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
        raise ValueError(f"test must have the training data's classes {train.classes}, got {tested.classes}")
    return same_classes(copy.copy(train), copy.copy(tested))


def parts(data: Any, how: dict[str, Any], encoder: "Encoder") -> Iterator[tuple[str, "Data"]]:
    """Open every split of a source as an encoder reads it, with its name; "all" where it has none."""
    from unlabeled.data import opening

    openers = opening.parts(data, **how)
    for split in list(openers):
        opened = openers[split]()
        if (alike := _mapped_alike(how, opening.levels_of(opened))) is not how:
            how, openers = alike, opening.parts(data, **alike)
        yield split, encoder.reads(opened)


def _mapped_alike(how: dict[str, Any], levels: dict[str, Any]) -> dict[str, Any]:
    """Options that map a further part to 8 bits as the first was mapped, unless the options say how."""
    return how if how.get("levels") or not levels else how | {"levels": levels}


def _test_part(source: Any, how: dict[str, Any]) -> "Data":
    from unlabeled.data import opening

    splits = opening.parts(source, **how)
    chosen = next((name for name in ("test", "validation") if name in splits), None)
    return opening.open_data(source, split=chosen, **how)
