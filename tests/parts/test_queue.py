"""The queue against a deque, and its bits through a checkpoint."""

from collections import deque

import pytest
import torch

from unlabeled.parts.queue import Queue


@pytest.mark.parametrize(
    ("size", "pushes"), [(10, [4, 4, 4, 4]), (7, [3, 7, 2, 9, 5]), (3, [8, 1, 1]), (5, [5, 5])]
)
def test_latest_rows_stay_first_in_first_out(size: int, pushes: list[int]) -> None:
    queue, twin, row = Queue(size, 2), deque(maxlen=size), 0
    for count in pushes:
        rows = torch.arange(row, row + count)[:, None].expand(-1, 2).float()
        row += count
        queue.push(rows)
        twin.extend(range(row - count, row))
        pushed = int(queue.pushed)
        assert pushed == row and queue.full == (row >= size)
        places = [number % size for number in range(pushed - len(twin), pushed)]
        assert queue.rows[places, 0].tolist() == list(twin)


def test_queue_starts_with_random_unit_vectors() -> None:
    rows = Queue(64, 16).rows
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(64))
    assert (rows @ rows.T - torch.eye(64)).abs().max() < 0.99


def test_queue_of_size_zero_takes_rows_and_keeps_none() -> None:
    queue = Queue(0, 3)
    queue.push(torch.randn(4, 3))
    assert queue.rows.shape == (0, 3) and queue.full


def test_queue_and_its_place_survive_the_state_dict_bit_by_bit() -> None:
    first, second, rows = Queue(7, 3), Queue(7, 3), torch.randn(4, 3)
    first.push(torch.randn(5, 3))
    second.load_state_dict(first.state_dict())
    first.push(rows)
    second.push(rows)
    assert torch.equal(first.rows, second.rows) and torch.equal(first.pushed, second.pushed)
