"""Colour bins: those of the paper, soft codes against a slow loop, rare colours, and the annealed mean."""

import math

import pytest
import torch

from unlabeled.parts.color import rgb_to_lab
from unlabeled.parts.color_bins import annealed_mean, bins, rarity, soft_code

CENTERS = bins(10)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def srgb_colors(levels=24):
    """a and b of a grid over the cube of sRGB colours, shape (1, 2, levels, levels ** 2)."""
    level = torch.linspace(0, 1, levels)
    cube = torch.stack(torch.meshgrid(level, level, level, indexing="ij")).view(1, 3, levels, -1)
    return rgb_to_lab(cube)[:, 1:]


def test_the_paper_has_313_bins_on_a_grid_of_ten():
    assert CENTERS.shape == (313, 2)
    assert len(CENTERS.unique(dim=0)) == 313
    assert (CENTERS % 10 == 0).all()
    assert CENTERS.amin(0).tolist() == [-90, -110]
    assert CENTERS.amax(0).tolist() == [100, 100]


@pytest.mark.parametrize(("grid", "count"), [(15, 126), (20, 77), (25, 51), (30, 40), (40, 23)])
def test_other_grids_have_the_bins_within_the_gamut_of_srgb(grid, count):
    """A coarser sampling of the gamut finds 76 of the 77: it misses the sliver, b < 90.01, at (0, 100)."""
    assert len(bins(grid)) == count


@pytest.mark.parametrize(("neighbours", "error"), [(1, 7.1), (5, 0.71), (10, 0.43)])
def test_soft_code_is_a_distribution_whose_mean_is_the_colour(neighbours, error):
    colors = srgb_colors()
    weight, index = soft_code(colors, CENTERS, neighbours)
    assert weight.shape == index.shape == (1, neighbours, *colors.shape[2:])
    torch.testing.assert_close(weight.sum(1), torch.ones_like(weight[:, 0]))
    decoded = (weight[..., None] * CENTERS[index]).sum(1)
    assert (decoded - colors.movedim(1, -1)).norm(dim=-1).max() <= error


def test_soft_code_matches_a_slow_loop():
    colors = torch.rand(2, 2, 3, 3) * 100 - 50
    weight, index = soft_code(colors, CENTERS)
    for b, y, x in [(0, 0, 0), (0, 2, 1), (1, 1, 2)]:
        distances = [math.dist(colors[b, :, y, x].tolist(), center) for center in CENTERS.tolist()]
        nearest = sorted(range(313), key=distances.__getitem__)[:5]
        raw = [math.exp(-(distances[q] ** 2) / 50) for q in nearest]
        assert index[b, :, y, x].tolist() == nearest
        assert weight[b, :, y, x].tolist() == pytest.approx([r / sum(raw) for r in raw], rel=1e-3)


def test_rare_colours_have_higher_weights_and_the_mean_weight_is_one():
    counts = torch.zeros(313)
    counts[CENTERS.norm(dim=1) < 15] = 1000
    counts[7] = 1
    for uniform in (0.1, 0.5, 1.0):
        weight = rarity(counts, CENTERS, uniform)
        assert weight.isfinite().all()
        spread = torch.exp(-((CENTERS[:, None] - CENTERS).square().sum(2)) / 50)
        prior = (spread / spread.sum(0)) @ (counts / counts.sum())
        assert (prior @ weight).item() == pytest.approx(1, rel=1e-4)
        common, rare = weight[counts == 1000].max(), weight[7]
        assert rare > 5 * common if uniform < 1 else torch.allclose(weight, torch.ones(313))


def test_annealed_mean_lies_between_the_mode_and_the_mean():
    logits = torch.randn(1, 313, 2, 2) * 3
    mode = CENTERS[logits.argmax(1)].movedim(-1, 1)
    mean = torch.einsum("bqhw,qc->bchw", logits.softmax(1), CENTERS)
    torch.testing.assert_close(annealed_mean(logits, CENTERS, 0.001), mode)
    torch.testing.assert_close(annealed_mean(logits, CENTERS, 1.0), mean, rtol=1e-4, atol=1e-3)
    powers = logits.softmax(1) ** (1 / 0.38)
    expected = torch.einsum("bqhw,qc->bchw", powers / powers.sum(1, keepdim=True), CENTERS)
    between = annealed_mean(logits, CENTERS)
    torch.testing.assert_close(between, expected, rtol=1e-4, atol=1e-3)
    assert (between - mode).norm() < (mean - mode).norm()
