"""Decode once: all samples of a source in one flat file, trusted only when it fits its checksums.

A cache is a folder of two files, `pixels.bin` (one sample after the other) and `index.json`, built under another name
and renamed when it is complete. Its own name is a hash of everything the content depends on.
"""

import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from unlabeled.data.notes import note
from unlabeled.data.samples import Temporary

__all__ = ["Stored", "available_memory", "folder_of", "load_or_build"]

_VERSION = 6
_WHOLE = 256 * 2**20
_BLOCK, _BLOCKS = 2**20, 128
_DAY_SECONDS = 24 * 3600


class Stored(NamedTuple):
    """What was decoded, uint8, shape (bytes,), and what the index says about it."""

    pixels: Tensor
    about: dict[str, Any]


def folder_of(cache: str | os.PathLike[str] | bool | None) -> Path | None:
    """Where caches are by the option `cache`; None for none.

    That is $UNLABELED_CACHE, else ~/.cache/unlabeled, if None or True, and nowhere if False or without a home.
    """
    if cache not in (None, True):
        return Path(cache) if cache else None
    if folder := os.environ.get("UNLABELED_CACHE"):
        return Path(folder)
    try:
        return Path.home() / ".cache" / "unlabeled"
    except RuntimeError as error:
        _cannot_write("~/.cache/unlabeled", error)
        return None


def load_or_build(key: Any, write: Callable[[BinaryIO], dict[str, Any]], folder: Path | None) -> Stored:
    """Content from the cache where that is whole, else decoded now.

    Args:
        key: Everything that the content depends on, of JSON types.
        write: Decodes into an open file and returns what to remember beside it, of JSON types; what it could
            not read stands under `skipped`, as (path, reason).
        folder: Where caches are; None keeps the content in memory only.
    """
    if folder is not None:
        target = folder / sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:32]
        if (content := _open(target)) is not None:
            return content
        try:
            return _build(target, write)
        except OSError as error:
            _cannot_write(str(folder), error)
    memory = BytesIO()
    index = write(memory)
    if not memory.getbuffer():
        return Stored(torch.zeros(0, dtype=torch.uint8), index)
    return Stored(torch.frombuffer(memory.getbuffer(), dtype=torch.uint8), index)


def _cannot_write(folder: str, error: Exception) -> None:
    note(f"cannot write the cache in {folder} ({error}); what is decoded is kept in memory")


def _build(target: Path, write: Callable[[BinaryIO], dict[str, Any]]) -> Stored:
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    try:
        with open(building / "pixels.bin", "w+b", buffering=_BLOCK) as stream:
            index = write(stream)
        pixels = _read(building / "pixels.bin")
        index |= {"bytes": len(pixels), "checksum": _checksum(pixels)}
        text = json.dumps(index)
        (building / "index.json").write_text(f"{zlib.crc32(text.encode())}\n{text}")
        content = Stored(torch.from_numpy(pixels), index)
        if any(isinstance(reason, Temporary) for _, reason in index.get("skipped", ())):
            return content  # and publish nothing: the next start may read more
        if target.exists():
            shutil.rmtree(target.rename(target.parent / f"building-{uuid4().hex}"), ignore_errors=True)
        with suppress(OSError):  # another process was faster: its content is the same
            building.rename(target)
        return content
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what interrupted builds left more than a day ago."""
    for building in folder.glob("building-*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (building, *building.iterdir()))
            if newest < time.time() - _DAY_SECONDS:
                shutil.rmtree(building)


def _open(folder: Path) -> Stored | None:
    """The content of a cache folder, None where it is missing, incomplete or damaged."""
    try:
        checksum, text = (folder / "index.json").read_text().split("\n")
        if int(checksum) != zlib.crc32(text.encode()):
            return None
        index = json.loads(text)
        path = folder / "pixels.bin"
        if path.stat().st_size != index["bytes"]:
            return None
        pixels = _read(path)
    except (OSError, ValueError):
        return None
    return Stored(torch.from_numpy(pixels), index) if _checksum(pixels) == index["checksum"] else None


def _read(path: Path) -> np.ndarray:
    """The bytes of a file, in memory where there is plenty, else mapped."""
    if path.stat().st_size <= available_memory() // 3:
        return np.fromfile(path, np.uint8)
    return np.memmap(path, np.uint8, "c")


def _checksum(pixels: np.ndarray) -> int:
    """CRC-32 of all bytes, or of evenly spread blocks where reading all would take long."""
    if len(pixels) < _WHOLE:
        return zlib.crc32(pixels.data)
    value = 0
    for start in np.linspace(0, len(pixels) - _BLOCK, _BLOCKS).astype(np.int64).tolist():
        value = zlib.crc32(pixels[start : start + _BLOCK].data, value)
    return value


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    with suppress(OSError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
