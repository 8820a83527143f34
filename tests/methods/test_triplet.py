"""Triplets: the negatives against a brute-force search, the formula against a slow twin, and what is learned."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.triplet import Mining, Triplet, choose, violations
from unlabeled.parts.view_distances import view_distances

KINDS: list[Mining] = ["random", "semi-hard", "hardest"]


def build(**options) -> Triplet:
    torch.manual_seed(0)
    return Triplet(encoders.build("conv4", image_size=8), **{"projection_dim": 8} | options)


def images(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(count))
    return (F.interpolate(coarse, 8, mode="bilinear") * 255).to(torch.uint8)


def units(seed: int, count: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1)


def slow_choice(positive: float, distances: list[float], allowed: list[bool], mining: str) -> int:
    candidates = [number for number, fits in enumerate(allowed) if fits]
    farther = [number for number in candidates if distances[number] > positive]
    if mining == "semi-hard" and not farther:
        return max(candidates, key=lambda number: distances[number])
    return min(farther if mining == "semi-hard" else candidates, key=lambda number: distances[number])


@pytest.mark.parametrize(("mining", "ties"), product(["semi-hard", "hardest"], [False, True]))
def test_negatives_match_an_exhaustive_search_even_with_ties(mining: Mining, ties: bool) -> None:
    for seed in range(20):
        positive, distances, allowed = view_distances(units(seed), units(seed + 100))
        if ties:
            positive, distances = (positive * 2).round(), (distances * 2).round()
        chosen = choose(positive, distances, allowed, mining).tolist()
        for row, number in enumerate(chosen):
            arguments = positive[row].item(), distances[row].tolist(), allowed[row].tolist()
            assert number == slow_choice(*arguments, mining) and number % 6 != row % 6


def test_random_negatives_are_from_other_images_and_equally_likely() -> None:
    torch.manual_seed(0)
    arguments = view_distances(units(1, 3), units(2, 3))
    counts = torch.zeros(6, 6)
    for _ in range(2000):
        counts[torch.arange(6), choose(*arguments, "random")] += 1
    assert (counts[~arguments[2]] == 0).all()
    torch.testing.assert_close(counts[arguments[2]] / 2000, torch.full((24,), 1 / 4), atol=0.04, rtol=0)


@pytest.mark.parametrize(("margin", "value"), [(0.2, 0.0), (0.3, 0.1)])
def test_known_values(margin: float, value: float) -> None:
    positive, distances = torch.tensor([[0.5], [0.7]], dtype=torch.float64)
    allowed = torch.tensor([[True]])
    for mining in KINDS:
        assert violations(positive, distances[None], allowed, margin, mining).item() == pytest.approx(
            value, abs=1e-12
        )


@pytest.mark.parametrize("mining", ["semi-hard", "hardest"])
def test_value_and_gradient_are_those_of_a_loop_over_anchors(mining: Mining) -> None:
    first, second = units(3).requires_grad_(), units(4).requires_grad_()
    terms, views = [], [*first, *second]
    for row, anchor in enumerate(views):
        positive = ((anchor - views[(row + 6) % 12]) ** 2).sum()
        distances = [((anchor - view) ** 2).sum() for view in views]
        numbers = [distance.item() for distance in distances]
        allowed = [number % 6 != row % 6 for number in range(12)]
        negative = distances[slow_choice(positive.item(), numbers, allowed, mining)]
        terms.append((positive - negative + 0.3).clamp(min=0))
    slow = torch.stack(terms).mean()
    fast = violations(*view_distances(first, second), 0.3, mining).mean()
    torch.testing.assert_close(fast, slow)
    for found, wanted in zip(*(torch.autograd.grad(x, (first, second)) for x in (fast, slow))):
        torch.testing.assert_close(found, wanted)
        assert found.abs().max() > 1e-3


@pytest.mark.parametrize("mining", KINDS)
def test_collapsed_vectors_have_the_chance_loss(mining: Mining) -> None:
    ones = F.normalize(torch.ones(4, 3), dim=1).double()
    value = violations(*view_distances(ones, ones), 0.2, mining).mean().item()
    assert value == pytest.approx(build(mining=mining).chance(4), abs=1e-6)


def test_satisfied_triplets_have_no_gradient() -> None:
    far = torch.eye(8)[:4].requires_grad_()
    found = violations(*view_distances(far, far), 0.2, "hardest")
    found.sum().backward()
    assert (found == 0).all() and far.grad is not None and (far.grad == 0).all()


def test_order_of_the_images_does_not_matter() -> None:
    first, second, order = units(5), units(6), torch.tensor([3, 1, 5, 0, 2, 4])
    before = violations(*view_distances(first, second), 0.3, "semi-hard")
    after = violations(*view_distances(first[order], second[order]), 0.3, "semi-hard")
    torch.testing.assert_close(after, before[torch.cat([order, order + 6])])


def learned(wrong: bool) -> float:
    """How many partners are closest among new images, or views that are taken for partners and are not."""
    method = build(projection_dim=32, margin=0.5, crop=0.6, jitter=0.2, gray=0.0)
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
    assert learned(wrong=False) > 0.35 > 2 * learned(wrong=True)


@pytest.mark.parametrize("mining", KINDS)
def test_training_step_in_bfloat16_is_finite(mining: Mining) -> None:
    method = build(mining=mining)
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": images(4)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_margin_above_the_largest_distance_is_refused() -> None:
    assert build(margin=4.0).chance(8) == 4
    with pytest.raises(ValueError, match=r"margin must be above 0 and at most 4, got 4\.5"):
        build(margin=4.5)
