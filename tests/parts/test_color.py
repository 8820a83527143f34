"""Colour conversion against scikit-image, known colours and round trips."""

import colorsys

import numpy as np
import pytest
import torch
from skimage import color

from unlabeled.parts.color import (
    desaturate,
    drop_aberration,
    drop_channels,
    hsv_to_rgb,
    lab_to_rgb,
    lightness,
    rgb_to_hsv,
    rgb_to_lab,
)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=generator)
    images[0, :, 0] = torch.linspace(0, 0.1, 16)  # the straight parts of both curves
    return images


def test_lab_equals_scikit_image(images: torch.Tensor) -> None:
    expected = color.rgb2lab(images.double().numpy(), channel_axis=1)
    np.testing.assert_allclose(rgb_to_lab(images).numpy(), expected, atol=1e-3)


def test_rgb_equals_scikit_image_inside_the_gamut(images: torch.Tensor) -> None:
    lab = color.rgb2lab(images.double().numpy(), channel_axis=1)
    expected = color.lab2rgb(lab, channel_axis=1)
    np.testing.assert_allclose(lab_to_rgb(torch.from_numpy(lab)).numpy(), expected, atol=1e-4)


def test_colours_outside_the_gamut_are_clipped() -> None:
    lab = torch.tensor([50.0, 100.0, -100.0]).view(1, 3, 1, 1)
    rgb = lab_to_rgb(lab)
    expected = color.lab2rgb(lab.double().numpy(), channel_axis=1)
    np.testing.assert_allclose(rgb.numpy(), expected, atol=1e-4)
    assert rgb.min() == 0


def test_round_trip_stays_within_a_grey_level(images: torch.Tensor) -> None:
    assert (lab_to_rgb(rgb_to_lab(images)) - images).abs().max() < 1 / 255


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((1, 1, 1), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (53.24, 80.09, 67.20))],
    ids=["white", "black", "red"],
)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    result = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(result, torch.tensor(lab, dtype=torch.float32), atol=0.02, rtol=0)


def test_lightness_is_the_first_channel_of_lab_even_for_grey_images(images: torch.Tensor) -> None:
    torch.testing.assert_close(lightness(images), rgb_to_lab(images)[:, :1])
    grey = images[:, :1]
    torch.testing.assert_close(lightness(grey), lightness(grey.repeat(1, 3, 1, 1)))


def test_gradients_are_finite_at_black_and_white() -> None:
    images = torch.cat([torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)]).requires_grad_()
    lab_to_rgb(rgb_to_lab(images)).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_bfloat16_autocast_changes_nothing(images: torch.Tensor) -> None:
    expected = rgb_to_lab(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rgb_to_lab(images), expected)


def test_desaturated_images_keep_only_the_lightness():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(lightness(desaturate(images)), lightness(images), atol=1e-2, rtol=0)
    assert rgb_to_lab(desaturate(images))[:, 1:].abs().max() < 0.02


def test_hsv_equals_the_standard_library_and_is_inverted(images: torch.Tensor) -> None:
    images[0, :, 1], images[0, :, 2] = 0.4, 0.0  # grey, and black
    hsv = rgb_to_hsv(images)
    for pixel, (hue, saturation, value) in zip(
        images.movedim(1, 3).flatten(0, 2).tolist(), hsv.movedim(1, 3).flatten(0, 2).tolist()
    ):
        expected = colorsys.rgb_to_hsv(*pixel)
        assert abs((hue - expected[0] + 0.5) % 1 - 0.5) < 1e-4
        np.testing.assert_allclose((saturation, value), expected[1:], atol=1e-6)
    torch.testing.assert_close(hsv_to_rgb(hsv), images, atol=1e-6, rtol=0)
    turned = hsv + torch.tensor([1 / 3, 0, 0])[:, None, None]
    torch.testing.assert_close(hsv_to_rgb(turned), images.roll(1, 1), atol=1e-6, rtol=0)


def test_projection_removes_the_axis_from_green_to_magenta_and_nothing_else():
    matrix = torch.stack([drop_aberration(one.view(1, 3, 1, 1)).flatten() for one in torch.eye(3)], 1)
    expected = torch.tensor([[0.8333, 0.3333, -0.1667], [0.3333, 0.3333, 0.3333], [-0.1667, 0.3333, 0.8333]])
    torch.testing.assert_close(matrix, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(matrix @ matrix, matrix)
    torch.testing.assert_close(matrix @ torch.tensor([-1.0, 2, -1]), torch.zeros(3), atol=1e-6, rtol=0)
    gray = torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(drop_aberration(gray), gray)


def test_exactly_one_channel_is_kept_and_the_others_are_noise_of_a_hundredth_of_its_deviation():
    images = torch.rand(300, 3, 16, 16)
    dropped = drop_channels(images)
    stays = (dropped == images).all((2, 3))
    assert (stays.sum(1) == 1).all()
    assert stays.float().mean(0).sub(1 / 3).abs().max() < 0.1
    noise = dropped[~stays].view(300, 2, 16, 16) - 0.5
    kept = images[stays].std((1, 2), correction=0)
    assert (noise.std((1, 2, 3)) / kept).mean().item() == pytest.approx(0.01, rel=0.02)
