"""Files that are never seen half-written, free folder names, and text of paths."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

__all__ = ["atomic", "numbered", "printable"]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it at the end, or vanishes on an error.

    A reader sees the old file or the new one, never a part of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def numbered(path: Path) -> Iterator[Path]:
    """The path, then path-2, path-3 and so on."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def printable(path: str | os.PathLike[str]) -> str:
    """Text of a path, whose bytes need not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
