"""A run as the page presents it: its label, facts, epochs and evaluations."""

import shlex
import warnings
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from unlabeled import check
from unlabeled.data.samples import was_meant
from unlabeled.evaluation.starting_weights import choices
from unlabeled.evaluation.verdict import Evaluated, caveats, claims, counted, headline, notes
from unlabeled.reporting.charts import finite
from unlabeled.reporting.samples import SAMPLES, Samples, embed, pixels, raw
from unlabeled.run import fingerprint, held_out_rise
from unlabeled.training.settings import MACHINE_SETTINGS

__all__ = ["Entry", "Evaluation", "facts", "label", "look", "title"]


class Evaluation:
    """What one evaluation measured.

    Args:
        measured: Score `records` and what they were measured on, as `Run.measured`.
        state: Fingerprint of the run's encoder as it is now.
        own: Features that the run gives where an evaluation names none.
    """

    def __init__(self, measured: dict[str, Any], state: str, own: str = "output") -> None:
        self.measured, self.records = measured, measured["records"]
        self.claims = [*claims(self.records), *choices(self.records, measured)]
        self.notes = " ".join(notes(self.records))
        """The verdict, and what must be known to read it."""
        self.data = str(measured.get("data", ""))
        """What it was measured on; empty if unknown."""
        self.features = str(measured.get("options", {}).get("features") or own)
        """Which features of the encoder were measured."""
        self.unfinished = bool(measured.get("unfinished"))
        self.current = measured.get("encoder") in (None, state)
        """Whether it was made on the encoder as it is now, as far as is known."""
        self.caveats = caveats(measured)
        """Sentences that no reader of the scores may miss."""
        if not self.current:
            self.caveats.append(
                "The encoder has changed since it was evaluated, so these scores are not its own."
            )

    @property
    def setting(self) -> str:
        """What the scores were measured on and when, in a sentence; empty where that is not known."""
        about, time = self.measured, _moment(self.measured.get("time"))
        if not self.data:
            return ""
        samples = ""
        if "test_samples" in about:
            samples = f": {about['training_samples']:,} training and {about['test_samples']:,} test samples"
        seed = f", seed {about['seed']}" if "seed" in about else ""
        amounts = "".join(
            f" {count} of the labels: {n}." for count, n in about.get("label_amounts", {}).items()
        )
        return f"Measured on {self.data}{samples}{seed}{f', {time}' if time else ''}.{amounts}"


