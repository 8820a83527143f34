import math
from types import SimpleNamespace

import pytest
import torch

from unlabeled import encoders
from unlabeled.methods.image_gpt import ImageGPT


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def method(size=8, channels=3, **options):
    encoder = encoders.build("pixel-gpt-8", in_channels=channels, image_size=size)
    return ImageGPT(encoder, **{"flip": 0.0} | options)


def data(images):
    return SimpleNamespace(
        shape={"channels": images.shape[1]}, sample=lambda count: {"image": images[:count]}
    )


def with_logits(network):
    """A network whose every weight matters: its output layer starts at zero."""
    torch.nn.init.normal_(network.head.weight)
    return network.eval()


def train(network, images, steps, lr=3e-3):
    network.encoder.adapt.fit(images)
    network.prepare(data(images))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        value = network({"image": images})
        value.backward()
        optimizer.step()
    return value.item()


def test_loss_and_its_gradient_match_a_slow_loop():
    """Each pixel predicted on its own, by a plain network that is given only the pixels before it."""
    network = with_logits(method(size=3)).double()
    trunk, x = network.encoder.trunk, torch.rand(2, 3, 3, 3).double()
    truth = network.tokens(x)

    def norm(layer, h):
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight

    def plain(tokens):
        h = torch.stack([trunk.start, *(trunk.colors.weight[token] for token in tokens)])
        h = h + trunk.positions[: len(h)]
        for block in trunk.blocks:
            query, key, value = (norm(block.before, h) @ block.read.weight.T).chunk(3, 1)
            outputs = []
            for head in range(2):
                part = slice(32 * head, 32 * (head + 1))
                rows = []
                for place in range(len(h)):
                    scores = key[: place + 1, part] @ query[place, part] / math.sqrt(32)
                    rows.append(scores.softmax(0) @ value[: place + 1, part])
                outputs.append(torch.stack(rows))
            h = h + torch.cat(outputs, 1) @ block.write.weight.T
            hidden = norm(block.between, h) @ block.widen.weight.T
            h = h + (hidden * torch.sigmoid(1.702 * hidden)) @ block.narrow.weight.T
        return network.head(norm(trunk.last, h))[-1]

    twin = torch.zeros((), dtype=torch.double)
    for row in truth.tolist():
        for place in range(9):
            logits = plain(row[:place])
            twin = twin + (logits.exp().sum().log() - logits[row[place]]) / 18
    value = network({"image": x})
    torch.testing.assert_close(value.double(), twin, atol=1e-5, rtol=1e-5)
    weights = [*network.head.parameters(), *trunk.parameters()]
    fast, slow = (torch.autograd.grad(y, weights) for y in (value, twin))
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)


def test_no_pixel_is_seen_before_it_is_predicted():
    network = with_logits(method())
    truth = torch.randint(16, (4, 64))
    plain = network.logits(truth)
    for place in (0, 17, 62):
        changed = truth.clone()
        changed[:, place] = (changed[:, place] + 1) % 16
        other = network.logits(changed)
        torch.testing.assert_close(other[:, : place + 1], plain[:, : place + 1])
        assert ((other - plain)[:, place + 1 :].abs().amax(2) > 1e-4).all()
    changed = truth.clone()
    changed[:, 63] = (changed[:, 63] + 1) % 16
    torch.testing.assert_close(network.logits(changed), plain)  # nothing comes after the last pixel


def test_first_loss_is_ln_colors_exactly():
    network = method()
    assert network({"image": torch.rand(4, 3, 8, 8)}).item() == pytest.approx(math.log(16), abs=1e-6)
    assert network.chance(4) == pytest.approx(math.log(16))


def test_palette_is_learned_from_the_data_and_its_colours_are_represented_exactly():
    colors = torch.rand(16, 3)
    x = colors[torch.randint(16, (40, 8, 8))].permute(0, 3, 1, 2)
    network = method()
    assert not network.encoder.trunk.adapt.fitted
    network.encoder.adapt.fit(x)
    network.prepare(data(x))
    palette = network.encoder.trunk.adapt
    assert palette.fitted
    torch.testing.assert_close(network.to_images(network.tokens(x)), x, atol=1e-4, rtol=0)
    nearest = torch.cdist(
        network.to_images(torch.arange(16)[None].repeat(1, 4))[0].flatten(1).T, colors
    ).amin(1)
    assert nearest.max() < 1e-3
    counts = torch.bincount(network.tokens(x).flatten(), minlength=16) / (40 * 64)
    assert network.chance(4) == pytest.approx(-(counts * counts.log()).sum().item(), abs=1e-5)
    before = palette.colors.clone()
    network.prepare(data(torch.rand(40, 3, 8, 8)))  # vectors that were learned for colours keep them
    assert torch.equal(palette.colors, before)


