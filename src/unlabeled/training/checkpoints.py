"""The files that a training writes on its way: each is on disk whole or not at all."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import Tensor

from unlabeled import check
from unlabeled.data import Skipped
from unlabeled.files import atomic, sweep
from unlabeled.run import (
    CHECKPOINT,
    CONFIG,
    ENCODER,
    FEATURES,
    LOG,
    SAMPLES,
    Run,
    add_skipped,
    read_checkpoint,
    read_position,
    snapshot,
    write_checkpoint,
)
from unlabeled.training import processes

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["Checkpoints"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0

State = dict[str, dict[str, Tensor]]


class Checkpoints:
    """Checkpoints, encoder and log of a run, written by the first process.

    Args:
        fabric: The processes.
        folder: Folder of the run; what writers that were killed left in it is removed.
    """

    def __init__(self, fabric: "Fabric", folder: Path) -> None:
        self.fabric, self.folder = fabric, folder
        self.saved_step: int | None = None
        self.saved_at = time.monotonic()
        if fabric.global_rank == 0:
            for name in (CHECKPOINT, ENCODER, FEATURES, CONFIG, LOG, SAMPLES, "skipped.csv"):
                sweep(folder / name)

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old."""
        return time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def save(self, state: State, position: dict[str, Any], save_encoder: Callable[[Path], None]) -> None:
        """Write a checkpoint and the encoder."""
        processes.first(self.fabric, lambda: self._write(state, position, save_encoder))
        self.saved_step, self.saved_at = position["step"], time.monotonic()

    def _write(self, state: State, position: dict[str, Any], save_encoder: Callable[[Path], None]) -> None:
        write = {CHECKPOINT: partial(write_checkpoint, state=state, position=position), ENCODER: save_encoder}
        # The encoder comes before the first checkpoint, which cannot be resumed without it.
        for name in (ENCODER, CHECKPOINT) if self.saved_step is None else (CHECKPOINT, ENCODER):
            with self._writing(name, position["step"]):
                write[name](self.folder / name)
        (self.folder / FEATURES).unlink(missing_ok=True)  # of an earlier state of the encoder

    def keep(self, step: int, save_encoder: Callable[[Path], None]) -> None:
        """Keep the encoder as it is after a step."""

        def write() -> None:
            file = snapshot(self.folder, step)
            file.parent.mkdir(exist_ok=True)
            with self._writing(file.name, step):
                save_encoder(file)

        processes.first(self.fabric, write)

    def load(self) -> tuple[State, dict[str, Any]]:
        """State and position of the last checkpoint."""
        state, position = read_checkpoint(self.folder / CHECKPOINT)
        self.saved_step = position["step"]
        return state, position

    def log(self, step: int, entry: dict[str, Any]) -> None:
        """Append a line to the log."""
        processes.first(self.fabric, lambda: self._append(step, json.dumps(entry)))

    def _append(self, step: int, line: str) -> None:
        with self._writing(LOG, step), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def list_skipped(self, skipped: list[Skipped]) -> int:
        """Add to the list of what was not read, where each is listed once; how many are new."""
        return processes.first(self.fabric, lambda: add_skipped(self.folder, skipped))

    def cut_log(self, step: int) -> None:
        """Drop lines of later steps: the log may be ahead of the checkpoint."""
        if self.fabric.global_rank == 0:
            entries = [entry for entry in Run(self.folder).history if entry["step"] <= step]
            with atomic(self.folder / LOG) as path:
                path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    @contextmanager
    def _writing(self, name: str, step: int) -> Iterator[None]:
        """Say of a file that cannot be written, as on a full disk, which it is and what is kept."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"{self.folder / name} cannot be written after step {step} ({check.reason(error)}); "
                f"{self.resume_hint()}"
            ) from error

    def resume_hint(self) -> str:
        """What of the run is on disk, in words."""
        if self.saved_step is None:
            return "nothing was saved before"
        return f"the state after step {self.saved_step} is kept in {self.folder}, --resume continues from it"

    def kept_by_any(self) -> str:
        """As `resume_hint`, where another process that has ended may have written a checkpoint that this one missed."""
        with suppress(ValueError):
            self.saved_step = read_position(self.folder / CHECKPOINT)["step"]
        return self.resume_hint()
