"""The metrics on embeddings whose state is known."""

import math
import time

import pytest
import torch

from unlabeled.training import metrics as metrics


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def low_rank(samples: int, dim: int, directions: int) -> torch.Tensor:
    return torch.randn(samples, directions) @ torch.randn(directions, dim)


def cone(samples: int, dim: int) -> torch.Tensor:
    """Features of a random network after its ReLU, with a shared offset: mean cosine near 0.9."""
    return torch.relu(0.4 * torch.randn(samples, dim) + 2 * torch.rand(dim))


def test_gaussian_embedding_meets_its_closed_forms():
    z = torch.randn(1024, 128)
    assert metrics.spread(z) == pytest.approx(1, abs=0.01)
    assert metrics.mean_cosine(z) == pytest.approx(0, abs=0.01)
    assert metrics.rank(z) == pytest.approx(126, abs=1)


def test_meters_equal_their_definitions():
    z = torch.randn(40, 7).double()
    units = z / z.norm(dim=1, keepdim=True)
    cosines = [float(units[i] @ units[j]) for i in range(40) for j in range(40) if i != j]
    assert metrics.mean_cosine(z) == pytest.approx(sum(cosines) / len(cosines))
    assert metrics.spread(z) == pytest.approx(float(units.std(0).mean()) * math.sqrt(7))
    shares = torch.linalg.svdvals(z) / torch.linalg.svdvals(z).sum()
    assert metrics.rank(z) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))
    wide = torch.randn(7, 40)
    assert metrics.rank(wide) == pytest.approx(metrics.rank(wide.T), rel=1e-6)


def test_rank_counts_the_directions():
    assert metrics.rank(torch.ones(64, 32)) == pytest.approx(1, abs=1e-4)
    assert metrics.rank(torch.eye(16)) == pytest.approx(16, rel=1e-6)
    assert metrics.rank(low_rank(1024, 128, 16)) == pytest.approx(15.7, abs=0.4)
    assert metrics.rank(torch.ones(1024, 128) + 1e-3 * torch.randn(1024, 128)) == pytest.approx(1.1, abs=0.05)


def test_spread_is_blind_to_a_line():
    assert metrics.spread(low_rank(1024, 128, 1)) > 0.7


@pytest.mark.parametrize("samples", [64, 256, 1024])
@pytest.mark.parametrize("dim", [64, 128, 512])
def test_verdict_names_what_is_wrong(samples, dim):
    constant = torch.randn(1, dim).expand(samples, dim)
    noisy = constant + 1e-3 * torch.randn(samples, dim)
    expected = {
        "collapsed": [constant, noisy, torch.zeros(samples, dim)],
        "dimensional collapse": [low_rank(samples, dim, 1), low_rank(samples, dim, 3)],
        "healthy": [torch.randn(samples, dim), cone(samples, dim)],
    }
    for code, embeddings in expected.items():
        for embedding in embeddings:
            assert metrics.verdict(embedding, loss=2.0, chance=5.0)[0] == code


def test_sixteen_of_128_directions_are_a_dimensional_collapse():
    assert metrics.verdict(low_rank(512, 128, 16), 2.0, 5.0)[0] == "dimensional collapse"


def test_cone_is_healthy_though_its_spread_alone_looks_bad():
    z = cone(1024, 128)
    assert metrics.mean_cosine(z) > 0.85
    assert metrics.spread(z) < 0.4
    assert metrics.verdict(z, 2.0, 5.0)[0] == "healthy"


def test_random_network_on_unequal_directions_is_healthy():
    """Photos through a random network: one direction carries most, the others fade but are there."""
    fading = torch.arange(1, 129).float() ** -1.2
    z = torch.randn(512, 128) * fading + torch.rand(128)
    assert metrics.rank(z) < 0.15 * 128
    assert metrics.verdict(z, 2.0, 5.0)[0] == "healthy"


def test_directions_are_those_that_vary():
    assert metrics.directions(low_rank(512, 128, 16) + 5) == 16
    assert metrics.directions(torch.randn(64, 128)) == 63
    assert metrics.directions(torch.randn(64, 3) * torch.tensor([1.0, 0.01, 1e-5])) == 2


def test_loss_at_chance_is_not_called_a_collapse():
    code, sentence = metrics.verdict(torch.randn(256, 128), loss=6.23, chance=math.log(511))
    assert code == "not learning"
    assert "6.230" in sentence and "6.236" in sentence
    assert metrics.verdict(torch.ones(256, 128), loss=6.23, chance=math.log(511))[0] == "collapsed"
    assert metrics.verdict(torch.randn(256, 128), loss=6.23)[0] == "healthy"


def test_loss_that_is_not_finite_has_diverged():
    assert metrics.verdict(torch.randn(64, 8), math.nan)[0] == "diverged"
    assert metrics.verdict(torch.full((64, 8), math.inf), 1.0)[0] == "diverged"


def test_verdict_takes_milliseconds():
    z = torch.randn(2048, 2048)
    begin = time.perf_counter()
    metrics.verdict(z, 1.0)
    assert time.perf_counter() - begin < 1.0  # the spectrum of all 2048 rows takes over 2 seconds


def test_features_that_were_alike_before_training_have_not_collapsed() -> None:
    """Means of many untrained words hardly differ; that is where learning starts, not where it ended."""
    generator = torch.Generator().manual_seed(0)
    alike = torch.ones(64, 40) + 0.02 * torch.randn(64, 2, generator=generator) @ torch.randn(
        2, 40, generator=generator
    )
    width = metrics.spread(alike)
    assert 0.005 < width < 0.05
    assert metrics.verdict(alike, 1.0, None)[0] == "collapsed"
    assert metrics.verdict(alike, 1.0, None, before=width)[0] != "collapsed"
    assert metrics.verdict(alike, 1.0, None, before=4 * width)[0] == "collapsed"
    assert metrics.verdict(torch.ones(64, 40), 1.0, None, before=0.0)[0] == "collapsed"
