"""Work that several threads do at once, its results in order and in bounded memory; and why some of it failed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import samples
from unlabeled.data.samples import Temporary

__all__ = ["in_order", "or_reason", "reason_of"]

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


def or_reason(work: Callable[[samples.Item], Result]) -> Callable[[samples.Item], Result | str]:
    """The same work on a sample; where it fails, the reason is its result, in which the path of a file is left out."""

    def attempt(item: samples.Item) -> Result | str:
        try:
            return work(item)
        except (ValueError, OSError, MemoryError) as error:
            return reason_of(error, item.content)

    return attempt


def reason_of(error: Exception, path: object = None) -> str:
    """Why a sample cannot be read, `Temporary` where it is for want of libraries, memory or a disk that works.

    Args:
        error: What was raised, perhaps by way of errors of ours.
        path: A file that the reason need not name.
    """
    text, cause = check.reason(error), error
    text = text.replace(str(path), "file") if isinstance(path, Path) else text
    while isinstance(cause, UserError):
        cause = cause.__cause__
    # FFmpeg calls some damaged files errors of input and output.
    of_system = isinstance(cause, OSError) and cause.errno is not None and "av." not in type(cause).__module__
    return Temporary(text) if of_system or isinstance(cause, ImportError | MemoryError) else text


def _alone() -> None:
    """Let torch work in this thread alone: threads below those of a pool wait for each other on a busy machine."""
    torch.get_num_threads()  # where a thread asks first, it takes the number of the process and keeps no other
    torch.set_num_threads(1)
