"""Contrastive pairs: the formula against known values and a slow twin; what pushes, and what is learned."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.contrastive_pairs import ContrastivePairs, pair_loss
from unlabeled.parts.view_distances import view_distances

NO, YES = torch.tensor([False]), torch.tensor([True])


def build(**options) -> ContrastivePairs:
    torch.manual_seed(0)
    return ContrastivePairs(encoders.build("conv4", image_size=8), **{"projection_dim": 8} | options)


def images(count: int = 16) -> Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(count))
    return (F.interpolate(coarse, 8, mode="bilinear") * 255).to(torch.uint8)


def rows(seed: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow(first: Tensor, second: Tensor, margin: float) -> Tensor:
    """Y = 0 for similar and 1 for dissimilar pairs, as in the paper; the two kinds averaged."""
    views, count = [*first, *second], len(first)
    similar, dissimilar = [], []
    for i, a in enumerate(views):
        for j, b in enumerate(views):
            distance = (a - b).norm() if i != j else None
            if i != j and i % count == j % count:
                similar.append(distance**2 / 2)
            elif i != j:
                dissimilar.append((margin - distance).clamp(min=0) ** 2 / 2)
    return (torch.stack(similar).mean() + torch.stack(dissimilar).mean()) / 2


@pytest.mark.parametrize(
    ("distance", "similar", "dissimilar"), [(0.0, 0, 0.5), (0.3, 0.045, 0.245), (1.0, 0.5, 0), (2.0, 2, 0)]
)
def test_known_values_of_single_pairs(distance: float, similar: float, dissimilar: float) -> None:
    square = torch.tensor([distance**2], dtype=torch.float64)
    assert 2 * pair_loss(square, square, NO, 1.0).item() == pytest.approx(similar, abs=1e-12)
    assert 2 * pair_loss(0 * square, square, YES, 1.0).item() == pytest.approx(dissimilar, abs=2e-6)


@pytest.mark.parametrize("margin", [0.7, 2.0])
def test_value_and_gradient_are_those_of_a_loop_over_pairs(margin: float) -> None:
    first, second = rows(1).requires_grad_(), rows(2).requires_grad_()
    similar, squares, others = view_distances(first, second)
    fast, expected = pair_loss(similar, squares, others, margin), slow(first, second, margin)
    torch.testing.assert_close(fast, expected)
    found, wanted = (torch.autograd.grad(x, (first, second)) for x in (fast, expected))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)
    assert found[0].abs().max() > 1e-3


def test_collapsed_vectors_have_the_chance_loss_unless_there_are_no_dissimilar_pairs() -> None:
    ones = torch.ones(4, 3, dtype=torch.float64)
    similar, squares, others = view_distances(ones, ones)
    assert pair_loss(similar, squares, others, 1.4).item() == pytest.approx(
        build(margin=1.4).chance(4), abs=1e-5
    )
    assert pair_loss(similar, squares, torch.zeros_like(others), 1.4) == 0


def test_dissimilar_pairs_beyond_the_margin_have_no_gradient_and_equal_ones_a_finite_one() -> None:
    square = torch.tensor([0.25, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    pair_loss(torch.zeros(1).double(), square, torch.tensor([True] * 3), 1.0).backward()
    assert square.grad is not None
    # d/dD of (1 - D)^2 / 12 at D = 0.5, over dD^2/dD = 2 D.
    torch.testing.assert_close(square.grad, torch.tensor([-1 / 12, 0, 0]).double())


def test_loss_is_invariant_to_rotation_and_translation() -> None:
    first, second = rows(1), rows(2)
    turn = torch.linalg.qr(rows(3, 3)).Q
    moved = view_distances(first @ turn + 5, second @ turn + 5)
    torch.testing.assert_close(pair_loss(*moved, 1.5), pair_loss(*view_distances(first, second), 1.5))


def test_vectors_have_unit_length_unless_unit_is_false() -> None:
    views = [images() / 255, images().flip(3) / 255]
    for unit in (True, False):
        method = build(normalize=unit)
        method.two_views = lambda batch: tuple(views)  # type: ignore[method-assign]
        first, second = (method.head(method.encoder(view)) for view in views)
        if unit:
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        torch.testing.assert_close(method({}), slow(first, second, 1.0))


def learned(wrong: bool) -> float:
    """How many partners are closest among new images, or views that are taken for partners and are not."""
    method = build(projection_dim=32, margin=1.4, crop=0.6, jitter=0.2, gray=0.0)
    views = method.views
    if wrong:
        method.two_views = lambda batch: (views(batch), views(batch).roll(1, 0))  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(20):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method({"image": images(24)}).backward()
        optimizer.step()
    with torch.no_grad():
        method({"image": images(32)})
    return float(method.metrics["closest"])


@pytest.mark.usefixtures("wide_networks")
def test_partners_are_recognised_in_new_images_but_not_if_pairs_show_different_images() -> None:
    assert learned(wrong=False) > 0.3 > 2 * learned(wrong=True)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": images(4)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
