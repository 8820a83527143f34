"""Distances of views against loops over pairs."""

import pytest
import torch
from torch import Tensor

from unlabeled.parts.view_distances import partners_closest, view_distances


def pair(count: int = 5, dim: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return first, second


def test_distances_and_masks_are_those_of_loops_over_pairs() -> None:
    first, second = pair()
    to_partner, to_everyone, others = view_distances(first, second)
    views = [*first, *second]
    assert to_everyone.shape == others.shape == (10, 10)
    for row, one in enumerate(views):
        assert to_partner[row].item() == pytest.approx(((one - views[(row + 5) % 10]) ** 2).sum().item())
        for column, other in enumerate(views):
            assert to_everyone[row, column].item() == pytest.approx(
                ((one - other) ** 2).sum().item(), abs=1e-12
            )
            assert others[row, column] == (row % 5 != column % 5)


def test_distances_are_never_negative_and_have_the_numeric_gradient() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(50, 8), dim=1)
    assert view_distances(vectors, vectors)[1].min() >= 0
    first, second = (x.requires_grad_() for x in pair(3))
    weights = torch.rand(6, 6, dtype=torch.float64)

    def total(a: Tensor, b: Tensor) -> Tensor:
        to_partner, to_everyone, others = view_distances(a, b)
        return to_partner.sum() + (to_everyone * weights * others).sum()

    assert torch.autograd.gradcheck(total, (first, second))


def test_distances_are_computed_in_full_precision() -> None:
    first, second = (x.bfloat16() for x in pair())
    with torch.autocast("cpu", torch.bfloat16):
        assert [x.dtype for x in view_distances(first, second)] == [torch.float32, torch.float32, torch.bool]


def test_partners_are_closest_where_every_other_image_is_farther() -> None:
    first = torch.tensor([[0.0], [10.0], [20.0]])
    assert partners_closest(*view_distances(first, first + 1)) == 1
    # The second view of the first image lies beside the first view of the second image: both see each other first.
    crossed = torch.tensor([[9.5], [11.0], [21.0]])
    assert partners_closest(*view_distances(first, crossed)).item() == pytest.approx(4 / 6)
    assert partners_closest(*view_distances(first * 0, first * 0)) == 0
