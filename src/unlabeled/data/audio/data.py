"""Sounds of any length in one flat block of memory, given out in batches; and where they come from.

Read are folders of audio files (perhaps in class folders, and these in split folders), parquet files with a column of
encoded audio, .npy and .npz files, and arrays. Channels are averaged, every sound is brought to one sample rate,
and what comes of it is kept as 16-bit numbers, decoded once. An .npz file holds `waveforms` (floats in -1..1 or
int16, shape (sounds, samples)), `sample_rate`, and perhaps `lengths` in samples and `labels`; or these once per
split, as `train_waveforms` and so on.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import as_integers, as_tensor, read_npy, read_npz
from unlabeled.data.audio.read import FULL_SCALE, Split, find_splits, write
from unlabeled.data.cache import folder_of, kept
from unlabeled.data.digests import digest
from unlabeled.data.labels import from_array, numbered
from unlabeled.data.notes import note
from unlabeled.data.options import OpenOptions, refuse_broken
from unlabeled.data.samples import About, Batch, Data, Skipped
from unlabeled.parts.resample import resample
from unlabeled.worlds import tones

__all__ = ["Sounds", "built_in", "find", "from_waveforms"]

_LOOKED_AT = 2**20
"""Samples in which sound is looked for at a time."""
_SPLITS = {"": "all", "train_": "train", "test_": "test", "val_": "validation", "validation_": "validation"}
_TONES = {"train": (1_000, 0), "test": (500, 1)}


class Sounds(Data):
    """Sounds of one sample rate and any lengths.

    Args:
        samples: All sounds one after the other, float in -1..1 or int16, shape (samples,).
        lengths: Samples of each sound, int64, shape (sounds,).
        sample_rate: Samples per second, in hertz.
        name: What the data is called in reports.
        paths: Where each sound came from.
        **about: As in `Data`.
    """

    kind = "audio"
    unit = "sounds"
    group_unit = "recordings"

    def __init__(
        self,
        samples: Tensor,
        lengths: Tensor,
        *,
        sample_rate: int,
        name: str,
        paths: Sequence[str],
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        assert len(lengths) == len(paths) and int(lengths.sum()) == len(samples)
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
            `waveform` float (batch, samples) in -1..1, zeros behind the end of shorter ones; `length` int64
            (batch,), true samples of each; `index` int64 (batch,).
        """
        rows = index.cpu()
        starts, lengths = self.offsets[rows], self.lengths[rows]
        if self.longest is not None:
            room = (lengths - self.longest).clamp(min=0)
            starts = starts + (torch.rand(len(rows)) * (room + 1)).long().minimum(room)
            lengths = lengths.clamp(max=self.longest)
        waveform = torch.zeros(len(rows), int(lengths.max()))
        for row, start, length in zip(waveform, starts.tolist(), lengths.tolist()):
            row[:length] = self.samples[start : start + length]
        if not self.samples.is_floating_point():
            waveform /= FULL_SCALE
        return self.on_device({"waveform": waveform, "length": lengths, "index": rows})

    def digests(self) -> Tensor:
        """As in `Data`; of the whole sounds in 16 bits, wherever they are cut."""
        numbers = []
        for start, length in zip(self.offsets.tolist(), self.lengths.tolist()):
            sound = self.samples[start : start + length]
            numbers.append(digest(_in_16_bits(sound) if sound.is_floating_point() else sound))
        return torch.tensor(numbers, dtype=torch.int64)

    def crops(self, seconds: float) -> Self:
        """The same sounds, of which longer ones are given out as a piece from a random place.

        Args:
            seconds: Length of the piece, above 0.
        """
        check.positive(seconds=seconds)
        view = copy.copy(self)
        view.longest = max(1, round(min(seconds, 1e9) * self.sample_rate))
        return view

    def resampled(self, sample_rate: int) -> Self:
        """The same sounds at another sample rate, made at once and kept in memory.

        Args:
            sample_rate: Samples per second, in hertz.
        """
        if sample_rate == self.sample_rate:
            return self
        view = copy.copy(self)
        pieces = [
            resample(self.samples[start : start + length].float(), self.sample_rate, sample_rate)
            for start, length in zip(self.offsets.tolist(), self.lengths.tolist())
        ]
        view.samples = torch.cat(pieces)
        if not self.samples.is_floating_point():
            view.samples = view.samples.round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)
        view.lengths = torch.tensor([len(piece) for piece in pieces])
        view.offsets = view.lengths.cumsum(0) - view.lengths
        view.sample_rate = sample_rate
        if self.longest is not None:
            view.longest = max(1, round(self.longest * sample_rate / self.sample_rate))
        return view

    def _keep(self, rows: Tensor) -> None:
        self.lengths, self.offsets = self.lengths[rows], self.offsets[rows]


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
    """Data of sounds that are all there.

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
    sounds = _sounds(waveforms, name)
    count, most = sounds.shape
    true = torch.full((count,), most) if lengths is None else as_integers(lengths, count, "lengths", name)
    if not (true.min() >= 1 and true.max() <= most):
        raise UserError(
            f"lengths of {name} must be from 1 to {most}, got {int(true.min())}..{int(true.max())}"
        )
    check.whole(sample_rate=sample_rate)
    check.at_least(1, sample_rate=sample_rate)
    known = None if labels is None else numbered(from_array(labels, count, name), classes)
    return Sounds(
        sounds[torch.arange(most) < true[:, None]],
        true,
        sample_rate=sample_rate,
        name=name,
        paths=[f"{name}[{row}]" for row in range(count)],
        labels=known.tensor if known else None,
        classes=known.classes if known else classes,
        factors=factors,
        skipped=known.skipped(name) if known else (),
    )


def built_in(name: str, split: str, options: OpenOptions | None = None) -> Sounds:
    """Open `tones`, 1,000 sounds for training and 500 for testing, about 0.9 seconds each.

    Args:
        name: tones, or tones:NAME to ask for something else than the rhythm: pitch, timbre or voice.
        split: train or test.

    Raises:
        ValueError: Nothing of that name is known of the sounds.
    """
    label = name.partition(":")[2] or tones.LABELS[0]
    check.choice(tones.LABELS, label=label)
    count, seed = _TONES[split]
    made = tones.make(count, seed)
    waveforms, lengths, labels = (made.pop(key) for key in ("waveform", "length", label))
    return from_waveforms(
        waveforms,
        tones.SAMPLE_RATE,
        lengths=lengths,
        labels=labels,
        classes=tones.CLASSES[label],
        factors=made,
        name=name,
    )


def find(
    source: str | os.PathLike[str] | np.ndarray | Tensor, how: OpenOptions
) -> Mapping[str, Callable[[], Sounds]]:
    """What opens each split of a source of sounds; "all" where it has none.

    Args:
        source: A folder of audio files or of parquet files, one such file, a .npy or .npz file, or an array.
        how: The options of `open_data`; its sample rate is that of arrays, and what all else is brought to.

    Raises:
        ValueError: There are no sounds, or an array comes without its sample rate.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return {"all": partial(_from_array, {"waveforms": source}, "array", how)}
    name, path = os.fspath(source), Path(source).expanduser()
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return _find_arrays(path, how)
    return {split: partial(_open, part, how) for split, part in find_splits(path, name, how.label).items()}


