import colorsys
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from unlabeled import encoders
from unlabeled.methods.color_proxy import ColorProxy, hypercolumns, loss
from unlabeled.parts.color import from_hue_chroma, hue_chroma
from unlabeled.parts.color_bins import equal_bins


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=16, **options):
    encoder = encoders.build("conv4", image_size=size)
    return ColorProxy(encoder, **{"crop": 1.0, "flip": 0.0, "positions": 16} | options)


def batch(count=32, size=16):
    return {"image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)}


def data(images):
    return SimpleNamespace(
        shape={"channels": images.shape[1]}, sample=lambda count: {"image": images[:count]}
    )


def train(network, images, steps=40):
    network.prepare(data(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        network({"image": images}).backward()
        optimizer.step()
    return network


def test_loss_and_its_gradient_match_a_slow_loop():
    logits = torch.randn(2, 3, 8, dtype=torch.double).requires_grad_()
    truth = torch.rand(2, 3, 2, dtype=torch.double)
    twin = torch.zeros((), dtype=torch.double)
    for image in range(2):
        for position in range(3):
            hue, chroma = truth[image, position].tolist()
            scores = logits[image, position]
            for weight, bins, value in ((5 * chroma, scores[:4], hue), (1, scores[4:], chroma)):
                twin = twin + weight * (bins.exp().sum().log() - bins[math.floor(4 * value)]) / 6
    value = loss(logits, truth, 5.0)
    torch.testing.assert_close(value, twin, atol=1e-6, rtol=1e-6)
    fast, slow = (torch.autograd.grad(y, logits)[0] for y in (value, twin))
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)


def test_hue_of_grey_has_no_weight():
    logits = torch.randn(1, 4, 64, requires_grad=True)
    truth = torch.stack([torch.rand(1, 4), torch.zeros(1, 4)], 2)
    loss(logits, truth, 5.0).backward()
    assert (logits.grad[..., :32] == 0).all() and (logits.grad[..., 32:] != 0).all()


def test_hue_and_chroma_are_those_of_hsv_and_can_be_inverted():
    images = torch.rand(1, 3, 8, 8)
    hue, chroma = hue_chroma(images).unbind(1)
    for row in range(8):
        for column in range(8):
            h, s, v = colorsys.rgb_to_hsv(*images[0, :, row, column].tolist())
            assert hue[0, row, column].item() == pytest.approx(h, abs=1e-5)
            assert chroma[0, row, column].item() == pytest.approx(s * v, abs=1e-5)
    torch.testing.assert_close(from_hue_chroma(hue, chroma, images.mean(1)), images, atol=1e-5, rtol=0)


def test_primaries_are_thirds_of_a_turn_and_grey_has_no_chroma():
    plain = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.3]])[:, :, None]
    hue, chroma = hue_chroma(plain)[..., 0].unbind(1)
    torch.testing.assert_close(hue, torch.tensor([0, 1 / 3, 2 / 3, 0]))
    assert chroma.tolist() == [1, 1, 1, 0]
    assert equal_bins(torch.tensor([0.0, 1 / 32, 0.999, 1.0]), 32).tolist() == [0, 1, 31, 31]


def test_hypercolumn_copies_a_full_size_map_and_interpolates_a_coarse_one():
    full, coarse = torch.randn(2, 3, 16, 16), torch.randn(2, 5, 4, 4)
    positions = torch.randint(16, (2, 9, 2))
    read = hypercolumns({"a": full, "b": coarse}, positions, 16)
    for image in range(2):
        for number, (row, column) in enumerate(positions[image].tolist()):
            torch.testing.assert_close(read[image, number, :3], full[image, :, row, column])
    grid = ((positions.flip(2) + 0.5) / 16 * 2 - 1)[:, :, None]
    expected = F.grid_sample(coarse, grid, padding_mode="border", align_corners=False)
    torch.testing.assert_close(read[:, :, 3:], expected[..., 0].mT, atol=1e-5, rtol=1e-5)


def test_positions_stay_away_from_the_border_and_vary():
    network = method(size=32, positions=500)
    drawn = network.draw(torch.zeros(4, 3, 32, 32))
    assert drawn.min() == 4 and drawn.max() == 27
    assert not torch.equal(drawn[0], drawn[1])


