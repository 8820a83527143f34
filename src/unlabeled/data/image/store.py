"""Decoded images of a source, in the cache as they were decoded and once more as they are used.

What is stored first has the channels and bits of the files; other channels or fewer bits are a cache of their own.
"""

import math
import os
from collections import Counter
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.cache import Stored, available_memory, folder_of, load_or_build
from unlabeled.data.decoding import Recorder
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import OPTIONAL, decode_all
from unlabeled.data.image.levels import Levels, Ranges, parsed, say, to_uint8
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions
from unlabeled.data.sources import Source
from unlabeled.data.streaming.cache import in_words

__all__ = ["stored"]

_BLOCK = 2**20
_ESTIMATED = 256
"""Images after which the space for all is estimated."""


def stored(source: Source, options: OpenOptions) -> Stored:
    """Decoded images of a source, uint8, from the cache where that is whole and fits the source.

    Raises:
        ValueError: There is no image, or the images have other channels that cannot be converted.
    """
    folder = None if source.fingerprint is None else folder_of(options.cache)
    key = ["images", source.fingerprint, options.side("image"), options.pages, *OPTIONAL]
    base = load_or_build(key, partial(_decode, source, options), folder)
    about, channels = base.about, base.about["channels"]
    for text, count in about["notes"].items():
        note(f"{source.name}: {count} of {len(about['paths'])} images: {text}")
    target = options.channels or channels
    if not about["levels"] and target == channels:
        return base
    if target != channels and {target, channels} != {1, 3}:
        raise UserError(f"channels of {source.name} must be {channels}, as its images have, got {target}")
    levels = parsed(options.levels)
    levels = {numbers: levels.get(numbers) or own for numbers, own in about["levels"].items()}
    if bad := [bands for bands in levels.values() if len(bands) not in (1, channels)]:
        raise UserError(
            f"levels of {source.name} must be 1 or {channels} ranges, one a band, got {len(bad[0])}"
        )
    key = ["converted", *key, target, levels]
    converted = load_or_build(key, partial(_convert, base, target, levels), folder)
    if levels:
        say(source.name, levels, converted.about["beyond"])
    return converted


def _convert(base: Stored, channels: int, levels: Levels, stream: BinaryIO) -> dict[str, Any]:
    """Write stored images in 8 bits and other channels and describe them."""
    about, beyond, start = base.about, 0, 0
    count, pixels = len(about["paths"]), base.pixels.numpy()
    sizes, types = (
        values * (count if len(values) == 1 else 1) for values in (about["sizes"], about["types"])
    )
    for size, kind in zip(sizes, types, strict=True):
        shape = (about["channels"], *size)
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        image, clipped = to_uint8(pixels[start:end].view(kind).reshape(shape), levels)
        stream.write(np.ascontiguousarray(with_channels(image, channels)).data)
        beyond, start = beyond + clipped, end
    fraction = beyond / (about["channels"] * sum(map(math.prod, sizes)))
    return about | {"channels": channels, "types": ["uint8"], "levels": levels, "beyond": fraction}


def _decode(source: Source, options: OpenOptions, stream: BinaryIO) -> dict[str, Any]:
    """Write all images of a source one after the other, grey ones as colour beside coloured ones, and describe them."""
    reading = source.read()
    recorder = Recorder(stream, reading.total, options.progress, ("sizes", "types", "originals"))
    sizes, types = recorder.facts["sizes"], recorder.facts["types"]
    ranges, notes, channels, first = Ranges(), Counter(), 0, ""
    for item, image in decode_all(reading.items, options.side("image"), options.threads, options.pages):
        if isinstance(image, str):
            recorder.skip(item.path, image)
            continue
        pixels, own = image.pixels, len(image.pixels)
        if channels not in (0, own) and {channels, own} != {1, 3}:
            recorder.skip(item.path, f"{own} channels, where {first} has {channels}")
            continue
        if (channels, own) == (1, 3):
            _widen(stream, [math.prod(size) * np.dtype(kind).itemsize for size, kind in zip(sizes, types)])
        channels, first = max(channels, own), first or item.path
        ranges.add(pixels)
        notes.update(image.notes)
        facts = {"labels": item.label, "sizes": pixels.shape[1:], "types": pixels.dtype.name}
        facts["originals"] = image.original
        recorder.add(item.path, pixels.tobytes() * (channels // own), **facts)
        if len(sizes) == _ESTIMATED and reading.total:
            _refuse_too_large(source.name, stream, reading.total / recorder.done)
    facts = recorder.facts
    if not sizes:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in facts["skipped"][:3])
        count = len(facts["skipped"])
        raise UserError(f"no images in {source.name}; {count} could not be decoded: {reasons}")
    return facts | {
        "channels": channels,
        "sizes": sizes if len({*sizes}) > 1 else sizes[:1],
        "types": types if len({*types}) > 1 else types[:1],
        "originals": facts["originals"] if len({*facts["originals"]}) > 1 else facts["originals"][:1],
        "levels": ranges.choose(),
        "notes": dict(notes),
        "labels": None if all(label is None for label in facts["labels"]) else facts["labels"],
        "classes": reading.classes,
    }


def _refuse_too_large(name: str, stream: BinaryIO, times: float) -> None:
    """Refuse images that need so many times the space of the first ones, where the disk or the memory has less."""
    need = times * stream.tell()
    try:
        about = os.fstatvfs(stream.fileno())
        place, free = "the disk of the cache", about.f_bavail * about.f_frsize
    except OSError:  # memory is no file
        place, free = "memory", available_memory()
    if need - stream.tell() > free:
        raise UserError(
            f"{name} must be streamed (--stream, from tar or parquet files), as decoded images take {in_words(need)} "
            f"and {place} has {in_words(free)}"
        )


def _widen(stream: BinaryIO, areas: list[int]) -> None:
    """Make grey images colour, the last one first so that none is overwritten unread; `areas` are their bytes."""
    end = sum(areas)
    while areas:
        start, block = end, []
        while areas and end - start < _BLOCK:
            block.append(areas.pop())
            start -= block[-1]
        stream.seek(start)
        images = BytesIO(stream.read(end - start))
        stream.seek(3 * start)
        stream.writelines(3 * images.read(area) for area in reversed(block))
        end = start
    stream.seek(0, os.SEEK_END)
