"""A function in full precision is not touched by the mixed precision around it."""

import torch
from torch import Tensor

from unlabeled.parts.precision import full, full_precision


@full_precision
def product(first: Tensor, second: Tensor, factor: float) -> Tensor:
    return first @ second.T * factor


def test_autocast_outside_rounds_nothing_inside() -> None:
    first, second = torch.randn(4, 8), torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (first @ second.T).dtype == torch.bfloat16
        inside = product(first, second, 2.0)
        again = first @ second.T
    assert torch.equal(inside, first @ second.T * 2) and again.dtype == torch.bfloat16


def test_values_may_be_given_by_name() -> None:
    rows = torch.randn(3, 8)
    assert torch.equal(product(rows, factor=2.0, second=rows), product(rows, rows, 2.0))
    assert product(rows, second=rows.half(), factor=1.0).dtype == torch.float32


def test_half_precision_is_promoted_and_double_is_left_alone() -> None:
    rows = torch.randn(3, 8)
    assert product(rows.half(), rows.bfloat16(), 1.0).dtype == torch.float32
    assert product(rows.double(), rows.double(), 1.0).dtype == torch.float64
    assert full(rows) is rows
