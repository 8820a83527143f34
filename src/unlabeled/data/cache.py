"""Decode once: all images of a source in one flat file, trusted only when it fits its checksums.

A cache is a folder of two files, `pixels.bin` (one image after the other) and `index.json`, built under another name
and renamed when it is complete. Its own name is a hash of everything the pixels depend on. Images are stored as they
were decoded; where they are wanted in other channels or in fewer bits, what comes of the conversion is a cache of its
own.
"""

import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections import Counter
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

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import OPTIONAL, decode_all
from unlabeled.data.image.levels import Levels, Ranges, say, to_uint8
from unlabeled.data.notes import note
from unlabeled.data.options import Pages, Progress
from unlabeled.data.samples import Skipped, Temporary
from unlabeled.data.sources import Source

__all__ = ["Progress", "Stored", "default_folder", "folder_of", "kept", "stored"]

_VERSION = 5
_WHOLE = 256 * 2**20
_BLOCK, _BLOCKS = 2**20, 128
_DAY_SECONDS = 24 * 3600


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
        _cannot_write("~/.cache/unlabeled", error)
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
            _cannot_write(str(folder), error)
    memory = BytesIO()
    index = write(memory)
    if not memory.getbuffer():
        return Stored(torch.zeros(0, dtype=torch.uint8), index)
    return Stored(torch.frombuffer(memory.getbuffer(), dtype=torch.uint8), index)


def stored(
    source: Source,
    *,
    store_size: int,
    workers: int,
    folder: Path | None,
    channels: int | None = None,
    levels: Levels | None = None,
    pages: Pages = "first",
    progress: Progress | None = None,
) -> Stored:
    """Decoded images of a source, from the cache where that is whole and fits the source.

    Args:
        source: Where the images come from.
        store_size: Shorter side in pixels to which larger images are resized.
        workers: Threads that decode.
        folder: Where caches lie; None keeps the images in memory only.
        channels: Channels of all images; None finds out.
        levels: Values that become 0 and 255, for numbers of more than 8 bits; None takes those that suit the source.
        pages: What is read of a file of several pages, as in `decode.read`.
        progress: Called with the images done so far and their number, None where that is unknown.

    Raises:
        ValueError: There is no image, or the images have other channels that cannot be converted.
    """

    def decoded(stream: BinaryIO) -> dict[str, Any]:
        return _decode(source, stream, store_size, pages, workers, progress)

    key = ["images", source.fingerprint, store_size, pages, *OPTIONAL]
    base = kept(key, decoded, folder)
    given, deep = base.about["channels"], base.about["levels"]
    for text, count in base.about["notes"].items():
        note(f"{source.name}: {count} of {len(base.about['paths'])} images: {text}")
    if not deep and channels in (None, given):
        return base
    if channels not in (None, given) and {channels, given} != {1, 3}:
        raise UserError(f"channels of {source.name} must be {given}, as its images have, got {channels}")
    ranges: Levels = {kind: (levels or {}).get(kind) or found for kind, found in deep.items()}
    if bad := [found for found in ranges.values() if len(found) not in (1, given)]:
        raise UserError(f"levels of {source.name} must be 1 or {given} ranges, one a band, got {len(bad[0])}")
    key = ["converted", *key, channels or given, ranges]
    converted = kept(key, lambda stream: _convert(base, stream, channels or given, ranges), folder)
    if deep:
        say(source.name, ranges, converted.about["beyond"])
    return converted


def _convert(base: Stored, stream: BinaryIO, channels: int, levels: Levels) -> dict[str, Any]:
    """Write stored images in 8 bits and other channels and describe them."""
    about, beyond, start = base.about, 0, 0
    count, pixels = len(about["paths"]), base.pixels.numpy()
    for size, kind in zip(_each(about["sizes"], count), _each(about["types"], count)):
        shape = (about["channels"], *size)
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        image, clipped = to_uint8(pixels[start:end].view(kind).reshape(shape), levels)
        stream.write(np.ascontiguousarray(with_channels(image, channels)).data)
        beyond, start = beyond + clipped, end
    share = beyond / sum(about["channels"] * math.prod(size) for size in _each(about["sizes"], count))
    return about | {"channels": channels, "types": ["uint8"], "levels": levels, "beyond": share}


def _each(values: list[Any], count: int) -> list[Any]:
    """A value for each of so many images, which may all have the same one."""
    return values if len(values) == count else values * count


def _cannot_write(folder: str, error: Exception) -> None:
    note(f"cannot write the cache in {folder} ({error}); what is decoded is kept in memory")


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
    pages: Pages,
    workers: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write all images of a source one after the other and describe them."""
    reading = source.read()
    channels, first = 0, ""
    sizes, types, paths, labels = [], [], [], []
    skipped: list[Skipped] = []
    ranges, notes = Ranges(), Counter()
    for done, (item, image) in enumerate(decode_all(reading.items, store_size, workers, pages), 1):
        if progress is not None:
            progress(done, reading.total)
        if isinstance(image, str):
            skipped.append(Skipped(item.path, image))
            continue
        pixels = image.pixels
        if channels not in (0, len(pixels)) and {channels, len(pixels)} != {1, 3}:
            skipped.append(Skipped(item.path, f"{len(pixels)} channels, where {first} has {channels}"))
            continue
        if (channels, len(pixels)) == (1, 3):
            _widen(stream, [math.prod(size) * np.dtype(kind).itemsize for size, kind in zip(sizes, types)])
        channels, first = max(channels, len(pixels)), first or item.path
        for _ in range(channels // len(pixels)):
            stream.write(pixels.data)
        ranges.add(pixels)
        notes.update(image.notes)
        sizes.append(pixels.shape[1:])
        types.append(pixels.dtype.name)
        paths.append(item.path)
        labels.append(item.label)
    if not sizes:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in skipped[:3])
        raise UserError(f"no images in {source.name}; {len(skipped)} could not be decoded: {reasons}")
    return {
        "channels": channels,
        "sizes": sizes if len(set(sizes)) > 1 else sizes[:1],
        "types": types if len(set(types)) > 1 else types[:1],
        "levels": ranges.choose(),
        "notes": dict(notes),
        "paths": paths,
        "labels": None if all(label is None for label in labels) else labels,
        "classes": reading.classes,
        "skipped": skipped,
    }


def _widen(stream: BinaryIO, areas: list[int]) -> None:
    """Make the grey images written so far colour, the last one first so that none is overwritten unread.

    Args:
        stream: Open for reading and writing.
        areas: Bytes of each image.
    """
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