def _open(split: Split, how: OpenOptions) -> Sounds:
    """Sounds of a split, from the cache where they are there."""
    decoded = partial(write, split, how.sample_rate, how.workers, how.progress)
    block, about = kept(["sounds", split.fingerprint, how.sample_rate], decoded, folder_of(how.cache))
    broken = [Skipped(split.prefix + path, reason) for path, reason in about["skipped"]]
    refuse_broken(split.name, broken, len(about["paths"]), how.max_broken)
    paths = [split.prefix + path for path in about["paths"]]
    sound = block.view(torch.int16)
    if not any(bool(part.any()) for part in sound.split(_LOOKED_AT)):  # ends at the first that is heard
        note(f"{split.name}: all {len(paths)} sounds are silent")
    known = numbered(split.stated(paths, about["labels"]), about["classes"])
    return Sounds(
        sound,
        torch.tensor(about["lengths"], dtype=torch.int64),
        sample_rate=about["sample_rate"],
        name=split.name,
        paths=paths,
        labels=known.tensor,
        classes=known.classes,
        factors={name: torch.tensor(values) for name, values in about["factors"].items()},
        skipped=split.skipped + broken + known.skipped(split.name),
    )


def _find_arrays(path: Path, how: OpenOptions) -> Mapping[str, Callable[[], Sounds]]:
    """What opens the sounds of a .npy or .npz file, by split."""
    content = {"waveforms": read_npy(path)} if path.suffix.lower() == ".npy" else read_npz(path)[0]
    keys = ("waveforms", "lengths", "labels", "sample_rate")
    parts = {
        split: {key: content[found] for key in keys if (found := f"{prefix}{key}") in content}
        for prefix, split in _SPLITS.items()
        if f"{prefix}waveforms" in content
    }
    if not parts:
        raise UserError(
            f"{path} must hold waveforms or train_waveforms, got {check.one_line(', '.join(content)) or 'nothing'}"
        )
    rate = {"sample_rate": content["sample_rate"]} if "sample_rate" in content else {}
    return {split: partial(_from_array, rate | part, str(path), how) for split, part in parts.items()}


def _from_array(part: Mapping[str, Any], name: str, how: OpenOptions) -> Sounds:
    if (rate := _rate(part["sample_rate"], name) if "sample_rate" in part else how.sample_rate) is None:
        raise UserError(f"sample_rate must be given, since {name} does not tell it")
    sounds = from_waveforms(
        part["waveforms"], rate, lengths=part.get("lengths"), labels=part.get("labels"), name=name
    )
    try:
        return sounds.resampled(how.sample_rate or rate)
    except ValueError as error:
        raise UserError(f"sample_rate of {name} must be near what is wanted: {error}") from error


def _rate(told: Any, name: str) -> int:
    value = np.asarray(told)
    if value.size != 1 or value.dtype.kind not in "iuf" or not 1 <= value.item() < 2**31 or value.item() % 1:
        got = check.reason(ValueError(value.tolist()))
        raise UserError(f"sample_rate of {name} must be a whole number above 0, got {got}")
    return int(value.item())


def _in_16_bits(sound: Tensor) -> Tensor:
    return (sound * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)


def _sounds(waveforms: np.ndarray | Tensor, name: str) -> Tensor:
    """Waveforms as float32 or int16, shape (sounds, samples)."""
    sounds = as_tensor(waveforms, name)
    if sounds.ndim != 2 or 0 in sounds.shape:
        raise UserError(f"{name} must have axes sounds and samples, got shape {tuple(sounds.shape)}")
    if sounds.dtype == torch.int16:
        return sounds
    if not sounds.is_floating_point():
        raise UserError(f"{name} must be floats in -1..1 or int16, got {sounds.dtype}")
    if not sounds.abs().max() <= 1:
        raise UserError(f"{name} must be floats in -1..1 or int16, got floats up to {sounds.abs().max():g}")
    return sounds.float()
