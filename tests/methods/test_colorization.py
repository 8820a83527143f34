import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from unlabeled import encoders
from unlabeled.methods.colorization import Colorization, loss, regression
from unlabeled.parts.color import desaturate, lab_to_rgb, rgb_to_lab
from unlabeled.parts.color_bins import bins, soft_code

CENTERS = bins(10)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=16, input="lightness", **options):
    encoder = encoders.build("conv4", image_size=size, input=input)
    return Colorization(encoder, crop=1.0, flip=0.0, **options)


def batch(count=8, size=16):
    return {"image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)}


def data(images):
    return SimpleNamespace(
        shape={"channels": images.shape[1]}, sample=lambda count: {"image": images[:count]}
    )


def test_loss_matches_dense_cross_entropy_and_equal_logits_cost_ln_bins():
    weight, index = soft_code(torch.rand(2, 2, 4, 4) * 60, CENTERS)
    importance = torch.rand(2, 4, 4)
    logits = torch.randn(2, 313, 4, 4)
    dense = torch.zeros_like(logits).scatter(1, index, weight)
    places = F.cross_entropy(logits, dense, reduction="none")
    expected = (importance * places).sum() / importance.sum()
    torch.testing.assert_close(loss(logits, weight, index, importance), expected)
    assert loss(torch.zeros_like(logits), weight, index, importance).item() == pytest.approx(math.log(313))


def test_white_black_and_red_are_where_lab_has_them():
    colors = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0]]).view(3, 3, 1, 1)
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.2, 80.1, 67.2]])
    torch.testing.assert_close(rgb_to_lab(colors)[:, :, 0, 0], expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("input", ["lightness", "color"])
def test_colour_never_reaches_the_encoder(input):
    lightness = torch.rand(4, 1, 16, 16) * 20 + 50
    first, second = (
        lab_to_rgb(torch.cat([lightness, torch.rand(4, 2, 16, 16) * 30 - 15], 1)) for _ in range(2)
    )
    assert (first - second).abs().max() > 0.1
    torch.testing.assert_close(desaturate(first), desaturate(second), atol=1e-4, rtol=0)
    assert (desaturate(first).amax(1) - desaturate(first).amin(1)).max() < 1e-3
    network = method(input=input).eval()
    torch.nn.init.normal_(network.head.last.weight)
    logits = [network.predict(desaturate(images)) for images in (first, second)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-2, rtol=0)
    seen = []
    network.encoder.adapt.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network({"image": first})
    network.pictures({"image": second})
    assert all((images.amax(1) - images.amin(1)).max() < 1e-3 for images in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("grid", [10, 20])
@pytest.mark.parametrize(("size", "stride"), [(16, 2), (9, 2), (16, 4)])
def test_first_loss_is_chance(grid, size, stride):
    network = method(size=size, grid=grid, stride=stride)
    images = batch(32, size)["image"]
    network.prepare(data(images))
    value = network({"image": images})
    assert value.item() == pytest.approx(network.chance(32), abs=0.01)
    assert network.chance(32) == math.log(len(network.centers))


def test_grey_images_cost_nothing_and_do_not_dilute_the_others():
    images = torch.rand(6, 3, 16, 16)
    images[3:] = images[3:].mean(1, keepdim=True)
    network = method().eval()
    torch.nn.init.normal_(network.head.last.weight)
    silent = network({"image": images[3:]})
    silent.backward()
    assert silent.item() == 0
    assert all((parameter.grad == 0).all() for parameter in network.head.parameters())
    torch.testing.assert_close(network({"image": images}), network({"image": images[:3]}))


def test_prior_comes_from_the_data():
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1).expand(32, 3, 16, 16)
    network = method()
    network.prepare(data(red))
    nearest = (rgb_to_lab(red)[0, 1:, 0, 0] - network.centers).norm(dim=1).argmin()
    assert network.importance.argmin() == nearest
    assert network.importance.isfinite().all()


def test_refuses_data_without_colours():
    with pytest.raises(ValueError, match=r"channels must be 3 for colorization.* got 1"):
        method().prepare(data(torch.rand(8, 1, 16, 16)))
    with pytest.raises(ValueError, match=r"channels must be 3 for colorization.* got 1"):
        Colorization(encoders.build("conv4", in_channels=1))
    with pytest.raises(ValueError, match="got only grey ones"):
        method().prepare(data(torch.rand(8, 1, 16, 16).expand(-1, 3, -1, -1)))


def test_learns_that_bright_is_yellow_and_dark_is_blue():
    yellow, blue = torch.tensor([0.9, 0.8, 0.1]), torch.tensor([0.1, 0.1, 0.5])
    bright = torch.rand(32, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3) < 0.5
    images = torch.where(bright, yellow[:, None, None], blue[:, None, None])
    network = method(size=8, grid=20)
    network.prepare(data(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(40):
        optimizer.zero_grad()
        network({"image": images}).backward()
        optimizer.step()
    assert network.metrics["accuracy"] > 0.95
    pictures = network.eval().pictures({"image": images})
    assert list(pictures) == ["image", "lightness", "predicted"]
    assert (pictures["predicted"] - pictures["image"]).abs().mean() < 0.1


@pytest.mark.parametrize("stride", [2, 4])
def test_colours_are_predicted_where_they_are(stride):
    """A ramp of colour, averaged over cells and painted back, lies where it was."""
    ramp = torch.linspace(-30, 30, 32).expand(1, 1, 32, 32)
    lab = torch.cat([torch.full_like(ramp, 60), ramp, torch.zeros_like(ramp)], 1)
    encoder = encoders.build("conv4", image_size=32, input="lightness")
    method = Colorization(encoder, stride=stride, neighbours=5)
    weight, index, _ = method.code(lab_to_rgb(lab))
    colors = (weight[..., None] * method.centers[index]).sum(1).permute(0, 3, 1, 2)
    painted = torch.nn.functional.interpolate(colors, (32, 32), mode="bilinear")[:, :1]
    inner = slice(stride, 32 - stride)
    shift = (painted - ramp)[..., inner].mean() / (60 / 31)  # pixels
    assert abs(shift) < 0.2


def two_colours(count, told):
    """Plain images in reddish or greenish; their lightness tells which, or a coin does, three to one for reddish."""
    bright = torch.rand(count, 1, 1, 1) < 0.5
    red = bright if told else torch.rand(count, 1, 1, 1) < 0.75
    light = torch.where(bright, 65.0, 50.0).expand(-1, 1, 8, 8)
    color = torch.where(
        red, torch.tensor([35.0, 10.0]).view(1, 2, 1, 1), torch.tensor([-25.0, 30.0]).view(1, 2, 1, 1)
    )
    return lab_to_rgb(torch.cat([light, color.expand(-1, -1, 8, 8)], 1))


@cache
def trained(told, **options):
    network = method(size=8, **options)
    network.prepare(data(two_colours(256, told)))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(40):
        optimizer.zero_grad()
        network({"image": two_colours(32, told)}).backward()
        optimizer.step()
    return network.eval()


def test_regression_matches_a_slow_loop_in_value_and_gradient():
    predicted, colors = torch.randn(3, 2, 4, 5, requires_grad=True), torch.randn(3, 2, 4, 5)
    counts = torch.tensor([True, False, True])
    total, slope = 0.0, torch.zeros(3, 2, 4, 5)
    for image in (0, 2):
        for y in range(4):
            for x in range(5):
                difference = (predicted[image, :, y, x] - colors[image, :, y, x]).detach()
                total += 0.5 * float(difference[0] ** 2 + difference[1] ** 2) / 40
                slope[image, :, y, x] = difference / 40
    value = regression(predicted, colors, counts)
    value.backward()
    assert value.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(predicted.grad, slope)
    assert regression(predicted, colors, torch.zeros(3, dtype=torch.bool)) == 0


def test_regression_starts_at_the_loss_of_the_mean_colour():
    network = method(loss="regression")
    images = batch(64)["image"]
    network.prepare(data(images))
    assert network.chance(64) == 1
    assert network({"image": images}).item() == pytest.approx(1, abs=0.02)
    assert {name for name, _ in network.named_buffers(recurse=False)} == {"mean", "deviation"}
    assert {name for name, _ in method().named_buffers(recurse=False)} == {"centers", "importance"}


def test_grey_images_cost_regression_nothing_and_do_not_dilute_the_others():
    images = torch.rand(6, 3, 16, 16)
    images[3:] = images[3:].mean(1, keepdim=True)
    network = method(loss="regression").eval()
    network.prepare(data(images))
    torch.nn.init.normal_(network.head.last.weight)
    assert network({"image": images[3:]}) == 0
    torch.testing.assert_close(network({"image": images}), network({"image": images[:3]}))
    with pytest.raises(ValueError, match="got only grey ones"):
        network.prepare(data(images[3:]))


def test_regression_predicts_colours_that_depend_on_lightness_and_no_random_ones():
    told, coin = (trained(told, loss="regression") for told in (True, False))
    for network, which in ((told, True), (coin, False)):
        network({"image": two_colours(128, which)})
    assert told.metrics["explained"] > 0.8 and coin.metrics["explained"] < 0.05
    images = two_colours(64, True)
    assert (told.pictures({"image": images})["predicted"] - images).abs().mean() < 0.05


def test_of_two_likely_colours_regression_predicts_the_mean_and_classes_the_likelier_one():
    images, ends = two_colours(64, told=False), torch.tensor([[35.0, 10.0], [-25.0, 30.0]])
    mean, distance = 0.75 * ends[:1] + 0.25 * ends[1:], {}
    for kind, options in (("regression", {}), ("classes", {"grid": 20, "uniform_weight": 1.0})):
        network = trained(False, loss=kind, **options)
        painted = rgb_to_lab(network.pictures({"image": images})["predicted"])[:, 1:]
        painted = painted.permute(0, 2, 3, 1).reshape(-1, 2)
        distance[kind] = torch.cdist(painted, ends[:1]).mean()
        assert kind == "classes" or torch.cdist(painted, mean).mean() < 8
    assert distance["classes"] < 0.7 * distance["regression"]
