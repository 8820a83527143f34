"""All trackers of a run as one: those that fail are dropped, and the training goes on."""

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.files import atomic
from unlabeled.trackers.names import TRACKERS
from unlabeled.trackers.tracker import About, Tracker

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["COLUMNS", "FILE", "Trackers", "require", "scalars"]

FILE = "trackers.json"
"""Names by which trackers find a run again, in its folder."""
SCALARS = (
    "epoch",
    "loss",
    "chance",
    "holdout_loss",
    "holdout_chance",
    "spread",
    "rank",
    "cosine",
    "alpha",
    "lidar",
    "silhouette",
    "learning_rate",
    "samples_per_second",
    "skipped_steps",
)
"""Numbers of a line of the log that are tracked, besides the method's own."""
FAILURES = (Exception, SystemExit)
"""What a tracker that fails may raise: some end the process where they give up, which must not end a training."""
COLUMNS, SIDE, GAP = 8, 64, 2
"""Most samples in a picture, side in pixels that smaller ones are enlarged to, about, and white pixels between them."""


def require(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be imported.

    Raises:
        ValueError: The package of one is missing or broken; the message says how to install it.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except FAILURES as error:  # whatever a broken installation raises
            raise UserError(
                f"track must name trackers that are installed, got {name} ({check.reason(error)}); "
                f"pip install {name}"
            ) from error


def scalars(entry: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """Steps and finite numbers of a line of the log, in the order of the steps.

    The loss on held-out samples may have been measured several times in an epoch; the method's own numbers stand under
    metrics/.
    """
    rows: dict[int, dict[str, Any]] = {
        int(step): {"holdout_loss": loss} for step, loss in (entry.get("holdout_losses") or {}).items()
    }
    last = {name: entry.get(name) for name in SCALARS}
    last |= {f"metrics/{name}": value for name, value in entry.get("metrics", {}).items()}
    rows[entry["step"]] = last
    finite = {
        step: {name: value for name, value in row.items() if value is not None and math.isfinite(value)}
        for step, row in rows.items()
    }
    return sorted((step, row) for step, row in finite.items() if row)


class Trackers:
    """The trackers of a run; without `open` it tracks nothing.

    As a context it ends the tracked runs: as finished, or as stopped where an error or Ctrl-C leaves it.

    Args:
        say: Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.step = say, 0
        self.running: dict[str, Tracker] = {}

    def open(self, names: Sequence[str], folder: Path, config: Mapping[str, Any], step: int | None) -> None:
        """Begin to track a run, or go on with what was tracked of it.

        Args:
            names: Names of the trackers.
            folder: Folder of the run.
            config: Content of run.toml.
            step: Steps done of a run that is resumed; None for a new one.

        Raises:
            ValueError: One of them is missing or cannot be started; none is left running.
        """
        require(names)
        known, file = {}, folder / FILE
        if step is not None and file.is_file():
            with suppress(ValueError):  # damaged; then the run is tracked as a new one
                known = json.loads(file.read_text(encoding="utf-8"))
        self.step = step or 0
        about = About(folder, dict(_flat(config)), self.step)
        for name in names:
            module, kind = TRACKERS[name]
            try:
                make = getattr(importlib.import_module(f"unlabeled.trackers.{module}"), kind)
                self.running[name] = make(about._replace(identity=known.get(name)))
            except FAILURES as error:
                self.close(finished=False)
                raise UserError(
                    f"track must name trackers that can be started, got {name} ({check.reason(error)})"
                ) from error
        if self.running:
            identities = known | {name: tracker.identity for name, tracker in self.running.items()}
            with atomic(file) as path:
                path.write_text(json.dumps(identities, indent=1), encoding="utf-8")

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Track a line of the log."""
        self.step = entry["step"]
        for step, values in scalars(entry):
            self._each(lambda tracker, step=step, values=values: tracker.scalars(values, step))

    def pictures(self, rows: Mapping[str, Any]) -> None:
        """Track what a method's `pictures` gave: images and texts; sounds are left out, which a line says."""
        from torch import Tensor

        if sounds := [name for name, row in rows.items() if not isinstance(row, Tensor | list)]:
            self.say(f"not tracked, as they are sounds: {', '.join(sounds)}; the report plays them")
        for name, row in rows.items():
            title = f"pictures/{name.replace('/', ' ')}"
            if isinstance(row, Tensor):
                pixels = _sheet(row)
                self._each(lambda tracker, t=title, pixels=pixels: tracker.picture(t, pixels, self.step))
            elif isinstance(row, list):
                self._each(lambda tracker, t=title, texts=row: tracker.texts(t, texts[:COLUMNS], self.step))

    def close(self, finished: bool) -> None:
        """End the tracked runs."""
        self._each(lambda tracker: tracker.close(finished))
        self.running = {}

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.running.items()):
            try:
                act(tracker)
            except FAILURES as error:
                del self.running[name]
                self.say(
                    f"warning: {name} failed at step {self.step:,} and no longer tracks this run; training continues "
                    f"({check.reason(error)})"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finished=kind is None)


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Values of nested tables by names with slashes."""
    rows: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}/")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _sheet(images: "Tensor") -> Any:
    """Images side by side as a NumPy array, uint8, shape (height, width, 3).

    Args:
        images: Float, shape (samples, channels, height, width), in 0..1; what is not finite turns black, and the mean
            is shown of other numbers of channels than 1 and 3.
    """
    import torch

    images = images.detach()[:COLUMNS].float().cpu().nan_to_num(0, 0, 0).clamp(0, 1)
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    factor = max(1, round(SIDE / max(images.shape[-2:])))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    images = torch.nn.functional.pad(images, (0, GAP), value=1.0).expand(-1, 3, -1, -1)
    sheet = images.permute(2, 0, 3, 1).flatten(1, 2)[:, :-GAP]
    return (sheet * 255).round().to(torch.uint8).numpy()
