"""Shards by their addresses: which there are, and their bytes, however often a server has to be asked."""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EDQUOT, ENOSPC
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import File, by_folder, by_name

__all__ = [
    "ENDINGS",
    "Shard",
    "Shards",
    "ending",
    "expanded",
    "fetch",
    "filesystem",
    "find_shards",
    "is_remote",
    "retried",
    "shown",
]

ENDINGS = (".tar", ".parquet")
_HTTP = ("http://", "https://")
TRIES, WAIT, MOST_WAIT = 5, 0.5, 4.0
"""Tries of a request, and seconds after the first, which double after each up to the last."""
TIMEOUT = 5.0
"""Seconds for which a server may be silent."""
REQUESTS = 16
"""Requests for facts about files at a time."""
_TEMPORARY = (408, 425, 429)
"""Statuses below 500 that ask to come again."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

Result = TypeVar("Result")


class Shard(NamedTuple):
    """A file of samples."""

    address: str
    """Path, or address as fsspec knows it."""
    size: int
    """Bytes."""
    state: str
    """What changes when its content does."""


class Shards(NamedTuple):
    """The shards of one part of a source, and the parts that there are, its own first."""

    files: list[Shard]
    parts: list[str]


def is_remote(address: str) -> bool:
    """Whether an address is none of the machine's own files."""
    return "://" in address and not address.startswith(("file://", "local://"))


def ending(address: str) -> str:
    """The ending of a file's name, with that before .gz, in lower case; a query is no part of it."""
    path = address.partition("?")[0] if address.startswith(_HTTP) else address
    path, last = os.path.splitext(path)
    return (os.path.splitext(path)[1] + last if last.lower() == ".gz" else last).lower()


def shown(address: str) -> str:
    """An address without a password, and without a query, which may be a signature."""
    if not is_remote(address):
        return address
    return re.sub(r"://[^/@]*@", "://", address.partition("?")[0])


def expanded(address: str) -> list[str]:
    """Addresses that one with braces stands for: {00..12} for numbers of as many digits, {a,b} for words."""
    words = _BRACES.split(address)
    choices = [[*_choices(word)] if place % 2 else [word] for place, word in enumerate(words)]
    return ["".join(parts) for parts in product(*choices)]


