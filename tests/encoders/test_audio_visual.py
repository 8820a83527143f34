"""Encoders of pictures with sound: two networks, unit directions, a saved state that is whole."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.data.audio_visual import from_pairs
from unlabeled.encoders.audio_visual import NAMES, AudioVisualEncoder, Spectrograms, fitted
from unlabeled.worlds.chiming_shapes import make


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pairs(count: int = 8, size: int = 32):
    made = make(count, 0, image_size=size)
    return from_pairs(made["image"], made["waveform"], sample_rate=8000)


def encoder(name: str = "av-conv4", size: int = 32) -> AudioVisualEncoder:
    return fitted(name, pairs(size=size), image_size=size)


@pytest.mark.parametrize("name", NAMES)
def test_the_vector_is_that_of_the_picture_then_that_of_the_sound(name):
    network = encoder(name).eval()
    x = network.inputs(pairs().batch(torch.arange(4)))
    vector = network(x)
    assert vector.shape == (4, network.dim) and network.dim == sum(network.map_dims.values())
    image, audio = (network.features(x, layer) for layer in ("image", "audio"))
    assert torch.equal(torch.cat([image, audio], 1), vector)
    assert torch.equal(image, network.image(x.image))
    with pytest.raises(ValueError, match="layer"):
        network.features(x, "s1")


@pytest.mark.parametrize("name", NAMES)
def test_directions_have_norm_1_and_the_map_is_fine(name):
    network = encoder(name, 64)
    x = network.inputs(pairs(size=64).batch(torch.arange(4)))
    places = network.positions(x.image)
    assert places.shape == (4, 128, 16, 16)
    for directions in (network.picture(x.image), places, network.sound(x.waveform)):
        torch.testing.assert_close(directions.norm(dim=1), torch.ones_like(directions[:, 0]))


def test_a_picture_says_nothing_of_the_sound_and_the_other_way_round():
    network = encoder().eval()
    batch = pairs().batch(torch.arange(4))
    x = network.inputs(batch)
    y = network.inputs(batch | {"waveform": batch["waveform"].flip(0)})
    assert torch.equal(network.features(x, "image"), network.features(y, "image"))
    assert torch.equal(network.features(x, "audio"), network.features(y, "audio").flip(0))


def test_every_parameter_takes_part():
    network = encoder()
    x = network.inputs(pairs().batch(torch.arange(8)))
    sound = network.sound(x.waveform)
    picture, places = network.directions(x.image)
    ((picture * sound).square().sum() + (places[:, :, 0] * sound[..., None]).square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_saved_and_loaded_it_is_the_same(tmp_path):
    network = encoder().eval()
    network.save(tmp_path / "encoder.safetensors")
    loaded = encoders.load(tmp_path / "encoder.safetensors").eval()
    x = network.inputs(pairs().batch(torch.arange(4)))
    assert isinstance(loaded, AudioVisualEncoder) and loaded.config == network.config
    assert torch.equal(loaded(x), network(x))
    assert torch.equal(loaded.sound(x.waveform), network.sound(x.waveform))


def test_bands_have_mean_0_and_deviation_1_over_the_data_and_silence_is_finite():
    waveform = pairs(32).batch(torch.arange(32))["waveform"]
    adapt = Spectrograms(8000)
    adapt.fit(waveform)
    bands = adapt(waveform)
    assert bands.shape == (32, 1, 64, 59)
    torch.testing.assert_close(bands.mean((0, 1, 3)), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(bands.std((0, 1, 3)), torch.ones(64), atol=1e-2, rtol=0)
    adapt.fit(torch.zeros(2, 8000))
    assert adapt(torch.zeros(2, 8000)).isfinite().all()


def test_raw_is_pixels_and_moments_of_the_bands():
    network = encoder()
    batch = pairs().batch(torch.arange(3))
    raw = network.raw(batch)
    assert raw.shape == (3, 3 * 32 * 32 + 128)
    torch.testing.assert_close(raw[:, : 3 * 32 * 32], batch["image"].flatten(1) / 255)
    bands = network.audio.adapt(batch["waveform"])[:, 0]
    torch.testing.assert_close(raw[:, -128:-64], bands.mean(2))
    assert "32x32" in network.raw_detail


def test_evaluation_reads_the_middle_and_refuses_another_rate():
    network = encoder()
    read = network.evaluation_view(pairs())
    assert read.seconds == 1.0 and not read.random
    other = from_pairs(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 99), sample_rate=16_000)
    with pytest.raises(ValueError, match="sample_rate"):
        network.evaluation_view(other)


@pytest.mark.parametrize(
    "name, value",
    [("name", "conv4"), ("seconds", 0.0), ("meeting_dim", 0), ("sample_rate", 0), ("nonsense", 1)],
)
def test_bad_configurations_are_named(name, value):
    with pytest.raises(ValueError, match="encoder" if name == "name" else name):
        encoders.build(**{"name": "av-conv4", "kind": "audio-visual", name: value})
