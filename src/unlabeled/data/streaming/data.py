"""Data of any kind that is decoded while training: batches of rows of shards, in an order that resumes.

What a kind adds is how a row is decoded (`Decoder`), and which data some decoded samples are in memory (`Streamed`).
A sample that cannot be decoded is replaced by the next one of its shard that can, and listed; what cannot be read at
all, such as a shard that does not come, ends the training instead.
"""

import copy
import os
import shutil
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, overload

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.cache import folder_of
from unlabeled.data.notes import note
from unlabeled.data.options import Progress, refuse_broken
from unlabeled.data.pool import in_order
from unlabeled.data.samples import Batch, Data, Skipped
from unlabeled.data.streaming.addresses import find_shards, shown
from unlabeled.data.streaming.ahead import Ahead
from unlabeled.data.streaming.cache import ShardCache, bytes_of, in_words
from unlabeled.data.streaming.order import EpochOrder, pieces_for, shards_at_once
from unlabeled.data.streaming.shards import Content, Lengths, ShardRows

__all__ = ["Decoder", "OpenShards", "Streamed", "default_workers", "first_rows", "open_shards"]

_NEAR = 8
"""Shards that samples and held-out samples are taken from."""
_LOOKED_AT = 64
"""Samples by which facts about all are chosen, such as the channels of images."""
_SUBSTITUTES = 100
"""Samples of a shard, one after the other, of which one at least must be readable."""
_COUNTED = 1000
"""Samples from which on `max_broken` applies."""
_CHUNK = 64
_MOST_WORKERS = 16


class Decoder(ABC):
    """Decodes rows of shards; a worker process has a copy of its own.

    Args:
        source: The shards.
        counts: Rows of each that are used, its first ones, int64, shape (shards,).
    """

    def __init__(self, source: ShardRows, counts: np.ndarray) -> None:
        self.source, self.counts = source, counts
        self.ends = counts.cumsum()

    @abstractmethod
    def decoded(self, content: bytes) -> Any:
        """A sample, which is no str, or the reason why there is none, which is one."""

    @abstractmethod
    def joined(self, samples: list[Any]) -> Batch:
        """A batch of some samples, without their rows."""

    def with_counts(self, counts: np.ndarray) -> Self:
        """The same for other numbers of rows."""
        other = copy.copy(self)
        other.counts, other.ends = counts, counts.cumsum()
        return other

    def shards_of(self, rows: np.ndarray) -> list[int]:
        """Numbers of the shards that some rows are in."""
        return np.unique(np.searchsorted(self.ends, rows, "right")).tolist()

    def place(self, row: int) -> tuple[int, int]:
        """Shard of a row, and its row there."""
        shard = int(np.searchsorted(self.ends, row, "right"))
        return shard, row - int(self.ends[shard] - self.counts[shard])

    def samples(self, rows: np.ndarray) -> tuple[list[Any], dict[int, Skipped]]:
        """Decoded samples of some rows, and what had to be replaced, by its number among them."""
        shards = np.searchsorted(self.ends, rows, "right")
        samples: list[Any] = [None] * len(rows)
        broken: dict[int, Skipped] = {}
        for shard in np.unique(shards).tolist():
            numbers = np.flatnonzero(shards == shard).tolist()
            within = (rows[numbers] - (self.ends[shard] - self.counts[shard])).tolist()
            for number, row, content in zip(numbers, within, self.source.read(shard, within), strict=True):
                sample = self.decoded(content)
                if isinstance(sample, str):
                    broken[number] = Skipped(self.source.name(shard, row), sample)
                    sample = self._substitute(shard, row, sample)
                samples[number] = sample
        return samples, broken

    def __call__(self, rows: np.ndarray) -> tuple[Batch, list[Skipped]]:
        """A batch on the CPU, and what had to be replaced in it."""
        samples, broken = self.samples(rows)
        batch = {"index": torch.from_numpy(rows)} | self.joined(samples)
        if broken:
            batch["replaced"] = torch.zeros(len(rows), dtype=torch.bool)
            batch["replaced"][[*broken]] = True
        return batch, [*broken.values()]

    def _substitute(self, shard: int, row: int, reason: str) -> Any:
        """The next sample of a shard that can be decoded; after the last one comes the first."""
        count = int(self.counts[shard])
        for other in range(row + 1, row + min(count, _SUBSTITUTES)):
            [content] = self.source.read(shard, [other % count])
            if not isinstance(sample := self.decoded(content), str):
                return sample
        raise UserError(
            f"{shown(self.source.shards[shard].address)} must hold {self.source.content.unit}, got "
            f"{min(count, _SUBSTITUTES)} in a row that cannot be read, such as {row}: {reason}"
        )