def test_palette_is_learned_from_the_averaged_pixels_that_the_network_reads():
    colors = 0.25 + 0.5 * torch.rand(16, 3)
    x = colors[torch.randint(16, (40, 8, 8))].permute(0, 3, 1, 2)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    fine = x.repeat_interleave(2, 2).repeat_interleave(2, 3) + 0.25 * signs  # averages to x
    network = method(size=16)
    network.encoder.adapt.fit(fine)
    network.prepare(data(fine))
    torch.testing.assert_close(network.to_images(network.tokens(fine)), x, atol=1e-4, rtol=0)


def test_features_are_the_mean_of_what_the_middle_block_reads():
    encoder = encoders.build("pixel-gpt-16", image_size=6).eval()
    trunk, x = encoder.trunk, torch.rand(2, 3, 6, 6)
    read = []
    trunk.blocks[2].read.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    maps = encoder.maps(x)
    assert list(maps) == ["embedding", "block1", "block2", "block3", "block4"] == list(encoder.map_dims)
    assert maps["block2"].shape == (2, 128, 6, 6)
    torch.testing.assert_close(encoder(x), read[0].mean(1))
    torch.testing.assert_close(maps["block2"].flatten(2).mT, read[0])
    torch.testing.assert_close(encoder(x), maps["block2"].mean((2, 3)))
    states = trunk.state(trunk.vectors(trunk.tokens(encoder.adapt(x))), 4)
    torch.testing.assert_close(maps["block4"].flatten(2).mT, states)


def test_larger_images_are_averaged_to_what_the_network_reads():
    encoder = encoders.build("pixel-gpt-8", image_size=24)
    assert encoder.trunk.size == 8 and encoders.build("pixel-gpt-8", image_size=5).trunk.size == 5
    x = torch.rand(2, 3, 24, 24)
    small = x.unflatten(3, (8, 3)).unflatten(2, (8, 3)).mean((3, 5))
    assert torch.equal(encoder.trunk.tokens(encoder.adapt(x)), encoder.trunk.tokens(encoder.adapt(small)))


def test_saved_encoder_and_its_random_twin_keep_the_palette(tmp_path):
    from unlabeled.evaluation.twins import untrained

    network, x = method(), torch.rand(40, 3, 8, 8)
    network.prepare(data(x))
    network.encoder.save(tmp_path / "encoder.safetensors")
    loaded = encoders.load(tmp_path / "encoder.safetensors").eval()
    assert torch.equal(loaded(x), network.encoder.eval()(x))
    twin = untrained(network.encoder, seed=1)
    assert torch.equal(twin.trunk.adapt.colors, network.encoder.trunk.adapt.colors)
    assert not torch.equal(twin(x), loaded(x))


def test_completed_images_keep_the_given_pixels_and_the_rest_is_sampled():
    network = with_logits(method(temperature=0.0))
    prefix = torch.randint(16, (3, 20))
    whole = network.generate(prefix)
    assert whole.shape == (3, 64) and torch.equal(whole[:, :20], prefix)
    # Remembering what was read changes nothing: each pixel is the likeliest of all that went before.
    assert torch.equal(network.logits(whole).argmax(2)[:, 20:], whole[:, 20:])
    drawn = method(temperature=1.0).eval().generate(torch.zeros(50, 0, dtype=torch.int64))
    assert drawn.shape == (50, 64) and drawn.min() == 0 and drawn.max() == 15  # all equally likely


def test_constant_images_are_learned_with_certainty():
    network = method(size=4)
    assert train(network, torch.full((16, 3, 4, 4), 0.4), 40) < 0.05
    assert network.chance(16) == pytest.approx(0, abs=1e-6)


def test_learns_that_neighbours_are_alike_but_nothing_where_they_are_independent():
    """Images of one colour each; in the control their pixels are exchanged among all images."""
    plain = torch.rand(48, 3, 1, 1).expand(-1, -1, 4, 4)
    order = torch.randperm(48 * 16)
    mixed = plain.permute(0, 2, 3, 1).reshape(-1, 3)[order].view(48, 4, 4, 3).permute(0, 3, 1, 2)
    losses = {}
    for name, x in (("plain", plain), ("mixed", mixed)):
        network = method(size=4)
        train(network, x[:32], 40)
        losses[name] = network.eval()({"image": x[32:]}).item() / network.chance(16)
    assert losses["plain"] < 0.6 and losses["mixed"] > 0.95


def test_pictures_and_needs():
    network = method().eval()
    pictures = network.pictures({"image": torch.rand(2, 3, 8, 8)})
    assert list(pictures) == ["image", "in palette colours", "upper half", "completed"]
    assert torch.equal(pictures["completed"][:, :, :4], pictures["in palette colours"][:, :, :4])
    with pytest.raises(
        ValueError, match="encoder must read images pixel by pixel, such as pixel-gpt-16, got conv4"
    ):
        ImageGPT(encoders.build("conv4"))
