"""Rows of shards as bytes, wherever the shards lie: how many there are, and those of some numbers.

An uncompressed tar file is read in place by an index of its samples, made in one pass and kept. Of other files, such as
parquet, the samples are copied into one file with their places at its end, as rows in any order would need whole row
groups, or all that comes before.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from unlabeled.check import UserError
from unlabeled.data.samples import Skipped
from unlabeled.data.streaming.addresses import (
    ENDINGS,
    TRIES,
    Shard,
    ending,
    fetch,
    filesystem,
    is_remote,
    retried,
    shown,
)
from unlabeled.data.streaming.cache import ShardCache, in_words
from unlabeled.data.tars import TarIndex, tar_index
from unlabeled.files import atomic

__all__ = ["Content", "Lengths", "ShardRows"]

_PLACE = 16
"""Bytes of a place in an index: where a sample begins and its size, int64 each."""
_VERSION = 2
_AT_ONCE = 16
"""Remote shards that are counted at a time."""

Result = TypeVar("Result")


class Content(NamedTuple):
    """What the rows of shards are.

    Attributes:
        unit: What people call them, a plural.
        endings: Endings of their files in a tar archive, in lower case.
        rows: From a file that is no tar archive, such as a table, to its rows, empty where there is none; it raises
            `ValueError` where the file holds nothing of the kind.
        shards: Endings of files that are shards.
        unpacked: How many times as large as a shard its rows are at most, roughly, by its ending; 1 for others.
        reading: What else decides what the rows of a shard are.
    """

    unit: str
    endings: tuple[str, ...]
    rows: Callable[[Path], Iterator[bytes]]
    shards: tuple[str, ...] = ENDINGS
    unpacked: Mapping[str, int] = {}
    reading: str = ""


class Lengths(NamedTuple):
    """Rows of each shard, int64, shape (shards,), and what in them is none."""

    counts: np.ndarray
    skipped: list[Skipped]


class ShardRows:
    """Encoded samples of shards.

    Args:
        shards: The shards, all of one format.
        cache: Where those are kept that cannot be read in place.
        indices: Folder of the indices of tar files.
        content: What their rows are.
    """

    def __init__(self, shards: list[Shard], cache: ShardCache, indices: Path, content: Content) -> None:
        self.shards, self.cache, self.indices, self.content = shards, cache, indices, content
        self.tables = ending(shards[0].address) != ".tar"
        """Whether rows are copied out of the shards."""
        self.in_place = not self.tables and not is_remote(shards[0].address)
        """Whether shards are read where they are, without the cache."""
        self.times = content.unpacked.get(ending(shards[0].address), 1)
        """How many times as large as a shard its rows are, roughly."""
        largest = max(shards, key=lambda shard: shard.size)
        self.largest = self.times * largest.size
        """Bytes that the rows of the largest shard take."""
        if not self.in_place and (need := self._room(largest)) > cache.most:
            raise UserError(
                f"cache_size must be at least {in_words(need)} for {shown(largest.address)}, got {in_words(cache.most)}"
            )

    def lengths(self, progress: Callable[[int, int | None], None] | None = None) -> Lengths:
        """Count the rows of all shards; of tar files, in one pass over those that were never counted before.

        Args:
            progress: Called with the shards done so far and their number.

        Raises:
            ValueError: A shard cannot be read, or there is no row.
            ConnectionError: One does not come.
        """
        stored = self.indices / f"{self._key(*(part for shard in self.shards for part in shard))}.json"
        try:
            counts, skipped = json.loads(stored.read_text(encoding="utf-8"))
            return Lengths(np.array(counts, np.int64), [Skipped(*skip) for skip in skipped])
        except (OSError, ValueError, TypeError):
            pass
        count = self._rows_of_table if self.tables else self._pass
        room = self.cache.most // max(1, 2 * self.largest)
        at_once = max(1, min(_AT_ONCE, room)) if is_remote(self.shards[0].address) else 1
        counts, skipped = [], []
        with ThreadPoolExecutor(at_once) as pool:
            for done, (length, lost) in enumerate(pool.map(count, range(len(self.shards))), 1):
                counts.append(length)
                skipped += lost
                if progress is not None:
                    progress(done, len(self.shards))
        if not sum(counts):
            raise UserError(
                f"shards must hold {self.content.unit}, got none in {shown(self.shards[0].address)}"
            )
        with atomic(stored) as path:
            path.write_text(json.dumps([counts, skipped]), encoding="utf-8")
        return Lengths(np.array(counts, np.int64), skipped)

    def read(self, shard: int, rows: Sequence[int]) -> list[bytes]:
        """The encoded samples of some rows of a shard.

        Raises:
            ValueError: The shard does not exist, or access is refused.
            ConnectionError: It does not come whole.
        """

        def read(path: Path) -> list[bytes]:
            with open(path, "rb") as file, open(self._index(shard, path), "rb") as index:
                # In a file with the samples, the index stands before its last number.
                start = (
                    os.fstat(index.fileno()).st_size - 8 - _PLACE * self._last(index) if self.tables else 0
                )
                places = b"".join(os.pread(index.fileno(), _PLACE, start + _PLACE * row) for row in rows)
                spans = np.frombuffer(places, np.int64).reshape(len(rows), 2).tolist()
                return [os.pread(file.fileno(), size, begin) for begin, size in spans]

        return self._locally(shard, read)

    def bring(self, shard: int) -> None:
        """Have the file of a shard where it can be read."""
        self._file(shard)

    def name(self, shard: int, row: int) -> str:
        """What a sample is called: the shard, and its name in a tar file or its number in a table."""
        address = shown(self.shards[shard].address)
        if self.tables:
            return f"{address}#{row}"
        return f"{address}/{self._locally(shard, self._tar).names[row]}"

    def names(self, shard: int) -> list[str]:
        """What the samples of a shard are called, as `name` has it."""
        address = shown(self.shards[shard].address)
        if self.tables:
            return [f"{address}#{row}" for row in range(self._locally(shard, self._count))]
        return [f"{address}/{name}" for name in self._locally(shard, self._tar).names]

    def _locally(self, shard: int, act: Callable[[Path], Result]) -> Result:
        """What some act on the file of a shard gives; others may remove the file before it is opened."""
        for _ in range(TRIES):
            path = self._file(shard)
            try:
                return act(path)
            except FileNotFoundError:
                if self.in_place:
                    raise
        raise OSError(f"{self.cache.folder} loses shards before they are read; give it more --cache-size")

    def _file(self, number: int) -> Path:
        """The file in which the samples of a shard can be read."""
        shard = self.shards[number]
        if self.in_place:
            return Path(shard.address.removeprefix("file://"))
        size = self._room(shard)
        if not self.tables:
            return self.cache.file(f"{_key(*shard)}.tar", size, partial(fetch, shard))
        return self.cache.file(f"{self._key(*shard)}.bin", size, partial(_unpack, shard, self.content))

    def _key(self, *parts: object) -> str:
        """The name of what is made of the rows of shards."""
        return _key(self.content.unit, self.content.reading, *parts)

    def _tar(self, path: Path) -> TarIndex:
        return tar_index(path, self.content.endings)

    def _room(self, shard: Shard) -> int:
        """Bytes that a shard takes while it is brought into the cache: a table as it is and unpacked."""
        times = self.times + is_remote(shard.address) if self.tables else 1
        return max(0, shard.size) * times

    def _index(self, number: int, path: Path) -> Path:
        """The file that ends with, or is, the index of a shard that is at a path."""
        if self.tables:
            return path
        index = self.indices / f"{self._key(*self.shards[number])}.index"
        return index if index.exists() else self._write_index(number, path)[0]

    def _write_index(self, number: int, path: Path) -> tuple[Path, list[Skipped]]:
        """Write the index of a tar file that is at a path, and say what in it cannot be read."""
        address = shown(self.shards[number].address)
        try:
            content = self._tar(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), address)) from error
        index = self.indices / f"{self._key(*self.shards[number])}.index"
        with atomic(index) as part:
            np.array(content.places, np.int64).tofile(part)
        return index, [Skipped(f"{address}/{skip.path}", skip.reason) for skip in content.skipped]

    def _pass(self, number: int) -> tuple[int, list[Skipped]]:
        """Samples of a tar file, and what in it cannot be read."""
        index, skipped = self._locally(number, partial(self._write_index, number))
        return index.stat().st_size // _PLACE, skipped

    def _rows_of_table(self, number: int) -> tuple[int, list[Skipped]]:
        """Rows of a parquet file by its footer; by all of it where a server gives no part, and of other files."""
        from pyarrow.parquet import read_metadata

        shard = self.shards[number]
        if ending(shard.address) != ".parquet":
            return self._locally(number, self._count), []

        def rows() -> int:
            files, path = filesystem(shard.address)
            with files.open(path, "rb", block_size=2**16) as file:
                return read_metadata(file).num_rows

        try:
            return retried(rows, shard.address), []
        except UserError:
            return self._locally(number, self._count), []

    def _count(self, path: Path) -> int:
        with path.open("rb") as file:
            return self._last(file)

    @staticmethod
    def _last(file: BinaryIO) -> int:
        """The number of samples, which is the last in a file with them."""
        return int.from_bytes(os.pread(file.fileno(), 8, os.fstat(file.fileno()).st_size - 8), "little")


def _unpack(shard: Shard, content: Content, target: Path) -> None:
    """Copy the rows of a file one after the other into another, then their places and their number."""
    remote = is_remote(shard.address)
    own = Path(f"{target}{ending(shard.address)}") if remote else Path(shard.address.removeprefix("file://"))
    try:
        if remote:
            fetch(shard, own)
        _copy_rows(content.rows(own), target)
    except UserError as error:
        if not remote:
            raise
        raise UserError(str(error).replace(str(own), shown(shard.address))) from error
    finally:
        if remote:
            own.unlink(missing_ok=True)


def _copy_rows(rows: Iterator[bytes], target: Path) -> None:
    places: list[tuple[int, int]] = []
    with target.open("wb") as file:
        for content in rows:
            places.append((file.tell(), len(content)))
            file.write(content)
        file.write(np.array(places, np.int64).tobytes())
        file.write(len(places).to_bytes(8, "little"))


def _key(*parts: object) -> str:
    return sha256("\0".join(map(str, (_VERSION, *parts))).encode(errors="surrogateescape")).hexdigest()[:32]
