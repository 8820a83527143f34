"""What a tracker is told of a run, and what it must be able to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PROJECT", "About", "Tracker"]

PROJECT = "unlabeled"
"""Project or experiment of a run where the tracker's own environment variable names none."""


class About(NamedTuple):
    """A run as a tracker sees it.

    Attributes:
        folder: Folder of the run, whose name is that of the tracked run.
        config: What run.toml says, by names with slashes, such as settings/lr.
        step: Optimizer steps done when the tracking begins: 0 unless the run is resumed.
        identity: What the tracker called the run when it was tracked before; None for a new one.
    """

    folder: Path
    config: Mapping[str, Any]
    step: int = 0
    identity: str | None = None


class Tracker(Protocol):
    """One run in one tracker, opened by its constructor, which takes an `About`."""

    identity: str
    """What finds the tracked run again when the run is resumed."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of a step."""

    def picture(self, name: str, pixels: "np.ndarray", step: int) -> None:
        """Log a picture, uint8, shape (height, width, 3)."""

    def texts(self, name: str, texts: list[str], step: int) -> None:
        """Log texts, one for each sample."""

    def close(self, finished: bool) -> None:
        """End the tracked run: finished, or stopped early."""
