"""The loss on held-out samples along a training, and what follows when it starts rising."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data import Data
from unlabeled.method import Method
from unlabeled.training import sharding
from unlabeled.training.holdout import HeldOut
from unlabeled.training.settings import Settings

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["Measurement", "Rise", "Watch", "find_rise", "interval"]

MEASUREMENTS, FEWEST_BETWEEN = 20, 20
"""How often the loss is measured where epochs are long, and the fewest steps between two measurements then."""
FEWEST_RISES = 5
LEAST_RISE = 0.01
"""Rise of the loss, as a fraction of its lowest value, below which nothing is said."""
NOISE_WIDTHS = 8


class Measurement(NamedTuple):
    """A measurement: optimizer steps done, loss on held-out data, mean training loss since the one before."""

    step: int
    loss: float
    training_loss: float


class Rise(NamedTuple):
    """The loss on held-out data has risen since its lowest value while the training loss fell."""

    best: Measurement
    now: Measurement
    measurements: int
    """Number of measurements since the lowest one."""


def find_rise(measurements: Sequence[Measurement], patience: int = FEWEST_RISES) -> Rise | None:
    """Whether the loss on held-out data has started rising: for long, and by more than noise explains.

    Means of `patience` losses in a row are compared, as the lowest single one is low by luck: the last mean must be
    above the lowest by 1 % of it and by eight standard deviations of a mean, and each of its losses must be above the
    lowest mean, if not by so much. The noise is estimated from second differences, which see little of a trend. And the
    training loss must have fallen since.

    Args:
        measurements: All of them, the latest last.
        patience: Measurements in a row that are averaged, at least 2.
    """
    best = min(range(len(measurements)), key=lambda index: measurements[index].loss, default=0)
    if len(measurements) - 1 - best < patience or len(measurements) < 2 * patience:
        return None
    losses = torch.tensor([entry.loss for entry in measurements], dtype=torch.double)
    means = losses.unfold(0, patience, 1).mean(1)
    noise = losses[-8 * patience :].diff(n=2).square().mean().sqrt() / math.sqrt(6)
    lowest = means.min()
    least = max(LEAST_RISE * float(lowest.abs()), NOISE_WIDTHS * float(noise) / math.sqrt(patience))
    if means[-1] <= lowest + least or losses[-patience:].min() <= lowest:
        return None
    # A single value of the training loss is as noisy as its batches.
    training = torch.tensor([entry.training_loss for entry in measurements], dtype=torch.double)
    if training[-patience:].mean() >= training[max(0, best - 1) : best + 2].mean():
        return None
    return Rise(measurements[best], measurements[-1], len(measurements) - 1 - best)


def interval(total_steps: int, steps_per_epoch: int) -> int:
    """Optimizer steps between two measurements; the last of an epoch may be fewer."""
    return min(steps_per_epoch, max(FEWEST_BETWEEN, -(-total_steps // MEASUREMENTS)))


class Watch:
    """Measures the loss on held-out samples, and notices when it starts rising.

    Args:
        fabric: The device and the precision.
        method: The method that is trained, prepared.
        held_out: The samples, as they were opened; without them nothing is measured.
        settings: Settings of the run, complete.
        samples: Number of samples that are trained on.
        may_stop: Whether the training may end where the loss rises, as its length was chosen for the user.

    Attributes:
        note: One line on why there is no such loss, or what it cannot be compared with; else empty.
        best: State and position of the run with the lowest loss, where the training may be stopped.
        stopped: Step at which the training was stopped, None as long as it was not.
    """

    def __init__(
        self,
        fabric: "Fabric",
        method: Method,
        held_out: Data | None,
        settings: Settings,
        samples: int,
        may_stop: bool,
    ) -> None:
        self.method, self.settings = method, settings
        self.total_steps = settings.total_steps(samples)
        self.steps_per_epoch = self.between = settings.steps_per_epoch(samples)
        self.held_out: HeldOut | None = None
        self.note = "" if held_out is None else self._begin(fabric, held_out)
        self.stops = self.held_out is not None and may_stop and method.held_out == "stop"
        self.measurements: list[Measurement] = []
        self.since_measured = [0.0, 0]  # sum of the training losses, and steps
        self.best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.rising = False
        self.stopped: int | None = None

    def _begin(self, fabric: "Fabric", held_out: Data) -> str:
        """Decide whether and how often the loss is measured; the note on it."""
        size = self.settings.batch_size or 1
        try:
            samples = self.method.training_view(held_out).to(fabric.device)
        except ValueError as error:  # such as texts without a word of the vocabulary
            return f"no loss on held-out data: {check.reason(error)}"
        loss = HeldOut(samples, self.method, size, self.settings.seed, fabric.autocast)
        if loss.reason:
            return f"no loss on held-out data: {loss.reason}"
        self.held_out = loss
        self.between = interval(self.total_steps, self.steps_per_epoch)
        if self.method.compares_samples and loss.size != size:
            return (
                f"the held-out loss compares {loss.size} {samples.unit} at a time, the training loss {size}: "
                "only its trend is meaningful"
            )
        return ""

    def count(self, loss: float) -> None:
        """Count the training loss of a step."""
        self.since_measured = [self.since_measured[0] + loss, self.since_measured[1] + 1]

    def measure(self, step: int, moves_itself: bool, position: Callable[[], dict[str, Any]]) -> str:
        """Measure the loss on held-out data.

        Args:
            step: Optimizer steps done.
            moves_itself: Whether the method moves its weights itself.
            position: Gives the position of the run, which is kept with the lowest loss.

        Returns:
            What to say where the loss starts rising, else empty; `stopped` is set where the training is to end.
        """
        assert self.held_out is not None
        total, steps = self.since_measured
        loss = self.held_out.loss(moves_itself)
        if loss is None or not steps:
            return ""
        self.since_measured = [0.0, 0]
        self.measurements.append(Measurement(step, loss, total / steps))
        if self.stops and self._lowest() is self.measurements[-1]:
            state = sharding.whole(self.method.state_dict(), everywhere=True)
            self.best = {name: value.detach().cpu().clone() for name, value in state.items()}, position()
        patience = max(FEWEST_RISES, round(self.total_steps / self.between / MEASUREMENTS))
        rise, was_rising = find_rise(self.measurements, patience), self.rising
        self.rising = rise is not None
        if rise is None:
            return ""
        if self.stops:
            self.stopped = step
        return "" if was_rising else self._words(rise)

    def _lowest(self) -> Measurement:
        return min(self.measurements, key=lambda entry: entry.loss)

    def _words(self, rise: Rise) -> str:
        assert self.held_out is not None
        best, now = rise.best, rise.now
        unit = "epochs" if self.between == self.steps_per_epoch else "measurements"
        words = (
            f"loss on held-out {self.held_out.data.unit} has risen for {rise.measurements} {unit} since step "
            f"{best.step:,} ({best.loss:.4g} -> {now.loss:.4g}) while the training loss fell "
            f"({best.training_loss:.4g} -> {now.training_loss:.4g}): the model is memorising"
        )
        if self.stops:
            return (
                f"{words}; stopped at step {now.step:,} of the {self.total_steps:,} that were chosen, and the state "
                f"of step {best.step:,} is kept; set --epochs or --steps to train longer"
            )
        return f"{words}; use fewer steps or more data"

    def entry(self, step: int) -> dict[str, Any]:
        """What the log says of held-out data: the last loss, all of the epoch by step where there are more, a rise."""
        begins = (step - 1) // self.steps_per_epoch * self.steps_per_epoch
        recent = [one for one in self.measurements if one.step > begins]
        if not recent:
            return {}
        assert self.held_out is not None
        entry: dict[str, Any] = {"holdout_loss": recent[-1].loss}
        if (
            self.held_out.size != self.settings.batch_size
        ):  # a loss that compares samples is lower among fewer
            entry["holdout_chance"] = self.method.chance(self.held_out.size)
        if len(recent) > 1:
            entry["holdout_losses"] = {str(one.step): one.loss for one in recent}
        if self.rising:
            entry["holdout_lowest_at"] = self._lowest().step
        if self.stopped is not None:  # the step of the state that the run ends with
            entry["result_step"] = self._lowest().step
        return entry

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside the best state."""
        position = {"measured": self.measurements, "turned": self.rising, "stopped": self.stopped}
        return position if self.best is None else position | {"best": self.best[1]}

    def load(self, position: dict[str, Any], best: dict[str, Tensor], goes_on: bool) -> None:
        """Load what a checkpoint kept.

        Args:
            position: Its position; older ones lack some entries.
            best: Its state with the lowest loss, which may be empty.
            goes_on: Whether a training that was stopped is made longer now.
        """
        self.since_measured = position.get("since_measured", [0.0, 0])
        self.stopped = None if goes_on else position.get("stopped")
        reached = position["step"] if self.stopped is None else self.stopped
        self.measurements = [
            Measurement(*entry) for entry in position.get("measured", ()) if entry[0] <= reached
        ]
        self.rising = position.get("turned", False)
        if self.stops and "best" in position:
            self.best = best, position["best"]
