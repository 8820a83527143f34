"""Sounds of shards, decoded while training instead of once: what is too large to be kept decoded.

Shards are tar files (sounds with files of labels and texts beside, as in the webdataset layout, which are passed over)
or parquet files with a column of sounds, as `datasets` writes it or as plain bytes.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds, cut, samples_of_crop
from unlabeled.data.audio.decode import Scale, decode, header, scale_of
from unlabeled.data.audio.read import converted, sound_column
from unlabeled.data.files import SOUNDS
from unlabeled.data.notes import note
from unlabeled.data.options import Progress
from unlabeled.data.samples import Batch
from unlabeled.data.streaming.data import Decoder, Streamed, first_rows, open_shards
from unlabeled.data.streaming.shards import Content, ShardRows
from unlabeled.data.tables import open_table

__all__ = ["SoundDecoder", "StreamedSounds", "open_streamed"]

IN_MEMORY = 15
"""Seconds of a sound that are held in memory, where some sounds are."""


def table_sounds(path: Path) -> Iterator[bytes]:
    """Encoded sounds of a parquet file; what is none is empty.

    Raises:
        ValueError: It has no column of sounds, or one of names of files.
    """
    table = open_table(path)
    column = sound_column(table)

    def sounds() -> Iterator[bytes]:
        for row in table.records([column]):
            value = row[column]
            content = value.get("bytes") if isinstance(value, dict) else value
            if content is None and isinstance(value, dict) and value.get("path"):
                raise UserError(f"{path} must hold sounds to be streamed, got names of files in {column}")
            yield content or b""

    return sounds()


SOUND_FILES = Content("sounds", SOUNDS, table_sounds)


class SoundDecoder(Decoder):
    """Decodes sounds.

    Args:
        source: The shards.
        counts: Sounds of each that are used, its first ones, int64, shape (shards,).
        sample_rate: Samples per second of every sound, in hertz.
        scale: How floats are scaled.
    """

    def __init__(self, source: ShardRows, counts: np.ndarray, sample_rate: int, scale: Scale) -> None:
        super().__init__(source, counts)
        self.sample_rate, self.scale = sample_rate, scale

    def decoded(self, content: bytes) -> Tensor | str:
        """A sound, int16, shape (samples,), or the reason why there is none."""
        try:
            return converted(content, self.sample_rate, self.scale)
        except ValueError as error:
            return check.reason(error)

    def joined(self, samples: list[Tensor]) -> Batch:
        """`waveform` int16, all sounds one after the other, and `length` int64 (batch,), samples of each."""
        lengths = torch.tensor([len(sound) for sound in samples], dtype=torch.int64)
        return {"waveform": torch.cat(samples), "length": lengths}


class StreamedSounds(Streamed):
    """Sounds that are decoded while training.

    Arguments are those of `Streamed`.
    """

    kind = "audio"
    unit = "sounds"
    group_unit = "recordings"
    longest: int | None = None
    """Most samples of a sound that are given out; a longer one is cut at random."""

    @property
    def sample_rate(self) -> int:
        """Samples per second, in hertz."""
        return self.decoder.sample_rate

    @property
    def shape(self) -> dict[str, int]:
        return {"sample_rate": self.sample_rate}

    def finished(self, batch: Batch) -> Batch:
        """As `Sounds.batch`."""
        lengths = batch["length"]
        waveform, lengths = cut(batch["waveform"], lengths.cumsum(0) - lengths, lengths, self.longest)
        return batch | {"waveform": waveform, "length": lengths}

    def crops(self, seconds: float) -> Self:
        """The same sounds, of which longer ones are given out as a piece from a random place, as by `Sounds.crops`."""
        view = copy.copy(self)
        view.longest = samples_of_crop(seconds, self.sample_rate)
        return view

    def resampled(self, sample_rate: int) -> Self:
        """The same sounds at another sample rate, to which they are brought when they are decoded.

        Args:
            sample_rate: Samples per second, in hertz.
        """
        if sample_rate == self.sample_rate:
            return self
        view, decoder = copy.copy(self), copy.copy(self.decoder)
        if self.longest is not None:
            view.longest = max(1, round(self.longest * sample_rate / self.sample_rate))
        decoder.sample_rate = sample_rate
        view._use(decoder)
        return view

    def shortened(self, sample: Tensor) -> Tensor:
        """At most the first 15 seconds."""
        return sample[: IN_MEMORY * self.sample_rate].clone()

    def gathered(self, samples: list[Tensor], paths: list[str]) -> Sounds:
        lengths = torch.tensor([len(sound) for sound in samples], dtype=torch.int64)
        data = Sounds(torch.cat(samples), lengths, sample_rate=self.sample_rate, name=self.name, paths=paths)
        data.longest = self.longest
        return data


def open_streamed(
    source: str,
    *,
    workers: int,
    cache_size: str | None = None,
    sample_rate: int | None = None,
    max_broken: float = 0.1,
    progress: Progress | None = None,
) -> StreamedSounds:
    """Open sounds to be decoded while training.

    Args:
        source: As in `find_shards`.
        workers: Processes that read ahead of the training, 0 for none.
        cache_size: Bytes that shards may take on the disk, such as 200GB; None for half of what is free.
        sample_rate: Samples per second of every sound, in hertz; None for the commonest of the first sounds.
        max_broken: Largest fraction of the sounds that may be unreadable, in 0..1.
        progress: Called with the shards done so far and their number, while they are counted.

    Raises:
        ValueError: No shard is there, or a shard or too many sounds cannot be read.
        ConnectionError: The server does not answer.
    """
    opened = open_shards(source, SOUND_FILES, cache_size, progress)
    rows, counts = opened.rows, opened.lengths.counts
    rates, peaks = _facts(rows, counts)
    if sample_rate is None:
        if not rates:
            raise UserError(f"{opened.name} must hold sounds, got none that can be read among the first")
        [(sample_rate, usual)] = rates.most_common(1)
        if usual < rates.total():
            note(f"{opened.name}: sounds are brought to {sample_rate} Hz, as most of the first are")
    decoder = SoundDecoder(rows, counts, sample_rate, scale_of(peaks, opened.name))
    data = StreamedSounds(
        decoder,
        name=opened.name,
        workers=workers,
        max_broken=max_broken,
        skipped=opened.lengths.skipped,
    )
    opened.divided(data)
    return data


def _facts(rows: ShardRows, counts: np.ndarray) -> tuple[Counter[int], list[float]]:
    """How many of the first sounds have each sample rate, and the largest value of each that holds floats."""
    rates, peaks, ends = Counter[int](), [], counts.cumsum()
    for row in first_rows(counts).tolist():
        shard = int(np.searchsorted(ends, row, "right"))
        [content] = rows.read(shard, [row - int(ends[shard] - counts[shard])])
        try:
            about = header(content)
            rates[about.sample_rate] += 1
            if about.floats:
                peaks.append(float(decode(content)[0].abs().max()))
        except ValueError:  # it is replaced and listed when a batch asks for it
            continue
    return rates, peaks
