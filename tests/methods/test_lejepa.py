"""SIGReg against a plain integral and reference values; the loss of a step; what happens without it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.lejepa import LeJEPA, disagreement, quadrature, sigreg


def build(**options) -> LeJEPA:
    torch.manual_seed(0)
    small = {"projection_dim": 6, "hidden_dim": 12, "lines": 8}
    return LeJEPA(encoders.build("conv4", image_size=8), **small | options)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lines(dim: int, count: int, seed: int = 9) -> Tensor:
    return F.normalize(normal(dim, count, seed=seed), dim=0)


def plain(vectors: Tensor, directions: Tensor) -> Tensor:
    """The statistic by a sum over lines and frequencies from -3 to 3, with complex numbers."""
    terms, step = [], 3 / 16
    for view in vectors:
        for line in directions.T:
            total = torch.zeros((), dtype=torch.float64)
            for number in range(-16, 17):
                t = number * step
                empirical = torch.exp(1j * t * (view @ line)).mean()
                weight = step / 2 if abs(number) == 16 else step
                total = total + weight * math.exp(-t * t / 2) * (empirical - math.exp(-t * t / 2)).abs() ** 2
            terms.append(len(view) * total)
    return torch.stack(terms).mean()


def test_value_and_gradient_are_those_of_the_plain_integral() -> None:
    vectors, directions = normal(2, 7, 5).requires_grad_(), lines(5, 3)
    value, expected = sigreg(vectors, directions), plain(vectors, directions)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(x, vectors)[0] for x in (value, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours.abs().max() > 1e-3


def test_the_integral_has_its_exact_value_up_to_the_frequencies_that_are_left_out() -> None:
    x = normal(1, 6, 1)
    pairs = (x[0] - x[0].T).square()
    exact = (2 * math.pi) ** 0.5 / 6 * (-pairs / 2).exp().sum() + 6 * (2 * math.pi / 3) ** 0.5
    exact = exact - 2 * math.pi**0.5 * (-x.square() / 4).exp().sum()
    assert sigreg(x, torch.ones(1, 1).double()).item() == pytest.approx(exact.item(), abs=0.01)


@pytest.mark.parametrize(
    ("scale", "value"), [(0.0, 0.4020), (0.5, 0.151), (0.8, 0.0218), (1.25, 0.0253), (2.0, 0.236)]
)
def test_wrong_scales_cost_what_the_distance_of_two_normals_says(scale: float, value: float) -> None:
    """Per sample, at quantiles instead of samples."""
    quantiles = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)[:, None]
    found = sigreg(scale * quantiles[None], torch.ones(1, 1).double()).item() / 4000
    assert found == pytest.approx(value, rel=0.02)


def test_normal_vectors_have_the_value_of_chance_for_any_batch() -> None:
    characteristic, weights = quadrature()
    expected = (weights * (1 - characteristic.square())).sum().item()
    assert expected == pytest.approx(1.0525, abs=5e-4)
    for samples in (4, 64):
        values = [sigreg(normal(1, samples, 8, seed=s), lines(8, 32, s + 1)).item() for s in range(100)]
        assert sum(values) / 100 == pytest.approx(expected, rel=0.05)


def test_vectors_on_one_line_are_far_from_normal_though_their_variance_is_right() -> None:
    rank_one = normal(1, 256, 1).expand(-1, -1, 64)
    assert sigreg(rank_one, lines(64, 256)).item() > 20 > sigreg(normal(1, 256, 64), lines(64, 256)).item()


def test_each_view_is_tested_alone() -> None:
    both = torch.stack([normal(50, 3) + 1, normal(50, 3, seed=1) - 1])
    alone = sigreg(both, lines(3, 16)).item()
    assert abs(alone - sigreg(both.reshape(1, 100, 3), lines(3, 16)).item()) > 1
    assert alone == pytest.approx(sum(sigreg(view[None], lines(3, 16)).item() for view in both) / 2)


def test_rotations_change_nothing_but_the_lines() -> None:
    vectors, rotation = normal(1, 20, 4), torch.linalg.qr(normal(4, 4, seed=3))[0]
    directions = lines(4, 10)
    torch.testing.assert_close(
        sigreg(vectors @ rotation, rotation.T @ directions), sigreg(vectors, directions)
    )


def test_at_a_collapse_the_gradient_is_the_same_for_all_images_and_none_at_zero() -> None:
    zeros = torch.zeros(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert not torch.autograd.grad(sigreg(zeros, lines(3, 8)), zeros)[0].any()
    equal = normal(1, 1, 3).expand(1, 5, 3).contiguous().requires_grad_()
    gradient = torch.autograd.grad(sigreg(equal, lines(3, 8)), equal)[0]
    assert gradient.any() and torch.allclose(gradient, gradient[:, :1].expand_as(gradient))


def test_views_are_compared_with_the_mean_of_the_large_ones() -> None:
    vectors = torch.tensor([[[0.0]], [[2.0]], [[5.0]]])
    assert disagreement(vectors[:2], 2).item() == 1.0  # from 1, by 1 and 1
    assert disagreement(vectors, 2).item() == pytest.approx((1 + 1 + 16) / 3)
    assert disagreement(vectors[:1].repeat(3, 1, 1), 2).item() == 0


@pytest.mark.parametrize("small", [0, 3])
def test_independent_normal_vectors_have_the_loss_that_chance_names(small: int) -> None:
    method = build(local_crops=small, regularization=0.3)
    values = []
    for seed in range(100):
        vectors = normal(2 + small, 32, 6, seed=seed)
        values.append(0.7 * disagreement(vectors, 2) + 0.3 * sigreg(vectors, lines(6, 32, seed + 1)))
    assert torch.stack(values).mean().item() == pytest.approx(method.chance(32), rel=0.03)


def batch(count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return {"image": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)}


def test_a_step_weighs_both_terms_over_large_and_small_crops() -> None:
    method = build(local_crops=2, regularization=0.3).eval()
    crops = [torch.rand(6, 3, size, size) for size in (8, 8, 4, 4)]
    method.two_views = lambda batch: (crops[0], crops[1])  # type: ignore[method-assign]
    method.small_crops = lambda batch: crops[2:]  # type: ignore[assignment]
    vectors = torch.stack([method.head(method.encoder(crop)) for crop in crops])
    torch.manual_seed(4)
    directions = F.normalize(torch.randn(6, 8), dim=0)
    torch.manual_seed(4)
    torch.testing.assert_close(method({}), 0.7 * disagreement(vectors, 2) + 0.3 * sigreg(vectors, directions))


def trained(regularization: float, wrong: bool = False) -> tuple[LeJEPA, Tensor, float]:
    """A method after a short training on noisy copies of images, its projections, and its last losses.

    Where it is wrong, the two views are unrelated noise, new in every step.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU())
    options = {"projection_dim": 4, "hidden_dim": 32, "lines": 32, "regularization": regularization}
    method = LeJEPA(encoders.wrap(network, image_size=4), **options)
    images = torch.rand(64, 3, 4, 4)

    def two_views(batch: object) -> tuple[Tensor, Tensor]:
        if wrong:
            return torch.rand_like(images), torch.rand_like(images)
        return images + 0.1 * torch.randn_like(images), images + 0.1 * torch.randn_like(images)

    method.two_views = two_views  # type: ignore[method-assign]
    optimizer, values = torch.optim.AdamW(method.parameters(), 3e-3), []
    for _ in range(120):
        optimizer.zero_grad()
        values.append(method({}))
        values[-1].backward()
        optimizer.step()
    return method, method.projections({})[0].detach(), sum(value.item() for value in values[-10:]) / 10


def test_views_agree_and_stay_spread_but_not_where_they_share_nothing() -> None:
    method, vectors, value = trained(0.1)
    assert value < 0.3 * method.chance(64) and vectors.std(0).min() > 0.5
    assert method.metrics["sigreg"] < 3
    assert trained(0.1, wrong=True)[2] > 0.75 * method.chance(64)


def test_without_sigreg_everything_collapses() -> None:
    _, vectors, value = trained(0.0)
    assert vectors.std(0).max() < 0.1 and value < 0.01


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build(local_crops=1, local_size=8)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
