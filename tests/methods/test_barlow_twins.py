"""The cross-correlation of two views against closed forms and a slow twin."""

import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.barlow_twins import BarlowTwins, loss


def build(**options) -> BarlowTwins:
    torch.manual_seed(0)
    return BarlowTwins(encoders.build("conv4", image_size=8), **{"projection_dim": 6} | options)


def rows(seed: int, count: int = 9, dim: int = 4) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def white(dim: int) -> Tensor:
    """Rows whose columns have mean 0, variance 1 and no correlation: columns of a Hadamard matrix."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) <= dim:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[:, 1 : dim + 1]


def test_equal_views_of_uncorrelated_dimensions_have_no_loss_and_opposite_ones_four_for_each() -> None:
    vectors = white(7)
    assert loss(vectors, vectors, 0.5).item() == pytest.approx(0, abs=1e-8)
    assert loss(vectors, -vectors, 0.5).item() == pytest.approx(4 * 7, rel=1e-4)


def test_constant_rows_cost_the_diagonal_and_equal_dimensions_the_rest() -> None:
    assert loss(torch.ones(5, 8), torch.ones(5, 8), 0.0051).item() == pytest.approx(8)
    same = white(1).expand(-1, 8)
    assert loss(same, same, 0.0051).item() == pytest.approx(0.0051 * 8 * 7, rel=1e-3)


@pytest.mark.parametrize("count", [9, 3])
def test_loss_is_the_sum_over_the_matrix_written_out(count: int) -> None:
    """Of more samples than dimensions and of fewer, where other products are computed."""
    first, second = (rows(seed, count).requires_grad_() for seed in (1, 2))
    norm = nn.BatchNorm1d(4, affine=False).double()
    first_unit, second_unit = norm(first), norm(second)
    slow = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            entry = (first_unit[:, i] * second_unit[:, j]).mean()
            slow = slow + ((entry - 1) ** 2 if i == j else 0.3 * entry**2)
    value = loss(first, second, 0.3)
    torch.testing.assert_close(value, slow)
    for fast, twin in zip(
        torch.autograd.grad(value, [first, second]), torch.autograd.grad(slow, [first, second])
    ):
        torch.testing.assert_close(fast, twin, rtol=1e-3, atol=1e-6)


def test_views_may_be_swapped_and_dimensions_scaled_and_shifted() -> None:
    first, second = rows(1, 50), rows(2, 50)
    value = loss(first, second, 0.3)
    torch.testing.assert_close(loss(second, first, 0.3), value)
    scaled = first * torch.tensor([2.0, 5, 0.7, 3]) - 4
    torch.testing.assert_close(loss(scaled, second, 0.3), value, rtol=1e-3, atol=0)


def test_gradient_is_the_numeric_one_and_reaches_both_views() -> None:
    first, second = rows(1).requires_grad_(), rows(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 0.3), (first, second))


def test_unrelated_views_have_the_loss_that_chance_names() -> None:
    method = build(redundancy=0.2)
    values = [loss(rows(seed, 32, 6), rows(seed + 1000, 32, 6), 0.2).item() for seed in range(400)]
    assert sum(values) / len(values) == pytest.approx(method.chance(32), rel=0.02)


def test_only_the_second_view_is_solarized() -> None:
    method = build(solarize=1.0, jitter=0.0, gray=0.0, crop=1.0, flip=0.0)
    bright = {"image": torch.full((2, 3, 8, 8), 250, dtype=torch.uint8)}
    first, second = method.two_views(bright)
    assert first.min() > 0.9 and second.max() < 0.1


@pytest.mark.usefixtures("wide_networks")
def test_redundancy_falls_in_training() -> None:
    method = build(crop=0.5, projection_dim=16)
    batch = {"image": torch.randint(0, 256, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()}
    optimizer = torch.optim.AdamW(method.parameters(), 3e-3)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = method(batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-5:]) < 0.7 * sum(values[:5])
