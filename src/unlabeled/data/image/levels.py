"""How pixels of more than 8 bits become 8 bits: one range of values for the whole data set.

Integers other than uint8, and floats, each have their range. It is the first of 0..255, 0..511 ... 0..2^k-1 (of
floats 0..1, then 0..255) that holds every value and leaves at least 64 of the 256 levels to them, else the smallest to
the largest value. Where a few outliers would leave fewer than 64 levels to the middle 99.8 % of the pixels, the range
is that of these, widened by its own length to either side, and what lies beyond is clipped. Images of more than three
bands have a range for each band. 8-bit images stay as they are, and pixels that are not numbers take the lowest value
of their image.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.check import UserError
from unlabeled.data.notes import note

__all__ = ["Levels", "Ranges", "described", "finite", "kind_of", "parsed", "say", "storable", "to_uint8"]

Levels = dict[str, list[list[float]]]
"""Lowest and highest value, once for all bands or for each band, of `integers` and of `floats`."""

_TYPES = {"u1": "uint8", "u2": "uint16", "i1": "int16", "i2": "int16", "i4": "int32"}
"""Types in which integers are stored before they become 8 bits, int64 for all others; floats are float32."""
_FULL = {"integers": (65535.0,), "floats": (1.0, 255.0)}
_FEWEST = 64
_TAIL = 0.001
_SAMPLED, _IMAGES = 4096, 512
"""Most values of a band that are sampled of an image, and images that are sampled."""


def kind_of(pixels: NDArray[Any]) -> str | None:
    """`integers` or `floats`; None for uint8, which needs no range."""
    return None if pixels.dtype == np.uint8 else "floats" if pixels.dtype.kind == "f" else "integers"


def storable(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels of any type of numbers as they are stored, without loss but for floats of 64 bits."""
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind not in "biuf" or size > 8:
        raise UserError(f"pixels must be real numbers of at most 64 bits, got {pixels.dtype}")
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        with np.errstate(over="ignore"):
            return pixels.astype(np.float32, copy=False)
    if kind == "u" and size == 8:
        pixels = np.minimum(pixels, np.uint64(2**63 - 1))
    return pixels.astype(_TYPES.get(f"{kind}{size}", "int64"), copy=False)


