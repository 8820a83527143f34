"""What a page knows of each run, and the sample of data that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled.method import Batch
from unlabeled.reporting import embedding
from unlabeled.reporting.charts import finite
from unlabeled.run import fingerprint
from unlabeled.training.settings import MACHINE_SETTINGS

__all__ = ["Entry", "Evaluation", "Samples", "label", "look"]

SAMPLES = 1000


class Samples:
    """A random sample of one data set, the same for every run on it.

    Args:
        data: The data as an encoder reads it.
        opened: The same samples as they were opened, perhaps as texts.
    """

    def __init__(self, data: Any, opened: Any) -> None:
        self.unit: str = data.unit
        batch: Batch = data.sample(SAMPLES, seed=0)
        self.batch = {name: value.cpu() for name, value in batch.items()}
        texts = getattr(opened, "texts", None) if len(opened) == len(data) else None
        rows = self.batch["index"].tolist()
        self.captions = None if texts is None else [" ".join(texts[row][:400].split())[:110] for row in rows]
        """Beginnings of the texts; None of what can be seen."""
        labels = None if data.labels is None else data.labels.cpu()[self.batch["index"]]
        self.labels: Tensor | None = labels if labels is not None and bool((labels >= 0).any()) else None
        """Class of each sample, int64, shape (samples,), -1 where unknown; None where nothing is known."""
        known = 0 if self.labels is None else int(self.labels.max()) + 1
        self.classes = [str(name) for name in data.classes or range(known)]


@dataclass
class Evaluation:
    """What one evaluation measured.

    Attributes:
        measured: Score `records` and what they were measured on, as `Run.measured`.
        state: Fingerprint of the run's encoder as it is now.
    """

    measured: dict[str, Any]
    state: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.measured["records"]

    @property
    def current(self) -> bool:
        """Whether it was made on the encoder as it is now, as far as is known."""
        return self.measured.get("encoder") in (None, self.state)

    @property
    def data(self) -> str:
        """What it was measured on; empty if unknown."""
        return str(self.measured.get("data", ""))

    @property
    def caveats(self) -> list[str]:
        """Sentences that no reader of the scores may miss."""
        notes = [f"Mind that {self.measured['note']}."] if "note" in self.measured else []
        if not self.current:
            notes.append("The encoder has changed since it was evaluated, so these scores are not its own.")
        return notes

    @property
    def tested(self) -> str:
        """What the scores were measured on and when, in a sentence; empty where that is not known."""
        about, when = self.measured, _moment(self.measured.get("time"))
        if "data" not in about:
            return ""
        samples = ""
        if "test_samples" in about:
            samples = f": {about['training_samples']:,} training and {about['test_samples']:,} test samples"
        seed = f", seed {about['seed']}" if "seed" in about else ""
        return f"Measured on {about['data']}{samples}{seed}{f', {when}' if when else ''}."


class Entry:
    """A run and what is shown of it.

    Args:
        run: The run.
        evaluations: What was measured, each as `Run.measured`, the newest first.
        data: The opened data, or None.
    """

    def __init__(self, run: Any, evaluations: Sequence[dict[str, Any]], data: Any) -> None:
        self.run, self.data = run, data if data is not None and len(data) else None
        state = fingerprint(run.encoder.state_dict()) if evaluations else ""
        known = [Evaluation(measured, state) for measured in evaluations if measured["records"]]
        self.evaluations = sorted(known, key=lambda one: not one.current)
        """Those of the encoder as it is now, then those of earlier states; within both the newest first."""
        self.path = Path(run.path)
        self.config: dict[str, Any] = run.config
        self.history: list[dict[str, Any]] = run.history
        self.skipped: list[tuple[str, str]] = list(run.skipped)
        self.label = self.name = str(self.config.get("method", self.path.name))
        self.settings: dict[str, Any] = self.config.get("settings", {})
        self.about: dict[str, Any] = self.config.get("data", {})
        self.samples: Samples | None = None
        self.images, self.features, self.raw = torch.empty(0), torch.empty(0), torch.empty(0)

    @cached_property
    def method(self) -> Any:
        """The trained method; None where it cannot be built again, as with one of the user's own."""
        try:
            return self.run.method
        except ValueError:
            return None

    @property
    def source(self) -> str:
        """Where the data came from; empty if it was given as an array."""
        return str(self.about.get("source", ""))

    @property
    def judged(self) -> list[Evaluation]:
        """What the verdict rests on: all of the encoder as it is now, or else the newest of an earlier state."""
        return [one for one in self.evaluations if one.current] or self.evaluations[:1]

    @property
    def choices(self) -> dict[str, Any]:
        """Settings and options by name."""
        choices = self.settings | self.config.get("options", {})
        return {name: value for name, value in choices.items() if name not in MACHINE_SETTINGS}

    @property
    def facts(self) -> dict[str, str]:
        """Facts worth a glance, by name; what is not known is left out."""
        samples, size = self.about.get("samples"), self.settings.get("image_size")
        weights, last = self.config.get("parameters"), self.history[-1] if self.history else {}
        facts = {
            "Method": self.name,
            "Data": str(self.about.get("name", "")) + (f", {_many(samples, 'samples')}" if samples else ""),
            "Encoder": str(self.settings.get("encoder", ""))
            + (f", {_count(weights)} weights" if weights else ""),
            "Image size": f"{size} × {size} pixels" if size else "",
            "Trained": f"{_many(last['epoch'], 'epochs')}, {_many(last['step'], 'steps')}" if last else "",
            "Training time": self._duration(),
            "Started": _moment(self.config.get("started")),
        }
        return {name: value for name, value in facts.items() if value}

    def _duration(self) -> str:
        """Time spent in training steps, from the images of each epoch and its speed."""
        images = self.settings.get("batch_size", 0) * self.settings.get("accumulate", 1)
        seconds, before = 0.0, 0
        for line in self.history:
            speed = line.get("samples_per_second")
            if finite(speed) and speed:
                seconds += (line["step"] - before) * images / speed
            before = line["step"]
        if not seconds:
            return ""
        for limit, size, unit in ((120, 1, "s"), (7200, 60, "min")):
            if seconds < limit:
                return f"{seconds / size:.0f} {unit}"
        return f"{seconds / 3600:.1f} h"


