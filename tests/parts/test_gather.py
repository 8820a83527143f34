"""Without other processes every collective is the identity; two processes are in test_distributed.py."""

import torch

from unlabeled.parts import gather


def test_one_process_gathers_nothing_but_its_own_rows() -> None:
    rows = torch.randn(4, 3, requires_grad=True)
    assert gather.processes() == 1 and gather.rank() == 0
    for collective in (gather.gather, gather.broadcast, gather.sum_over_processes):
        assert collective(rows) is rows
    assert torch.equal(gather.own(rows), rows) and torch.equal(gather.mean_over_processes(rows), rows)