class _Paths(Sequence[str]):
    """What samples are called, by the shard and the number there, as needed."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def __len__(self) -> int:
        return int(self.decoder.ends[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        shard, within = self.decoder.place(range(len(self))[row])
        return f"{shown(self.decoder.source.shards[shard].address)}#{within}"


class Streamed(Data):
    """Samples that are read and decoded when a batch asks for them, ahead of time where batches are announced.

    Args:
        decoder: What decodes them.
        name: What the data is called in reports.
        workers: Processes that read ahead, 0 for none.
        max_broken: Largest fraction of the samples that may be unreadable, in 0..1, once 1,000 were read.
        skipped: What is known to be unreadable.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        name: str,
        workers: int,
        max_broken: float,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(name=name, paths=(), skipped=skipped)
        self.workers, self.max_broken = workers, max_broken
        self.broken: list[Skipped] = []
        """Samples that were replaced since this list was last emptied, which several may share."""
        self.read, self.lost = 0, 0
        self.examples: deque[Skipped] = deque(maxlen=3)
        self.coming: Iterator[Tensor] | None = None
        self.further = 0
        self.ahead: Ahead | None = None
        self._use(decoder)

    def _use(self, decoder: Any) -> None:
        self.decoder, self.paths = decoder, _Paths(decoder)  # type: ignore[assignment]
        self.near = _spread(decoder.counts)

    def gathered(self, samples: list[Any], paths: list[str]) -> Data:
        """Data in memory of decoded samples, which is looked at as this is.

        Args:
            samples: As `shortened` gives them.
            paths: What each is called.
        """
        raise NotImplementedError

    def shortened(self, sample: Any) -> Any:
        """What of a decoded sample is held in memory."""
        return sample

    def finished(self, batch: Batch) -> Batch:
        """A batch as training takes it, from what `Decoder.joined` makes of its samples.

        Random choices are made here, in the process that trains, by torch's default generator.
        """
        return batch

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same where a run is resumed, wherever the shards are now."""
        source = self.decoder.source
        facts = [
            (shown(shard.address).rpartition("/")[2], shard.size, count)
            for shard, count in zip(source.shards, self.decoder.counts.tolist())
        ]
        digest = sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()[:16]
        return {"shards": len(facts), "fingerprint": digest}

    def order(self, seed: int, batch_size: int, pieces: int) -> EpochOrder:
        """The order of an epoch; see `EpochOrder`."""
        return EpochOrder(self.decoder.counts, seed, batch_size, pieces)

    def pieces(self, batch_size: int, processes: int, nodes: int = 1) -> int:
        """Pieces that batches of a size can mix with this cache, on every node as many as on the others.

        Raises:
            ValueError: The cache is too small.
        """
        source = self.decoder.source
        if source.in_place:
            return pieces_for(batch_size, processes)
        need = shards_at_once(self.decoder.counts) * max(1, source.largest)
        if (room := source.cache.most // need * nodes) < processes:
            raise UserError(
                f"cache_size must be at least {in_words(-(-processes // nodes) * need)} for shards of up to "
                f"{in_words(source.largest)}, got {in_words(source.cache.most)}"
            )
        return pieces_for(batch_size, processes, room)

    def batch(self, index: Tensor) -> Batch:
        """Give out samples.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            What data of this kind in memory gives; where a sample stands for one that cannot be read, `replaced` says
            which, bool, shape (batch,).

        Raises:
            ValueError: A shard does not exist or holds no readable sample, or too many samples are unreadable.
            ConnectionError: A shard does not come.
        """
        rows = index.cpu()
        if self.ahead is None and self.coming is not None:
            source = self.decoder.source
            self.ahead = Ahead(
                self.decoder,
                source.bring,
                self.decoder.shards_of,
                self.coming,
                workers=self.workers,
                further=0 if source.in_place else self.further,
                pin=self.device.type == "cuda",
            )
        result = None if self.ahead is None else self.ahead.take(rows)
        batch, broken = self.decoder(rows.numpy()) if result is None else result
        self._count(len(rows), broken)
        return {
            name: value.to(self.device, non_blocking=True) for name, value in self.finished(batch).items()
        }

    def announce(self, batches: Iterator[Tensor], further: int = 0) -> None:
        if self.ahead is not None:
            self.ahead.close()
        self.ahead = None
        self.coming, self.further = batches, further

    def sample(self, count: int, seed: int = 0) -> Batch:
        """Up to `count` random samples of a few shards, the same for the same seed."""
        batch, broken = self.decoder(self._near_rows(count, seed))
        self._count(len(batch["index"]), broken)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.on_device(self.finished(batch))

    def in_memory(self, count: int, seed: int = 0) -> Data:
        """Up to `count` random samples of a few shards, the same for the same seed, decoded."""
        return self._decoded(self._near_rows(count, seed)).to(self.device)

    def hold_out(self, count: int) -> tuple[Self, Data] | None:
        """The data without the last samples of a few shards, about `count` together, and these, decoded.

        None where the shards are too small, as at least half of each stays.
        """
        counts = self.decoder.counts.copy()
        offsets = self.decoder.ends - counts
        rows: list[int] = []
        for number, shard in enumerate(self.near.tolist()):
            share = min((count - len(rows)) // (len(self.near) - number), int(counts[shard]) // 2)
            counts[shard] -= share
            rows += range(offsets[shard] + counts[shard], offsets[shard] + counts[shard] + share)
        if not rows:
            return None
        rest = copy.copy(self)
        rest._use(self.decoder.with_counts(counts))
        return rest, self._decoded(np.array(rows, np.int64))

    def batches(self, size: int) -> NoReturn:
        raise UserError("stream must be off for a method that reads all samples before it trains on them")

    def subset(self, index: Tensor) -> NoReturn:
        raise UserError("stream must be off for a method that trains on chosen samples")

    def digests(self) -> NoReturn:
        raise UserError("the content of streamed data is not compared, as all of it would be read")

    def _near_rows(self, count: int, seed: int) -> np.ndarray:
        counts = self.decoder.counts[self.near]
        order = torch.randperm(int(counts.sum()), generator=torch.Generator().manual_seed(seed))
        places, ends = order[:count].numpy(), counts.cumsum()
        numbers = np.searchsorted(ends, places, "right")
        offsets = (self.decoder.ends - self.decoder.counts)[self.near]
        return places - (ends - counts)[numbers] + offsets[numbers]

    def _decoded(self, rows: np.ndarray) -> Data:
        parts = np.array_split(rows, max(1, -(-len(rows) // _CHUNK)))
        samples: list[Any] = []
        for _, (decoded, broken) in in_order(self.decoder.samples, parts, max(1, self.workers)):
            samples += map(self.shortened, decoded)
            self._count(len(decoded), [*broken.values()])
        return self.gathered(samples, [self.paths[row] for row in rows.tolist()])

    def _count(self, read: int, broken: list[Skipped]) -> None:
        self.read, self.lost = self.read + read, self.lost + len(broken)
        self.broken += broken
        self.examples += broken
        if self.read >= _COUNTED:
            refuse_broken(self.name, [*self.examples], self.read - self.lost, self.max_broken, self.lost)


class OpenShards(NamedTuple):
    """Shards whose rows are counted.

    Attributes:
        rows: Their rows.
        lengths: Rows of each, and what in them is none.
        name: What they are called together.
        parts: The part of the source that they are, and the other ones.
    """

    rows: ShardRows
    lengths: Lengths
    name: str
    parts: list[str]

    def divided(self, data: Streamed) -> Streamed:
        """The data with the parts of its source."""
        if len(self.parts) > 1:
            data.split, data.other_splits = self.parts[0], tuple(self.parts[1:])
        return data


def open_shards(
    source: str, content: Content, cache_size: str | None = None, progress: Progress | None = None
) -> OpenShards:
    """Find shards and count their rows.

    Args:
        source: As in `find_shards`.
        content: What their rows are.
        cache_size: Bytes that shards may take on the disk, such as 200GB; None for half of what is free.
        progress: Called with the shards done so far and their number, while they are counted.

    Raises:
        ValueError: No shard is there, or one cannot be read.
        ConnectionError: The server does not answer.
    """
    if (folder := folder_of(None)) is None:
        raise UserError("UNLABELED_CACHE must name a folder, got none and no home")
    shards = find_shards(source, content.shards)
    cache = ShardCache(folder / "shards", bytes_of(cache_size) if cache_size else _half_of_free(folder))
    rows = ShardRows(shards.files, cache, folder / "indices", content)
    if not rows.in_place and not cache_size:
        note(f"shards take up to {in_words(cache.most)} in {cache.folder}; --cache-size sets another limit")
    return OpenShards(rows, rows.lengths(progress), shown(source), shards.parts)


def first_rows(counts: np.ndarray) -> np.ndarray:
    """A few rows, spread over some shards, by which facts about all are chosen, int64, shape (rows,).

    Args:
        counts: Rows of each shard, int64, shape (shards,).
    """
    shards, offsets = _spread(counts), counts.cumsum() - counts
    each = -(-_LOOKED_AT // len(shards))
    rows: list[int] = []
    for shard in shards.tolist():
        count, start = int(counts[shard]), int(offsets[shard])
        rows += [start + number * count // each for number in range(min(each, count))]
    return np.array(rows)


def default_workers(sharing: int = 1) -> int:
    """Worker processes for each of so many processes that share this machine: one per processor, 16 at most."""
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // sharing))


def _spread(counts: np.ndarray) -> np.ndarray:
    """Numbers of a few shards that are not empty, evenly spread over all."""
    used = np.flatnonzero(counts)
    few = min(_NEAR, len(used))
    return used[np.arange(few) * len(used) // few]


def _half_of_free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2
