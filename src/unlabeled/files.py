"""Files that are never seen half-written, free folder names, locks, and text of paths."""

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from glob import escape
from itertools import count
from pathlib import Path

from unlabeled.check import UserError

__all__ = [
    "RUN_FILES",
    "atomic",
    "locked",
    "new_folder",
    "numbered",
    "printable",
    "refuse_input",
    "require_ending",
    "require_own_folder",
    "sweep",
]

RUN_FILES = (
    *("run.toml", "log.jsonl", "checkpoint.safetensors", "encoder.safetensors", "features.safetensors"),
    *("samples.npy", "scores.json", "skipped.csv", "trackers.json"),
)
"""Files that a run cannot do without, or is what it is by."""
_PART = re.compile(r"(#\d+|\[\d+\]|:\d+)$")
"""What the path of a sample ends with that is one of many in a file."""
LOCK = ".lock"
_lock_handles: set[int] = set()
"""Handles of locks: a child that is forked would hold them even after its parent has died."""


def _let_go() -> None:
    for handle in _lock_handles:
        with contextlib.suppress(OSError):
            os.close(handle)
    _lock_handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it at the end, or vanishes on an error.

    A reader sees the old file or the new one, never a part of it. An `OSError` that names no file or the temporary
    one, such as that of a full disk, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, name):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what killed writers of a file left beside it: temporary files and folders, those of safetensors too."""
    ours, theirs = f".{escape(path.name)}.{'?' * 8}", f".tmp{'?' * 6}"
    for left in filter(Path.is_dir, path.parent.glob(ours)):
        shutil.rmtree(left, ignore_errors=True)
    for left in [*path.parent.glob(ours), *filter(_of_safetensors, path.parent.glob(theirs))]:
        if left.is_file():
            left.unlink(missing_ok=True)


def _of_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, with the length of a header and the header, or is still empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return not start.strip(b"\0") or start[8:] == b"{"  # it gets its size first, all zeros


def numbered(path: Path) -> Iterator[Path]:
    """The path, then path-2, path-3 and so on."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def new_folder(path: Path) -> Path:
    """Make the first folder of `numbered` that does not exist; two processes never get the same one."""
    for folder in numbered(path):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("numbers end")


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Hold a folder, or a file in it, so that no second process does.

    The system ends the hold of a process that dies. Where the file system knows no locks, nothing is held. A folder
    that is empty at the end is removed.

    Args:
        folder: The folder, which is made if it is missing.
        name: Name of the lock file in it, which is removed at the end.
        wait: Whether to wait for another process that holds it.

    Raises:
        ValueError: Another process holds it; the message says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    handle = _lock(file, wait)
    _lock_handles.add(handle)
    try:
        with contextlib.suppress(OSError):  # a full disk can still be locked
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # else it would be the next one's
            file.unlink()
        if handle in _lock_handles:  # else this is a child that leaves the block of its parent
            _lock_handles.discard(handle)
            os.close(handle)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lock(file: Path, wait: bool) -> int:
    """Open a file and lock it; it may be removed by the process that held it just before."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove files that are open
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # another process has just removed the folder, which was empty
            file.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if wait or error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return handle
            owner = os.read(handle, 300).decode("utf-8", "replace")
            os.close(handle)
            raise UserError(
                f"out must be a folder that no other run is writing, got {file.parent}, which is in use by "
                f"{owner or 'another process'}"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        os.close(handle)


def refuse_input(out: str | os.PathLike[str] | None, *sources: object, called: str = "out") -> None:
    """Refuse to write a file in place of data that is read, or of what a run consists of.

    Of a folder of data every file may be a part, such as a table of labels; only pages are known to be none.

    Args:
        out: File to write; None is none.
        *sources: What is read, or paths of samples, such as table.csv:2; all else than names and paths is passed over.
        called: What the message calls `out`.

    Raises:
        ValueError: `out` is one of the sources or in a folder that is one, holds a sample, or is a file of a run.
    """
    path = Path("" if out is None else out)
    if not path.is_file():
        return
    status, is_page = path.stat(), path.suffix.lower() == ".html"
    for source in sources:
        own = os.path.expanduser(source) if isinstance(source, (str, os.PathLike)) else ""
        if own and _is_file(own, status):
            raise UserError(f"{called} must be another file than one of the data, got {out}")
        if (
            own
            and not is_page
            and os.path.isdir(own)
            and path.resolve().is_relative_to(os.path.realpath(own))
        ):
            raise UserError(f"{called} must be a new file, or one outside the data {own}, got {out}")
    if path.name in RUN_FILES and (path.parent / RUN_FILES[0]).is_file():
        raise UserError(f"{called} must be no file that a run consists of, got {out}")


def _is_file(source: str, status: os.stat_result) -> bool:
    """Whether a path, or that of the file that a sample is a part of, is a file; quick, as for millions of samples."""
    for name in dict.fromkeys((source, _PART.sub("", source))):
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(os.stat(name), status):
                return True
    return False


def require_ending(out: str | os.PathLike[str] | None, ending: str, called: str = "out") -> None:
    """Refuse a file whose name says that it is something else, such as a picture that a page would replace.

    Args:
        out: File to write; None is none.
        ending: The ending that it must have, such as .html.
        called: What the message calls `out`.

    Raises:
        ValueError: It has another one.
    """
    if out is not None and Path(out).suffix.lower() != ending:
        raise UserError(f"{called} must end with {ending}, got {out}")


def require_own_folder(folder: Path, names: tuple[str, ...], which: str) -> None:
    """Refuse a folder of other things, such as data, among which what is written would be.

    Args:
        folder: Folder to write to.
        names: One of these is in it if the same command wrote it.
        which: What the message calls such a one.

    Raises:
        ValueError: It holds something else.
    """
    if not folder.is_dir() or any((folder / name).is_file() for name in names):
        return
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"out must be a new or empty folder, or {which}, got {folder}")


def printable(path: str | os.PathLike[str]) -> str:
    """Text of a path, whose bytes need not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
