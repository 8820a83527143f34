"""The context network: what it sees, and what it does not."""

import torch

from unlabeled.parts.row_context import RowContext


def test_context_sees_its_own_row_and_those_above_as_far_as_it_has_blocks_and_none_below() -> None:
    torch.manual_seed(0)
    network, codes = RowContext(6, 5, 2).double(), torch.randn(2, 6, 5, 5).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network(codes)[0, :, 3, 2].sum(), codes)
    seen = gradient.abs().sum(1) > 0
    assert not seen[1].any()  # of another image
    assert seen[0].any(1).tolist() == [False, True, True, True, False]
    assert seen[0, 3].all()  # two columns away on both sides, by a block each


def test_lower_rows_do_not_change_rows_above_by_a_bit() -> None:
    torch.manual_seed(0)
    network, codes = RowContext(6, 5, 4), torch.randn(2, 6, 5, 5)
    changed = codes.clone()
    changed[:, :, 3:] = torch.randn(2, 6, 2, 5)
    assert torch.equal(network(codes)[:, :, :3], network(changed)[:, :, :3])
    assert not torch.equal(network(codes)[:, :, 3:], network(changed)[:, :, 3:])
