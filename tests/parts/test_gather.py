"""Without other processes every collective is the identity; two processes are in test_distributed.py."""

import pytest
import torch

from unlabeled.parts import gather


def test_one_process_gathers_nothing_but_its_own_rows() -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    assert gather.processes() == 1 and gather.rank() == 0
    for collective in (gather.gather, gather.broadcast, gather.sum_over_processes):
        assert collective(rows) is rows
    assert torch.equal(gather.own(rows), rows) and torch.equal(gather.mean_over_processes(rows), rows)


def test_mean_counts_what_counts_and_is_0_where_nothing_does() -> None:
    values = torch.tensor([[1.0, torch.nan], [torch.inf, 5.0]], requires_grad=True)
    where = torch.tensor([[True, False], [False, True]])
    mean = gather.mean(values, where)
    mean.backward()
    assert mean.item() == 3 and values.grad is not None
    assert torch.equal(values.grad, where / 2)
    assert gather.mean(values, torch.zeros_like(where)).item() == 0


def test_processes_with_different_counts_average_to_the_mean_over_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, where = torch.randn(6, dtype=torch.double), torch.tensor([1, 1, 1, 1, 0, 1], dtype=torch.bool)
    expected = gather.mean(values, where)
    monkeypatch.setattr(gather, "mean_over_processes", lambda count: torch.tensor(5 / 2))
    parts = [gather.mean(values[rows], where[rows]) for rows in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts) / 2, expected)


@pytest.mark.parametrize("rank", [0, 2])
def test_own_rows_are_those_of_this_process_among_gathered_rows(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "rank", lambda: rank)
    assert gather.own_rows(4, torch.device("cpu")).tolist() == [4 * rank + n for n in range(4)]
