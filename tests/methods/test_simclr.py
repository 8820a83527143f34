"""NT-Xent against closed forms, a slow twin and its invariances."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.simclr import SimCLR, loss


def pair(images: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, images, dim, dtype=torch.float64, generator=generator)
    return rows[0], rows[1]


def slow(first: Tensor, second: Tensor, temperature: float) -> float:
    """One view after the other, one candidate after the other."""
    views = [vector / vector.norm() for vector in [*first, *second]]
    images, total = len(first), 0.0
    for own, view in enumerate(views):
        partner = (own + images) % (2 * images)
        candidates = [math.exp(view @ views[k] / temperature) for k in range(2 * images) if k != own]
        total -= math.log(math.exp(view @ views[partner] / temperature) / sum(candidates))
    return total / (2 * images)


@pytest.mark.parametrize(
    ("temperature", "value"), [(0.1, 2.724e-4), (0.2, 0.039632), (0.5, 0.594438), (1, 1.165422)]
)
def test_orthonormal_images_with_equal_partners_have_the_closed_form(
    temperature: float, value: float
) -> None:
    vectors = torch.eye(4, dtype=torch.float64)
    result = loss(vectors, vectors, temperature).item()
    assert result == pytest.approx(math.log1p(6 * math.exp(-1 / temperature)), rel=1e-12)
    assert result == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("images", "value"), [(4, 1.9459), (256, 6.23637), (512, 6.93049)])
def test_collapsed_vectors_have_the_loss_of_chance(images: int, value: float) -> None:
    vectors = torch.ones(images, 3, dtype=torch.float64)
    chance = SimCLR(encoders.build("conv4", image_size=8)).chance(images)
    assert loss(vectors, vectors, 0.2).item() == pytest.approx(chance, rel=1e-12)
    assert chance == pytest.approx(value, abs=5e-5)


def test_loss_equals_a_slow_double_loop() -> None:
    for images, temperature in product([2, 5], [0.1, 0.7]):
        first, second = pair(images)
        assert loss(first, second, temperature).item() == pytest.approx(
            slow(first, second, temperature), rel=1e-12
        )


def test_loss_ignores_order_of_images_swap_of_views_length_and_rotation() -> None:
    first, second = pair()
    value = loss(first, second, 0.3)
    order = torch.randperm(len(first))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    lengths = torch.rand(len(first), 1, dtype=torch.float64) + 0.1
    for other in (
        loss(first[order], second[order], 0.3),
        loss(second, first, 0.3),
        loss(first * lengths, second * 7, 0.3),
        loss(first @ rotation, second @ rotation, 0.3),
    ):
        torch.testing.assert_close(other, value, rtol=1e-12, atol=0)
    assert not torch.isclose(loss(first[order], second, 0.3), value)


def test_low_temperature_leaves_only_the_hardest_candidate() -> None:
    first, second = pair()
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    similarity = (views @ views.T).fill_diagonal_(-2)
    partner = similarity[torch.arange(12), (torch.arange(12) + 6) % 12]
    limit = (similarity.max(1).values - partner).mean()
    torch.testing.assert_close(1e-4 * loss(first, second, 1e-4), limit, rtol=1e-6, atol=1e-8)


def test_gradient_is_the_numeric_one_and_has_no_radial_part() -> None:
    first, second = (vectors.requires_grad_() for vectors in pair(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 0.5), (first, second))
    loss(first, second, 0.5).backward()
    for vectors in (first, second):
        assert vectors.grad is not None and vectors.grad.norm() > 0.01
        torch.testing.assert_close(
            (vectors.grad * vectors).sum(1), torch.zeros(3).double(), atol=1e-15, rtol=0
        )


def test_similarities_are_not_rounded_by_mixed_precision() -> None:
    first, second = (vectors.float() for vectors in pair())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(first, second, 0.04)
        rounded = loss(first.bfloat16(), second.bfloat16(), 0.04)
    assert torch.equal(mixed, loss(first, second, 0.04)) and rounded.isfinite()


def test_training_step_in_bfloat16_is_finite() -> None:
    method = SimCLR(encoders.build("conv4", image_size=8), temperature=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
