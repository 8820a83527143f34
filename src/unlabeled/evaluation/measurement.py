"""Measurements: one number each with what it was computed from, and the record that the scores keep of it."""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from torch import Tensor

from unlabeled.evaluation.intervals import Bounds, Interval, LeftOut, interval, of_left_out
from unlabeled.evaluation.verdict import OURS, counted

__all__ = ["Measurement", "Record", "group_unit", "interval_of", "record_of"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """One number with what it was computed from.

    Attributes:
        probe: A probe, or a task such as propagation.
        features: unlabeled, the name of a control, or a task's own control in words.
        values: What the number is the mean of, such as 1 where a sample was predicted correctly, float, shape
            (draws, test samples), the same samples for all features.
        layer: Name of a map, or None for the encoder's output.
        labels_per_class: A number, a fraction such as "1%", or "all".
        labels: Training labels that were used in all; None where none were.
        detail: Settings that the number depends on.
        unit: What the number is, "accuracy" or for instance "J&F".
        better: Whether a good number is high or low.
        left_out: Of a statistic that is no mean of samples (`values` then holds only it), or whose units share
            samples, what it is without each independent unit, the same units for all features.
        groups: Number of the independent unit of each value, such as its trajectory, int64, shape (test samples,); None
            where each sample is one.
        counted: What the independent units are called, a plural.
        samples: How many test samples a statistic was computed from.
        bounds: Range of the number, of which an end may be infinite; None for 0..1 of an accuracy and anything else.
        readout: A readout that learns, such as contrast, through which the features were read; empty for none.
        by_class: The same number of single classes, by name; empty where it has none.
        pictures: What was predicted for a few test samples, by what the row shows, float, shape (pictures, 3, height,
            width), in 0..1.
    """

    probe: str
    features: str
    values: Tensor
    _: KW_ONLY
    layer: str | None = None
    labels_per_class: int | str = "all"
    labels: int | None = None
    detail: str = ""
    unit: str = "accuracy"
    better: Literal["higher", "lower"] = "higher"
    left_out: LeftOut | None = None
    groups: Tensor | None = None
    counted: str = "test samples"
    samples: int | None = None
    bounds: Bounds | None = None
    readout: str = ""
    by_class: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def range(self) -> Bounds | None:
        """Range of the number; None for any number."""
        return (0.0, 1.0) if self.bounds is None and self.unit == "accuracy" else self.bounds


def group_unit(data: Any) -> str:
    """What the independent units of test data are called: its samples, or the groups that it knows.

    Data that knows better than "groups" says so by an attribute `group_unit`, a plural.
    """
    return "test samples" if data.groups is None else getattr(data, "group_unit", "groups")


def interval_of(measurement: Measurement) -> Interval:
    """The number of a measurement with its interval."""
    if measurement.left_out is not None:
        value = float(measurement.values.mean())
        draws = measurement.values.mean(1)
        return of_left_out(value, measurement.left_out, bounds=measurement.range, draws=draws)
    return interval(measurement.values, measurement.groups, bounds=measurement.range)


def record_of(measurement: Measurement, ours: Measurement | None) -> Record:
    """The record of a measurement.

    Args:
        measurement: The measurement.
        ours: Ours in the same column, which a control is compared with; None where there is none.

    Returns:
        The keys that `Scores` lists.
    """
    draws, samples = measurement.values.shape
    own = interval_of(measurement)
    method = f"95 %, cluster-robust, over {counted(own.units, measurement.counted)}"
    method += f" and {draws} draws of the labels" if draws > 1 else ""
    record = {
        "probe": measurement.probe,
        "features": measurement.features,
        "layer": measurement.layer,
        "labels_per_class": measurement.labels_per_class,
        "unit": measurement.unit,
        "better": measurement.better,
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "std": own.std,
        "draws": draws,
        "samples": measurement.samples or samples,
        "units": own.units,
        "counted": measurement.counted,
        "interval": "none of a single unit" if own.low is None else method,
        "detail": measurement.detail,
    }
    if measurement.labels is not None:
        record["labels"] = measurement.labels
    record |= {"readout": measurement.readout} if measurement.readout else {}
    record |= {"by_class": dict(measurement.by_class)} if measurement.by_class else {}
    if ours is not None and measurement.features != OURS:
        margin = _margin(ours, measurement)
        record |= {"margin": margin.value, "margin_low": margin.low, "margin_high": margin.high}
    return record


def _margin(ours: Measurement, control: Measurement) -> Interval:
    """How much better ours is, on the same samples and draws and without the same units."""
    sign = 1 if control.better == "higher" else -1
    low, high = control.range or (-math.inf, math.inf)
    bounds = low - high, high - low
    draws = len(control.values)
    values = sign * (ours.values[:draws] - control.values)
    left_out = ours.left_out or control.left_out
    if left_out is None:
        # A control that takes long is measured with the first draw only.
        accuracies = ours.values.mean(1) if draws == 1 < len(ours.values) else None
        return interval(values, control.groups, bounds=bounds, difference=True, accuracies=accuracies)
    # One of them may be a constant, which is the same whatever is left out.
    first, second = (
        m.left_out.values if m.left_out is not None else m.values.mean() for m in (ours, control)
    )
    differences = LeftOut(sign * (first - second), left_out.fractions, left_out.units)
    return of_left_out(
        float(values.mean()), differences, bounds=bounds, difference=True, draws=values.mean(1)
    )
