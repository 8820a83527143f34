"""What an encoder does to images before its network sees them."""

import pytest
import torch

from unlabeled.encoders.adapt import INPUTS, Adapt


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("input", INPUTS)
def test_fitted_channels_have_mean_0_and_deviation_1(input, images: torch.Tensor) -> None:
    adapt = Adapt(input)
    adapt.fit(images)
    seen = adapt(images)
    assert seen.shape == (8, adapt.out_channels, 12, 12)
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(adapt.out_channels), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3), correction=0), torch.ones(adapt.out_channels))


def test_statistics_can_be_set_and_are_saved(images: torch.Tensor) -> None:
    adapt = Adapt()
    adapt.set_statistics([0.1, 0.2, 0.3], (1, 2, 4))
    other = Adapt()
    other.load_state_dict(adapt.state_dict())
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1, 2, 4]).view(3, 1, 1)
    torch.testing.assert_close(other(images), (images - mean) / std)


@pytest.mark.parametrize("input", ["color", "sobel"])
def test_channels_that_do_not_vary_stay_finite(input) -> None:
    adapt = Adapt(input)
    adapt.fit(torch.full((4, 3, 8, 8), 0.3))
    assert adapt(torch.rand(4, 3, 8, 8)).abs().max() < 10


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0], "mean must have 3 numbers"),
        ([0.0] * 3, [1.0], "std must have 3 numbers"),
        ([0.0, 0.0, float("nan")], [1.0] * 3, "mean must be finite"),
        ([0.0] * 3, [1.0, 1.0, -1.0], "std must be at least 0, got -1"),
    ],
)
def test_bad_statistics_are_refused(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adapt().set_statistics(mean, std)


def test_sobel_of_a_ramp_is_its_slope_and_of_a_constant_0() -> None:
    adapt = Adapt("sobel")
    ramp = (torch.arange(8.0) / 10).expand(1, 3, 8, 8)
    horizontal, vertical = adapt.channels(ramp)[0]
    torch.testing.assert_close(horizontal[:, 1:-1], torch.full((8, 6), 0.8))
    assert vertical.abs().max() < 1e-6
    assert adapt.channels(torch.full((1, 3, 8, 8), 0.7)).abs().max() < 1e-6


def test_adaptation_is_never_trained() -> None:
    assert not list(Adapt("sobel").parameters())


def test_single_channel_lightness_is_that_of_grey() -> None:
    grey = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(Adapt("lightness", 1)(grey), Adapt("lightness", 3)(grey.expand(-1, 3, -1, -1)))


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="images must have 3 channels, got 1"):
        Adapt()(torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"images must be floats in 0\.\.1, got torch.uint8"):
        Adapt()(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
