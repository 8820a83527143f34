"""How many steps fit into the time that is asked for, from what a few of them take."""

import copy
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from unlabeled.check import UserError, reason
from unlabeled.data import Data
from unlabeled.parts import gather
from unlabeled.run import CHECKPOINT, read_position, write_checkpoint
from unlabeled.trackers import Trackers
from unlabeled.training import judge, processes, watch
from unlabeled.training.building import Built
from unlabeled.training.checkpoints import SECONDS_BETWEEN_CHECKPOINTS, Checkpoints
from unlabeled.training.guard import Fault
from unlabeled.training.loop import Loop
from unlabeled.training.plan import Plan
from unlabeled.training.progress import Progress, duration
from unlabeled.training.schedule import Schedule
from unlabeled.training.settings import Settings

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["Costs", "Length", "choose", "costs", "fit", "seconds_of", "steps_within"]

FEWEST_STEPS = 10
"""Steps that are chosen at least, however long they take."""
WARMUP, MOST_TRIED = 2, 50
"""Trial steps that are not counted, as they compile and allocate, and trial steps at most."""
TRIAL_TIME, MOST_TRIAL_TIME = 0.02, 0.1
"""Fractions of the time that trial steps take: long enough to count, and too long for further ones."""

ENDLESS = 10**9
"""Steps at most of a run that is trained longer for so many minutes."""

MINUTES = 1.0
"""Time by which a trial is measured where none is asked for."""

clock = time.perf_counter


class Costs(NamedTuple):
    """Seconds that the parts of a training take.

    Attributes:
        step: An optimizer step, reading its batch included.
        epoch: What comes before and after the steps of an epoch.
        measurement: A look at the loss on held-out samples.
        checkpoint: Writing a checkpoint and the encoder.
        later: An optimizer step of the later part, where a method has one that costs otherwise; None where not.
        change: What the first step of that part takes beyond others.
        changes_at: Progress at which it begins, 0..1.
    """

    step: float
    epoch: float = 0.0
    measurement: float = 0.0
    checkpoint: float = 0.0
    later: float | None = None
    change: float = 0.0
    changes_at: float = 1.0

    @property
    def mean_step(self) -> float:
        """An optimizer step, the mean over the training."""
        later = self.step if self.later is None else self.later
        return self.changes_at * self.step + (1 - self.changes_at) * later


class Length(NamedTuple):
    """A length that was chosen: steps, the seconds that they will take if known, and one line about the choice."""

    steps: int
    seconds: float | None
    note: str


class Trial(Loop):
    """A loop that takes a few steps on a copy of the method, and leaves nothing behind but how long they took."""

    def costs(self, seconds: float) -> Costs:
        """What a training costs here; the first process decides for all.

        Args:
            seconds: Time of the whole training, a small part of which is spent here.
        """
        began = clock()
        self._begin_epoch()
        self._announce()
        begin = clock() - began
        steps: list[float] = []
        while not gather.any_process(self._enough(steps, seconds))[0]:
            began = clock()
            self._step()
            steps.append(clock() - began)
        counted = steps[WARMUP:] or steps[-1:]
        change, late = self._late_steps(seconds)
        began = clock()
        features, embedding = self.look()
        judge.judge(features, embedding, 0.0, None, self.spread, self.step)
        look = clock() - began
        began = clock()
        if self.watch.held_out is not None:
            with self.placed.gathered():
                self.watch.measure(self.step, not self.descends, self._position)
        measurement = clock() - began
        began = clock()
        state = self.state()
        processes.first(self.fabric, lambda: self._write(state))
        checkpoint = clock() - began
        at = self.method.changes_at
        parts = (None, 0.0, 1.0) if at is None else (late, max(0.0, change - late), at)
        measured = Costs(sum(counted) / len(counted), begin + look, measurement, checkpoint, *parts)
        return processes.first(self.fabric, lambda: measured)

    def _late_steps(self, seconds: float) -> tuple[float, float]:
        """What the first step of a later part of the training takes, and the others; nothing where there is none."""
        if (at := self.method.changes_at) is None:
            return 0.0, 0.0
        self.method.after_step(at)
        steps: list[float] = []
        while len(steps) < 2 or not gather.any_process(self._enough(steps, seconds))[0]:
            began = clock()
            self._step()
            steps.append(clock() - began)
        counted = steps[WARMUP:] or steps[-1:]
        return steps[0], sum(counted) / len(counted)

    def _enough(self, steps: list[float], seconds: float) -> bool:
        if len(steps) <= WARMUP:
            return len(steps) > 1 and sum(steps) > MOST_TRIAL_TIME * seconds
        trial_seconds = sum(steps[WARMUP:])
        return (
            len(steps) == MOST_TRIED
            or (len(steps) > WARMUP + 2 and trial_seconds > TRIAL_TIME * seconds)
            or sum(steps) > MOST_TRIAL_TIME * seconds
        )

    def _skip(self, fault: Fault) -> None:
        """Go on where a step is not finite: the training itself will say so."""
        self.undo.undo()
        self.optimizer.zero_grad()
        self.step += 1

    def _write(self, state: dict[str, dict[str, Tensor]]) -> None:
        # Where nothing can be written the training itself will say so.
        with (
            suppress(OSError, SafetensorError),
            tempfile.TemporaryDirectory(prefix=f".{CHECKPOINT}.", dir=self.checkpoints.folder) as folder,
        ):
            write_checkpoint(Path(folder) / CHECKPOINT, state, self._position())
            self.save_encoder(state)(Path(folder) / "encoder")