def _choices(word: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(word)
    if not numbers:
        yield from word.split(",")
        return
    first, last = numbers.groups()
    if int(first) > int(last):
        raise UserError(f"numbers in braces must ascend, got {{{word}}}")
    yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


def find_shards(source: str, endings: tuple[str, ...] = ENDINGS) -> Shards:
    """The shards that a source names, in the order of their addresses: the training part where there are several.

    Args:
        source: A file, a folder, a pattern such as *.tar, or files with braces such as shard-{000..099}.tar; local or
            an address as fsspec knows it, such as s3://bucket/folder/.
        endings: Endings of files that are shards.

    Raises:
        ValueError: There is none, or shards of several formats.
        ConnectionError: The server does not answer.
    """
    addresses = expanded(source)
    named = all(ending(address) in endings for address in addresses)
    if named and not any(map(_is_pattern, addresses)):
        files = _all_at_once(_about, addresses)
        _refuse_several_formats(files, source)
        return Shards(files, ["all"])
    listed = [shard for part in _all_at_once(_below, addresses) for shard in part]
    files = sorted(shard for shard in listed if ending(shard.address) in endings)
    if not listed and any(map(_is_pattern, addresses)):
        raise UserError(f"data must be a pattern that matches a file, got {shown(source)}")
    if not files:
        counted = Counter(ending(shard.address) or "without ending" for shard in listed)
        others = ", ".join(f"{count} {name}" for name, count in counted.most_common(5)) or "nothing"
        formats = f"{', '.join(endings[:-1])} or {endings[-1]}"
        formats = f"uncompressed {formats}" if ".tar" in endings else formats
        raise UserError(f"{shown(source)} must hold {formats} files to be streamed, got {others}")
    _refuse_several_formats(files, source)
    parts = _parts(files)
    first = "train" if "train" in parts else next(iter(parts))
    return Shards(parts[first], [first, *(part for part in parts if part != first)])


def _refuse_several_formats(files: list[Shard], source: str) -> None:
    formats = sorted({ending(shard.address) for shard in files})
    if len(formats) > 1:
        raise UserError(
            f"{shown(source)} must hold shards of one format, got {' and '.join(formats)}; name those of one, such as "
            f"*{formats[0]}"
        )


def _is_pattern(address: str) -> bool:
    # A ? begins the query of an address of HTTP.
    return bool(re.search(r"[*\[]" if address.startswith(_HTTP) else r"[*?\[]", address))


def _parts(files: list[Shard]) -> dict[str, list[Shard]]:
    """Shards by the split that their folders, else their names, tell."""
    above = os.path.join(os.path.commonpath([os.path.dirname(shard.address) for shard in files]), "")
    paths = {os.path.relpath(shard.address, above): shard for shard in files}
    inside = [File(path, "") for path in paths]
    parts, beside = by_folder(inside)
    if parts.keys() == {"all"} or beside:
        parts = by_name(inside)
    return {name: [paths[file.path] for file in part] for name, part in parts.items()}


def _all_at_once(act: Callable[[str], Result], addresses: list[str]) -> list[Result]:
    if len(addresses) == 1 or not is_remote(addresses[0]):
        return [*map(act, addresses)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        return [*pool.map(act, addresses)]


def _about(address: str) -> Shard:
    """A file with its size."""

    def ask() -> dict[str, Any]:
        files, path = filesystem(address)
        return files.info(path)

    about = retried(ask, address)
    return _shard(address if is_remote(address) else os.path.abspath(about["name"]), about)


def _below(address: str) -> list[Shard]:
    """Files that an address with a pattern, or a folder, names."""

    def ask() -> list[Shard]:
        files, path = filesystem(address)
        pattern = _is_pattern(address)
        listing = files.glob(path, detail=True) if pattern else files.find(path, detail=True)
        if not listing and not pattern:
            files.ls(path)  # which raises the error that was left out
        local = not is_remote(address)
        return [
            _shard(name if local else files.unstrip_protocol(name), about)
            for name, about in listing.items()
            if about["type"] == "file" and not os.path.basename(name).startswith((".", "_"))
        ]

    shards = retried(ask, address)
    if any(shard.size < 0 for shard in shards):  # as in listings of HTTP
        return _all_at_once(_about, [shard.address for shard in shards])
    return shards


def _shard(address: str, about: dict[str, Any]) -> Shard:
    size = about.get("size")
    marks = ("ETag", "etag", "mtime", "Last-Modified", "LastModified", "last_modified", "created")
    mark = next((str(about[name]) for name in marks if about.get(name)), "")
    return Shard(address, -1 if size is None else int(size), f"{size} {mark}")


def filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, as this process may use it, and the path there."""
    import fsspec

    options: dict[str, Any] = {}
    if address.startswith(_HTTP):
        from aiohttp import ClientTimeout

        options["client_kwargs"] = {
            "timeout": ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
        }
    try:
        return fsspec.core.url_to_fs(address, **options)
    except (ImportError, ValueError) as error:  # a library that is missing, or a protocol that nobody knows
        hint = "; pip install 'unlabeled[s3]'" if address.startswith("s3:") else ""
        raise UserError(f"{shown(address)} cannot be opened: {check.reason(error)}{hint}") from error


def fetch(shard: Shard, target: Path) -> None:
    """Copy a shard to a file.

    Raises:
        ValueError: It does not exist, or access is refused.
        ConnectionError: It does not come whole.
    """
    retried(partial(_copy, shard, target), shard.address)


def _copy(shard: Shard, target: Path) -> None:
    files, path = filesystem(shard.address)
    files.get_file(path, str(target))
    if shard.size >= 0 and (size := target.stat().st_size) != shard.size:
        raise EOFError(f"{size:,} of {shard.size:,} bytes came")


def retried(act: Callable[[], Result], address: str) -> Result:
    """What some act on a file of an address returns, which is tried again after errors that may pass.

    Raises:
        ValueError: The file does not exist, or access is refused.
        ConnectionError: All tries failed.
    """
    for number in count(1):
        try:
            return act()
        except UserError:
            raise
        except Exception as error:  # each file system has errors of its own
            if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
                raise
            if why := _lasting(error):
                raise UserError(f"{shown(address)} {why}") from error
            if number == TRIES:
                raise ConnectionError(
                    f"{shown(address)} cannot be read after {TRIES} tries: {_why(error)}"
                ) from error
        time.sleep(min(WAIT * 2 ** (number - 1), MOST_WAIT))
    raise AssertionError("numbers end")


def _lasting(error: BaseException) -> str:
    """Why it would be of no use to ask again; empty where it may be."""
    code, status = _code(error), _status(error)
    if code == "NoSuchBucket":
        return "is in a bucket that does not exist"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return f"may not be read: {check.reason(error)}"
    if status and 400 <= status < 500 and status not in _TEMPORARY and code != "RequestTimeout":
        return (
            "does not exist"
            if status in (404, 410)
            else f"is refused: status {status}{code and f' ({code})'}"
        )
    if isinstance(error, FileNotFoundError):
        # fsspec calls every failure of a first request by HTTP so.
        return _lasting(error.__cause__) if error.__cause__ is not None else "does not exist"
    if isinstance(error, OSError) and error.__cause__ is not None:  # as s3fs wraps what it does not know
        return _lasting(error.__cause__)
    kinds = NotImplementedError, IsADirectoryError, ValueError
    return f"cannot be read: {check.reason(error)}" if isinstance(error, kinds) else ""


def _status(error: BaseException) -> int | None:
    """The status with which a server of HTTP, or of S3, refused."""
    answer = getattr(error, "response", None)
    of_s3 = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    status = getattr(error, "status", of_s3)
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    """The word by which S3 says what is wrong; empty where there is none."""
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


def _why(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    status = _status(error)
    return f"status {status}" if status else check.reason(error)