def label(entries: Sequence[Entry]) -> None:
    """Name runs by what tells them apart: the method, else the choices that differ, else the folder."""
    if len({entry.name for entry in entries}) == len(entries):
        return
    mixed = len({entry.name for entry in entries}) > 1
    differing = [
        name
        for name in sorted({name for entry in entries for name in entry.choices})
        if len({str(entry.choices.get(name, "default")) for entry in entries}) > 1
    ]
    for entry in entries:
        told = [f"{name.replace('_', ' ')} {entry.choices.get(name, 'default')}" for name in differing[:3]]
        entry.label = ", ".join([*([entry.name] if mixed else []), *told])
    if len({entry.label for entry in entries}) < len(entries):
        for entry in entries:
            entry.label = f"{entry.name}, {entry.path.name}"


def look(entries: Sequence[Entry], device: str) -> None:
    """Sample each data set and embed the sample with each run.

    Args:
        entries: The runs; those with data get `samples`, `images`, `features` and `raw`.
        device: Where to compute.
    """
    made: dict[tuple[int, int], Samples] = {}
    for entry in entries:
        if entry.data is not None:
            encoder = entry.run.encoder
            read = encoder.evaluation_view(entry.data)
            key = (id(entry.data), len(read))
            if key not in made:
                made[key] = Samples(read, entry.data)
            samples = made[key]
            batch = samples.batch
            if read is not entry.data:  # what one encoder reads of it means nothing to another
                batch = {name: value.cpu() for name, value in read.sample(SAMPLES, seed=0).items()}
            entry.samples = samples
            entry.images = embedding.pixels(encoder.cpu(), batch)
            entry.raw = embedding.raw(encoder, batch, device)
            entry.features = embedding.embed(entry.method, encoder, batch, device)


def _many(number: int, things: str) -> str:
    """A number with what it counts, a plural in s."""
    return f"{number:,} {things if number != 1 else things.removesuffix('s')}"


def _count(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)


def _moment(started: Any) -> str:
    try:
        moment = datetime.fromisoformat(str(started))
    except ValueError:
        return ""
    return f"{moment.day} {moment:%b %Y, %H:%M} {moment.tzname() or ''}".strip()
