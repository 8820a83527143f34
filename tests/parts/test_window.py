import pytest
import torch

from unlabeled.parts.window import composite, dirt, rain

COVERS = [dirt, rain]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def twice(cover, first, second, coverage=0.15):
    """Two images through the same window."""
    torch.manual_seed(1)
    one = cover(first, coverage)
    torch.manual_seed(1)
    return one, cover(second, coverage)


def test_composite_matches_the_formula_and_full_opacity_hides_everything():
    images, layer, alpha = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8), torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(composite(images, alpha, layer), (1 - alpha) * images + alpha * layer)
    torch.testing.assert_close(composite(images, torch.ones(1), layer), layer)
    assert torch.equal(composite(images, torch.zeros(1), layer), images)


@pytest.mark.parametrize("cover", COVERS)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8), (5, 64)])
def test_clean_pixels_stay_and_values_stay_in_range(cover, channels, size):
    images = torch.rand(16, channels, size, size)
    given, alpha = cover(images, 0.15)
    assert given.shape == images.shape and alpha.shape == (16, 1, size, size)
    clean = (alpha == 0).expand_as(images)
    assert torch.equal(given[clean], images[clean]) and clean.any()
    assert not torch.equal(given, images)
    for values in (given, alpha):
        assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("cover", COVERS)
@pytest.mark.parametrize("size", [8, 33])
def test_the_smallest_and_the_largest_coverage_leave_something_visible(cover, size):
    for coverage in (1e-4, 0.999):
        given, alpha = cover(torch.rand(16, 3, size, size), coverage)
        assert given.isfinite().all() and 0 < alpha.mean() < 1


@pytest.mark.parametrize("cover", COVERS)
def test_every_image_is_covered_at_its_own_positions_which_change(cover):
    images = torch.rand(16, 3, 32, 32)
    first, second = (cover(images, 0.15)[1] > 0 for _ in range(2))
    assert len(first.flatten(1).unique(dim=0)) == 16
    assert not (first == second).flatten(1).all(1).any()


def test_dirt_does_not_depend_on_the_image_behind_it():
    first, second = torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)
    (one, alpha), (other, _) = twice(dirt, first, second)
    torch.testing.assert_close(one - other, (1 - alpha) * (first - second), atol=1e-6, rtol=0)


def test_dirt_covers_a_third_of_the_coverage_to_all_of_it_at_half_opacity_or_more():
    for coverage in (0.15, 0.45):
        alpha = dirt(torch.rand(64, 3, 64, 64), coverage)[1]
        opaque = alpha.mean((1, 2, 3))  # soft edges keep the sum
        assert opaque.min() > 0.9 * 0.5 * coverage / 3 and opaque.max() < 1.1 * coverage
        assert opaque.max() > 2 * opaque.min()
    peaks = alpha.amax((1, 2, 3))
    assert peaks.min() > 0.4 and peaks.max() > 0.9


def test_dirt_is_grey_on_grey_images_and_never_blue():
    given, alpha = dirt(torch.zeros(64, 3, 32, 32), 0.3)
    red, _, blue = (given * (alpha > 0.3)).sum((2, 3)).unbind(1)
    assert (blue < 1.25 * red).all() and blue.sum() < 0.95 * red.sum()


@pytest.mark.parametrize("coverage", [0.05, 0.15, 0.3])
def test_rain_covers_about_the_coverage(coverage):
    covered = (rain(torch.rand(96, 3, 64, 64), coverage)[1] > 0).float().mean()
    assert 0.7 * coverage < covered < 1.1 * coverage


def test_drops_show_the_scene_upside_down_and_with_a_bright_rim():
    ramp = torch.linspace(0, 0.6, 64)[:, None].expand(64, 1, 64, 64)
    given, alpha = rain(ramp, 0.01)  # one drop in each image
    drop = alpha > 0.6 * alpha.amax((2, 3), keepdim=True)
    seen = (given - (1 - alpha) * ramp) / alpha.clamp(min=1e-3)
    row = torch.arange(64.0)[:, None].expand_as(drop)
    slopes = [
        torch.cov(torch.stack([row[number][drop[number]], seen[number][drop[number]]]))[0, 1]
        for number in range(64)
        if drop[number].sum() > 20 and drop[number, :, 8:-8].sum() == drop[number].sum()
    ]
    assert len(slopes) > 20 and (torch.stack(slopes) < 0).float().mean() > 0.95
    edge = (alpha > 0.1) & ~drop
    assert (given - ramp)[edge].mean() > 0.02


def test_rain_does_not_mix_images():
    images = torch.rand(4, 3, 32, 32)
    other = images.clone()
    other[2] = 1 - other[2]
    (one, _), (two, _) = twice(rain, images, other)
    same = torch.tensor([0, 1, 3])
    assert torch.equal(one[same], two[same]) and not torch.equal(one[2], two[2])
