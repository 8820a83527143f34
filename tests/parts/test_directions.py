"""Whitening and the directions that forget views: closed forms, planted directions, and scipy's own solution."""

import pytest
import torch
from scipy.linalg import eigh

from unlabeled.parts import directions

torch.manual_seed(0)
POINTS = torch.randn(400, 6) @ torch.randn(6, 6)
POINTS -= POINTS.mean(0)


def test_scatter_of_parts_adds_up_to_that_of_all_rows():
    parts = sum(directions.scatter(rows) for rows in POINTS.split(130))
    torch.testing.assert_close(parts, directions.scatter(POINTS), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(
        directions.scatter(POINTS), POINTS.double().T @ POINTS.double(), rtol=1e-5, atol=1e-3
    )


def test_principal_directions_are_those_of_the_singular_values_for_few_and_for_many_samples():
    for points in (POINTS, POINTS[:4] - POINTS[:4].mean(0)):
        mine = directions.principal(points, 3)
        true = torch.linalg.svd(points, full_matrices=False).Vh[:3].T
        torch.testing.assert_close(mine.abs(), true.abs(), rtol=1e-3, atol=1e-3)
    assert directions.principal(torch.zeros(5, 3), 3).shape == (3, 0)


def test_principal_directions_by_iteration_span_the_widest_ones(monkeypatch: pytest.MonkeyPatch):
    exact = directions.principal(POINTS, 2)
    monkeypatch.setattr(directions, "EXACT", 1)
    near = directions.principal(POINTS, 2)
    assert (POINTS @ near).square().sum() >= 0.99 * (POINTS @ exact).square().sum()
    torch.testing.assert_close(near.T @ near, torch.eye(2), rtol=1e-4, atol=1e-4)
    squares = (POINTS @ near).square().sum(0)
    assert squares[0] > squares[1]


def test_whitened_points_have_the_identity_as_covariance_and_shrunk_ones_keep_their_order():
    white = POINTS @ directions.whitening(POINTS, 6, 0)
    torch.testing.assert_close(white.T @ white / len(white), torch.eye(6), rtol=1e-3, atol=1e-3)
    variances = (POINTS @ directions.whitening(POINTS, 6, 1.0)).square().mean(0)
    widths = torch.linalg.eigvalsh(POINTS.double().T @ POINTS.double() / len(POINTS)).flip(0).float()
    torch.testing.assert_close(variances, widths / (widths + widths.mean()), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="features must vary to be whitened, got 5 equal ones"):
        directions.whitening(torch.zeros(5, 3), 2, 0.1)


def covariances() -> tuple[torch.Tensor, torch.Tensor]:
    between, within = (torch.randn(50, 5, dtype=torch.float64) for _ in range(2))
    return between.T @ between / 50, within.T @ within / 50


def test_discriminants_equal_the_generalised_eigenvectors_of_scipy():
    between, within = covariances()
    mine = directions.discriminants(between, within, 3, 0.1)
    noise = within + 0.1 * within.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    _, vectors = eigh(between.numpy(), noise.numpy())
    theirs = torch.from_numpy(vectors).flip(1)[:, :3]
    torch.testing.assert_close(mine.abs(), theirs.abs())
    torch.testing.assert_close(mine.T @ noise @ mine, torch.eye(3, dtype=torch.float64))


def test_views_that_change_nothing_leave_the_principal_directions():
    between, _ = covariances()
    mine = directions.discriminants(between, torch.zeros(5, 5, dtype=torch.float64), 5, 0.5)
    theirs = torch.linalg.eigh(between).eigenvectors.flip(1)
    torch.testing.assert_close((mine / mine.norm(dim=0)).abs(), theirs.abs())


def test_a_nuisance_is_dropped_and_an_identity_kept_though_it_varies_less():
    between = torch.diag(torch.tensor([9.0, 1.0, 0.01], dtype=torch.float64))
    within = torch.diag(torch.tensor([90.0, 0.001, 0.001], dtype=torch.float64))
    best = directions.discriminants(between, within, 1, 1e-4)[:, 0]
    assert best.abs().argmax() == 1 and best[0].abs() < 1e-6 * best[1].abs()
