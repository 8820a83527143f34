"""The order of streamed data: every row once, the same however many processes, mixed, and computed at once."""

import random
import time
from collections import Counter

import numpy as np
import pytest
import torch

from unlabeled.check import UserError
from unlabeled.data.streaming import order as orders
from unlabeled.data.streaming.order import WINDOW, EpochOrder, pieces_for, shards_at_once

LENGTHS = np.array([random.Random(number).randrange(144, 807) for number in range(40)])
OFFSETS = LENGTHS.cumsum() - LENGTHS
TOTAL, BATCH = int(LENGTHS.sum()), 256


def shard_of(rows: torch.Tensor) -> np.ndarray:
    return np.searchsorted(OFFSETS, rows.numpy(), "right") - 1


@pytest.mark.parametrize("pieces", [1, 4, 64])
def test_an_epoch_has_every_row_at_most_once_and_lacks_less_than_a_batch(pieces: int) -> None:
    rows = EpochOrder(LENGTHS, 3, BATCH, pieces)[:]
    assert len(rows.unique()) == len(rows) == TOTAL // BATCH * BATCH
    assert rows.min() >= 0 and rows.max() < TOTAL


def test_it_is_that_of_a_slow_twin() -> None:
    """Written from the description, with lists: permuted shards, equal pieces, shuffled windows."""
    order = EpochOrder(LENGTHS, 5, 16, 4)
    sequence = [OFFSETS[shard] + row for shard in order.shards for row in range(LENGTHS[shard])]
    each = TOTAL // 16 * 4
    rows = order[:].view(-1, 4, 4)  # batch, piece, row
    for piece in range(4):
        own = rows[:, piece].flatten().tolist()
        for start in range(0, each, WINDOW):
            whole = sequence[piece * each + start : piece * each + min(start + WINDOW, each)]
            window = own[start : start + WINDOW]
            assert sorted(window) == sorted(whole) and window != whole


def test_batches_amid_an_epoch_are_those_of_the_whole() -> None:
    whole = EpochOrder(LENGTHS, 3, BATCH, 16)[:]
    for batch in (70, 3, 71, 0):
        part = slice(batch * BATCH, (batch + 1) * BATCH)
        assert torch.equal(EpochOrder(LENGTHS, 3, BATCH, 16)[part], whole[part])


def test_epochs_differ() -> None:
    first, again, second = (EpochOrder(LENGTHS, seed, BATCH, 16)[:BATCH] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("processes", [2, 4])
def test_each_process_reads_about_its_share_of_the_shards(processes: int) -> None:
    order = EpochOrder(LENGTHS, 3, BATCH, 16)
    chunks = order[:].view(-1, processes, BATCH // processes)
    shards = [set(shard_of(chunks[:, rank].flatten())) for rank in range(processes)]
    assert len(set().union(*shards)) >= 39  # the last one may be in the rest that fills no batch
    assert sum(map(len, shards)) <= 40 + processes - 1  # only shards on a border are read twice


def test_batches_of_class_sorted_shards_are_mixed() -> None:
    """A shuffle buffer of 1,000 gives .386, a permutation of all rows .060."""
    order = EpochOrder(LENGTHS, 3, BATCH, pieces_for(BATCH, 1))
    classes = shard_of(order[:]).reshape(-1, BATCH)
    shares = [Counter(batch).most_common(1)[0][1] / BATCH for batch in classes.tolist()]
    assert np.mean(shares) <= 0.07


def test_a_billion_rows_start_amid_an_epoch_within_a_second() -> None:
    lengths = np.full(100_000, 10_000)
    began = time.process_time()
    order = EpochOrder(lengths, 1, 4096, 64)
    rows = order[200_000 * 4096 : 200_001 * 4096]
    assert time.process_time() - began < 1
    assert len(rows.unique()) == 4096 and rows.max() < 10**9


def test_slices_that_cut_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="begin and end with a batch of 256, got 1:256:1"):
        EpochOrder(LENGTHS, 3, BATCH, 4)[1:256]
    with pytest.raises(UserError, match="pieces must divide the batch of 256, got 3"):
        EpochOrder(LENGTHS, 3, BATCH, 3)


@pytest.mark.parametrize(
    ("batch", "processes", "room", "pieces"),
    [
        *((256, 1, 99, 64), (256, 4, 99, 64), (48, 1, 99, 16), (48, 4, 99, 16), (16, 1, 99, 16)),
        *((256, 1, 20, 16), (256, 2, 3, 2), (252, 3, 99, 63), (2048, 128, 999, 128), (7, 1, 99, 1)),
    ],
)
def test_pieces_are_as_many_as_fit_and_divide_the_batch(
    batch: int, processes: int, room: int, pieces: int
) -> None:
    assert pieces_for(batch, processes, room) == pieces


def test_pieces_need_room_for_every_process() -> None:
    with pytest.raises(UserError, match="pieces must be at least 4, one for each process, got room for 3"):
        pieces_for(256, 4, 3)


def test_small_shards_take_more_of_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "WINDOW", 100)
    assert shards_at_once(np.full(9, 1000)) == 3
    assert shards_at_once(np.full(9, 10)) == 12