class Entry:
    """A run and what the page shows of it.

    Args:
        run: The run.
        evaluations: What was measured, each as `Run.measured`, the newest first.
        data: The opened data, or None.
        style: CSS class of the run's colour.
    """

    def __init__(self, run: Any, evaluations: Sequence[dict[str, Any]], data: Any, style: str = "s0") -> None:
        self.run, self.data, self.style = run, data if data is not None and len(data) else None, style
        state = fingerprint(run.encoder.state_dict()) if evaluations else ""
        own = str(run.config.get("settings", {}).get("features") or "output")
        every = [Evaluation(measured, state, own) for measured in evaluations if measured["records"]]
        self.snapshots = [one for one in every if one.measured.get("snapshot")]
        """Those of encoders along the training, which are no evaluations of the run itself."""
        usable = [one for one in every if not one.measured.get("snapshot")]
        self.evaluations = sorted(usable, key=lambda evaluation: not evaluation.current)
        """Those of the encoder as it is now, then those of earlier states; within both the newest first."""
        self.judged = [one for one in self.evaluations if one.current] or self.evaluations[:1]
        """What the verdict rests on: all of the encoder as it is now, or else the newest of an earlier state."""
        self.path = Path(run.path)
        self.config: dict[str, Any] = run.config
        self.history: list[dict[str, Any]] = run.history
        self.last: dict[str, Any] = self.history[-1] if self.history else {}
        self.skipped: list[tuple[str, str]] = [skip for skip in run.skipped if was_meant(skip[1])]
        self.label = self.name = str(self.config.get("method", self.path.name))
        self.settings: dict[str, Any] = self.config.get("settings", {})
        self.about: dict[str, Any] = self.config.get("data", {})
        self.samples: Samples | None = None
        self.images, self.features, self.raw = torch.empty(0), torch.empty(0), torch.empty(0)

    @cached_property
    def method(self) -> Any:
        """The trained method; None where it cannot be built again, as with one of the user's own, which is said."""
        try:
            return self.run.method
        except ValueError as error:
            warnings.warn(f"no pictures of what was withheld: {check.reason(error)}", stacklevel=2)
            return None

    @property
    def headline(self) -> str:
        """One sentence on all evaluations that the verdict rests on, where there are several; else empty."""
        return self.summary if len(self.judged) > 1 else ""

    @property
    def summary(self) -> str:
        """One sentence on all evaluations that the verdict rests on; empty where nothing was compared."""
        return headline(
            [
                Evaluated(one.data, one.records, one.features, one.measured.get("unmeasured", ()))
                for one in self.judged
            ]
        )

    def feature_words(self, evaluation: Evaluation) -> str:
        """The features of an evaluation in words, where several were evaluated; else empty."""
        several = len({one.features for one in self.evaluations}) > 1
        return f"features {evaluation.features}" if several else ""

    def place(self, evaluation: Evaluation) -> str:
        """What an evaluation was made on, with the features where several were evaluated; empty if unknown."""
        return ", ".join(filter(None, [evaluation.data, self.feature_words(evaluation)]))

    @property
    def choices(self) -> dict[str, Any]:
        """Settings and options by name."""
        choices = self.settings | self.config.get("options", {})
        return {name: value for name, value in choices.items() if name not in MACHINE_SETTINGS}

    @property
    def facts(self) -> dict[str, str]:
        """Facts worth a glance, by name; what is not known is omitted."""
        samples, size = self.about.get("samples"), self.settings.get("image_size")
        data, encoder = str(self.about.get("name", "")), str(self.settings.get("encoder", ""))
        weights, last = self.config.get("parameters"), self.last
        facts = {
            "Method": self.name,
            "Data": f"{data}, {counted(samples, 'samples')}" if samples else data,
            "Encoder": f"{encoder}, {_short(weights)} weights" if weights else encoder,
            "Features": str(self.settings.get("features", "")),
            "Image size": f"{size} × {size} pixels" if size else "",
            "Trained": f"{counted(last['epoch'], 'epochs')}, {counted(last['step'], 'steps')}"
            if last
            else "",
            "Training time": self._duration(),
            "Started": _moment(self.config.get("started")),
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def epochs(self) -> list[float]:
        return [float(line.get("epoch", number)) for number, line in enumerate(self.history, 1)]

    @cached_property
    def holdout(self) -> tuple[list[float], list[float | None]]:
        """Epochs, in fractions where one has several, and losses on held-out data, None where there is none."""
        epochs: list[float] = []
        losses: list[float | None] = []
        step, epoch = 0, 0.0
        for line, end in zip(self.history, self.epochs, strict=True):
            last = line.get("step") or 0
            within = line.get("holdout_losses") or {last: line.get("holdout_loss")}
            for at, loss in within.items():
                fraction = (int(at) - step) / (last - step) if last > step else 1.0
                epochs.append(epoch + (end - epoch) * fraction)
                losses.append(loss)
            step, epoch = last, end
        return epochs, losses

    @property
    def held_out(self) -> list[float]:
        """The losses on held-out data."""
        return [loss for loss in self.holdout[1] if finite(loss)]

    @property
    def rise(self) -> str:
        """What its log says of a loss on held-out data that rose; else empty."""
        return held_out_rise(self.history)

    @property
    def command(self) -> str:
        """The command that trains the same encoder again."""
        source, config = str(self.about.get("source", "")), str(self.path / "run.toml")
        return shlex.join(["unlabeled", "pretrain", self.name, source or "DATA", "--config", config])

    @property
    def run_toml(self) -> str:
        """The run's settings as they were written; empty if the file is gone."""
        file = self.path / "run.toml"
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def _duration(self) -> str:
        """Time spent in training steps, from the images of each epoch and its speed."""
        images = self.settings.get("batch_size", 0) * self.settings.get("accumulate", 1)
        seconds, before = 0.0, 0
        for line in self.history:
            speed = line.get("samples_per_second")
            if finite(speed) and speed:
                seconds += (line["step"] - before) * images / speed
            before = line["step"]
        for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
            if 0 < seconds < limit:
                return f"{seconds / size:.0f} {unit}"
        return f"{seconds / 3600:.1f} h" if seconds else ""


def label(entries: Sequence[Entry]) -> None:
    """Name runs by how they differ: the method, and the choices that differ among runs of it, else the folder."""
    methods: dict[str, list[Entry]] = {}
    for entry in entries:
        methods.setdefault(entry.name, []).append(entry)
    for method, runs in methods.items():
        choices = [{name: str(value) for name, value in run.choices.items()} for run in runs]
        names = sorted({name for run in choices for name in run})
        differing = [name for name in names if len({run.get(name) for run in choices}) > 1][:3]
        for entry, run in zip(runs, choices, strict=True):
            words = [f"{name.replace('_', ' ')} {run.get(name, 'default')}" for name in differing]
            entry.label = ", ".join([*([method] if len(methods) > 1 or not words else []), *words])
    if len({entry.label for entry in entries}) < len(entries):
        for entry in entries:
            entry.label = f"{entry.name}, {entry.path.name}"


def look(entries: Sequence[Entry], device: str) -> None:
    """Sample each data set and embed the sample with each run: `samples`, `images`, `features` and `raw`."""
    cache: dict[tuple[int, int], Samples] = {}
    for entry in entries:
        if entry.data is None:
            continue
        encoder = entry.run.encoder
        view = encoder.evaluation_view(entry.data)
        key = (id(entry.data), len(view))
        if key not in cache:
            cache[key] = Samples(view, entry.data)
        entry.samples, batch = cache[key], cache[key].batch
        if view is not entry.data:  # what one encoder reads of it means nothing to another
            batch = {name: value.cpu() for name, value in view.sample(SAMPLES, seed=0).items()}
        entry.images = pixels(encoder.cpu(), batch)
        entry.raw = raw(encoder, batch, device)
        entry.features = embed(entry.method, encoder, batch, device)


def title(entries: Sequence[Entry]) -> str:
    """Methods and data, such as "4 runs of denoising on shapes"."""
    methods = list(dict.fromkeys(entry.name for entry in entries))
    names = " and ".join(methods) if len(methods) < 4 else f"{len(methods)} methods"
    several = f"{len(entries)} runs of " if len(entries) > len(methods) else ""
    sources = " and ".join(dict.fromkeys(str(entry.about.get("name", "data")) for entry in entries))
    return f"{several}{names} on {sources}"


def facts(entries: Sequence[Entry]) -> tuple[dict[str, str], list[Sequence[str]]]:
    """Facts that all runs share, and a table, its head first, of those in which they differ."""
    by_run = [entry.facts for entry in entries]
    shared, columns = {}, [["run", *(entry.label for entry in entries)]]
    for name in dict.fromkeys(name for run in by_run for name in run):
        values = [run.get(name, "–") for run in by_run]
        if len(set(values)) == 1:
            shared[name] = values[0]
        elif values != columns[0][1:]:
            columns.append([name, *values])
    return shared, list(zip(*columns, strict=True))


def _moment(time: Any) -> str:
    """A time in ISO format as people write it; empty where it is none."""
    try:
        date = datetime.fromisoformat(str(time))
    except ValueError:
        return ""
    return f"{date.day} {date:%b %Y, %H:%M} {date.tzname() or ''}".strip()


def _short(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
