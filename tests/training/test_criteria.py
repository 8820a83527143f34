"""The criteria without labels on features whose values are known, and where a run computes them."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

import unlabeled
from unlabeled import encoders
from unlabeled.reporting import report
from unlabeled.training import criteria, judge


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def with_variances(variances: Tensor, samples: int = 400) -> Tensor:
    """Features whose principal directions, turned at random, have exactly these variances."""
    points = torch.randn(samples, len(variances), dtype=torch.double)
    units = torch.linalg.qr(points - points.mean(0)).Q
    turn = torch.linalg.qr(torch.randn(len(variances), len(variances), dtype=torch.double)).Q
    return units * variances.sqrt() @ turn + 3


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.3])
@pytest.mark.parametrize("dim", [40, 150])
def test_alpha_of_a_power_law_is_its_exponent(exponent: float, dim: int):
    features = with_variances(torch.arange(1, dim + 1, dtype=torch.double) ** -exponent)
    assert criteria.alpha(features) == pytest.approx(exponent, abs=1e-6)
    assert criteria.alpha(7 * features - 2) == pytest.approx(exponent, abs=1e-6)
    assert criteria.alpha(features[:, :0].new_zeros(400, dim)) is not None


def test_alpha_is_the_weighted_line_through_ranks_4_to_100():
    variances = torch.rand(150, dtype=torch.double).sort(descending=True).values + 0.01
    ranks = torch.arange(4, 101, dtype=torch.double)
    design = torch.stack([-ranks.log(), torch.ones(97)], 1) * ranks.rsqrt()[:, None]
    answer = torch.linalg.lstsq(design, (variances[3:100].log() * ranks.rsqrt())[:, None]).solution
    assert criteria.alpha(with_variances(variances)) == pytest.approx(float(answer[0]), abs=1e-6)


def test_alpha_is_undefined_without_enough_directions():
    assert math.isnan(criteria.alpha(torch.randn(100, 5)))
    assert math.isnan(criteria.alpha(torch.randn(100, 5) @ torch.randn(5, 64)))
    assert math.isnan(criteria.alpha(torch.ones(100, 64)))


def random_views(views: int = 6, samples: int = 40, dim: int = 12) -> Tensor:
    return torch.randn(samples, dim, dtype=torch.double) + torch.randn(
        views, samples, dim, dtype=torch.double
    )


def test_lidar_equals_its_definition():
    views, delta = random_views(), 0.01
    means = views.mean(0)
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / 40
    within = sum(torch.outer(row, row) for row in (views - means).reshape(-1, 12)) / (6 * 40)
    within += delta * within.trace() / 12 * torch.eye(12)
    values, axes = torch.linalg.eigh(within)
    root = axes @ (values.rsqrt()[:, None] * axes.T)
    shares = torch.linalg.eigvalsh(root @ between @ root)
    shares /= shares.sum()
    assert criteria.lidar(views, delta) == pytest.approx(float((-shares * shares.log()).sum().exp()))


def test_lidar_does_not_change_under_an_invertible_linear_map():
    views, change = random_views(), torch.randn(12, 12, dtype=torch.double)
    assert criteria.lidar(views @ change + 5, 0) == pytest.approx(criteria.lidar(views, 0), rel=1e-6)
    assert criteria.lidar(1e3 * views) == pytest.approx(criteria.lidar(views))


def test_lidar_counts_the_directions_that_views_leave_alone():
    centres = torch.zeros(200, 12, dtype=torch.double)
    centres[:, :3] = torch.randn(200, 3, dtype=torch.double)
    views = centres + 1e-3 * torch.randn(8, 200, 12, dtype=torch.double)
    assert criteria.lidar(views) == pytest.approx(3, abs=0.1)
    noisy = torch.randn(8, 200, 12, dtype=torch.double) + 100 * centres  # its noise fills all directions
    assert criteria.lidar(noisy) == pytest.approx(3, abs=0.1)
    assert criteria.lidar(torch.randn(8, 200, 1) * torch.ones(12)) == pytest.approx(1, abs=0.01)
    assert criteria.lidar(torch.ones(4, 10, 12)) == 0


def test_lidar_of_more_dimensions_than_views_is_finite():
    assert 1 <= criteria.lidar(torch.randn(2, 5, 64)) <= 4


def test_silhouette_is_that_of_scikit_learn():
    points, clusters = torch.randn(60, 5), torch.randint(4, (60,)) * 3
    clusters[7] = 20  # alone in its cluster
    expected = silhouette_score(points.numpy(), clusters.numpy())
    assert criteria.silhouette(points, clusters) == pytest.approx(expected, abs=1e-6)
    assert math.isnan(criteria.silhouette(points, torch.zeros(60, dtype=torch.int64)))


def test_silhouette_is_high_for_groups_and_draws_nothing_from_the_generator():
    groups = 20 * torch.randn(10, 32).repeat(20, 1)
    state = torch.get_rng_state()
    clear = criteria.cluster_silhouette(groups + torch.randn(200, 32))
    torch.set_rng_state(state)
    torch.randn(200, 32)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    assert clear == criteria.cluster_silhouette(groups + torch.randn(200, 32)) > 0.6
    assert torch.equal(torch.get_rng_state(), after)
    assert criteria.cluster_silhouette(torch.randn(200, 32)) < 0.1


def test_criteria_are_computed_evenly_and_at_the_end():
    assert judge.measured_epochs(10, 100) == {10}  # short: once
    assert judge.measured_epochs(4, 50_000) == {1, 2, 3, 4}
    assert judge.measured_epochs(100, 50_000) == set(range(5, 101, 5))
    assert max(judge.measured_epochs(7, 10_000)) == 7


def test_views_are_the_same_each_time_and_leave_the_generator_alone():
    encoder = encoders.build("conv4", image_size=8, in_channels=3).eval()
    batch, state = {"image": torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)}, torch.get_rng_state()
    first, second = judge.view_features(encoder, batch, 3), judge.view_features(encoder, batch, 3)
    assert first is not None and second is not None
    assert torch.equal(first, second) and first.shape == (3, 5, encoder.dim)
    assert not torch.equal(first[0], first[1]) and torch.equal(torch.get_rng_state(), state)
    assert judge.view_features(encoder, {"image": batch["image"][:1]}) is None


def test_a_run_logs_the_criteria_and_its_page_shows_them(tmp_path: Path):
    images = torch.randint(256, (48, 3, 8, 8), dtype=torch.uint8)
    settings = {"encoder": "conv4", "image_size": 8, "batch_size": 16, "epochs": 2, "quiet": True}
    run = unlabeled.pretrain("rotnet", images, out=tmp_path / "run", **settings)
    first, last = run.history
    assert "lidar" not in first
    assert last["lidar"] > 1 and -1 < last["silhouette"] < 1 and last["alpha"] > 0
    page = Path(report(run, out=tmp_path / "page.html")).read_text()
    assert all(f"<b>{title}</b>" in page for title in ("LiDAR", "Alpha", "Silhouette"))
