"""What a training prints while it runs: a live bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from unlabeled.data.samples import was_meant

if TYPE_CHECKING:
    from pathlib import Path

    from unlabeled.data import Data
    from unlabeled.training.settings import Settings

__all__ = ["Progress", "counted", "duration", "skipped_words"]

SECONDS_BETWEEN_LINES, LINES_SHARE = 2.0, 0.05
"""Seconds between two epochs that are printed, and the least fraction of the time so far that lies between them."""
SECONDS_BEFORE_ESTIMATE, SECONDS_BETWEEN_ESTIMATES, MOST_BETWEEN_ESTIMATES = 10.0, 30.0, 600.0
"""Seconds before the time that is left is estimated first, and then once more; then they double, up to the last."""
SECONDS_BEFORE_COMPARISON = 30.0
"""Seconds of training before it is compared with the time that was expected."""
OFF = 1.5
"""How many times as long as expected a training takes that is said to be slower."""


class Progress:
    """Reports decoding, steps and epochs.

    Args:
        quiet: Whether to print nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        # In notebooks plain lines: what stands on standard error is coloured there like an error.
        self.console = Console(
            stderr=not Console().is_jupyter,
            quiet=quiet,
            highlight=False,
            soft_wrap=True,
            force_jupyter=False,
        )
        self.live = self.console.is_terminal and not quiet
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Bar(*columns, console=self.console, disable=not self.live, transient=True)
        self.task: TaskID | None = None
        self.note, self.printed, self.samples, self.since = "", 0.0, 0, time.perf_counter()
        self.unit, self.steps, self.done, self.began = "samples", 0, 0, self.since
        self.expected: float | None = None
        self.first: int | None = None
        self.pause = SECONDS_BEFORE_ESTIMATE
        self.alarm = ""
        """The kind of bad verdict that was said last and still holds; empty for none."""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, markup=False)

    def decoding(self, done: int, total: int | None) -> None:
        """Report how many files have been read, and of how many where that is known."""
        if self.live:
            if self.task is None:
                self.task = self.bar.add_task("reading", total=total, note="")
            self.bar.update(self.task, completed=done, total=total)
        if total is not None and done >= total and self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def start(
        self,
        method: str,
        data: "Data",
        settings: "Settings",
        choices: dict[str, Any],
        folder: "Path",
        seconds: float | None = None,
        opened: "Data | None" = None,
    ) -> None:
        """Print what will be trained, and what was chosen for the user.

        Args:
            method: Name of the method.
            data: The samples that are trained on.
            settings: Settings of the run, complete.
            choices: Those of them that were chosen.
            folder: Folder of the run.
            seconds: How long it is expected to take, if that is known.
            opened: The samples of which those that are trained on were made, such as the videos of clips.
        """
        words = skipped_words(data)
        skipped = f"{words} (see skipped.csv)" if words else ""
        self.unit = data.unit
        self.say(f"{method} on {data.name}: {counted(data, opened)}{skipped} -> {folder}")
        if choices:
            values = ", ".join(f"{name} {_short(value)}" for name, value in choices.items())
            self.say(f"chosen for this data and machine: {values}")
        self.steps = settings.total_steps(len(data))
        self.task = self.bar.add_task(method, total=self.steps, note="")
        self.since = self.began = time.perf_counter()
        self.expected = seconds

    def step(self, step: int, samples: int, loss: float) -> None:
        """Report a step: its number, its samples, the mean loss of the epoch so far."""
        self.samples, self.done = self.samples + samples, self.done + 1
        now = time.perf_counter()
        if self.live and self.task is not None and now - self.since > 0.5:
            speed = self.samples / (now - self.since)
            self.samples, self.since = 0, now
            self.bar.update(self.task, completed=step, note=f"{speed:,.0f}/s loss {loss:.3f} {self.note}")
        elif not self.live and now - self.since > self.pause:
            seconds, left = now - self.since, (self.steps - step) * (now - self.since) / self.done
            self.say(
                f"step {step:,} of {self.steps:,}: {self.samples / seconds:,.0f} {self.unit}/s, about "
                f"{duration(left)} left"
            )
            self.samples, self.done, self.since = 0, 0, now
            self.pause = min(max(SECONDS_BETWEEN_ESTIMATES, 2 * self.pause), MOST_BETWEEN_ESTIMATES)
        self._compare(step, now)

    def _compare(self, step: int, now: float) -> None:
        """Say once where a training of chosen length takes much longer than expected."""
        self.first = step if self.first is None else self.first
        seconds, done = now - self.began, step - self.first
        if self.expected is None or done < 1 or seconds < SECONDS_BEFORE_COMPARISON:
            return
        left = (self.steps - step) * seconds / done
        if seconds + left > OFF * self.expected:
            self.say(
                f"slower than at the start: about {duration(left)} left instead of "
                f"{duration(max(0.0, self.expected - seconds))}; Ctrl-C stops, and --resume --minutes N ends the run "
                "N min later"
            )
            self.expected = None

    def epoch(self, entry: dict[str, Any], alarm: bool, last: bool) -> None:
        """Report an epoch: loss against chance, collapse metrics, and the verdict where it turns bad or good again."""
        chance = "" if entry["chance"] is None else f"(chance {entry['chance']:.3f}) "
        extras = "".join(f"{name} {value:.3f} " for name, value in entry["metrics"].items())
        if entry.get("skipped_steps"):
            extras += f"steps skipped {entry['skipped_steps']} "
        if entry.get("holdout_loss") is not None:
            chance += f"held out {entry['holdout_loss']:.4f} "
            if (other := entry.get("holdout_chance")) is not None and other != entry["chance"]:
                chance += f"(chance {other:.3f}) "
        metrics = "" if entry["spread"] is None else f"spread {entry['spread']:.2f} rank {entry['rank']:.0f}"
        self.note = f"{chance}{metrics}"
        now = time.monotonic()
        pause = max(SECONDS_BETWEEN_LINES, LINES_SHARE * (time.perf_counter() - self.began))
        due = last or now - self.printed > pause
        if due:
            self.printed = now
        if last or (due and not self.live):
            self.say(
                f"epoch {entry['epoch']} step {entry['step']} loss {entry['loss']:.4f} {chance}{extras}"
                f"{metrics} {entry['samples_per_second']:,.0f} {self.unit}/s"
            )
        if due:
            self._warn(entry["verdict"], alarm)

    def _warn(self, verdict: str, alarm: bool) -> None:
        """Say a bad verdict once for each kind, and once that it no longer holds."""
        if not verdict:  # one bad epoch may be noise
            return
        kind = verdict.partition(":")[0] if alarm else ""
        if kind and kind != self.alarm:
            self.say(f"warning: {verdict}")
        elif self.alarm and not kind:
            self.say(f"the warning no longer holds: {self.alarm}. {verdict}")
        self.alarm = kind


def counted(data: "Data", opened: "Data | None" = None) -> str:
    """How many samples there are, and of how many others they were made, such as "10 videos, 99 clips"."""
    made = opened is not None and (len(opened), opened.unit) != (len(data), data.unit)
    return ", ".join(f"{len(one):,} {one.unit}" for one in ([opened] if made and opened else []) + [data])


def skipped_words(data: "Data") -> str:
    """How many files were not read, to follow the number of samples; empty where there are none."""
    broken = sum(was_meant(skip.reason) for skip in data.skipped)
    counts = {"skipped": broken, "of another kind": len(data.skipped) - broken}
    return "".join(f", {count:,} {what}" for what, count in counts.items() if count)


def duration(seconds: float) -> str:
    """A time in words, such as 9 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