def finite(pixels: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Pixels with the lowest (highest) finite value in place of NaN and -inf (inf), and whether there were any."""
    if pixels.dtype.kind != "f" or bool((regular := np.isfinite(pixels)).all()):
        return pixels, False
    if not regular.any():
        raise UserError("no pixel is a finite number")
    low, high = float(pixels[regular].min()), float(pixels[regular].max())
    return np.nan_to_num(pixels, nan=low, posinf=high, neginf=low), True


class Ranges:
    """Collects the values of a data set, image after image, and chooses their range."""

    def __init__(self) -> None:
        self.extremes: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self.samples: dict[str, list[NDArray[Any]]] = {}
        self.count, self.every = 0, 1

    def add(self, pixels: NDArray[Any]) -> None:
        """Count an image, shape (bands, height, width), finite; all images have as many bands, or 1 or 3."""
        kind = kind_of(pixels)
        if kind is None:
            return
        bands = pixels.reshape(len(pixels) if len(pixels) > 3 else 1, -1)
        low, high = bands.min(1), bands.max(1)
        if kind in self.extremes:
            low, high = np.minimum(low, self.extremes[kind][0]), np.maximum(high, self.extremes[kind][1])
        self.extremes[kind] = (low, high)
        samples = self.samples.setdefault(kind, [])
        if self.count % self.every == 0 or not samples:
            samples.append(bands[:, :: max(1, -(-bands.shape[1] // _SAMPLED))].copy())
            if len(samples) > _IMAGES:
                self.samples[kind], self.every = samples[::2], 2 * self.every
        self.count += 1

    def choose(self) -> Levels:
        """The range of each kind of numbers in the images, by the rule of this module."""
        levels = {}
        for kind, (lows, highs) in self.extremes.items():
            sample = np.concatenate(self.samples[kind], 1).astype(np.float64)
            bands = zip(lows.tolist(), highs.tolist(), sample)
            ranges = [_range(kind, float(low), float(high), band) for low, high, band in bands]
            levels[kind] = ranges if any(pair != ranges[0] for pair in ranges) else ranges[:1]
        return levels


def _range(kind: str, low: float, high: float, sample: NDArray[np.float64]) -> list[float]:
    first, last = np.quantile(sample, [_TAIL, 1 - _TAIL]).tolist()
    if 0 < (last - first) * 256 < _FEWEST * (high - low):
        low, high = max(low, 2 * first - last), min(high, 2 * last - first)
    if low == high:  # nothing tells how many bits are in use
        usual = [top for top in _FULL[kind] if 0 <= low <= top]
        return [0.0, usual[0]] if usual else [low, low + 1]
    for top in _tops(kind, high):
        if low >= 0 and (high - low) * 256 >= _FEWEST * top:
            return [0.0, top]
    return [low, high]


def _tops(kind: str, high: float) -> Iterator[float]:
    """The usual ranges 0..top that hold a value."""
    if kind == "floats":
        yield from (top for top in _FULL[kind] if high <= top)
    elif 0 <= high < 2**63:
        yield float(2 ** max(8, int(high).bit_length()) - 1)


def to_uint8(pixels: NDArray[Any], levels: Levels) -> tuple[NDArray[np.uint8], int]:
    """Pixels in 0..255 by their range, clipped to it, and how many lay beyond.

    Args:
        pixels: Finite, as `storable` gives them, shape (bands, height, width).
        levels: Ranges of which one is of the kind of these pixels, once or for each band; uint8 needs none.
    """
    kind = kind_of(pixels)
    if kind is None:
        return pixels, 0
    ranges = levels[kind]
    if len(ranges) not in (1, len(pixels)):
        raise UserError(f"levels must be one range or one for each of {len(pixels)} bands, got {len(ranges)}")
    mapped, beyond = np.empty(pixels.shape, np.uint8), 0
    for band, values in enumerate(pixels):  # band by band, for this takes eight bytes a pixel
        low, high = ranges[band % len(ranges)]
        beyond += int(((values < low) | (values > high)).sum())
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        mapped[band] = np.rint(np.clip(scaled, 0, 255))
    return mapped, beyond


def parsed(levels: "str | Sequence[float] | Mapping[str, Any] | None") -> Levels:
    """Ranges out of what a user or a file says: `LOW,HIGH`, a pair, or a table as in `Levels`."""
    if levels is None:
        return {}
    try:
        table: Mapping[str, Any]
        if isinstance(levels, Mapping):
            table = levels
        else:
            low, high = levels.split(",") if isinstance(levels, str) else levels
            table = {kind: [[low, high]] for kind in _FULL}
        ranges = {kind: [[float(low), float(high)] for low, high in pairs] for kind, pairs in table.items()}
    except (TypeError, ValueError):
        ranges = {"": []}
    if any(kind not in _FULL or not pairs for kind, pairs in ranges.items()) or not all(
        -np.inf < low < high < np.inf for pairs in ranges.values() for low, high in pairs
    ):
        raise UserError(f"levels must be LOW,HIGH with LOW below HIGH, got {levels}")
    return ranges


def described(levels: Levels) -> str:
    """Ranges in words, as `integers in 0..4095`."""
    texts = []
    for kind, ranges in levels.items():
        words = list(dict.fromkeys(f"{low:.7g}..{high:.7g}" for low, high in ranges))
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        bands = f", one range for each of {len(ranges)} bands" if len(ranges) > 1 else ""
        texts.append(f"{kind} in {', '.join(words[:3])}{more}{bands}")
    return " and ".join(texts)


def say(name: str, levels: Levels, beyond: float) -> None:
    """Log, once for each text, which values become 0..255, and the fraction of the values beyond."""
    clipped = f"; {beyond:.2%} of the values lie beyond and are clipped" if beyond else ""
    note(f"{name}: {described(levels)} are mapped to 0..255, the same in all images{clipped}")
