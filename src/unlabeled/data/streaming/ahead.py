"""Batches that are read ahead by worker processes, and shards that are fetched ahead of the batches."""

import ctypes
import multiprocessing
import os
import platform
import queue
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlabeled import check

__all__ = ["Ahead", "Fetcher", "Work"]

_SHARDS = 2
"""Shards that are announced with a batch at most, so that all workers have some to fetch."""
_LOST = 64
"""Batches that may be left out before one that was not announced is read at once."""


_MMAP_THRESHOLD, _MMAP_MAX = -3, -4
"""From glibc's malloc.h."""
_OWN_PAGES = 2**17
"""Bytes from which on a block of memory in a worker has pages of its own."""


class Work(NamedTuple):
    """Rows of a batch, its number, and shards with the number of the batch that needs each first."""

    rows: np.ndarray
    number: int
    shards: list[tuple[int, int]]


class Fetcher:
    """Fetches shards in a thread of its own, one after the other, until a batch has needed them.

    What fails is tried again by who needs it.
    """

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self.fetch, self.queue, self.number = fetch, queue.SimpleQueue[tuple[int, int]](), 0
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, work: Work) -> None:
        """Fetch the shards that come with a batch."""
        self.number = work.number
        for entry in work.shards:
            self.queue.put(entry)

    def _run(self) -> None:
        while True:
            shard, needed = self.queue.get()
            if needed > self.number:  # else it is there, or was and has made room
                with suppress(Exception):
                    self.fetch(shard)


class _Reader(Dataset[Any]):
    """What a worker process does: fetches what comes later, and reads a batch, or says why it cannot."""

    def __init__(self, read: Callable[[np.ndarray], Any], fetch: Callable[[int], object]) -> None:
        self.read, self.fetch = read, fetch
        self.fetcher: Fetcher | None = None

    def __getitem__(self, work: Work) -> Any:
        if work.shards or self.fetcher:
            self.fetcher = self.fetcher or Fetcher(self.fetch)
            self.fetcher.add(work)
        try:
            return self.read(work.rows)
        except (ValueError, OSError) as error:  # which would get a trace of many lines on its way
            return error


class Ahead:
    """Batches in the order in which they were announced.

    Args:
        read: From rows, int64, shape (batch,), to a tuple whose first entry is the batch; called in the workers.
        fetch: Fetches a shard, by its number; called in threads of the workers.
        shards_of: Numbers of the shards that rows are in.
        coming: Rows of all batches to come, int64, shape (batch,).
        workers: Processes that read.
        further: Batches before one at which its shards begin to be fetched; 0 where they need not be.
        pin: Whether tensors are put where they can be copied to a GPU quickly.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], Any],
        fetch: Callable[[int], object],
        shards_of: Callable[[np.ndarray], list[int]],
        coming: Iterator[Tensor],
        *,
        workers: int,
        further: int,
        pin: bool,
    ) -> None:
        self.shards_of, self.coming, self.further = shards_of, coming, further
        self.closing = multiprocessing.get_context().Event()
        others = {process.pid for process in multiprocessing.active_children()}
        with warnings.catch_warnings():  # of more workers than processors, which the user may want
            warnings.simplefilter("ignore")
            loader = DataLoader(
                _Reader(read, fetch),
                batch_size=None,
                sampler=self._work(),
                num_workers=workers,
                worker_init_fn=partial(_begin, self.closing) if workers else None,
                generator=torch.Generator(),
                pin_memory=pin,
            )
            self.batches = iter(loader)
        self.workers = [one for one in multiprocessing.active_children() if one.pid not in others]

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        self.closing.set()
        with suppress(RuntimeError):  # of one that had hardly begun
            for worker in self.workers:
                worker.terminate()
            del self.batches

    def take(self, rows: Tensor) -> Any | None:
        """The batch of some rows, which drops others that were announced before; None where they were not.

        Raises:
            ValueError: What the reader raised.
            OSError: What the reader raised, or a worker has ended.
        """
        for _ in range(_LOST):
            try:
                result = next(self.batches, None)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise OSError(
                    f"a worker process has ended ({check.reason(error)}); fewer --workers take less memory, and a "
                    "container needs shared memory, as with docker run --ipc=host"
                ) from error
            if isinstance(result, Exception):
                raise result
            if result is None or torch.equal(result[0]["index"], rows):
                return result
        return None

    def _work(self) -> Iterator[Work]:
        seen: dict[int, int] = {}
        waiting: deque[tuple[int, np.ndarray]] = deque()
        due: deque[tuple[int, int]] = deque()

        def first() -> Work:
            number, rows = waiting.popleft()
            return Work(rows, number, [due.popleft() for _ in range(min(len(due), _SHARDS))])

        for number, rows in enumerate(self.coming):
            waiting.append((number, rows.numpy()))
            if self.further:
                for shard in self.shards_of(rows.numpy()):
                    if shard not in seen or number - seen[shard] > self.further:
                        due.append((shard, number))
                    seen[shard] = number
            if len(waiting) > self.further:
                yield first()
        while waiting:
            yield first()


def _begin(closing: Event, number: int) -> None:
    """Leave signals to the process that trains, which saves a checkpoint first and needs batches until then."""

    def end(*_: object) -> None:
        if closing.is_set():
            raise SystemExit(0)  # any other end of a worker is an error for DataLoader

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a library of texts warns in processes that were forked
    _give_back_batches()


def _give_back_batches() -> None:
    """Have glibc return the memory of a batch when it was handed over.

    Its own adjustment, and what training sets for itself, puts batches on the heap between samples that live longer or
    shorter: the gaps make a worker grow by most of a hundred batches before it stops.
    """
    tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if not tuned and platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 2**16)
        library.mallopt(_MMAP_THRESHOLD, _OWN_PAGES)
