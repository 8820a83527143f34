"""Samples decoded once: how a reader writes them into a cache, and what it gets back beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from unlabeled.data.labels import NO_LABELS, from_records, numbered
from unlabeled.data.options import Progress, refuse_broken
from unlabeled.data.samples import Samples, Skipped
from unlabeled.data.sources import Source

__all__ = ["Recorder", "samples_of"]


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


def samples_of(
    source: Source, facts: Mapping[str, Any], max_broken: float, *, unusable: Sequence[Skipped] = ()
) -> Samples:
    """What `Data` is told of the samples of a source that a `Recorder` wrote.

    Args:
        source: Where they come from.
        facts: What was recorded, and `classes` where labels are numbers of these.
        max_broken: Largest fraction of the files that may be unreadable, in 0..1.
        unusable: Files that can be read but give no sample, without the prefix of the source.

    Raises:
        ValueError: More are unreadable, or there are none.
    """
    broken, others = (
        [Skipped(source.prefix + path, reason) for path, reason in skipped]
        for skipped in (facts["skipped"], unusable)
    )
    paths = [source.prefix + path for path in facts["paths"]]
    remarks = ("hidden", NO_LABELS)
    count = source.broken + sum(not skip.reason.startswith(remarks) for skip in broken)
    refuse_broken(source.name, broken or source.skipped, len(paths) + len(others), max_broken, count)
    values = source.labels_of(paths, facts.get("labels") or [None] * len(paths))
    values, notes = from_records(values, source.label, source.name)
    classes = facts.get("classes")
    if source.archives and all(value is None for value in values):
        inside = source.inside(paths).values()
        names = {row: name for rows, part in inside for row, name in zip(rows, part or [])}
        values, classes = [names.get(row) for row in range(len(paths))], sorted({*names.values()}) or None
    numbers = numbered(values, classes)
    remarks = [*numbers.skipped(source.name), *(Skipped(source.name, NO_LABELS + note) for note in notes)]
    return {
        "name": source.name,
        "paths": paths,
        "labels": numbers.tensor,
        "classes": numbers.classes,
        "skipped": source.skipped + broken + others + remarks,
    }
