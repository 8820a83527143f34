"""Whole shards on the disk of this machine, for all of its processes, within a bound.

A shard is built under another name and renamed when it is whole. While one process makes it, others that want it wait
for its lock; the shards that were not read for the longest time make room.
"""

import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from unlabeled.check import UserError
from unlabeled.files import locked

__all__ = ["ShardCache", "bytes_of", "in_words"]

_HOST = re.sub(r"\W", "-", socket.gethostname())
_PART = re.compile(r"\.(\d+)\.([\w-]+)\.(\d+)\.part((?:\.\w+)*)$")
"""Names of unfinished files: the bytes that they reserve, the machine, the process, what is on the way to one."""
_SIZE = re.compile(r"(?i)(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?")


def bytes_of(text: str) -> int:
    """Bytes of a size such as 200GB, 1.5 TB or 512MiB.

    Raises:
        ValueError: It is no size.
    """
    parts = _SIZE.fullmatch(text.strip())
    if not parts or not float(parts[1]):
        raise UserError(f"cache_size must be a size such as 200GB, got {text}")
    return round(float(parts[1]) * (1024 if parts[3] else 1000) ** " kmgt".index(parts[2].lower() or " "))


def in_words(size: float) -> str:
    """A number of bytes as text, such as 1.5 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.4g} TB"


class ShardCache:
    """Files by name, of which the most recently read are kept.

    Args:
        folder: Where they are; made when it is needed.
        most: Bytes that they may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def file(self, name: str, size: int, make: Callable[[Path], None]) -> Path:
        """The file of a name; another process may remove it at any time to make room.

        Args:
            name: Its name.
            size: Bytes that it takes while it is made, about.
            make: Writes it to a path if it is not there.

        Raises:
            ValueError: It is larger than the cache.
        """
        path = self.folder / name
        if _used(path):
            return path
        with locked(self.folder, f"{name}.lock", wait=True):
            if _used(path):
                return path
            part = self.folder / f"{name}.{size}.{_HOST}.{os.getpid()}.part"
            try:
                self._make_room(size, part)
                make(part)
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        return path

    def _make_room(self, size: int, part: Path) -> None:
        """Begin a file of a size, for which those that were not read for the longest time are removed."""
        if size > self.most:
            raise UserError(f"cache_size must be at least {in_words(size)}, got {in_words(self.most)}")
        with locked(self.folder, "room.lock", wait=True):
            files: list[tuple[int, int, str]] = []
            total = size
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # another process was done with it
                        about, unfinished = entry.stat(), _PART.search(entry.name)
                        if unfinished and _is_left(*unfinished.groups()[1:3]):
                            os.unlink(entry.path)
                        elif unfinished:
                            total += 0 if unfinished[4] else max(about.st_size, int(unfinished[1]))
                        elif not entry.name.endswith(".lock"):
                            total += about.st_size
                            files.append((about.st_mtime_ns, about.st_size, entry.path))
            for _, freed, path in sorted(files):
                if total <= self.most:
                    break
                with suppress(FileNotFoundError):
                    os.unlink(path)
                total -= freed
            part.touch()


def _used(path: Path) -> bool:
    """Note that a file is read now; whether it is there."""
    try:
        os.utime(path)
    except (FileNotFoundError, NotADirectoryError):  # the second names no file; making the folder does
        return False
    return True


def _is_left(host: str, process: str) -> bool:
    """Whether the process that made a file has ended."""
    if host != _HOST:
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
