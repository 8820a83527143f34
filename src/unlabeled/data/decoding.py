"""How a reader writes samples that are decoded once into a cache."""

from collections.abc import Sequence
from typing import Any, BinaryIO

from unlabeled.data.options import Progress
from unlabeled.data.samples import Skipped

__all__ = ["Recorder"]


class Recorder:
    """Writes samples one after the other and records what is known of each.

    Args:
        stream: Open file.
        total: Number of samples that are to come, None where that is unknown.
        progress: Called with the samples done so far and the total.
        fields: Names of what is known of each sample beside its path and its label.
    """

    def __init__(
        self, stream: BinaryIO, total: int | None, progress: Progress | None, fields: Sequence[str]
    ) -> None:
        self.stream, self.total, self.progress, self.done = stream, total, progress, 0
        self.facts: dict[str, list[Any]] = {name: [] for name in ("paths", "labels", "skipped", *fields)}

    def add(self, path: str, content: bytes, **facts: Any) -> None:
        """Write a sample and record what is known of it."""
        self.stream.write(content)
        for name, value in {"paths": path, "labels": None, **facts}.items():
            self.facts[name].append(value)
        self._report()

    def skip(self, path: str, reason: str, field: str = "skipped") -> None:
        """Record why there is no sample of a path."""
        self.facts[field].append(Skipped(path, reason))
        self._report()

    def _report(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
