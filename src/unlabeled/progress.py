"""What long work tells while it runs: what is done now, how far it is, and about how long it takes."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["duration", "report", "telling", "watched"]

SECONDS = 5.0
"""Least time between two lines, and before the first."""

Item = TypeVar("Item")
Tell = Callable[[str], None]
_TELL: ContextVar[Tell | None] = ContextVar("tell", default=None)
"""Who is told; a context variable, so that whatever takes long can tell without being handed it through all calls."""


@contextmanager
def telling(tell: Tell | None) -> Iterator[None]:
    """Tell what is `watched` inside, a line at a time; None for silence."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def report(line: str) -> None:
    """Tell a line at once, to whoever is told."""
    if (tell := _TELL.get()) is not None:
        tell(line)


def watched(items: Iterable[Item], total: int, what: str, things: str) -> Iterator[Item]:
    """The items, with a line every few seconds on how many are done.

    Args:
        items: What takes long, one after the other.
        total: How many there are.
        what: What is done with them, such as "propagation".
        things: What they are called, a plural.
    """
    tell, began = _TELL.get(), time.monotonic()
    last_report = began
    for done, item in enumerate(items):
        now = time.monotonic()
        if tell is not None and done and now - last_report >= SECONDS:
            last_report = now
            left = duration((now - began) / done * (total - done))
            tell(f"{what}: {done:,} of {total:,} {things}, about {left} left")
        yield item


def duration(seconds: float) -> str:
    """A time in words, such as "40 s" or "3 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
