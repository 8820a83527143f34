"""Work that several threads do at once, its results in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

__all__ = ["in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, *, ahead: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Each item with the result of some work on it, in the order of the items.

    Args:
        work: Called in another thread, in which torch computes without further threads. What it raises ends the
            iteration.
        items: Taken one at a time, in the thread of the caller, as soon as there is room.
        workers: Threads, at least 1.
        ahead: Results for each worker that may be pending, at least 1.
    """
    stream = iter(items)
    pending: deque[tuple[Item, Future[Result]]] = deque()
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data", initializer=_alone)
    try:
        while True:
            for item in islice(stream, ahead * workers - len(pending)):
                pending.append((item, pool.submit(work, item)))
            if not pending:
                return
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _alone() -> None:
    """Let torch work in this thread alone: threads below those of a pool wait for each other on a busy machine."""
    torch.get_num_threads()  # where a thread asks first, it takes the number of the process and keeps no other
    torch.set_num_threads(1)
