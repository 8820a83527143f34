"""Denominators in blocks against the square matrix, in value and gradient."""

import pytest
import torch
from torch import Tensor

from unlabeled.parts import partition
from unlabeled.parts.partition import log_partition


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "BLOCK", 7)


def vectors(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, dim, dtype=torch.double, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=1).requires_grad_()


def square(rows: Tensor, others: Tensor, scale: float, skip: Tensor | None) -> Tensor:
    similarity = scale * rows @ others.T
    if skip is not None:
        similarity = similarity.scatter(1, skip[:, None], -torch.inf)
    return similarity.logsumexp(1)


@pytest.mark.parametrize("scale", [1.0, 5.0, 200.0])
@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_value_and_gradient_are_those_of_the_square_matrix(
    mirrored: bool, skipped: bool, scale: float
) -> None:
    rows = vectors(23)
    others = rows if mirrored else vectors(31, seed=1)
    skip = torch.arange(23) if skipped else None
    weight = torch.rand(23, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    results = []
    for function in (square, log_partition):
        rows.grad = others.grad = None
        value = function(rows, others, scale, skip)
        (value * weight).sum().backward()
        assert rows.grad is not None and others.grad is not None
        results.append((value.detach(), rows.grad.clone(), others.grad.clone()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mirrored", [False, True])
def test_gradient_passes_gradcheck(mirrored: bool) -> None:
    rows, others = vectors(9), vectors(9 if mirrored else 11, seed=1)
    skip = torch.arange(9)
    if mirrored:
        assert torch.autograd.gradcheck(lambda x: log_partition(x, x, 3.0, skip), (rows,))
    else:
        assert torch.autograd.gradcheck(lambda x, y: log_partition(x, y, 3.0, skip), (rows, others))


def test_any_partner_may_be_left_out() -> None:
    rows, skip = vectors(12), torch.arange(12).roll(3)
    torch.testing.assert_close(log_partition(rows, rows, 4.0, skip), square(rows, rows, 4.0, skip))


def test_equal_vectors_give_the_logarithm_of_their_number() -> None:
    rows = torch.ones(20, 1, dtype=torch.double)
    found = log_partition(rows, rows, 3.0, torch.arange(20))
    torch.testing.assert_close(found, (torch.tensor(19.0, dtype=torch.double).log() + 3).expand(20))


def test_low_temperatures_do_not_underflow() -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    assert log_partition(rows, rows, 1000.0, torch.arange(30)).isfinite().all()