def costs(fabric: "Fabric", built: Built, held_out: Data | None, checkpoints: Checkpoints) -> Costs:
    """Take a few steps on a copy of the method to see what a training costs; the method stays as it is.

    Args: as those of `fit`.

    Raises:
        ValueError: The method cannot be copied.
    """
    method, data, settings, minutes = built
    try:
        trial = copy.deepcopy(method)
    except (RuntimeError, TypeError, AttributeError) as error:  # such as tensors with a history, or locks
        raise UserError(
            f"epochs or steps must be given for a method that cannot be copied to see how long its steps take, got "
            f"neither for {type(method).__name__} ({reason(error)})"
        ) from error
    with torch.random.fork_rng():
        schedule = Schedule(max(MOST_TRIED, settings.total_steps(len(data))))
        looks = watch.Watch(fabric, trial, held_out, settings, len(data), may_stop=False)
        silent = Progress(quiet=True)
        loop = Trial(
            fabric, trial, data, settings, looks, checkpoints, silent, schedule, Trackers(silent.say)
        )
        try:
            return loop.costs(60 * (minutes or MINUTES))
        finally:
            data.announce(iter(()))


def seconds_of(steps: int, each: int, costs: Costs) -> float:
    """Seconds that a training takes.

    Args:
        steps: Optimizer steps.
        each: Optimizer steps of an epoch.
        costs: Seconds of its parts.
    """
    between = watch.interval(steps, each)
    epochs, rest = divmod(steps, each)
    measurements = epochs * -(-each // between) + -(-rest // between)
    seconds = (
        steps * costs.mean_step
        + costs.change
        + -(-steps // each) * costs.epoch
        + measurements * costs.measurement
    )
    return seconds * (1 + costs.checkpoint / SECONDS_BETWEEN_CHECKPOINTS) + 2 * costs.checkpoint


def steps_within(seconds: float, each: int, costs: Costs, most: int) -> int:
    """Optimizer steps that fit into so many seconds: at least 10, unless `most` is fewer, and at most `most`."""
    low, high = min(FEWEST_STEPS, most), most
    while low < high:
        middle = (low + high + 1) // 2
        if seconds_of(middle, each, costs) <= seconds:
            low = middle
        else:
            high = middle - 1
    return low


def fit(
    fabric: "Fabric",
    plan: Plan,
    built: Built,
    held_out: Data | None,
    checkpoints: Checkpoints,
    *,
    began: float,
    after: float = 0.0,
) -> tuple[Settings, Length]:
    """Choose the steps that fit into the time, at most the epochs that suit the data.

    Args:
        fabric: The processes, the device and the precision.
        plan: What the run will do.
        built: The method with all settings chosen, its epochs by the data alone, and the time.
        held_out: Held-out samples, as they were opened.
        checkpoints: The files of the run.
        began: When the time began, by `clock`.
        after: Seconds that fitting the features will take after the training.

    Raises:
        ValueError: The method cannot be copied, so that its time is unknown.
    """
    settings, minutes, samples = built.settings, built.minutes or 0.0, len(built.samples)
    each, start = settings.steps_per_epoch(samples), 0
    most = settings.total_steps(samples)
    why = f"no more than {settings.epochs} epochs are chosen for this data"
    if (suited := built.method.defaults.get("steps", most)) < most:
        most, why = suited, f"{plan.name} takes no more steps"
    try:
        measured = costs(fabric, built, held_out, checkpoints)
    except UserError as error:
        if plan.settings.minutes:
            raise
        return settings, Length(most, None, f"{settings.epochs} epochs, whatever time they take: {error}")
    if plan.before is not None:
        position = read_position(checkpoints.folder / CHECKPOINT)
        start, why = position["step"], "the run ends there as planned"
        left = plan.before.total_steps(samples) - start
        most = left if left > 0 and position.get("stopped") is None else ENDLESS
    # Processes that have other clocks must still agree.
    features = f", then about {duration(after)} to fit features {settings.features}" if after else ""
    length = processes.first(
        fabric, lambda: choose(measured, minutes, clock() - began, each, most, why, after, features)
    )
    if plan.before is not None or length.steps < settings.total_steps(samples):
        settings = replace(settings, epochs=None, steps=start + length.steps)
    return settings, length


def choose(
    measured: Costs,
    minutes: float,
    before: float,
    each: int,
    most: int,
    why: str,
    after: float = 0.0,
    features: str = "",
) -> Length:
    """Choose the number of steps.

    Args:
        measured: Seconds of the parts of the training.
        minutes: Time that is asked for, or the most that is taken.
        before: Seconds of it that are over.
        each: Optimizer steps of an epoch.
        most: Optimizer steps at most.
        why: What is at the end of these, in words.
        after: Seconds of it that are needed after the training.
        features: What for, in words.
    """
    steps = steps_within(60 * minutes - before - after, each, measured, most)
    seconds = seconds_of(steps, each, measured)
    note = f"{steps:,} steps ({steps / each:.3g} epochs) at {measured.mean_step:.2g} s each: about {duration(seconds)}"
    if before + seconds + after > 72 * minutes:  # a fifth more
        preparation = f" after {duration(before)} of preparation" if before >= 1 else ""
        features += f"{preparation}, more than the {minutes:g} min, but {steps} steps are the minimum"
    elif steps == most:
        note += f" of {minutes:g} min, as {why}"
    note += features
    return Length(steps, seconds, f"{note}; --minutes, --epochs or --steps choose another length")
