import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from unlabeled import encoders
from unlabeled.encoders import image as networks
from unlabeled.encoders import split, stages
from unlabeled.methods.split_brain import SplitBrain, loss
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
from unlabeled.parts.color_bins import equal_bins
from unlabeled.worlds import rooms


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch):
    """Halves with a quarter of the channels."""
    torch.manual_seed(0)
    quarter = partial(
        split.split, lambda channels, size, share: stages.conv4(channels, size, share=4 * share)
    )
    monkeypatch.setitem(networks.NAMES, "split-conv4", quarter)


def method(size=16, channels=3, **options):
    encoder = encoders.build("split-conv4", image_size=size, in_channels=channels, input="lab")
    return SplitBrain(encoder, **{"crop": 1.0, "flip": 0.0, "grid": 20, "bins": 20} | options)


def images(count=32, size=16, channels=3):
    """Smooth images of any colours."""
    return torch.nn.functional.interpolate(torch.rand(count, channels, 3, 3), size, mode="bilinear")


def data(images):
    return SimpleNamespace(
        shape={"channels": images.shape[1]}, sample=lambda count: {"image": images[:count]}
    )


def train(network, images, steps, lr=0.003):
    network.encoder.adapt.fit(images)
    network.prepare(data(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        network({"image": images}).backward()
        optimizer.step()
    return network


def test_loss_and_its_gradient_match_a_slow_loop():
    logits = [torch.randn(2, bins, 3, 3, dtype=torch.double).requires_grad_() for bins in (5, 7)]
    labels = [torch.randint(bins, (2, 3, 3)) for bins in (5, 7)]
    twin = torch.zeros((), dtype=torch.double)
    for x, y in zip(logits, labels):
        for image in range(2):
            for row in range(3):
                for column in range(3):
                    scores = x[image, :, row, column]
                    right = scores[y[image, row, column]]
                    twin = twin + (scores.exp().sum().log() - right) / (2 * 9 * 2)
    value = loss(logits, labels)
    torch.testing.assert_close(value.double(), twin, atol=1e-6, rtol=1e-6)
    fast, slow = (torch.autograd.grad(y, logits) for y in (value, twin))
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


def test_each_half_sees_only_its_own_channels():
    for channels, first in ((3, 1), (4, 3), (6, 3)):
        encoder = encoders.build("split-conv4", image_size=16, in_channels=channels, input="lab").eval()
        x = torch.randn(2, channels, 16, 16, requires_grad=True)
        for number, half in enumerate(encoder.trunk.halves(x)):
            (gradient,) = torch.autograd.grad(sum(map_.square().sum() for map_ in half.values()), x)
            used = gradient.abs().sum((0, 2, 3)) > 0
            assert used.tolist() == [(channel < first) == (number == 0) for channel in range(channels)]


def test_features_of_both_halves_are_concatenated_and_no_weight_is_shared():
    encoder = encoders.build("split-conv4", image_size=16, input="lab").eval()
    x = images(2)
    first, second = encoder.trunk.halves(encoder.adapt(x))
    assert encoder.dim == 64 and encoder.map_dims == {"s1": 8, "s2": 16, "s3": 32, "s4": 64}
    for name, map_ in encoder.maps(x).items():
        assert torch.equal(map_, torch.cat([first[name], second[name]], 1))
    expected = torch.cat([first["s4"], second["s4"]], 1).mean((2, 3))
    torch.testing.assert_close(encoder(x), expected)
    whole = encoders.build("conv4", image_size=16)
    count = sum(weight.numel() for weight in encoder.parameters())
    assert count < 0.6 * sum(weight.numel() for weight in whole.parameters())


@pytest.mark.parametrize("name", ["split-conv4", "split-alexnet"])
def test_networks_in_two_halves_are_saved_and_loaded(name, tmp_path):
    encoder = encoders.build(name, image_size=32, in_channels=5, input="lab").eval()
    encoder.save(tmp_path / "encoder.safetensors")
    x = images(2, 32, 5)
    assert torch.equal(encoders.load(tmp_path / "encoder.safetensors").eval()(x), encoder(x))


def test_lightness_bins_hold_their_lower_edge_and_the_last_one_its_upper_edge():
    values = torch.tensor([0.0, 0.99, 1.0, 57.0, 57.99, 99.5, 100.0, 100.001, -1e-6])
    assert equal_bins(values, 100, 100).tolist() == [0, 0, 1, 57, 57, 99, 99, 99, 0]


def test_targets_are_the_mean_colours_of_cells():
    network, x = method(stride=4), images(4)
    color, light = (half[0] for half in network.code(x))
    cells = rgb_to_lab(x).unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    assert torch.equal(light, (cells[:, 0] / 5).long())
    distance = (cells[:, 1:, None] - network.centers.T[:, :, None, None]).square().sum(1)
    assert torch.equal(color, distance.argmin(1))


@pytest.mark.parametrize(("channels", "expected"), [(3, math.log(313) + math.log(100)), (4, None)])
@pytest.mark.parametrize("stride", [2, 3])
def test_first_loss_is_chance(channels, expected, stride):
    network = method(channels=channels, grid=10, bins=100, stride=stride)
    if expected is None:  # one other band from colours, lightness and colours from it
        expected = math.log(100) + (math.log(100) + math.log(313)) / 2
    assert network.chance(32) == pytest.approx(expected)
    assert network({"image": images(channels=channels)}).item() == pytest.approx(expected, abs=0.02)


def test_what_a_half_predicts_does_not_depend_on_its_targets():
    network = method().eval()
    for head in network.heads:
        torch.nn.init.normal_(head.last.weight)
    lab = torch.cat([torch.rand(4, 1, 16, 16) * 20 + 50, torch.rand(4, 2, 16, 16) * 30 - 15], 1)
    other = torch.cat([torch.rand(4, 1, 16, 16) * 20 + 50, torch.rand(4, 2, 16, 16) * 30 - 15], 1)
    recolored = torch.cat([lab[:, :1], other[:, 1:]], 1)
    relit = torch.cat([other[:, :1], lab[:, 1:]], 1)
    plain, colored, lit = (network.predict(lab_to_rgb(x)) for x in (lab, recolored, relit))
    for number, (same, changed) in enumerate(((colored, lit), (lit, colored))):
        torch.testing.assert_close(plain[number][0], same[number][0], atol=1e-2, rtol=0)
        assert (plain[number][0] - changed[number][0]).abs().max() > 0.1


def test_refuses_encoders_and_images_that_it_cannot_split():
    with pytest.raises(
        ValueError, match="encoder must be a network in two halves such as split-conv4, got conv4"
    ):
        SplitBrain(encoders.build("conv4"))
    with pytest.raises(ValueError, match="in_channels must be 3 or more with input lab, got 1"):
        encoders.build("split-conv4", in_channels=1, input="lab")
    with pytest.raises(ValueError, match="channels must be at least 2 for a network in two halves, got 1"):
        encoders.build("split-conv4", in_channels=1)
    with pytest.raises(
        ValueError, match=r"input of the encoder must be lab for split_brain.* got color with 3"
    ):
        SplitBrain(encoders.build("split-conv4"))
    with pytest.raises(ValueError, match="got only grey ones"):
        method().prepare(data(torch.rand(8, 1, 16, 16).expand(-1, 3, -1, -1)))


def test_learns_lightness_from_colour_and_colour_from_lightness_only_where_they_are_related():
    """Bright is yellow and dark is blue; in the control any colour is as bright as any other."""
    bright = (torch.rand(32, 1, 2, 2) < 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3)
    unrelated = (torch.rand(32, 1, 2, 2) < 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3)
    yellow, blue = torch.tensor([0.0, 60.0])[:, None, None], torch.tensor([30.0, -60.0])[:, None, None]
    light = torch.where(bright, 70.0, 40.0)
    accuracy = {}
    for name, color in (("together", bright), ("apart", unrelated)):
        x = lab_to_rgb(torch.cat([light, torch.where(color, yellow, blue)], 1))
        network = train(method(size=8), x, 40)
        fresh = torch.randperm(32)  # of the control, what was memorised is of no use
        shuffled = (
            x
            if name == "together"
            else lab_to_rgb(torch.cat([rgb_to_lab(x)[:, :1], rgb_to_lab(x)[fresh, 1:]], 1))
        )
        network({"image": shuffled})
        accuracy[name] = [float(network.metrics[f"{half}_half_accuracy"]) for half in ("first", "second")]
    assert min(accuracy["together"]) > 0.9
    assert max(accuracy["apart"]) < 0.75


def test_colours_and_depth_predict_each_other_in_rooms():
    walks = rooms.make(3, 0, frames=10, size=16)
    depth = (walks["depth"] / 12).clamp(0, 1)
    x = torch.cat([walks["video"] / 255, depth[:, :, None]], 2).flatten(0, 1)
    network = train(method(channels=4), x, 40)
    torch.manual_seed(1)
    truth = network({"image": x}).item()
    mixed = torch.cat([x[:, :3], x[torch.randperm(len(x)), 3:]], 1)  # depths of other images
    assert truth < 0.75 * network.chance(30) and truth < 0.75 * network({"image": mixed}).item()
    pictures = network.eval().pictures({"image": x[:4]})
    assert [value.shape[1] for value in pictures.values()] == [3, 3, 1, 1]
    predicted, true = pictures["first extra band predicted from colours"], pictures["first extra band"]
    assert (predicted - true).abs().mean() < 0.15


def test_bands_beyond_the_third_are_reported():
    assert encoders.build("split-conv4", in_channels=3, input="lab").notes == []
    (note,) = encoders.build("split-conv4", in_channels=4, input="lab").notes
    assert note == "the first 3 of 4 channels are read as red, green and blue, in Lab"
