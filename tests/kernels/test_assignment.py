"""Assignments against those of scipy and against all permutations."""

from itertools import permutations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from unlabeled.kernels.assignment import assign


@pytest.mark.parametrize("size", [1, 2, 3, 10, 64, 200])
def test_random_costs_have_the_assignment_of_scipy(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for _ in range(5):
        costs = torch.randn(size, size, generator=generator, dtype=torch.float64)
        expected = torch.from_numpy(linear_sum_assignment(costs.numpy())[1])
        assert torch.equal(assign(costs), expected)  # unique with probability 1


def test_no_permutation_costs_less_with_ties_too() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        costs = torch.randint(3, (6, 6), generator=generator).float()
        columns = assign(costs)
        assert columns.sort().values.tolist() == list(range(6))
        least = min(
            sum(costs[row, column] for row, column in enumerate(order)) for order in permutations(range(6))
        )
        assert costs[torch.arange(6), columns].sum() == least


def test_equal_and_shifted_costs_change_nothing() -> None:
    assert assign(torch.zeros(9, 9)).sort().values.tolist() == list(range(9))
    costs = torch.rand(30, 30, generator=torch.Generator().manual_seed(1))
    shifted = costs.double() + 100 * torch.arange(30)[:, None] - 7 * torch.arange(30)
    assert torch.equal(assign(costs), assign(shifted))
    assert assign(costs[:0, :0]).shape == (0,)


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (torch.zeros(2, 3), r"costs must be square, got shape \(2, 3\)"),
        (torch.tensor([[0.0, torch.nan], [0.0, 0.0]]), "costs must be finite"),
    ],
)
def test_other_costs_are_refused(costs: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(costs)
