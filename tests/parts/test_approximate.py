import pytest
import torch
import torch.nn.functional as F

from unlabeled.curating import anomalies, hierarchy
from unlabeled.parts import approximate
from unlabeled.progress import telling

pytest.importorskip("faiss")


@pytest.fixture
def points():
    centres = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1))
    return F.normalize(centres.repeat(100, 1) + 0.3 * noise, dim=1)


def test_nearest_others_are_those_of_an_exact_search(points):
    lines = []
    with telling(lines.append):
        near = approximate.nearest_others(points, 5)
    cosines = points @ points.T
    exact = cosines.fill_diagonal_(-torch.inf).topk(5)
    recall = (near.rows[:, :, None] == exact.indices[:, None]).any(2).double().mean()
    assert recall > 0.93
    assert abs(float(recall) - near.recall) < 0.03  # the printed recall is that of all samples
    assert (near.rows != torch.arange(4000)[:, None]).all()  # no sample is its own neighbour
    # Of the vectors, not of their bytes.
    torch.testing.assert_close(near.cosines, cosines.gather(1, near.rows))
    assert (near.cosines.diff(dim=1) <= 0).all()
    assert lines == [
        f"neighbours of 4,000 samples by faiss: recall@5 {near.recall:.3f} (500 of them searched exactly)"
    ]


def test_equal_vectors_are_neighbours_of_each_other_not_of_themselves():
    points = F.normalize(torch.ones(100, 4), dim=1)
    near = approximate.nearest_others(points, 3)
    assert (near.rows != torch.arange(100)[:, None]).all()
    torch.testing.assert_close(near.cosines, torch.ones(100, 3))


def test_what_the_searched_lists_do_not_have_is_searched_exactly(points, monkeypatch):
    monkeypatch.setattr(approximate, "MIN_RECALL", 0.0)  # so that few lists are searched
    monkeypatch.setattr(approximate, "ENTRIES", 2**16)
    points = points[:500]
    near = approximate.nearest_others(points, 450)
    exact = (points @ points.T).fill_diagonal_(-torch.inf).topk(450)
    torch.testing.assert_close(near.cosines, exact.values)


def test_isolation_and_clusters_are_the_same_by_faiss(points, monkeypatch):
    exact = anomalies.isolation(points)
    monkeypatch.setattr(approximate, "MIN_VECTORS", 1000)
    close = anomalies.isolation(points)
    assert float((close - exact).abs().mean() / exact.mean()) < 0.01
    levels = hierarchy.hierarchy(points, [40], rounds=0)
    assert levels[0].equal(hierarchy.hierarchy(points, [40], rounds=0)[0])  # the seed decides
    truth = torch.arange(40).repeat(100)
    pure = (
        torch.zeros(40, 40).index_put_((levels[0], truth), torch.ones(4000), accumulate=True).amax(1).sum()
        / 4000
    )
    assert pure > 0.8


def test_kmeans_has_about_the_inertia_of_the_exact_one(points):
    from unlabeled.parts.kmeans import kmeans

    torch.manual_seed(0)
    ours, theirs = kmeans(points, 40, 10), approximate.kmeans(points, 40, 10)
    assert float(theirs.inertia) < 1.3 * float(ours.inertia)
    assert theirs.assignments.equal(torch.cdist(points, theirs.centres).argmin(1))


def test_without_faiss_the_exact_search_goes_on_and_the_package_is_named(points, monkeypatch):
    monkeypatch.setattr(approximate, "MIN_VECTORS", 1000)
    monkeypatch.setattr(approximate, "find_spec", lambda name: None)
    lines = []
    with telling(lines.append):
        anomalies.isolation(points)
    assert lines == ["neighbours of 4,000 samples without faiss takes long: pip install 'unlabeled[faiss]'"]
