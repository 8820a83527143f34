"""The three terms against closed forms and a slow twin; what happens without a guard."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.vicreg import VICReg, loss, squared_covariances
from unlabeled.training import metrics


def build(**options) -> VICReg:
    torch.manual_seed(0)
    return VICReg(encoders.build("conv4", image_size=8), **{"projection_dim": 6} | options)


def rows(seed: int, count: int = 9, dim: int = 4) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def white(dim: int) -> Tensor:
    """Rows whose columns have mean 0, variance 1 (of n - 1) and no correlation: columns of a Hadamard matrix."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) <= dim:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix[:, 1 : dim + 1] * ((len(matrix) - 1) / len(matrix)) ** 0.5


def test_equal_views_of_uncorrelated_features_cost_nothing_and_constants_the_variance() -> None:
    assert loss(white(7), white(7), 25, 25, 1).item() == pytest.approx(0, abs=1e-12)
    ones = torch.ones(5, 8)
    assert loss(ones, ones, 25, 25, 1).item() == pytest.approx(24.75)


def test_equal_features_cost_twice_the_covariance() -> None:
    same = white(1).expand(-1, 8)
    assert loss(same, same, 25, 25, 1).item() == pytest.approx(2 * 7)


def test_only_the_difference_of_the_views_costs_invariance() -> None:
    first = 2 * white(3)
    assert loss(first, first + 0.5, 3, 1, 0).item() == pytest.approx(3 * 0.25)


@pytest.mark.parametrize("dim", [4, 8, 9, 20])
def test_value_and_gradient_are_those_of_the_formula_written_out(dim: int) -> None:
    """Fewer samples than features, as many and more: the matrix of samples or that of features."""
    first, second = (0.9 * rows(seed, dim=dim).requires_grad_() for seed in (1, 2))
    slow = 3 * (first - second).square().mean()
    for view in (first, second):
        mean = sum(view) / 9
        for i in range(dim):
            slow = slow + 5 * F.relu(1 - (view[:, i].var() + 1e-4).sqrt()) / dim / 2
            for j in range(dim):
                if i != j:
                    entry = sum((row - mean)[i] * (row - mean)[j] for row in view) / 8
                    slow = slow + 7 * entry**2 / dim
    value = loss(first, second, 3, 5, 7)
    torch.testing.assert_close(value, slow)
    for ours, theirs in zip(*(torch.autograd.grad(x, (first, second)) for x in (value, slow))):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 1e-3


def test_the_matrix_of_samples_and_that_of_features_agree_and_the_large_one_is_never_made() -> None:
    wide = rows(3, 5, 30_000)
    wide = wide - wide.mean(0)
    products = wide @ wide.T
    expected = (products.square().sum() - wide.square().sum(0).square().sum()) / 16 / 30_000
    torch.testing.assert_close(squared_covariances(wide), expected)  # 7 GB otherwise


def test_guards_ignore_a_shift_and_covariance_grows_with_the_fourth_power_of_the_scale() -> None:
    view = rows(1, 50)
    value = loss(view, view, 1, 1, 1)
    torch.testing.assert_close(loss(view + 9, view + 9, 1, 1, 1), value)
    torch.testing.assert_close(loss(3 * view, 3 * view, 1, 0, 1), 81 * loss(view, view, 1, 0, 1))
    assert loss(3 * view, 3 * view, 0, 1, 0).item() == 0 < loss(view / 2, view / 2, 0, 1, 0)


def test_views_may_be_swapped() -> None:
    torch.testing.assert_close(loss(rows(1), rows(2), 3, 5, 7), loss(rows(2), rows(1), 3, 5, 7))


def test_a_single_sample_has_no_variance() -> None:
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        loss(rows(1, 1), rows(2, 1), 25, 25, 1)


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (10.0, 20.0, 3.0)])
def test_unrelated_views_of_the_cheapest_scale_have_the_loss_that_chance_names(weights: tuple) -> None:
    invariance, variance, covariance = weights
    method = build(invariance=invariance, variance=variance, covariance=covariance)

    def mean(scale: float) -> float:
        pairs = [(scale * rows(2 * seed, 64, 6), scale * rows(2 * seed + 1, 64, 6)) for seed in range(100)]
        return sum(loss(*pair, *weights).item() for pair in pairs) / len(pairs)

    best = variance / (4 * invariance)
    assert mean(best) == pytest.approx(method.chance(64), rel=0.03)
    assert mean(best) < min(mean(best / 2), mean(2 * best))


def trained(wrong: bool = False, **options) -> tuple[VICReg, Tensor, float]:
    """A method after a short training on noisy copies of images, their projections, and the last losses.

    Where it is wrong, the two views are copies of different images.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU())
    method = VICReg(encoders.wrap(network, image_size=4), projection_dim=16, **options)
    images = torch.rand(64, 3, 4, 4)

    def two_views(batch: object) -> tuple[Tensor, Tensor]:
        others = images[torch.randperm(64)] if wrong else images
        return images + 0.2 * torch.randn_like(images), others + 0.2 * torch.randn_like(images)

    method.two_views = two_views  # type: ignore[method-assign]
    optimizer, values = torch.optim.AdamW(method.parameters(), 3e-3), []
    for _ in range(150):
        optimizer.zero_grad()
        values.append(method({}))
        values[-1].backward()
        optimizer.step()
    vectors = method.projections({})[0].detach()
    return method, vectors - vectors.mean(0), sum(value.item() for value in values[-10:]) / 10


def test_training_gets_below_chance_but_not_with_views_of_different_images() -> None:
    method, vectors, value = trained()
    assert value < 0.8 * method.chance(64) and vectors.std(0).mean() > 0.5
    assert trained(wrong=True)[2] > 0.95 * method.chance(64)


def test_without_the_variance_term_everything_collapses() -> None:
    _, vectors, value = trained(variance=0.0)
    assert vectors.std(0).mean() < 0.05 and value < 0.1


def test_without_the_covariance_term_fewer_directions_are_used() -> None:
    ranks = [metrics.rank(trained(covariance=covariance)[1]) for covariance in (0.0, 10.0)]
    assert 1.3 * ranks[0] < ranks[1]


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method({"image": torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)})
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
