"""What data a bet was begun on: a bet that goes on must measure the same samples with the same answers."""

import tomllib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.digests import digest
from unlabeled.data.image.annotated import AnnotatedImages
from unlabeled.files import atomic
from unlabeled.progress import report

__all__ = ["FILE", "content", "refuse_other_data"]

FILE = "data.toml"
"""A number for the content of each part of the data, in the folder of a bet."""


def content(data: Data) -> str:
    """A number in hexadecimal digits for the samples and their answers, in their order; places do not count.

    Args:
        data: Samples with classes, boxes or masks, or without.
    """
    answers = [own for own in (data.labels, data.groups) if own is not None]
    if isinstance(data, AnnotatedImages):
        if data.masks is not None:
            answers += [data.mask(row) for row in range(len(data))]
        answers += chain.from_iterable(
            (own.boxes, own.labels, own.difficult.to(torch.uint8)) for own in data.things or ()
        )
    number = digest(
        data.digests(), "\0".join(data.classes or ()), *(own.cpu().contiguous() for own in answers)
    )
    return f"{number % 2**64:016x}"


def refuse_other_data(folder: Path, parts: Mapping[str, Data]) -> None:
    """Write down what the data of a bet holds, or see that it is what it was.

    Args:
        folder: Folder of the bet.
        parts: The data by what it is for, such as `pretraining`.

    Raises:
        ValueError: A sample or an answer is another one, or the file is damaged.
    """
    import tomli_w

    file, now = folder / FILE, {name: content(data) for name, data in parts.items()}
    if file.is_file():
        try:
            stored = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} must be TOML, got a damaged file ({check.reason(error)})") from error
        for name, data in parts.items():
            if stored.get(name) != now[name]:
                raise UserError(
                    f"out must be a new folder, got {folder}, which holds a bet on other samples or labels of the "
                    f"{name.replace('_', ' ')} data than {data.name} has now"
                )
        return
    if any((folder / "cells").glob("*.json")):
        report(
            f"{folder} does not say on what data its scores were measured; they count as scores on today's data"
        )
    with atomic(file) as path:
        path.write_text(tomli_w.dumps(now), encoding="utf-8")
