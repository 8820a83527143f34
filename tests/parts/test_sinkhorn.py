"""Sinkhorn against a slow twin and its invariances."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.sinkhorn import sinkhorn


def scores(samples: int = 64, prototypes: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vectors, clusters = (
        F.normalize(torch.randn(rows, 32, dtype=torch.float64, generator=generator), dim=1)
        for rows in (samples, prototypes)
    )
    return vectors @ clusters.T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_scaling_of_rows_and_columns_one_by_one(iterations: int) -> None:
    matrix = (scores(8, 4) / 0.05).exp()
    for _ in range(iterations):
        for column in range(4):
            matrix[:, column] = matrix[:, column] / matrix[:, column].sum() / 4
        for row in range(8):
            matrix[row] = matrix[row] / matrix[row].sum() / 8
    torch.testing.assert_close(sinkhorn(scores(8, 4), 0.05, iterations), 8 * matrix)


def test_rows_of_sinkhorn_sum_to_1_and_use_of_prototypes_becomes_equal() -> None:
    spreads = []
    for iterations in (1, 3, 10, 100):
        codes = sinkhorn(scores(), 0.05, iterations)
        torch.testing.assert_close(codes.sum(1), torch.ones(64).double(), rtol=1e-12, atol=0)
        spreads.append((codes.sum(0) - 6.4).abs().max().item())
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[1] < 3 and spreads[2] < 0.5 and spreads[3] < 1e-4


def test_sinkhorn_follows_a_reordering_and_ignores_a_constant() -> None:
    order = torch.randperm(64)
    codes = sinkhorn(scores(), 0.05, 3)
    torch.testing.assert_close(sinkhorn(scores()[order], 0.05, 3), codes[order])
    torch.testing.assert_close(sinkhorn(scores() + 0.7, 0.05, 3), codes)


def test_sinkhorn_stands_scores_whose_exponential_overflows_half_precision() -> None:
    half = torch.linspace(-1, 1, 40).view(8, 5).half()
    with torch.autocast("cpu", torch.bfloat16):
        codes = sinkhorn(half, 0.005, 3)
    assert codes.dtype == torch.float32 and codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(8))
