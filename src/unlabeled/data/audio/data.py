"""Sounds of any length in one flat block of memory, given out in batches."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_integers, as_tensor
from unlabeled.data.digests import digest
from unlabeled.data.labels import from_array, numbered
from unlabeled.data.samples import About, Batch, Data, Samples
from unlabeled.parts.resample import resample

__all__ = ["FULL_SCALE", "Sounds", "cut", "from_waveforms", "in_16_bits", "samples_of_crop"]

FULL_SCALE = 2**15
_BLOCK = 2**20
"""Samples that are rounded at a time: a long sound would take several times its memory at once."""


class Sounds(Data):
    """Sounds of one sample rate and any lengths.

    Args:
        samples: All sounds one after the other, float in -1..1 or int16, shape (samples,).
        lengths: Samples of each sound, int64, shape (sounds,).
        sample_rate: Samples per second, in hertz.
        **about: Name, paths, labels and so on, as in `Data`.
    """

    kind = "audio"
    unit = "sounds"
    group_unit = "recordings"
    per_sample = ("lengths", "offsets")

    def __init__(
        self,
        samples: Tensor,
        lengths: Tensor,
        *,
        sample_rate: int,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(**about)
        assert len(lengths) == len(self) and int(lengths.sum()) == len(samples)
        self.samples, self.lengths, self.sample_rate = samples, lengths, sample_rate
        self.offsets = lengths.cumsum(0) - lengths
        """Where each sound starts in `samples`, int64, shape (sounds,)."""
        self.longest: int | None = None
        """Most samples of a sound that are given out; a longer one is cut at random."""

    @property
    def shape(self) -> dict[str, int]:
        return {"sample_rate": self.sample_rate}

    @property
    def seconds(self) -> float:
        """Seconds of all sounds together."""
        return int(self.lengths.sum()) / self.sample_rate

    def batch(self, index: Tensor) -> Batch:
        """Give out sounds.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `waveform` float (batch, samples) in -1..1, zeros after the end of shorter ones; `length` int64
            (batch,), true samples of each; `index` int64 (batch,). Where sounds are not independent, `group` int64
            (batch,) numbers what they have in common, such as the speaker.
        """
        rows = index.cpu()
        waveform, lengths = cut(self.samples, self.offsets[rows], self.lengths[rows], self.longest)
        groups = {} if self.groups is None else {"group": self.groups[rows]}
        return self.on_device({"waveform": waveform, "length": lengths, "index": rows} | groups)

    def crops(self, seconds: float) -> Self:
        """The same sounds, of which longer ones are given out as a piece from a random place.

        Args:
            seconds: Length of the piece, above 0.
        """
        view = copy.copy(self)
        view.longest = samples_of_crop(seconds, self.sample_rate)
        return view

    def resampled(self, sample_rate: int) -> Self:
        """The same sounds at another sample rate, converted at once and held in memory.

        Args:
            sample_rate: Samples per second, in hertz.
        """
        if sample_rate == self.sample_rate:
            return self
        view, floats = copy.copy(self), self.samples.is_floating_point()
        pieces = [
            resample(sound.float() / (1 if floats else FULL_SCALE), self.sample_rate, sample_rate)
            for sound in self._sounds()
        ]
        view.samples = torch.cat(pieces if floats else [*map(in_16_bits, pieces)])
        view.lengths = torch.tensor([len(piece) for piece in pieces])
        view.offsets = view.lengths.cumsum(0) - view.lengths
        view.sample_rate = sample_rate
        if self.longest is not None:
            view.longest = max(1, round(self.longest * sample_rate / self.sample_rate))
        return view

    def _sounds(self) -> Iterator[Tensor]:
        for start, length in zip(self.offsets.tolist(), self.lengths.tolist()):
            yield self.samples[start : start + length]

    def _contents(self) -> Iterable[int]:
        return (digest(in_16_bits(sound)) for sound in self._sounds())


def samples_of_crop(seconds: float, sample_rate: int) -> int:
    """Samples of a piece of so many seconds, which must be above 0, at a sample rate in hertz."""
    check.positive(seconds=seconds)
    return max(1, round(min(seconds, 1e9) * sample_rate))


def cut(samples: Tensor, starts: Tensor, lengths: Tensor, longest: int | None) -> tuple[Tensor, Tensor]:
    """Some sounds out of a row of them, longer ones from a random place on.

    Args:
        samples: Sounds one after the other, float in -1..1 or int16, shape (samples,).
        starts: Where each of some sounds starts, int64, shape (batch,).
        lengths: Its samples, int64, shape (batch,).
        longest: Most samples of each that are given out; None for all.

    Returns:
        Float in -1..1, shape (batch, samples), zeros after the end of shorter ones; and true samples of each, int64,
        shape (batch,).
    """
    if longest is not None:
        room = (lengths - longest).clamp(min=0)
        starts = starts + (torch.rand(len(starts)) * (room + 1)).long().minimum(room)
        lengths = lengths.clamp(max=longest)
    waveform = torch.zeros(len(starts), int(lengths.max()))
    for row, start, length in zip(waveform, starts.tolist(), lengths.tolist()):
        row[:length] = samples[start : start + length]
    return waveform if samples.is_floating_point() else waveform.div_(FULL_SCALE), lengths


def in_16_bits(sound: Tensor) -> Tensor:
    """Sound in -1..1 as int16, louder ones clipped; what is int16 stays."""
    if not sound.is_floating_point():
        return sound
    parts = ((part * FULL_SCALE).round() for part in sound.split(_BLOCK, -1))
    return torch.cat([part.clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16) for part in parts], -1)


def from_waveforms(
    waveforms: np.ndarray | Tensor,
    sample_rate: int,
    *,
    lengths: np.ndarray | Tensor | None = None,
    labels: Any = None,
    classes: list[str] | None = None,
    factors: Mapping[str, Tensor] | None = None,
    name: str = "array",
) -> Sounds:
    """Data of sounds in an array.

    Args:
        waveforms: Floats in -1..1 or int16, shape (sounds, samples).
        sample_rate: Samples per second, in hertz.
        lengths: True samples of each, from 1 to samples, integers, shape (sounds,); None for all.
        labels: Class of each sound, numbers or text, shape (sounds,).
        classes: Names of the classes by label.
        factors: What else is known of each sound, as in `Data`.
        name: What the data is called in reports and messages.

    Raises:
        ValueError: The type, the shape or the values are others.
    """
    sounds = as_tensor(waveforms, name)
    if sounds.ndim != 2 or 0 in sounds.shape:
        raise UserError(f"{name} must have axes sounds and samples, got shape {tuple(sounds.shape)}")
    if sounds.dtype != torch.int16:
        if not sounds.is_floating_point():
            raise UserError(f"{name} must be floats in -1..1 or int16, got {sounds.dtype}")
        if not (peak := sounds.abs().max()) <= 1:
            raise UserError(f"{name} must be floats in -1..1 or int16, got floats up to {peak:g}")
        sounds = sounds.float()
    count, most = sounds.shape
    true = torch.full((count,), most) if lengths is None else as_integers(lengths, count, "lengths", name)
    if not (true.min() >= 1 and true.max() <= most):
        got = f"{int(true.min())}..{int(true.max())}"
        raise UserError(f"lengths of {name} must be from 1 to {most}, got {got}")
    check.whole(sample_rate=sample_rate)
    check.at_least(1, sample_rate=sample_rate)
    about = About(classes=classes, factors=factors)
    if labels is not None:
        about |= numbered(from_array(labels, count, name), classes).about(name)
    paths = [f"{name}[{row}]" for row in range(count)]
    samples = sounds[torch.arange(most) < true[:, None]]
    return Sounds(samples, true, sample_rate=sample_rate, name=name, paths=paths, **about)
