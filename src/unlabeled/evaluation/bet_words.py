"""What a bet was about and what came out: the table, who won, what more budget would do, what the labels were worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.evaluation import subsets
from unlabeled.evaluation.cells import contrast
from unlabeled.evaluation.intervals import Interval
from unlabeled.evaluation.labels_worth import Worth, curve, labels_worth
from unlabeled.evaluation.measurement import Measurement, interval_of
from unlabeled.evaluation.table import aligned
from unlabeled.evaluation.verdict import OURS, TOO_FEW, amount, counted, name

__all__ = ["SUPERVISED", "TASKS", "Bet", "Key", "Terms", "called", "ranges"]

SUPERVISED = "supervised pre-training"
NAMES = {OURS: "pre-training without labels", SUPERVISED: "pre-training with labels"}
TASKS = ("classification", "multilabel", "segmentation", "detection")
Key = tuple[str, int, int]
"""Features, steps of their pre-training (0 for controls), and labelled samples of the target."""


@dataclass(frozen=True)
class Terms:
    """What a bet is about.

    Args:
        pretraining: Images to pre-train on, with labels: what `open_data` takes, a name or a path.
        target: Labelled images to transfer to, likewise.
        method: Name of the method without labels.
        task: classification, multilabel, segmentation or detection.
        budgets: Steps of pre-training, each in trainings of its own; empty for 250, 500 and 1,000, or with `labels` for
            1,000 only.
        labels: Numbers of labelled samples of the target; empty for all of them.
        seeds: Trainings on the target of each network, each on a draw of labelled samples of its own.
        train: What is trained there: all, or frozen (classification and multilabel: a linear classifier), head, or the
            name of a map from which upward (tasks).
        steps: Optimizer steps of each training on the target; None as evaluate has them.
        size: Shorter side in pixels of images for segmentation and detection; None as evaluate has it.
        seed: Seed of all random numbers.
        device: auto, cpu, cuda or mps.
        settings: Run settings and options of the method.
    """

    pretraining: str
    target: str
    method: str = "simclr"
    task: str = "classification"
    budgets: Sequence[int] = ()
    labels: Sequence[int | str] = ()
    seeds: int = 3
    train: str = "all"
    steps: int | None = None
    size: int | None = None
    seed: int = 0
    device: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check.choice(TASKS, task=self.task)
        check.at_least(
            1, seeds=self.seeds, **{f"budgets[{n}]": steps for n, steps in enumerate(self.budgets)}
        )
        if self.steps is not None:
            check.at_least(1, steps=self.steps)
        if self.size is not None and self.task not in ("segmentation", "detection"):
            raise UserError(f"size must come with the task segmentation or detection, got {self.size}")
        if self.task == "classification":
            check.choice(("all", "frozen"), train=self.train)
        for word in ("epochs", "minutes"):
            if word in self.settings:
                raise UserError(f"{word} must be left out, as budgets are steps, got {self.settings[word]}")
        budgets = self.budgets or ((1000,) if self.labels else (250, 500, 1000))
        object.__setattr__(self, "budgets", sorted({*budgets}))
        object.__setattr__(self, "labels", subsets.counts(self.labels, "labels") if self.labels else [])


@dataclass
class Bet:
    """What a bet has measured so far.

    Attributes:
        path: Its folder.
        terms: What it is about.
        cells: Scores on the target by all seeds.
        notes: Sentences that a reader must know.
    """

    path: Path
    terms: Terms
    cells: dict[Key, Measurement]
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> list[int]:
        """Numbers of labelled samples of the target, rising."""
        return sorted({count for _, _, count in self.cells})

    def get(self, features: str, count: int, budget: int | None = None) -> Measurement | None:
        """The scores of pre-trained features with a budget, None for the largest, or of a control."""
        largest = max((steps for kind, steps, _ in self.cells if kind == features), default=0)
        return self.cells.get((features, largest if budget is None else budget, count))

    def best_run(self) -> Path | None:
        """The run to go on with: the one without labels unless labels won; None where a control beat it."""
        count = max(self.counts)
        ours, theirs = self.get(OURS, count), self.get(SUPERVISED, count)
        if ours is None:
            return None
        lost = theirs is not None and _side(contrast([(1, ours), (-1, theirs)], ranges(ours))) == -1
        best = theirs if lost and theirs is not None else ours
        for features in {features for features, _, _ in self.cells} - {*NAMES}:
            control = self.get(features, count)
            if control is not None and _side(contrast([(1, best), (-1, control)], ranges(best))) == -1:
                return None
        return self.path / f"{'labels' if lost else 'unlabeled'}-{max(self.terms.budgets)}"

    def rows(self) -> list[list[str]]:
        """The table: its head first, then a row for each network and budget."""
        some = next(iter(self.cells.values()))
        keys = dict.fromkeys((features, budget) for features, budget, _ in self.cells)
        unit = f"{some.unit} in %" if some.unit == "accuracy" else some.unit
        head = [f"{unit}, by labelled samples", *map(self.count_words, self.counts)]
        return [head] + [
            [
                called(features, budget),
                *(_cell(self.cells.get((features, budget, count))) for count in self.counts),
            ]
            for features, budget in sorted(keys, key=lambda key: (key[0] in NAMES, *key[::-1]))
        ]

    @property
    def _all(self) -> int | None:
        """How many labelled samples all of them are, where a column is for all."""
        return max(self.counts) if not self.terms.labels or "all" in self.terms.labels else None

    def count_words(self, count: int) -> str:
        """A number of labelled samples, with "all" before it where there are no more."""
        return f"{'all ' if count == self._all else ''}{count:,}"

    def table(self) -> str:
        """The table as plain text."""
        return aligned(self.rows())

    def lines(self) -> list[str]:
        """Who won, by how much, and what else can be said, a sentence each."""
        lines = [line for count in self.counts for line in self._winner(count)]
        return [*lines, *self._trend(), *self._worth(), self._scope(), *self.notes]

    def __str__(self) -> str:
        return "\n".join([self.table(), *self.lines()])

    def _winner(self, count: int) -> list[str]:
        """Who won with so many labels, and how both stand to the controls."""
        ours, theirs = self.get(OURS, count), self.get(SUPERVISED, count)
        if ours is None:
            return []
        labelled = f"{'all ' if count == self._all else ''}{counted(count, 'labelled samples')}"
        place = f"{self.terms.task.capitalize()} with {labelled}"
        lines, percent = [], " %" if ours.unit == "accuracy" else ""
        if theirs is not None:
            lead = contrast([(1, ours), (-1, theirs)], ranges(ours))
            winner = {1: f"{NAMES[OURS]} won", -1: f"{NAMES[SUPERVISED]} won", 0: "neither won beyond noise"}
            words = "it cannot be judged" if (side := _side(lead)) is None else winner[side]
            lines.append(
                f"{place}: {words}; without labels {_amount(interval_of(ours).value, ours.unit)}{percent}, with labels "
                f"{_amount(interval_of(theirs).value, ours.unit)}{percent} {ours.unit}, difference "
                f"{_signed(lead, ours.unit)}."
            )
        for features in dict.fromkeys(features for features, _, _ in self.cells if features not in NAMES):
            control = self.get(features, count)
            arms = [(arm, one) for arm, one in ((OURS, ours), (SUPERVISED, theirs)) if one is not None]
            if control is not None:
                leads = [
                    f"{NAMES[arm]} {_signed(contrast([(1, one), (-1, control)], ranges(one)), one.unit)}"
                    for arm, one in arms
                ]
                lines.append(f"{place}, difference from {name(features)}: {', '.join(leads)}.")
        return lines

    def _trend(self) -> list[str]:
        """What more budget would probably do, by the trend over the logarithm of the budget."""
        count = max(self.counts)
        budgets = sorted({steps for features, steps, _ in self.cells if features == OURS})
        if len(budgets) < 3:
            return []
        logs = [math.log2(steps) for steps in budgets]
        middle = sum(logs) / len(logs)
        square = sum((one - middle) ** 2 for one in logs)
        slopes = [(one - middle) / square for one in logs]
        ahead = [1 / len(logs) + slope * (logs[-1] + 1 - middle) for slope in slopes]
        lines = []
        arms = {arm: [self.get(arm, count, steps) for steps in budgets] for arm in NAMES}
        parts = {arm: list(filter(None, own)) for arm, own in arms.items()}
        for arm, own in parts.items():
            if len(own) == len(budgets):
                gain = contrast([*zip(slopes, own)])
                lines.append(
                    f"Each doubling of the budget changed {NAMES[arm]} by {_signed(gain, own[0].unit)}."
                )
        if any(len(own) < len(budgets) for own in parts.values()):
            return lines
        pairs = [*zip(parts[OURS], parts[SUPERVISED], strict=True)]
        slope, later = (
            contrast([term for w, (a, b) in zip(weights, pairs) for term in ((w, a), (-w, b))])
            for weights in (slopes, ahead)
        )
        unit = parts[OURS][0].unit
        words = {
            1: f"more budget would probably favour {NAMES[OURS]}",
            -1: f"more budget would probably favour {NAMES[SUPERVISED]}",
            0: "the budgets show no trend in the difference beyond noise, so what more would do is open",
        }
        side = _side(slope)
        outlook = "the effect of more budget cannot be determined" if side is None else words[side]
        lines.append(
            f"The difference changed by {_signed(slope, unit)} with each doubling: {outlook}. If the trend over the "
            f"logarithm of the budget continues, it is {_signed(later, unit)} at {2 * budgets[-1]:,} steps."
        )
        return lines

    def worths(self, features: str) -> list[Worth]:
        """How many labels pre-training was worth, for each number of labels; empty where there are fewer than two."""
        points = [(self._scratch(count), self.get(features, count)) for count in self.counts]
        if len(points) < 2 or any(None in point for point in points):
            return []
        scratch, own = ([one for one in column if one is not None] for column in zip(*points, strict=True))
        return labels_worth(self.counts, curve(scratch), curve(own), seed=self.terms.seed)

    def _scratch(self, count: int) -> Measurement | None:
        """The best of the controls: what a user without pre-training could have at most."""
        controls = {features for features, _, _ in self.cells} - {*NAMES}
        measurements = [
            one for features in sorted(controls) if (one := self.get(features, count)) is not None
        ]
        return max(measurements, key=lambda one: float(one.values.mean()), default=None)

    def _worth(self) -> list[str]:
        """How many labels pre-training was worth, a line for each number of labels of which something can be said."""
        lines, (low, high) = [], (self.counts[0], self.counts[-1])
        for features in NAMES:
            unknown = []
            for worth in self.worths(features):
                if worth.low == 0 and worth.high == math.inf:
                    unknown.append(f"{worth.labels:,}")
                    continue
                alike, *ends = (_number(one, low, high) for one in worth[1:])
                more = f"worth {worth.alike - worth.labels:+,.0f}" if 0 < worth.alike < math.inf else "worth"
                span = [one - worth.labels if 0 < one < math.inf else one for one in worth[2:]]
                few, many = (
                    f"below {_change(low - worth.labels)}" if one == 0 and end == 0
                    else f"above {_change(high - worth.labels)}" if end == math.inf
                    else f"{one:+,.0f}"
                    for one, end in zip(span, worth[2:])
                )  # fmt: skip
                lines.append(
                    f"With {worth.labels:,} labels after {NAMES[features]} it is as good as the best control "
                    f"with {alike} [{ends[0]}, {ends[1]}]: {more} [{few}, {many}] labels."
                )
            if unknown:
                lines.append(
                    f"With {' or '.join(unknown)} labels after {NAMES[features]}, how many labels that was worth "
                    f"cannot be determined: it may be as good as the best control with fewer than {low:,} or more than "
                    f"{high:,}."
                )
        return lines

    def _scope(self) -> str:
        """What intervals are over, and what not."""
        units = interval_of(next(iter(self.cells.values()))).units
        draws = f"each on its own draw of the labels{' unless all are used' if self._all else ''}; "
        return (
            f"Intervals (95 %) are over {counted(units, 'independent test samples')} and "
            f"{counted(self.terms.seeds, 'trainings')} on the target, {'' if self.counts == [self._all] else draws}"
            "with one pre-training for each budget, whose randomness they do not include."
        )


def called(features: str, budget: int) -> str:
    """What a row is called."""
    return f"{NAMES[features]}, {counted(budget, 'steps')}" if features in NAMES else name(features)


def ranges(measurement: Measurement) -> tuple[float, float] | None:
    """Range of the difference of two measurements."""
    if measurement.range is None:
        return None
    low, high = measurement.range
    return low - high, high - low


def _cell(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    own, unit = interval_of(measurement), measurement.unit
    if own.low is None or own.high is None:
        return _amount(own.value, unit)
    return f"{_amount(own.value, unit)} [{_amount(own.low, unit)}, {_amount(own.high, unit)}]"


def _amount(value: float, unit: str, *, signed: bool = False) -> str:
    """A score in 0..1 or a difference of two: accuracies in percent, others with three decimals."""
    if unit == "accuracy":
        return amount(value, unit, signed=signed)
    return f"{round(value, 3) + 0.0:{'+' if signed else ''}.3f}"  # of -0.0004, +0.000 and not -0.000


def _signed(own: Interval, unit: str) -> str:
    points = " points" if unit == "accuracy" else ""
    if own.low is None or own.high is None:
        return f"{_amount(own.value, unit, signed=True)}{points}"
    low, high = (_amount(end, unit, signed=True) for end in (own.low, own.high))
    return f"{_amount(own.value, unit, signed=True)} [{low}, {high}]{points}"


def _change(labels: int) -> str:
    return f"{labels:+,}" if labels else "0"


def _side(lead: Interval) -> int | None:
    """1 where a difference is above 0 beyond noise, -1 where below; None where its interval says nothing."""
    if lead.low is None or lead.high is None or lead.units < TOO_FEW:
        return None
    return 1 if lead.low > 0 else -1 if lead.high < 0 else 0


def _number(labels: float, fewest: int, most: int) -> str:
    if labels == 0:
        return f"fewer than {fewest:,}"
    return f"more than {most:,}" if labels == math.inf else f"{labels:,.0f}"
