"""Distorted patches against loops, plain slices and the ranges of the paper."""

import colorsys
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unlabeled.parts.distortion import ColorChange, Distortion, Motion, change_colors, cut


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def still(count: int) -> Motion:
    return Motion(torch.zeros(count, 2), torch.ones(count), torch.zeros(count))


def test_squares_that_are_not_moved_are_copied_from_the_image():
    images, squares = (
        torch.rand(3, 3, 20, 20),
        torch.tensor([[4.0, 4.0, 8.0], [10.0, 16.0, 8.0], [13.0, 6.0, 8.0]]),
    )
    found = cut(images, squares, 8)
    torch.testing.assert_close(cut(images, squares, 8, still(3)), found)
    for image, (column, row, _), square in zip(images, squares.long().tolist(), found):
        torch.testing.assert_close(
            square, image[:, row - 4 : row + 4, column - 4 : column + 4], atol=1e-5, rtol=0
        )


def test_squares_are_shifted_scaled_and_rotated():
    images, square = torch.rand(1, 2, 24, 24), torch.tensor([[12.0, 12.0, 8.0]])
    shifted = cut(images, square, 8, still(1)._replace(shift=torch.tensor([[0.25, -0.5]])))
    torch.testing.assert_close(shifted, images[:, :, 4:12, 10:18], atol=1e-5, rtol=0)
    wider = cut(images, square, 16, still(1)._replace(factor=torch.tensor([2.0])))
    torch.testing.assert_close(wider, images[:, :, 4:20, 4:20], atol=1e-5, rtol=0)
    turned = cut(images, square, 8, still(1)._replace(degrees=torch.tensor([90.0])))
    torch.testing.assert_close(turned, torch.rot90(images[:, :, 8:16, 8:16], 1, (2, 3)), atol=1e-5, rtol=0)
    half = cut(images, square, 8, still(1)._replace(degrees=torch.tensor([180.0])))
    torch.testing.assert_close(half, images[:, :, 8:16, 8:16].flip(2, 3), atol=1e-5, rtol=0)


def test_rotated_squares_match_a_slow_loop_over_positions():
    images, square = torch.rand(1, 1, 24, 24), torch.tensor([[11.0, 13.0, 9.0]])
    motion = Motion(torch.tensor([[0.1, 0.05]]), torch.tensor([0.9]), torch.tensor([17.0]))
    found = cut(images, square, 5, motion)[0, 0]
    angle, side = math.radians(17), 9 * 0.9
    for row in range(5):
        for column in range(5):
            right, down = side * ((column + 0.5) / 5 - 0.5), side * ((row + 0.5) / 5 - 0.5)
            x = 11 + 0.9 + math.cos(angle) * right - math.sin(angle) * down - 0.5
            y = 13 + 0.45 + math.sin(angle) * right + math.cos(angle) * down - 0.5
            left, top = math.floor(x), math.floor(y)
            expected = sum(
                float(images[0, 0, top + b, left + a])
                * (x - left if a else left + 1 - x)
                * (y - top if b else top + 1 - y)
                for a in (0, 1)
                for b in (0, 1)
            )
            assert found[row, column].item() == pytest.approx(expected, abs=1e-5)


def test_the_outside_of_the_image_is_a_reflection_not_blank():
    images, square = torch.rand(1, 1, 16, 16), torch.tensor([[4.0, 4.0, 8.0]])
    found = cut(images, square, 8, still(1)._replace(shift=torch.tensor([[-0.5, 0.0]])))
    expected = F.pad(images, (4, 0, 0, 0), mode="constant")
    expected[..., :4] = images[..., :4].flip(3)
    torch.testing.assert_close(found, expected[:, :, :8, :8], atol=1e-5, rtol=0)


def identity(images: torch.Tensor) -> ColorChange:
    """A colour change that changes nothing."""
    samples, channels = images.shape[:2]
    curves = torch.tensor([1.0, 1.0, 0.0]).repeat(samples, 2, 1)
    return ColorChange(torch.ones(samples, channels), curves, torch.zeros(samples))


