from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from unlabeled import encoders
from unlabeled.methods.super_resolution import SuperResolution, enlarge, shrink
from unlabeled.parts.psnr import gain

NO_BLUR = torch.zeros(1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=16, **options):
    encoder = encoders.build("conv4", image_size=size)
    return SuperResolution(encoder, crop=1.0, flip=0.0, **options)


def edges(count, size=16):
    """A straight edge in a random direction and place between two random colours."""
    place = torch.linspace(-1, 1, size)
    angle, offset = 6.3 * torch.rand(count, 1, 1), torch.rand(count, 1, 1) - 0.5
    side = place * angle.cos() + place[:, None] * angle.sin() > offset
    first, second = torch.rand(2, count, 3, 1, 1)
    return torch.where(side[:, None], first, second)


def mixed(count):
    """Edges with the details of other edges."""
    first, second = edges(count), edges(count)
    coarse, other = (enlarge(shrink(x, 4, NO_BLUR.expand(count)), 16) for x in (first, second))
    return (coarse + second - other).clamp(0, 1)


def data(images):
    return SimpleNamespace(sample=lambda count: {"image": images[:count]})


def train(network, draw, steps, lr=0.003):
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        network({"image": draw(32)}).backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_matches_a_slow_loop_in_value_and_gradient(loss):
    network, images = method(loss=loss, blur_width=0.0), edges(3)
    details = torch.randn(3, 3, 16, 16, requires_grad=True)
    network.head.forward = lambda maps, size: details
    value = network({"image": images})
    value.backward()
    difference = network.coarse(images) + details.detach() - images
    errors = [abs(float(d)) if loss == "l1" else float(d) ** 2 for d in difference.flatten()]
    slope = difference.sign() if loss == "l1" else 2 * difference
    assert value.item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    torch.testing.assert_close(details.grad, slope / len(errors))
    expected = gain(network.coarse(images) + details, network.coarse(images), images)
    torch.testing.assert_close(network.metrics["gain_db"], expected)


@pytest.mark.parametrize(("size", "scale", "side"), [(16, 2, 8), (32, 4, 8), (32, 8, 4), (9, 4, 3)])
def test_downsampled_images_have_the_right_size_and_keep_uniform_colours(size, scale, side):
    plain = torch.rand(2, 3, 1, 1).expand(2, 3, size, size)
    small = shrink(plain, scale, torch.rand(2))
    assert small.shape == (2, 3, side, side)
    torch.testing.assert_close(small, plain[:, :, :side, :side])
    torch.testing.assert_close(enlarge(small, size), plain)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_no_detail_finer_than_the_new_pixels_is_left_in_images_with_natural_spectra(scale):
    frequency = torch.fft.fftfreq(64)
    radius = (frequency[:, None].square() + frequency.square()).sqrt().clamp(min=1 / 64)
    images = torch.fft.ifft2(torch.fft.fft2(torch.randn(32, 1, 64, 64)) / radius).real
    images = (0.5 + 0.12 * images / images.std((2, 3), keepdim=True)).clamp(0, 1)
    coarse = enlarge(shrink(images, scale, NO_BLUR.expand(32)), 64)
    power = torch.fft.fft2(coarse - coarse.mean((2, 3), keepdim=True)).abs().square()
    fine = (frequency.abs() > 0.5 / scale) | (frequency.abs()[:, None] > 0.5 / scale)
    before = torch.fft.fft2(images - images.mean((2, 3), keepdim=True)).abs().square()
    assert power[..., fine].sum() < 0.1 * before[..., fine].sum() > 0.01 * before.sum()
    stripes = (0.5 + 0.4 * torch.sin(torch.arange(64) * 2 * torch.pi * 0.8 / scale)).expand(1, 1, 64, 64)
    assert (
        shrink(stripes, scale, NO_BLUR)[..., 2:-2].std() < 0.1 * stripes.std()
    )  # and none comes back as a coarse one


def test_a_wider_blur_leaves_less_detail_and_each_image_has_its_own():
    images = torch.rand(1, 3, 32, 32).expand(3, 3, 32, 32)
    left = shrink(images, 4, torch.tensor([0.0, 0.25, 0.5])).std((1, 2, 3))
    assert left[0] > left[1] > left[2]
    network = method(size=32)
    coarse = network.coarse(images)
    assert len(coarse.flatten(1).unique(dim=0)) == 3
    alike = method(size=32, blur_width=0.0).coarse(images)
    assert torch.equal(alike[0], alike[1])


def test_details_never_reach_the_network():
    network = method(blur_width=0.0)
    basis = 0.01 * torch.eye(256).view(256, 1, 16, 16)
    effect = (shrink(0.5 + basis, 4, NO_BLUR.expand(256)) - 0.5).flatten(1)  # linear inside of 0..1
    unseen = torch.linalg.svd(effect.T, full_matrices=True)[2][40].view(1, 1, 16, 16)
    images = 0.3 + 0.4 * torch.rand(4, 3, 16, 16)
    other = images + 0.5 * unseen
    shown = []
    network.encoder.adapt.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    losses = [network({"image": x}).item() for x in (images, other)]
    assert (images - other).abs().max() > 0.05 and losses[0] != losses[1]
    torch.testing.assert_close(shown[0], shown[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_first_loss_is_that_of_the_upsampled_image(loss):
    network, images = method(loss=loss), edges(256)
    assert network.chance(256) is None
    network.prepare(data(images))
    assert network({"image": images}).item() == pytest.approx(network.chance(256), rel=0.1)
    assert abs(network.metrics["gain_db"]) < 0.1


@pytest.mark.usefixtures("wide_networks")
def test_edges_are_sharper_than_upsampled_ones_and_agree_with_the_downsampled_image():
    network = train(method(), edges, steps=120)
    fresh = edges(64)
    network({"image": fresh})
    assert network.metrics["gain_db"] > 0.5, network.metrics
    coarse = network.coarse(fresh)
    small, again = (shrink(x, 4, NO_BLUR.expand(64)) for x in (coarse, network.predict(coarse)))
    assert F.mse_loss(again, small) < 0.25 * F.mse_loss(coarse, fresh)


def test_details_of_other_images_cannot_be_predicted():
    network = train(method(blur_width=0.0), mixed, steps=40)
    network({"image": mixed(128)})
    assert network.metrics["gain_db"] < 0.1, network.metrics


def test_pictures_show_the_image_the_upsampled_one_and_the_prediction():
    pictures = method().eval().pictures({"image": torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)})
    assert list(pictures) == ["image", "upsampled", "predicted"]
    assert pictures["upsampled"].std() < pictures["image"].std()


def test_refuses_to_downsample_an_image_to_one_pixel():
    with pytest.raises(ValueError, match="scale must be at most 8 for images of 16 pixels, got 9"):
        method(scale=9)


def test_refuses_a_blur_that_is_wider_than_its_kernel():
    with pytest.raises(ValueError, match=r"blur_width must be between 0 and 0\.5, got 0\.6"):
        method(blur_width=0.6)
