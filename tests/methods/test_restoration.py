from types import SimpleNamespace

import pytest
import torch

from unlabeled import encoders
from unlabeled.methods.restoration import Restoration
from unlabeled.parts.psnr import gain, psnr

COVERS = ["dirt", "rain", "either"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=16, channels=3, **options):
    encoder = encoders.build("conv4", in_channels=channels, image_size=size)
    return Restoration(encoder, crop=1.0, flip=0.0, **options)


def smooth(count):
    """Gradients of colour in random directions."""
    place = torch.linspace(-1, 1, 16)
    slopes = torch.rand(count, 3, 2, 1, 1) - 0.5
    return 0.5 + 0.5 * (slopes[:, :, 0] * place[:, None] + slopes[:, :, 1] * place)


def data(images):
    return SimpleNamespace(sample=lambda count: {"image": images[:count]})


def train(restorer, draw, steps, lr=0.003):
    optimizer = torch.optim.Adam(restorer.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        restorer({"image": draw(32)}).backward()
        optimizer.step()
    return restorer


def behind_tape(restorer):
    """Through a window with one opaque grey stripe of eight columns at a random place: nothing of it can be seen."""

    def corrupt(clean):
        first = torch.randint(0, 9, (len(clean), 1, 1, 1))
        column = torch.arange(16).expand(len(clean), 1, 16, 16)
        covered = (first <= column) & (column < first + 8)
        return clean.masked_fill(covered, 0.5), covered

    restorer.corrupt = corrupt
    return restorer


@pytest.mark.parametrize("cover", COVERS)
def test_loss_is_the_squared_error_of_all_pixels_in_value_and_gradient(cover):
    restorer, images = method(cover=cover), smooth(4)
    departure = torch.randn(4, 3, 16, 16, requires_grad=True)
    restorer.head.forward = lambda maps, size: departure
    torch.manual_seed(3)
    value = restorer({"image": images})
    value.backward()
    torch.manual_seed(3)
    given, covered = restorer.corrupt(restorer.views({"image": images}))
    difference = given + departure.detach() - images
    assert value.item() == pytest.approx(
        sum(float(d) ** 2 for d in difference.flatten()) / difference.numel(), rel=1e-4
    )
    torch.testing.assert_close(departure.grad, 2 * difference / difference.numel())
    assert restorer.metrics["psnr_db"] == psnr(value.detach())
    restored = given + departure
    torch.testing.assert_close(restorer.metrics["gain_db"], gain(restored, given, images))
    torch.testing.assert_close(restorer.metrics["gain_covered_db"], gain(restored, given, images, covered))
    clean = (~covered).expand_as(images)
    expected = psnr((restored - images)[clean].square().mean())
    torch.testing.assert_close(restorer.metrics["psnr_clean_db"], expected.detach())


@pytest.mark.parametrize("cover", COVERS)
def test_first_loss_is_that_of_the_corrupted_images(cover):
    restorer, images = method(cover=cover), torch.rand(256, 3, 16, 16)  # rough, so that drops change much
    assert restorer.chance(256) is None
    restorer.prepare(data(images))
    value = restorer({"image": images})
    assert value.item() == pytest.approx(restorer.chance(256), rel=0.4)  # few images are covered much
    assert abs(restorer.metrics["gain_db"]) < 0.1 and abs(restorer.metrics["gain_covered_db"]) < 0.1
    assert restorer.metrics["psnr_clean_db"] > 35


def test_either_covers_each_image_with_dirt_or_rain_with_equal_probability():
    restorer = method()
    black = torch.zeros(400, 3, 16, 16)
    given, covered = restorer.corrupt(black)
    red, _, blue = given.mean((2, 3)).unbind(1)  # rain on black is grey, dirt is not
    assert 160 < ((red - blue).abs() < 1e-6).sum() < 240
    assert covered.flatten(1).any(1).float().mean() > 0.95


@pytest.mark.parametrize("training", [True, False])
def test_nothing_under_opaque_cover_reaches_the_encoder(training):
    restorer, images, shown = behind_tape(method()).train(training), smooth(4), []
    restorer.encoder.adapt.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    torch.manual_seed(2)
    covered = restorer.corrupt(restorer.views({"image": images}))[1]
    for hidden in (images, torch.where(covered, torch.rand_like(images), images)):
        torch.manual_seed(2)
        restorer({"image": hidden})
    assert torch.equal(shown[0], shown[1])


@pytest.mark.parametrize(("cover", "steps", "least"), [("dirt", 40, 0.5), ("rain", 80, 0.05)])
def test_restores_unseen_images_and_leaves_clean_ones_alone(cover, steps, least):
    """Raindrops show the scene blurred, so little is lost of smooth images, and little can be gained."""
    restorer = train(method(cover=cover, coverage=0.3), smooth, steps=steps)
    fresh = smooth(64)
    restorer({"image": fresh})
    assert restorer.metrics["gain_db"] > least and restorer.metrics["gain_covered_db"] > least, (
        restorer.metrics
    )
    assert (restorer.restore(fresh) - fresh).square().mean() < 0.01


def test_noise_that_is_hidden_cannot_be_restored_and_smooth_images_can():
    def noise(count):
        return torch.rand(count, 3, 16, 16)

    gains = {}
    for draw in (smooth, noise):
        restorer = train(behind_tape(method()), draw, steps=40)
        restorer({"image": draw(128)})
        gains[draw] = float(restorer.metrics["gain_covered_db"])
    assert gains[smooth] > 1 and gains[noise] < 0.05, gains


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_show_clean_corrupted_and_restored_images(channels):
    restorer = method(channels=channels).eval()
    pictures = restorer.pictures({"image": torch.randint(0, 256, (4, channels, 16, 16), dtype=torch.uint8)})
    assert list(pictures) == ["image", "corrupted", "restored"]
    assert (pictures["corrupted"] != pictures["image"]).flatten(1).any(1).all()
    assert (pictures["restored"] - pictures["corrupted"]).abs().max() < 0.1  # untrained


def test_refuses_images_that_are_too_small():
    with pytest.raises(ValueError, match="image_size must be at least 8, got 6"):
        method(size=6)