def test_colour_never_reaches_the_encoder():
    network = method().eval()
    torch.nn.init.normal_(network.head[-1].weight)
    first = torch.rand(4, 3, 16, 16)
    second = first[:, [2, 0, 1]]
    positions = network.draw(first)
    torch.testing.assert_close(network.predict(first, positions), network.predict(second, positions))
    seen = []
    network.encoder.adapt.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network({"image": first})
    network.pictures({"image": second})
    assert len(seen) == 2
    for images in seen:
        assert torch.equal(images, first.mean(1, keepdim=True).expand_as(first)) or images.allclose(
            first.mean(1, keepdim=True).expand_as(first), atol=1e-6
        )


def test_gradient_reaches_every_map():
    network = method()
    torch.nn.init.normal_(network.head[-1].weight)
    images = torch.rand(4, 3, 16, 16)
    maps = {name: map_.detach().requires_grad_() for name, map_ in network.encoder.maps(images).items()}
    network.head(hypercolumns(maps, network.draw(images), 16)).square().sum().backward()
    assert list(maps) == ["s1", "s2", "s3", "s4"]
    assert all(map_.grad.abs().sum() > 0 for map_ in maps.values())


def test_first_loss_is_that_of_equal_logits_and_chance_is_that_of_the_histograms():
    network, images = method(positions=128), batch(128)["image"]
    network.prepare(data(images))
    chroma = hue_chroma(images / 255)[:, 1].mean().item()
    equal = math.log(32) * (1 + 5 * chroma)
    assert network({"image": images}).item() == pytest.approx(equal, rel=0.01)
    # Of colours at random all hues are alike, all chromas are not.
    hue, chromas = hue_chroma(images / 255).movedim(1, 0).flatten(1)
    counts = (chromas * 32).long().clamp(max=31).bincount(minlength=32) / len(chromas)
    by_hand = -(counts[counts > 0] * counts[counts > 0].log()).sum().item()
    weight = torch.zeros(32).index_add(0, (hue * 32).long().clamp(max=31), chromas)
    share = weight / weight.sum()
    by_hand += 5 * chroma * -(share[share > 0] * share[share > 0].log()).sum().item()
    assert network.chance(8) == pytest.approx(by_hand, rel=1e-3)
    assert network.chance(8) < equal


def test_refuses_data_without_colours():
    with pytest.raises(ValueError, match=r"channels must be 3 for color_proxy.* got 1"):
        ColorProxy(encoders.build("conv4", in_channels=1))
    with pytest.raises(ValueError, match="got only grey ones"):
        method().prepare(data(torch.rand(8, 1, 16, 16).expand(-1, 3, -1, -1)))


def test_learns_colours_that_depend_on_brightness_and_no_others():
    bright = torch.rand(32, 1, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3) < 0.5
    unrelated = torch.rand(32, 1, 1, 1) < 0.5
    grey = torch.where(bright, 0.6, 0.3)[:, 0]
    chroma = torch.full_like(grey, 0.25)
    together, apart = (
        from_hue_chroma(torch.where(yellow, 0.16, 0.66).expand(-1, 1, 16, 16)[:, 0], chroma, grey)
        for yellow in (bright, unrelated)
    )
    network = train(method(dropout=0.0), together)
    assert network({"image": together}) < 0.2 * network.chance(32)
    pictures = network.eval().pictures({"image": together})
    assert list(pictures) == ["image", "grey", "predicted"]
    assert (pictures["predicted"] - pictures["image"])[..., 2:-2, 2:-2].abs().mean() < 0.08
    assert (pictures["grey"] - pictures["image"])[..., 2:-2, 2:-2].abs().mean() > 0.08
    control = train(method(dropout=0.0), apart, steps=20)
    other = from_hue_chroma(torch.where(~unrelated, 0.16, 0.66).expand(-1, 1, 16, 16)[:, 0], chroma, grey)
    assert control({"image": other}) > 0.9 * control.chance(32)  # the same grey images in the other colour
