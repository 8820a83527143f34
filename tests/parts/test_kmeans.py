"""k-means, whitening and the agreement of clusterings against their definitions."""

from itertools import pairwise

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from unlabeled.parts import kmeans as module
from unlabeled.parts.kmeans import agreement, kmeans, whiten


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def blobs(samples: int = 400, count: int = 4, dim: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(samples) % count
    return torch.randn(count, dim)[labels] * 20 + torch.randn(samples, dim) * 0.1, labels


def test_separated_blobs_are_found():
    points, labels = blobs()
    found = kmeans(points, 4)
    assert agreement(found.assignments, labels) == pytest.approx(1)
    assert found.inertia < 400 * 8 * 0.1**2 * 1.1


def test_result_is_consistent():
    points = torch.randn(300, 5)
    centres, assignments, inertia = kmeans(points, 7, iterations=50)
    for cluster in range(7):
        torch.testing.assert_close(centres[cluster], points[assignments == cluster].mean(dim=0))
    assert torch.equal(torch.cdist(points, centres).argmin(dim=1), assignments)
    brute = sum(float((points[i] - centres[assignments[i]]).square().sum()) for i in range(300))
    assert inertia == pytest.approx(brute, rel=1e-5)


@pytest.mark.parametrize("clusters", [3, 40])
def test_inertia_never_rises(clusters):
    points = torch.cat([torch.randn(150, 4), torch.zeros(50, 4)])
    inertias = []
    for iterations in range(1, 15):
        torch.manual_seed(1)
        inertias.append(float(kmeans(points, clusters, iterations).inertia))
    assert all(after <= before * (1 + 1e-5) for before, after in pairwise(inertias))


@pytest.mark.parametrize("points", [torch.zeros(50, 3), torch.eye(3).repeat(20, 1), torch.randn(12, 3)])
def test_no_cluster_is_empty_even_with_duplicates(points):
    found = kmeans(points, 12)
    assert (torch.bincount(found.assignments, minlength=12) > 0).all()
    assert found.centres.isfinite().all()


def test_points_as_many_as_clusters_get_one_each():
    points = torch.randn(9, 2)
    assert kmeans(points, 9).inertia < 1e-9


def test_chunks_do_not_change_the_result(monkeypatch):
    points = torch.randn(200, 6)
    torch.manual_seed(3)
    whole = kmeans(points, 10)
    monkeypatch.setattr(module, "_ENTRIES", 170)
    torch.manual_seed(3)
    chunked = kmeans(points, 10)
    assert torch.equal(whole.assignments, chunked.assignments)
    torch.testing.assert_close(whole.centres, chunked.centres)


def test_default_generator_decides():
    points = torch.randn(200, 6)
    torch.manual_seed(3)
    first = kmeans(points, 10).assignments
    assert not torch.equal(first, kmeans(points, 10).assignments)
    torch.manual_seed(3)
    assert torch.equal(first, kmeans(points, 10).assignments)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="clusters must be at most the number of points, 50, got 51"):
        kmeans(torch.zeros(50, 3), 51)
    with pytest.raises(ValueError, match="clusters must be at least 1, got 0"):
        kmeans(torch.zeros(50, 3), 0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        kmeans(torch.zeros(50, 3), 5, 0)


def test_whitened_covariance_is_the_identity():
    features = torch.randn(500, 20) @ torch.randn(20, 20) + 5
    white = whiten(features, 8)
    assert white.shape == (500, 8)
    torch.testing.assert_close(torch.cov(white.T), torch.eye(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(8), atol=1e-4, rtol=0)


def test_whitening_keeps_the_directions_of_most_variance():
    scales = torch.tensor([0.1, 5.0, 1.0, 3.0])
    features = torch.randn(1000, 4) * scales
    correlations = torch.corrcoef(torch.cat([whiten(features, 2), features], dim=1).T)[:2, 2:].abs()
    assert correlations.argmax(dim=1).tolist() == [1, 3]


def test_whitening_drops_directions_without_variance():
    features = torch.cat([torch.randn(100, 3), torch.zeros(100, 5)], dim=1)
    assert whiten(features, 8).shape == (100, 3)
    few = whiten(torch.randn(10, 64), 64)
    assert few.shape == (10, 9)
    torch.testing.assert_close(torch.cov(few.T), torch.eye(9), atol=1e-3, rtol=0)


def test_agreement_equals_sklearn():
    first, second = torch.randint(0, 7, (300,)), torch.randint(0, 4, (300,))
    second[:150] = first[:150] % 4
    expected = normalized_mutual_info_score(first, second)
    assert agreement(first, second) == pytest.approx(expected, abs=1e-6)
    assert agreement(first, (first + 3) % 7) == pytest.approx(1)
    assert agreement(first, torch.zeros_like(first)) == pytest.approx(0)
    assert agreement(torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long)) == 1
