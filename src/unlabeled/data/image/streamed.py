"""Images of shards, decoded while training instead of once: what is too large to be kept decoded.

A source is what `streaming.addresses` finds: tar or parquet files, local or at any address that fsspec knows. An image
that cannot be decoded is replaced by the next one of its shard that can, and listed; what cannot be read at all, such
as a shard that does not come, ends the training instead.
"""

import copy
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, Self, overload

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.cache import folder_of
from unlabeled.data.image.data import Images, with_channels
from unlabeled.data.image.decode import read
from unlabeled.data.image.levels import Levels, kind_of, parsed, to_uint8
from unlabeled.data.notes import note
from unlabeled.data.options import Progress, refuse_broken
from unlabeled.data.pool import in_order
from unlabeled.data.samples import Batch, Data, Skipped
from unlabeled.data.streaming.addresses import find_shards, shown
from unlabeled.data.streaming.ahead import Ahead
from unlabeled.data.streaming.cache import ShardCache, bytes_of, in_words
from unlabeled.data.streaming.order import EpochOrder, pieces_for, shards_at_once
from unlabeled.data.streaming.shards import ShardRows

__all__ = ["Streamed", "default_workers", "open_streamed"]

_NEAR = 8
"""Shards that samples and held-out images are taken from."""
_LOOKED_AT = 64
"""Images by which channels and size are chosen."""
_SUBSTITUTES = 100
"""Images of a shard, one after the other, of which one at least must be readable."""
_COUNTED = 1000
"""Images from which on `max_broken` applies."""
_CHUNK = 64
_MOST_WORKERS = 16


class Decoder:
    """Decodes images of shards; a worker process has a copy of its own.

    Args:
        source: The shards.
        counts: Images of each that are used, its first ones, int64, shape (shards,).
        side: Shorter side in pixels to which larger images are shrunk.
        channels: Channels of every image; None keeps those of the files.
        levels: Values of images of more than 8 bits that become 0 and 255.
    """

    def __init__(
        self, source: ShardRows, counts: np.ndarray, side: int, channels: int | None, levels: Levels
    ) -> None:
        self.source, self.counts, self.side = source, counts, side
        self.channels, self.levels = channels, levels
        self.ends = counts.cumsum()

    def shards_of(self, rows: np.ndarray) -> list[int]:
        """Numbers of the shards that some rows are in."""
        return np.unique(np.searchsorted(self.ends, rows, "right")).tolist()

    def place(self, row: int) -> tuple[int, int]:
        """Shard of a row, and its row there."""
        shard = int(np.searchsorted(self.ends, row, "right"))
        return shard, row - int(self.ends[shard] - self.counts[shard])

    def images(self, rows: np.ndarray) -> tuple[list[np.ndarray], dict[int, Skipped]]:
        """Images of some rows, uint8, shape (channels, height, width), and what had to be replaced, by its number."""
        shards = np.searchsorted(self.ends, rows, "right")
        images: list[Any] = [None] * len(rows)
        broken: dict[int, Skipped] = {}
        for shard in np.unique(shards).tolist():
            numbers = np.flatnonzero(shards == shard).tolist()
            within = (rows[numbers] - (self.ends[shard] - self.counts[shard])).tolist()
            for number, row, content in zip(numbers, within, self.source.read(shard, within), strict=True):
                image = self._decoded(content)
                if isinstance(image, str):
                    broken[number] = Skipped(self.source.name(shard, row), image)
                    image = self._substitute(shard, row, image)
                images[number] = image
        return images, broken

    def __call__(self, rows: np.ndarray) -> tuple[Batch, list[Skipped]]:
        """A batch on the CPU, and what had to be replaced in it."""
        images, broken = self.images(rows)
        sizes = torch.tensor([image.shape[1:] for image in images])
        height, width = sizes.amax(0).tolist()
        pixels = torch.zeros(len(images), len(images[0]), height, width, dtype=torch.uint8)
        for place, image in zip(pixels.numpy(), images):
            place[:, : image.shape[1], : image.shape[2]] = image
        batch = {"index": torch.from_numpy(rows), "image": pixels}
        if (sizes != sizes[:1]).any():
            batch["size"] = sizes
        if broken:
            batch["replaced"] = torch.zeros(len(rows), dtype=torch.bool)
            batch["replaced"][[*broken]] = True
        return batch, [*broken.values()]

    def _decoded(self, content: bytes) -> np.ndarray | str:
        """An image, or the reason why there is none."""
        try:
            pixels = read(content, self.side)[0].pixels
            if (kind := kind_of(pixels)) is not None and kind not in self.levels:
                raise _Deep
            pixels, _ = to_uint8(pixels, self.levels)
            return pixels if self.channels is None else with_channels(pixels, self.channels)
        except _Deep:
            raise UserError(
                "levels must be given to stream images of more than 8 bits, as LOW,HIGH, got none"
            ) from None
        except ValueError as error:
            return check.reason(error)

    def _substitute(self, shard: int, row: int, reason: str) -> np.ndarray:
        """The next image of a shard that can be decoded; after the last one comes the first."""
        count = int(self.counts[shard])
        for other in range(row + 1, row + min(count, _SUBSTITUTES)):
            [content] = self.source.read(shard, [other % count])
            if not isinstance(image := self._decoded(content), str):
                return image
        raise UserError(
            f"{shown(self.source.shards[shard].address)} must hold images, got {min(count, _SUBSTITUTES)} in a row "
            f"that cannot be read, such as {row}: {reason}"
        )


