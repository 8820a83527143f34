import pytest
import torch

from unlabeled.parts.noise import choose, corrupt, salt_pepper


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.25, 0.4, 1.0])
def test_mask_corrupts_exactly_the_fraction_of_every_image(amount):
    images = torch.rand(50, 3, 7, 5) + 0.1
    noisy, where = corrupt(images, "mask", amount)
    assert ((noisy == 0).flatten(1).sum(1) == round(amount * 105)).all()
    assert torch.equal(noisy[~where], images[~where])
    assert (noisy[where] == 0).all()


def test_every_image_is_corrupted_at_its_own_positions_which_change():
    images = torch.rand(20, 1, 8, 8)
    first, second = choose(images, 0.25), choose(images, 0.25)
    assert len(first.flatten(1).unique(dim=0)) == 20
    assert not (first == second).flatten(1).all(1).any()


def test_every_element_is_chosen_equally_often():
    share = choose(torch.zeros(4000, 2, 3, 3), 0.5).float().mean(0)
    assert (share - 0.5).abs().max() < 5 * 0.5 / 4000**0.5


def test_whole_pixels_lose_all_channels_at_once():
    images = torch.rand(10, 3, 8, 8) + 0.1
    for noise in ("mask", "salt_pepper"):
        noisy, where = corrupt(images, noise, 0.25, whole_pixels=True)
        assert where.shape == (10, 1, 8, 8)
        assert (where.flatten(1).sum(1) == 16).all()
        destroyed = noisy != images
        assert (destroyed == where).all()
        assert (noisy.amax(1) == noisy.amin(1))[where[:, 0]].all()


def test_inexact_fraction_is_right_on_average_and_varies():
    counts = choose(torch.zeros(500, 1, 10, 10), 0.3, exact=False).flatten(1).sum(1).float()
    assert counts.std() > 3
    assert abs(counts.mean() - 30) < 4 * (100 * 0.3 * 0.7 / 500) ** 0.5


def test_salt_and_pepper_are_extremes_in_equal_parts():
    images = torch.rand(100, 1, 20, 20) * 0.5 + 0.25
    noisy, where = corrupt(images, "salt_pepper", 0.5)
    assert torch.equal(noisy[~where], images[~where])
    assert set(noisy[where].unique().tolist()) == {0.0, 1.0}
    assert abs(noisy[where].mean() - 0.5) < 4 * 0.5 / 20000**0.5
    assert set(salt_pepper(images, where, -2.0, 3.0)[where].unique().tolist()) == {-2.0, 3.0}


def test_gaussian_noise_has_the_given_deviation_everywhere():
    images = torch.rand(100, 3, 16, 16)
    noisy, where = corrupt(images, "gaussian", 0.2)
    assert abs((noisy - images).std() - 0.2) < 0.02 * 0.2
    assert where.all()
