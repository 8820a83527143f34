"""Measurements in files, so that what was interrupted goes on, and what several of them say together."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.evaluation.intervals import Bounds, Interval, LeftOut, interval, of_left_out
from unlabeled.evaluation.measurement import Measurement
from unlabeled.files import atomic
from unlabeled.progress import report

__all__ = ["contrast", "is_whole", "read", "together", "write"]

WORDS = (
    "probe",
    "features",
    "layer",
    "labels_per_class",
    "labels",
    "detail",
    "unit",
    "better",
    "counted",
    "samples",
)
"""Attributes of a measurement that JSON holds as they are."""


def write(file: Path, measurement: Measurement) -> None:
    """Write a measurement as JSON, and its pictures beside it as safetensors."""
    from safetensors.torch import save_file

    left, groups = measurement.left_out, measurement.groups
    content = {name: getattr(measurement, name) for name in WORDS} | {
        "values": measurement.values.tolist(),
        "groups": None if groups is None else groups.tolist(),
        "left_out": None if left is None else [left.values.tolist(), left.fractions.tolist(), left.units],
        "bounds": measurement.bounds,
        "by_class": dict(measurement.by_class),
    }
    if measurement.pictures:
        levels = {name: (255 * own).round().byte().cpu() for name, own in measurement.pictures.items()}
        with atomic(file.with_suffix(".safetensors")) as path:
            save_file({name: own.contiguous() for name, own in levels.items()}, path)
    with atomic(file) as path:  # last: where it is, all is
        path.write_text(json.dumps(content), encoding="utf-8")


def read(file: Path) -> Measurement:
    """Read what `write` wrote.

    Raises:
        ValueError: It cannot be read; the message names the file.
    """
    try:
        return _read(file)
    except OSError:
        raise
    except Exception as error:  # whatever JSON, safetensors and missing values raise
        raise UserError(
            f"{file} must be a score of a bet, got a damaged file ({check.reason(error)})"
        ) from error


def is_whole(file: Path) -> bool:
    """Whether there is a score to read; of one that is damaged a line says that it is measured again."""
    if not file.is_file():
        return False
    try:
        read(file)
    except UserError as error:
        report(f"{error}: it is measured again")
        return False
    return True


def _read(file: Path) -> Measurement:
    from safetensors.torch import load_file

    content = json.loads(file.read_text(encoding="utf-8"))
    left, groups, bounds = content["left_out"], content["groups"], content["bounds"]
    pictures = file.with_suffix(".safetensors")
    levels = load_file(pictures) if pictures.is_file() else {}
    return Measurement(
        values=_numbers(content["values"]),
        groups=None if groups is None else torch.tensor(groups),
        left_out=None if left is None else LeftOut(_numbers(left[0]), _numbers(left[1]), left[2]),
        bounds=bounds and tuple(bounds),
        by_class=content["by_class"],
        pictures={name: own / 255 for name, own in levels.items()},
        **{name: content[name] for name in WORDS},
    )


def _numbers(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def together(measurements: Sequence[Measurement]) -> Measurement:
    """Measurements by several seeds on the same test samples as one, with the pictures of the first.

    Args:
        measurements: Each with the same independent units left out.
    """
    first, lefts = measurements[0], [one.left_out for one in measurements if one.left_out is not None]
    left_out = None
    if lefts:
        left_out = replace(lefts[0], values=torch.stack([one.values for one in lefts]).mean(0))
    names = first.by_class
    classes = {name: sum(one.by_class[name] for one in measurements) / len(measurements) for name in names}
    values = torch.cat([one.values for one in measurements])
    return replace(first, values=values, left_out=left_out, by_class=classes)


def contrast(
    parts: Sequence[tuple[float, Measurement]], bounds: Bounds | None = None, *, difference: bool = True
) -> Interval:
    """A weighted sum of measurements with its interval, on the same seeds and test samples.

    Args:
        parts: Weights and measurements.
        bounds: Range of the sum; None for any number.
        difference: Whether it is the difference of measured numbers.
    """
    values = sum(weight * one.values.double() for weight, one in parts)
    assert isinstance(values, Tensor)
    first = parts[0][1]
    if first.left_out is None:
        return interval(values, first.groups, bounds=bounds, difference=difference)
    without = sum(weight * one.left_out.values for weight, one in parts if one.left_out is not None)
    assert isinstance(without, Tensor)
    left_out = replace(first.left_out, values=without)
    return of_left_out(
        float(values.mean()), left_out, bounds=bounds, difference=difference, draws=values.mean(1)
    )