def components(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = images.transpose(0, 1).flatten(1)
    return pixels.mean(1), torch.linalg.eigh(torch.cov(pixels)).eigenvectors.mT


def test_factors_of_one_change_nothing(images: torch.Tensor) -> None:
    mean, axes = components(images)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(change_colors(images, mean, axes, identity(images)), images, atol=1e-5, rtol=0)


def test_contrast_scales_the_components_of_each_image_by_its_own_factors(images: torch.Tensor) -> None:
    images = 0.4 + 0.2 * images  # no colour leaves 0..1
    mean, axes = components(images)
    factors = torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 1.5], [0.7, 0.7, 0.7]])
    found = change_colors(images, mean, axes, identity(images)._replace(contrast=factors))
    for image, other, own in zip(images, found, factors):
        before = axes @ (image.flatten(1) - mean[:, None])
        after = axes @ (other.flatten(1) - mean[:, None])
        torch.testing.assert_close(after, own[:, None] * before, atol=1e-5, rtol=0)


def test_colour_changes_match_a_loop_over_pixels(images: torch.Tensor) -> None:
    mean, axes = components(images)
    curves = torch.tensor(
        [[[0.25, 1.4, -0.1], [4.0, 0.7, 0.1]], [[2, 1, 0.05], [0.5, 1.2, 0]], [[1, 1, 0]] * 2]
    )
    hue = torch.tensor([0.1, -0.1, 0.0])
    found = change_colors(images, mean, axes, identity(images)._replace(curves=curves, hue=hue))
    for image, other, curve, turn in zip(images, found, curves.tolist(), hue.tolist()):
        for row, column in ((0, 3), (7, 7), (15, 0), (4, 11)):
            own_hue, *values = colorsys.rgb_to_hsv(*image[:, row, column].tolist())
            values = [
                min(1, max(0, value**exponent * factor + summand))
                for value, (exponent, factor, summand) in zip(values, curve)
            ]
            expected = colorsys.hsv_to_rgb((own_hue + turn) % 1, *values)
            np.testing.assert_allclose(other[:, row, column].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_images_with_other_channels_change_channel_by_channel(channels: int) -> None:
    images = torch.rand(2, channels, 4, 4)
    own = identity(images)._replace(curves=torch.tensor([2.0, 0.5, 0.1]).repeat(2, 2, 1), hue=torch.rand(2))
    found = change_colors(images, torch.zeros(channels), torch.eye(channels), own)
    torch.testing.assert_close(found, 0.5 * images**2 + 0.1)


def test_draws_stay_within_the_ranges_of_the_paper(monkeypatch):
    """What reaches the two operations, over a thousand draws."""
    motions, changes = [], []
    path = "unlabeled.parts.distortion"
    monkeypatch.setattr(f"{path}.cut", lambda images, seeds, size, motion: motions.append(motion) or images)
    monkeypatch.setattr(
        f"{path}.change_colors", lambda images, mean, axes, drawn: changes.append(drawn) or images
    )
    distortion = Distortion(3, translation=0.2, scale=1.4, degrees=20, jitter=1)
    distortion(torch.rand(1000, 3, 4, 4), torch.ones(1000, 3), 4)
    (motion,), (change,) = motions, changes
    ranges = [
        (motion.shift, -0.2, 0.2),
        (motion.factor, 1 / 1.4, 1.4),
        (motion.degrees, -20, 20),
        (change.contrast, 0.5, 2),
        (change.curves[:, :, 0], 0.25, 4),
        (change.curves[:, :, 1], 1 / 1.4, 1.4),
        (change.curves[:, :, 2], -0.1, 0.1),
        (change.hue, -0.1, 0.1),
    ]
    for values, low, high in ranges:
        assert low <= values.min() < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < values.max() <= high


def test_principal_components_are_those_of_the_pixels(images: torch.Tensor) -> None:
    distortion = Distortion(3, translation=0.2, scale=1.4, degrees=20, jitter=1)
    distortion.fit(images)
    mean, axes = components(images)
    torch.testing.assert_close(distortion.mean, mean)
    torch.testing.assert_close(distortion.axes, axes)
