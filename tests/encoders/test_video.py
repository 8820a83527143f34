"""Encoders of videos: frame by frame, one after the other, or as volumes."""

import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.video import NAMES, Clips, Frames, Recurrent

SMALL = ["frames-conv4", "lstm-16", "conv3d", "vit3d-tiny"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def video(samples=3, frames=6, channels=3, height=20, width=24):
    return torch.randint(0, 256, (samples, frames, channels, height, width), dtype=torch.uint8)


def build(name, **config):
    return encoders.build(name, kind="video", **{"image_size": 16, "frames": 4} | config)


@pytest.mark.parametrize("name", SMALL)
def test_vectors_layers_and_samples_apart(name):
    encoder = build(name).eval()
    x = encoder.inputs({"video": video()})
    assert x.shape == (3, 6, 3, 16, 16) and x.min() >= 0 and x.max() <= 1
    assert encoder(x).shape == (3, encoder.dim)
    torch.testing.assert_close(encoder.features(x), encoder(x))
    for layer in encoder.map_dims:
        features = encoder.features(x, layer)
        assert features.ndim == 2 and len(features) == 3 and features.shape[1] % encoder.map_dims[layer] == 0
        alone = torch.cat([encoder.features(x[row : row + 1], layer) for row in range(3)])
        torch.testing.assert_close(features, alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="layer must be one of"):
        encoder.features(x, "nonsense")


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded(name, tmp_path):
    encoder = build(name, in_channels=1).eval()
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = encoders.load(tmp_path / "encoder.safetensors").eval()
    assert type(loaded) is type(encoder) and loaded.config == encoder.config
    x = encoder.inputs({"video": video(channels=1)})
    assert torch.equal(loaded(x), encoder(x))


def test_frames_are_encoded_one_by_one_and_averaged():
    encoder = build("frames-conv4").eval()
    assert isinstance(encoder, Frames) and encoder.frame.image_size == 16
    x = encoder.inputs({"video": video()})
    each = torch.stack([encoder.frame(x[:, frame]) for frame in range(6)])
    torch.testing.assert_close(encoder(x), each.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(x), encoder(x[:, torch.randperm(6)]), atol=1e-5, rtol=1e-4)
    assert encoder.map_dims == encoder.frame.map_dims and encoder.dim == encoder.frame.dim


def test_an_encoder_of_images_of_ones_own_reads_videos():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    frame = encoders.wrap(Mean(), image_size=8)
    encoder = Frames(frame, {"name": "own", "in_channels": 3, "image_size": 8, "frames": 2})
    assert encoder(encoder.inputs({"video": video()})).shape == (3, 3)


def test_lstm_agrees_with_its_formula():
    encoder = build("lstm-5", in_channels=1, image_size=3)
    assert isinstance(encoder, Recurrent) and encoder.dim == 10
    x = encoder.inputs({"video": video(channels=1, height=3, width=3)})
    weights = dict(encoder.trunk.named_parameters())
    hidden, cell = torch.zeros(3, 5), torch.zeros(3, 5)
    outputs = []
    for frame in range(6):
        gates = x[:, frame].flatten(1) @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        gates = gates + hidden @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        take, keep, new, show = gates.chunk(4, 1)
        cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        outputs.append(hidden)
    torch.testing.assert_close(encoder(x), torch.cat([hidden, cell], 1))
    torch.testing.assert_close(encoder.features(x, "hidden"), hidden)
    torch.testing.assert_close(encoder.features(x, "cell"), cell)
    torch.testing.assert_close(encoder.features(x, "mean"), torch.stack(outputs).mean(0))


@pytest.mark.parametrize("name", ["lstm-16", "conv3d", "vit3d-tiny"])
def test_what_reads_time_notices_the_order(name):
    encoder = build(name).eval()
    x = encoder.inputs({"video": video()})
    assert (encoder(x) - encoder(x.flip(1))).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_networks_of_torchvision(name):
    encoder = build(name, in_channels=1).eval()
    assert isinstance(encoder, Clips) and encoder.dim == 512
    with torch.no_grad():
        x = encoder.inputs({"video": video(1, 4, 1)})
        assert encoder(x).shape == (1, 512) and encoder.features(x, "layer1").shape[0] == 1


def test_raw_is_a_few_small_frames():
    encoder = build("frames-conv4", image_size=20, frames=8)
    batch = {"video": video(2, 7, 3, 20, 20)}
    assert encoder.raw(batch).shape == (2, 4 * 3 * 16 * 16)
    assert encoder.raw_detail == "16x16 pixels of 4 frames"
    few = build("frames-conv4", image_size=20, frames=1)
    assert few.raw(batch).shape == (2, 3 * 16 * 16)
    tiny = build("lstm-16", image_size=4)
    chosen = torch.stack([batch["video"][:, frame] for frame in (0, 2, 4, 6)], 1)
    torch.testing.assert_close(tiny.raw(batch), tiny.inputs({"video": chosen}).flatten(1))


@pytest.mark.parametrize("name", SMALL)
def test_fitted_to_data(name):
    data = from_videos(video(10, 6, 3, 20, 24))
    encoder = encoders.fitted(name, data, kind="video")
    assert encoder.in_channels == 3 and encoder.frames == 6
    assert encoder.image_size == (16 if name.startswith("lstm") else 20)
    if not isinstance(encoder, Recurrent):
        adapt = encoder.frame.adapt if isinstance(encoder, Frames) else encoder.adapt
        expected = data.table.float().div(255).mean((0, 2, 3))
        torch.testing.assert_close(adapt.mean, expected, atol=0.01, rtol=0)
    assert encoders.fitted(name, data, kind="video", image_size=8).image_size == 8


def test_what_evaluation_reads():
    frames = torch.arange(30, dtype=torch.uint8).view(1, 30, 1, 1, 1).expand(2, 30, 1, 4, 4)
    data = from_videos(frames, torch.tensor([0, 1]))
    spread = build("frames-conv4", in_channels=1, frames=3).evaluation_view(data)
    assert spread.batch(torch.tensor([1]))["video"][0, :, 0, 0, 0].tolist() == [0, 14, 29]
    middle = build("lstm-16", in_channels=1, frames=4).evaluation_view(data)
    assert middle.batch(torch.tensor([0]))["video"][0, :, 0, 0, 0].tolist() == [13, 14, 15, 16]
    assert len(spread) == len(middle) == 2 and middle.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["frames-conv4", "conv3d", "vit3d-tiny"])
def test_a_network_that_sees_lightness_sees_no_colour(name):
    data = from_videos(video(6, 4, 3, 16, 16))
    encoder = encoders.fitted(name, data, kind="video", input="lightness").eval()
    assert encoder.config["input"] == "lightness"
    grey = torch.rand(2, 4, 1, 16, 16)
    assert encoder(grey.expand(-1, -1, 3, -1, -1)).shape == (2, encoder.dim)
    with pytest.raises(ValueError, match="input must be one of color"):
        build("lstm-16", input="lightness")


def test_names_and_errors():
    assert NAMES[0] == encoders.names("video")[0] == "frames-conv4"
    for name, message in [
        ("lstm-x", "number of cells"),
        ("lstm-0", "number of cells"),
        ("nonsense", "r3d_18"),
    ]:
        with pytest.raises(ValueError, match=message):
            build(name)
    with pytest.raises(ValueError, match="similar names"):
        build("frames-conv5")
    with pytest.raises(ValueError, match="image_size"):
        build("conv3d", image_size=0)
    with pytest.raises(ValueError, match="argument"):
        build("conv3d", nonsense=1)
