"""Denominators in blocks against the square matrix, in value and gradient."""

import time

import pytest
import torch
from torch import Tensor

from unlabeled.kernels import partition
from unlabeled.kernels.partition import log_partition


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


@pytest.mark.parametrize("scale", [0.01, 3.0, 59.0, 70.0])
@pytest.mark.parametrize(
    "skip", [None, torch.arange(9), torch.arange(9).roll(2)], ids=["all", "itself", "partner"]
)
@pytest.mark.parametrize("kept", [False, True])
def test_gradient_passes_gradcheck(
    kept: bool, skip: Tensor | None, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_UP_TO", 9 if kept else 8)
    rows, others = vectors(9), vectors(11, seed=1)
    assert torch.autograd.gradcheck(lambda x: log_partition(x, x, scale, skip), (rows,), eps=1e-7)
    assert torch.autograd.gradcheck(lambda x, y: log_partition(x, y, scale, skip), (rows, others), eps=1e-7)


def test_either_side_may_need_no_gradient() -> None:
    rows, others = vectors(9), vectors(11, seed=1)
    assert torch.autograd.gradcheck(lambda x: log_partition(x, others.detach(), 3.0), (rows,))
    assert torch.autograd.gradcheck(lambda y: log_partition(rows.detach(), y, 3.0), (others,))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dim", [3, 128])
@pytest.mark.parametrize("scale", [1.0, 10.0, 59.0, 500.0])
def test_single_precision_is_as_exact_as_it_can_be(scale: float, dim: int, mirrored: bool) -> None:
    results = []
    for function, dtype in ((square, torch.double), (log_partition, torch.float)):
        rows = vectors(40, dim).detach().to(dtype).requires_grad_()
        others = rows if mirrored else vectors(50, dim, seed=1).detach().to(dtype).requires_grad_()
        value = function(rows, others, scale, torch.arange(40))
        value.sum().backward()
        assert rows.grad is not None and others.grad is not None
        results.append((value.detach().double(), rows.grad.double(), others.grad.double()))
    for ours, theirs in zip(*results, strict=True):
        # A product of the scale is rounded by 6e-8 of it, and so is the exponential.
        error = 1e-6 + 3e-7 * scale
        torch.testing.assert_close(ours, theirs, rtol=error, atol=error * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("count", "other", "blocks"), [(22, False, 6 * 49 + 3 * 7 + 1), (23, False, 0), (9, True, 0)]
)
def test_only_few_blocks_are_kept(
    count: int, other: bool, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_UP_TO", 22)
    kept: list[Tensor] = []
    rows, others = vectors(count), vectors(40)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        log_partition(rows, others if other else rows, 3.0)
    # Besides the arguments and one number for each row, and the gradient of the rows where there are others.
    rest = count * 5 + count + other * (40 * 5 + count * 5)
    assert sum(tensor.numel() for tensor in kept) == blocks + rest


def test_any_partner_may_be_left_out() -> None:
    rows, skip = vectors(12), torch.arange(12).roll(3)
    torch.testing.assert_close(log_partition(rows, rows, 4.0, skip), square(rows, rows, 4.0, skip))


@pytest.mark.parametrize("scale", [3.0, 300.0])
def test_a_row_compared_with_nothing_has_minus_infinity_and_no_gradient(scale: float) -> None:
    row = vectors(1)
    found = log_partition(row, row, scale, torch.arange(1))
    (gradient,) = torch.autograd.grad(found.sum(), row)
    assert found.item() == -torch.inf and torch.equal(gradient, torch.zeros_like(row))


def test_equal_vectors_give_the_logarithm_of_their_number() -> None:
    rows = torch.ones(20, 1, dtype=torch.double)
    found = log_partition(rows, rows, 3.0, torch.arange(20))
    torch.testing.assert_close(found, (torch.tensor(19.0, dtype=torch.double).log() + 3).expand(20))


def test_low_temperatures_do_not_underflow() -> None:
    rows = torch.nn.functional.normalize(
        torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), dim=1
    )
    assert log_partition(rows, rows, 1000.0, torch.arange(30)).isfinite().all()


def test_layout_in_memory_changes_neither_values_nor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "BLOCK", 512)
    rows = torch.randn(64, 2048).T
    assert not rows.is_contiguous()
    began = time.process_time()
    value = partition.log_partition(rows, rows, 0.05)
    assert time.process_time() - began < 3  # it was 15 s
    torch.testing.assert_close(value, (rows @ rows.T * 0.05).logsumexp(1))
