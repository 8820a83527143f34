"""How data is opened, for readers of every kind: the options, and how much may be unreadable."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.cache import Progress
from unlabeled.data.image.decode import PAGES, Pages
from unlabeled.data.image.levels import parsed
from unlabeled.data.samples import Skipped

__all__ = ["OpenOptions", "refuse_broken"]

_REASONS = 3


@dataclass(frozen=True)
class OpenOptions:
    """The options of `open_data` that the readers of every kind are given."""

    store_size: int | None = None
    channels: int | None = None
    workers: int | None = None
    max_broken: float = 0.1
    cache: str | os.PathLike[str] | bool | None = None
    progress: Progress | None = None
    sample_rate: int | None = None
    levels: Any = None
    pages: Pages = "first"
    label: str | None = None
    encoding: str | None = None
    text_column: str | None = None
    segmenter: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check.fraction(max_broken=self.max_broken)
        check.choice(PAGES, pages=self.pages)
        parsed(self.levels)
        for name in ("channels", "store_size", "workers", "sample_rate"):
            if (value := getattr(self, name)) is not None:
                check.at_least(1, **{name: value})


def refuse_broken(
    name: str, skipped: Sequence[Skipped], decoded: int, max_broken: float, count: int | None = None
) -> None:
    """Refuse a source of which too much cannot be read.

    Args:
        name: What messages call the source.
        skipped: What could not be read, though it was meant to be.
        decoded: How many could be read.
        max_broken: Largest share that may be unreadable, in 0..1.
        count: How many of `skipped` were meant to be read, all if None.

    Raises:
        ValueError: More of it is broken, or nothing could be read.
    """
    count = len(skipped) if count is None else count
    if count > max_broken * (count + decoded) or not decoded:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in skipped[:_REASONS])
        raise UserError(
            f"{count} of {count + decoded} files in {name} cannot be read, which is more than "
            f"max_broken={max_broken:g} allows: {reasons}"
        )
