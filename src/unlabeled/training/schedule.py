"""Which learning rate each step has, in a run that may have been trained longer or ended earlier than it was to."""

import math
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Cut", "Schedule", "climb", "learning_rate"]

WARMUP = 0.05


class Cut(NamedTuple):
    """Where a run was told to end earlier: from here its learning rate falls to 0 at the new end.

    Attributes:
        step: Optimizer steps that had been done.
        rate: Learning rate that the next step would have had.
        progress: What the method would have been told of its progress, 0..1.
    """

    step: int
    rate: float
    progress: float


def climb(total_steps: int) -> int:
    """Steps of a schedule in which the learning rate climbs."""
    return max(1, round(WARMUP * total_steps))


def learning_rate(step: int, total_steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine down to 0.

    Args:
        step: Optimizer steps done, from 0.
        total_steps: Optimizer steps of the whole training.
        peak: The largest learning rate.

    Returns:
        Learning rate of the next step.
    """
    warmup = climb(total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup))) / 2


@dataclass(frozen=True)
class Schedule:
    """The stages of a run: each climbs and falls to 0, the one after a cut only falls.

    Args:
        total: Optimizer steps at which the run ends.
        ends: Steps before that at which stages end, rising; the run was told later to train longer.
        cut: The last place where it was told to end earlier.
    """

    total: int
    ends: tuple[int, ...] = ()
    cut: Cut | None = None

    @property
    def first(self) -> int:
        """End of the first stage."""
        return (self.ends or (self.total,))[0]

    def thaw(self, step: int, frozen: int) -> float:
        """Factor on the rate of weights that stay as they are at the start of a run.

        Args:
            step: Optimizer steps done.
            frozen: Steps in which they stay.

        Returns:
            0 in these steps, then a climb to 1 as long as that at the start.
        """
        return max(0.0, min(1.0, (step - frozen + 1) / climb(self.first)))

    def stage(self, step: int) -> tuple[int, int]:
        """First step and end of the stage that the next step is in, after so many steps."""
        cut = () if self.cut is None else (self.cut.step,)
        begin = max(begin for begin in (0, *cut, *self.ends) if begin <= step)
        return begin, min(end for end in (*self.ends, self.total) if end > step)

    def falls(self, begin: int) -> bool:
        """Whether the stage that begins at this step only falls."""
        return self.cut is not None and self.cut.step == begin and begin not in self.ends

    def rate(self, step: int, peak: float) -> float:
        """Learning rate of the next step, after so many steps."""
        begin, end = self.stage(step)
        if self.cut is None or not self.falls(begin):
            return learning_rate(step - begin, end - begin, peak)
        return self.cut.rate * (1 + math.cos(math.pi * (step - begin) / (end - begin))) / 2

    def progress(self, step: int) -> float:
        """How far a stage has come after so many steps, at least 1: 0..1."""
        begin, end = self.stage(step - 1)
        done = (step - begin) / (end - begin)
        if self.cut is None or not self.falls(begin):
            return done
        return self.cut.progress + (1 - self.cut.progress) * done

    def longer(self, total: int, end: int | None = None) -> "Schedule":
        """The schedule with a stage of its own for the steps after its end, or after an earlier one, `end`."""
        return Schedule(total, (*self.ends, self.total if end is None else end), self.cut)

    def shorter(self, total: int, step: int, peak: float) -> "Schedule":
        """The schedule with an earlier end.

        Args:
            total: The new end, above `step`.
            step: Optimizer steps that have been done.
            peak: The largest learning rate.
        """
        begin, end = self.stage(step)
        ends = tuple(one for one in self.ends if one < total)
        if total >= end or step == begin:  # the stage is left as it is, or has not begun
            return Schedule(total, ends, self.cut)
        if not self.falls(begin) and step - begin < climb(end - begin):
            return Schedule(total, (*ends, step), self.cut)  # it had hardly begun, and begins once more
        return Schedule(total, ends, Cut(step, self.rate(step, peak), self.progress(step)))
