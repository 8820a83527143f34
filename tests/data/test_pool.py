"""The pool of threads that every reader decodes in."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from unlabeled.data.pool import in_order


def test_results_come_in_the_order_of_the_items_whatever_takes_longest() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 / (1 + number))
        return number**2

    assert list(in_order(slow_at_first, range(20), 4)) == [(number, number**2) for number in range(20)]
    assert list(in_order(slow_at_first, [], 4)) == []


def test_no_more_is_pending_than_was_asked_for() -> None:
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = in_order(lambda number: number, numbers(), 3, ahead=2)
    for given in range(1, 6):
        next(results)
        assert taken <= given + 6
    results.close()
    assert taken < 20


def test_an_error_ends_the_iteration_and_no_thread_stays() -> None:
    before = threading.active_count()
    results = in_order(lambda number: 1 // (2 - number), range(10), 2)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_torch_has_one_thread_in_the_pool_and_as_many_as_before_outside() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert {count for _, count in in_order(lambda _: torch.get_num_threads(), range(8), 2)} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
