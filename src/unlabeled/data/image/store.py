"""Decoded images of a source, in the cache as they were decoded and once more as they are wanted.

What is stored first has the channels and bits of the files; where other channels or fewer bits are wanted, what comes
of the conversion is a cache of its own.
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
from unlabeled.data.cache import Stored, folder_of, load_or_build
from unlabeled.data.image.data import with_channels
from unlabeled.data.image.decode import OPTIONAL, Decoded, decode_all
from unlabeled.data.image.levels import Levels, Ranges, parsed, say, to_uint8
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions
from unlabeled.data.samples import Item, Skipped
from unlabeled.data.sources import Source

__all__ = ["STORE_SIZE", "stored"]

STORE_SIZE = 160
"""Shorter side in pixels to which larger images are resized."""
_BLOCK = 2**20


def stored(source: Source, options: OpenOptions) -> Stored:
    """Decoded images of a source, uint8, from the cache where that is whole and fits the source.

    Raises:
        ValueError: There is no image, or the images have other channels that cannot be converted.
    """
    folder = None if source.fingerprint is None else folder_of(options.cache)
    key = ["images", source.fingerprint, options.store_size or STORE_SIZE, options.pages, *OPTIONAL]
    base = load_or_build(key, partial(_decode, source, options), folder)
    channels, deep = base.about["channels"], base.about["levels"]
    for text, count in base.about["notes"].items():
        note(f"{source.name}: {count} of {len(base.about['paths'])} images: {text}")
    wanted = options.channels or channels
    if not deep and wanted == channels:
        return base
    if wanted != channels and {wanted, channels} != {1, 3}:
        raise UserError(f"channels of {source.name} must be {channels}, as its images have, got {wanted}")
    levels = parsed(options.levels)
    ranges: Levels = {kind: levels.get(kind) or own for kind, own in deep.items()}
    if bad := [bands for bands in ranges.values() if len(bands) not in (1, channels)]:
        raise UserError(
            f"levels of {source.name} must be 1 or {channels} ranges, one a band, got {len(bad[0])}"
        )
    key = ["converted", *key, wanted, ranges]
    converted = load_or_build(key, partial(_convert, base, wanted, ranges), folder)
    if deep:
        say(source.name, ranges, converted.about["beyond"])
    return converted


def _convert(base: Stored, channels: int, levels: Levels, stream: BinaryIO) -> dict[str, Any]:
    """Write stored images in 8 bits and other channels and describe them."""
    about, beyond, start = base.about, 0, 0
    count, pixels = len(about["paths"]), base.pixels.numpy()
    sizes = _each(about["sizes"], count)
    for size, kind in zip(sizes, _each(about["types"], count)):
        shape = (about["channels"], *size)
        end = start + math.prod(shape) * np.dtype(kind).itemsize
        image, clipped = to_uint8(pixels[start:end].view(kind).reshape(shape), levels)
        stream.write(np.ascontiguousarray(with_channels(image, channels)).data)
        beyond, start = beyond + clipped, end
    fraction = beyond / (about["channels"] * sum(map(math.prod, sizes)))
    return about | {"channels": channels, "types": ["uint8"], "levels": levels, "beyond": fraction}


def _each(values: list[Any], count: int) -> list[Any]:
    """A value for each of so many images, which may all have the same one."""
    return values if len(values) == count else values * count


class _Writer:
    """Writes decoded images one after the other, grey ones as colour where some are coloured."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.channels, self.first = 0, ""
        self.sizes: list[tuple[int, ...]] = []
        self.types: list[str] = []
        self.items: list[Item] = []
        self.skipped: list[Skipped] = []
        self.ranges, self.notes = Ranges(), Counter()

    def add(self, item: Item, image: Decoded | str) -> None:
        """Write an image, or note the reason why there is none."""
        if isinstance(image, str):
            self.skipped.append(Skipped(item.path, image))
            return
        pixels, channels = image.pixels, len(image.pixels)
        if self.channels not in (0, channels) and {self.channels, channels} != {1, 3}:
            reason = f"{channels} channels, where {self.first} has {self.channels}"
            self.skipped.append(Skipped(item.path, reason))
            return
        if (self.channels, channels) == (1, 3):
            self._widen()
        self.channels, self.first = max(self.channels, channels), self.first or item.path
        for _ in range(self.channels // channels):
            self.stream.write(pixels.data)
        self.ranges.add(pixels)
        self.notes.update(image.notes)
        self.sizes.append(pixels.shape[1:])
        self.types.append(pixels.dtype.name)
        self.items.append(item._replace(content=b""))  # what is written need not stay

    def _widen(self) -> None:
        """Make the grey images written so far colour, the last one first so that none is overwritten unread."""
        areas = [math.prod(size) * np.dtype(kind).itemsize for size, kind in zip(self.sizes, self.types)]
        end = sum(areas)
        while areas:
            start, block = end, []
            while areas and end - start < _BLOCK:
                block.append(areas.pop())
                start -= block[-1]
            self.stream.seek(start)
            images = BytesIO(self.stream.read(end - start))
            self.stream.seek(3 * start)
            self.stream.writelines(3 * images.read(area) for area in reversed(block))
            end = start
        self.stream.seek(0, os.SEEK_END)

    def about(self, classes: list[str] | None) -> dict[str, Any]:
        """What the index says of the images."""
        labels = [item.label for item in self.items]
        return {
            "channels": self.channels,
            "sizes": self.sizes if len({*self.sizes}) > 1 else self.sizes[:1],
            "types": self.types if len({*self.types}) > 1 else self.types[:1],
            "levels": self.ranges.choose(),
            "notes": dict(self.notes),
            "paths": [item.path for item in self.items],
            "labels": None if all(label is None for label in labels) else labels,
            "classes": classes,
            "skipped": self.skipped,
        }


def _decode(source: Source, options: OpenOptions, stream: BinaryIO) -> dict[str, Any]:
    """Write all images of a source one after the other and describe them."""
    reading, writer = source.read(), _Writer(stream)
    size = options.store_size or STORE_SIZE
    decoded = decode_all(reading.items, size, options.threads, options.pages)
    for done, (item, image) in enumerate(decoded, 1):
        if options.progress is not None:
            options.progress(done, reading.total)
        writer.add(item, image)
    if not writer.items:
        reasons = "; ".join(check.one_line(f"{skip.path}: {skip.reason}") for skip in writer.skipped[:3])
        raise UserError(f"no images in {source.name}; {len(writer.skipped)} could not be decoded: {reasons}")
    return writer.about(reading.classes)