class _Deep(Exception):
    """An image of more than 8 bits whose range is not known."""


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
    """Images that are read and decoded when a batch asks for them, ahead of time where batches are announced.

    Args:
        decoder: What decodes them.
        name: What the data is called in reports.
        image_size: Suggested side of training images in pixels.
        workers: Processes that read ahead, 0 for none.
        max_broken: Largest fraction of the images that may be unreadable, in 0..1, once 1,000 were read.
        skipped: What is known to be unreadable.
    """

    kind = "image"
    unit = "images"

    def __init__(
        self,
        decoder: Decoder,
        *,
        name: str,
        image_size: int,
        workers: int,
        max_broken: float,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        super().__init__(name=name, paths=(), skipped=skipped)
        assert decoder.channels is not None
        self.channels, self.image_size = decoder.channels, image_size
        self.levels = decoder.levels or None
        self.workers, self.max_broken = workers, max_broken
        self.broken: list[Skipped] = []
        """Images that were replaced since this list was last emptied, which several may share."""
        self.read, self.lost = 0, 0
        self.examples: deque[Skipped] = deque(maxlen=3)
        self.coming: Iterator[Tensor] | None = None
        self.further = 0
        self.ahead: Ahead | None = None
        self._use(decoder)

    def _use(self, decoder: Decoder) -> None:
        self.decoder, self.paths = decoder, _Paths(decoder)  # type: ignore[assignment]
        self.near = _spread(decoder.counts)

    @property
    def shape(self) -> dict[str, int]:
        return {"channels": self.channels, "image_size": self.image_size}

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
            As `Images.batch`; `size` is left out where all images of the batch have one, and where an image stands for
            one that cannot be read, `replaced` says which, bool, shape (batch,).

        Raises:
            ValueError: A shard does not exist or holds no readable image, or too many images are unreadable.
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
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def announce(self, batches: Iterator[Tensor], further: int = 0) -> None:
        if self.ahead is not None:
            self.ahead.close()
        self.ahead = None
        self.coming, self.further = batches, further

    def sample(self, count: int, seed: int = 0) -> Batch:
        """Up to `count` random samples of a few shards, the same for the same seed."""
        batch, broken = self.decoder(self._near_rows(count, seed))
        self._count(len(batch["index"]), broken)
        return self.on_device(batch)

    def in_memory(self, count: int, seed: int = 0) -> Images:
        """Up to `count` random samples of a few shards, the same for the same seed, decoded."""
        return self._decoded(self._near_rows(count, seed)).to(self.device)

    def hold_out(self, count: int) -> tuple[Self, Images] | None:
        """The data without the last images of a few shards, about `count` together, and these, decoded.

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
        rest, decoder = copy.copy(self), copy.copy(self.decoder)
        decoder.counts, decoder.ends = counts, counts.cumsum()
        rest._use(decoder)
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

    def _decoded(self, rows: np.ndarray) -> Images:
        parts = np.array_split(rows, max(1, -(-len(rows) // _CHUNK)))
        images: list[np.ndarray] = []
        for _, (decoded, broken) in in_order(self.decoder.images, parts, max(1, self.workers)):
            images += decoded
            self._count(len(decoded), [*broken.values()])
        data = Images(
            torch.cat([torch.from_numpy(image).flatten() for image in images]),
            torch.tensor([image.shape[1:] for image in images]),
            channels=self.channels,
            name=self.name,
            paths=[self.paths[row] for row in rows.tolist()],
        )
        data.levels = self.levels
        return data

    def _count(self, read: int, broken: list[Skipped]) -> None:
        self.read, self.lost = self.read + read, self.lost + len(broken)
        self.broken += broken
        self.examples += broken
        if self.read >= _COUNTED:
            refuse_broken(self.name, [*self.examples], self.read - self.lost, self.max_broken, self.lost)


def default_workers(sharing: int = 1) -> int:
    """Worker processes for each of so many processes that share this machine: one per processor, 16 at most."""
    return max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // sharing))


def open_streamed(
    source: str,
    *,
    side: int,
    workers: int,
    cache_size: str | None = None,
    levels: Any = None,
    channels: int | None = None,
    max_broken: float = 0.1,
    progress: Progress | None = None,
) -> Streamed:
    """Open images to be decoded while training.

    Args:
        source: As in `find_shards`.
        side: Shorter side in pixels to which larger images are shrunk.
        workers: Processes that read ahead of the training, 0 for none.
        cache_size: Bytes that shards may take on the disk, such as 200GB; None for half of what is free.
        levels: Values of images of more than 8 bits that become 0 and 255, as in `open_data`.
        channels: Channels of every image; None for those of the first images.
        max_broken: Largest fraction of the images that may be unreadable, in 0..1.
        progress: Called with the shards done so far and their number, while they are counted.

    Raises:
        ValueError: No shard is there, or a shard or too many images cannot be read.
        ConnectionError: The server does not answer.
    """
    if (folder := folder_of(None)) is None:
        raise UserError("UNLABELED_CACHE must name a folder, got none and no home")
    shards = find_shards(source)
    cache = ShardCache(folder / "shards", bytes_of(cache_size) if cache_size else _half_of_free(folder))
    rows = ShardRows(shards.files, cache, folder / "indices")
    if not rows.in_place and not cache_size:
        note(f"shards take up to {in_words(cache.most)} in {cache.folder}; --cache-size sets another limit")
    counts, skipped = rows.lengths(progress)
    decoder = Decoder(rows, counts, side, None, parsed(levels))
    name = shown(source)
    make = partial(Streamed, name=name, workers=workers, max_broken=max_broken, skipped=skipped)
    data = _looked_at(decoder, make, channels)
    if len(shards.parts) > 1:
        data.split, data.other_splits = shards.parts[0], tuple(shards.parts[1:])
    return data


def _looked_at(decoder: Decoder, make: Callable[..., Streamed], channels: int | None) -> Streamed:
    """The data with the size of its first images and, where none are given, their channels."""
    shards = _spread(decoder.counts)
    each = -(-_LOOKED_AT // len(shards))
    offsets = decoder.ends - decoder.counts
    rows: list[int] = []
    for shard in shards.tolist():
        count, start = int(decoder.counts[shard]), int(offsets[shard])
        rows += [start + number * count // each for number in range(min(each, count))]
    images, _ = decoder.images(np.array(rows))
    numbers = [len(image) for image in images]
    given = channels
    channels = channels or (max(numbers) if {*numbers} <= {1, 3} else max({*numbers}, key=numbers.count))
    whole = Decoder(decoder.source, decoder.counts, decoder.side, channels, decoder.levels)
    size = int(np.median([min(image.shape[1:]) for image in images]))
    data = make(whole, image_size=size)
    if channels == 1 and not given:
        note(f"{data.name}: images are grey, as the first {len(images)} are; colours become grey")
    return data


def _spread(counts: np.ndarray) -> np.ndarray:
    """Numbers of a few shards that are not empty, evenly spread over all."""
    used = np.flatnonzero(counts)
    few = min(_NEAR, len(used))
    return used[np.arange(few) * len(used) // few]


def _half_of_free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // 2
