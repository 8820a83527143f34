"""Decode once: all images of a source in one flat file, trusted only when it fits its checksums.

A cache is a folder of two files, `pixels.bin` (uint8, one image after the other) and `index.json`, built
under another name and renamed when it is complete. Its own name is a hash of everything the pixels depend
on.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data.decode import Temporary, decode_all
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Source

__all__ = ["Progress", "Stored", "default_folder", "folder_of", "kept", "stored"]

Progress = Callable[[int, int | None], None]
_VERSION = 4
_WHOLE = 256 * 2**20
_BLOCK, _BLOCKS = 2**20, 128
_DAY_SECONDS = 24 * 3600
_log = logging.getLogger("unlabeled.data")


class Stored(NamedTuple):
    """What was decoded, uint8, shape (bytes,), and what the index says about it."""

    pixels: Tensor
    about: dict[str, Any]


def default_folder() -> Path | None:
    """Where caches lie: $UNLABELED_CACHE, else ~/.cache/unlabeled; None where there is no home."""
    if named := os.environ.get("UNLABELED_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "unlabeled"
    except RuntimeError as error:
        _warn_once("~/.cache/unlabeled", str(error))
        return None


def folder_of(cache: str | os.PathLike[str] | bool | None) -> Path | None:
    """Where caches lie by the option `cache`: the default if None or True, nowhere if False."""
    return default_folder() if cache in (None, True) else Path(cache) if cache else None


def kept(key: Any, write: Callable[[BinaryIO], dict[str, Any]], folder: Path | None) -> Stored:
    """What was once decoded, from the cache where that is whole, else decoded now.

    Args:
        key: Everything that the content depends on, of JSON types.
        write: Decodes into an open file and returns what to remember beside it, of JSON types; what it could
            not read stands under `skipped`, as (path, reason).
        folder: Where caches lie; None keeps the content in memory only.
    """
    if folder is not None:
        target = folder / sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:32]
        if (found := _open(target)) is not None:
            return found
        try:
            return _build(target, write)
        except OSError as error:
            _warn_once(str(folder), str(error))
    memory = BytesIO()
    index = write(memory)
    if not memory.getbuffer():
        return Stored(torch.zeros(0, dtype=torch.uint8), index)
    return Stored(torch.frombuffer(memory.getbuffer(), dtype=torch.uint8), index)


def stored(
    source: Source,
    *,
    store_size: int,
    channels: int | None,
    workers: int,
    folder: Path | None,
    progress: Progress | None = None,
) -> Stored:
    """Decoded images of a source, from the cache where that is whole and fits the source.

    Args:
        source: Where the images come from.
        store_size: Shorter side in pixels to which larger images are resized.
        channels: 1 or 3; None finds out.
        workers: Threads that decode.
        folder: Where caches lie; None keeps the images in memory only.
        progress: Called with the images done so far and their number, None where that is unknown.
    """

    def decoded(stream: BinaryIO) -> dict[str, Any]:
        return _decode(source, stream, store_size, channels, workers, progress)

    return kept(["images", source.fingerprint, store_size, channels], decoded, folder)


@cache
def _warn_once(folder: str, reason: str) -> None:
    _log.warning("cannot write the cache in %s (%s); what is decoded is kept in memory", folder, reason)


def _build(target: Path, decoded: Callable[[BinaryIO], dict[str, Any]]) -> Stored:
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    try:
        with open(building / "pixels.bin", "w+b", buffering=_BLOCK) as stream:
            index = decoded(stream)
        pixels = _read(building / "pixels.bin")
        index |= {"bytes": len(pixels), "checksum": _checksum(pixels)}
        text = json.dumps(index)
        (building / "index.json").write_text(f"{zlib.crc32(text.encode())}\n{text}")
        found = Stored(torch.from_numpy(pixels), index)
        if any(isinstance(reason, Temporary) for _, reason in index.get("skipped", ())):
            return found  # and publish nothing: the next start may read more
        if target.exists():
            shutil.rmtree(target.rename(target.parent / f"building-{uuid4().hex}"), ignore_errors=True)
        with suppress(OSError):  # another process was faster: its images are the same
            building.rename(target)
        return found
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
    """The images of a cache folder, None where it is missing, incomplete or damaged."""
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
    if path.stat().st_size <= _available_memory() // 3:
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


def _available_memory() -> int:
    """Bytes that can be had without swapping."""
    with suppress(OSError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _decode(
    source: Source,
    stream: BinaryIO,
    store_size: int,
    channels: int | None,
    workers: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write all images of a source one after the other and describe them."""
    reading = source.read()
    kept_channels, sizes, paths, labels = channels, [], [], []
    skipped: list[Skipped] = []
    for done, (item, image) in enumerate(decode_all(reading.items, store_size, channels, workers), 1):
        if isinstance(image, str):
            skipped.append(Skipped(item.path, image))
        else:
            if kept_channels == 1 and len(image) == 3:
                _widen(stream, sizes)
            kept_channels = max(kept_channels or 0, len(image))
            for _ in range(kept_channels // len(image)):
                stream.write(image.data)
            sizes.append(image.shape[1:])
            paths.append(item.path)
            labels.append(item.label)
        if progress is not None:
            progress(done, reading.total)
    if not sizes:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in skipped[:3])
        raise ValueError(f"no images in {source.name}; {len(skipped)} could not be decoded: {reasons}")
    return {
        "channels": kept_channels,
        "sizes": sizes if len(set(sizes)) > 1 else sizes[:1],
        "paths": paths,
        "labels": None if all(label is None for label in labels) else labels,
        "classes": reading.classes,
        "skipped": skipped,
    }


def _widen(stream: BinaryIO, sizes: list[tuple[int, ...]]) -> None:
    """Make the grey images written so far colour, the last one first so that none is overwritten unread."""
    areas = [height * width for height, width in sizes]
    end = sum(areas)
    while areas:
        start, taken = end, []
        while areas and end - start < _BLOCK:
            taken.append(areas.pop())
            start -= taken[-1]
        stream.seek(start)
        images = BytesIO(stream.read(end - start))
        stream.seek(3 * start)
        stream.writelines(3 * images.read(area) for area in reversed(taken))
        end = start
    stream.seek(0, os.SEEK_END)
