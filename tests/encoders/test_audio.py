"""Encoders of sounds: what is behind the end does not matter, recurrent ones hear forward only, files give the same."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.data.audio.data import from_waveforms
from unlabeled.encoders import audio
from unlabeled.parts import ragged

NAMES = ["gru2-16", "audio-conv", "mel-transformer-tiny", "cpc-tiny", "pase-tiny", "wav2vec2-tiny"]
LENGTHS = torch.tensor([4_000, 2_345, 900, 4_000])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(name: str, **options) -> audio.AudioEncoder:
    if name.startswith("wav2vec2"):
        pytest.importorskip("transformers")
    encoder = encoders.build(name, kind="audio", **{"sample_rate": 8_000} | options)
    assert isinstance(encoder, audio.AudioEncoder)
    return encoder.eval()


def sounds() -> dict[str, torch.Tensor]:
    waveform = torch.randn(4, 4_000).cumsum(1)
    waveform = waveform / waveform.abs().amax(1, keepdim=True)
    return {"waveform": waveform * (torch.arange(4_000) < LENGTHS[:, None]), "length": LENGTHS}


@pytest.mark.parametrize("name", NAMES)
def test_features_of_all_layers_are_those_of_each_sound_alone(name):
    encoder, batch = build(name), sounds()
    x = encoder.inputs(batch)
    for layer in [None, *encoder.map_dims]:
        together = encoder.features(x, layer)
        assert together.shape == (4, encoder.map_dims[layer] if layer else encoder.dim)
        for row, length in enumerate(LENGTHS.tolist()):
            alone = encoder.features(encoder.inputs({"waveform": batch["waveform"][[row], :length]}), layer)
            torch.testing.assert_close(together[[row]], alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(encoder(x), encoder.features(x, list(encoder.map_dims)[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_behind_the_end_reaches_neither_features_nor_gradients(name):
    encoder, batch = build(name), sounds()
    noise = torch.where(torch.arange(4_000) < LENGTHS[:, None], batch["waveform"], 0.0)
    longer = {"waveform": torch.cat([noise, torch.zeros(4, 3_000)], dim=1), "length": LENGTHS}
    values, gradients = [], []
    for given in (batch, longer):
        encoder.zero_grad()
        value = encoder(encoder.inputs(given))
        value.square().sum().backward()
        values.append(value.detach())
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4)
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def test_norms_over_time_do_not_hear_the_padding_either(monkeypatch):
    pytest.importorskip("transformers")
    from unlabeled.encoders import wav2vec2

    monkeypatch.setitem(
        wav2vec2.SIZES, "wav2vec2-base", wav2vec2.SIZES["wav2vec2-tiny"]._replace(norm="group")
    )
    encoder, batch = build("wav2vec2-base"), sounds()
    together = encoder(encoder.inputs(batch))
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encoder(encoder.inputs({"waveform": batch["waveform"][[row], :length]}))
        torch.testing.assert_close(together[[row]], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_rates_say_how_many_frames_a_layer_has_for_one_of_the_spectrogram(name, rate):
    encoder, samples = build(name, sample_rate=rate), 3 * rate
    layers, frames = encoder.layers(encoder.inputs({"waveform": torch.randn(1, samples)}))
    for layer in layers:
        count = int(frames[layer] if isinstance(frames, dict) else frames)
        expected = encoder.rates[layer] * encoder.spectrogram.frames(samples)
        sees = getattr(encoder.trunk, "receptive", 0) // getattr(
            encoder.trunk, "hop", 1
        )  # frames lost at the ends
        assert expected - max(1, sees) <= count <= expected + 1


def test_recurrent_layers_know_nothing_of_what_comes_later():
    encoder = build("gru3-16")
    bands, frames = torch.randn(2, 30, 40), torch.tensor([30, 30])
    changed = bands.clone()
    changed[:, 20] += 1
    before, after = (encoder.trunk.layers(given, frames)[0] for given in (bands, changed))
    for layer in ("gru1", "gru2", "gru3"):
        assert torch.equal(before[layer][:, :20], after[layer][:, :20])
        assert not torch.isclose(before[layer][:, 20:], after[layer][:, 20:]).all(2).any()
    assert encoder.causal and not build("audio-conv").causal


def test_recurrent_layers_add_to_those_below_where_widths_agree():
    encoder = build("gru2-16")
    bands, frames = torch.randn(2, 9, 40), torch.tensor([9, 9])
    first, _ = encoder.trunk.units[0](bands)
    second, _ = encoder.trunk.units[1](first)
    found, _ = encoder.trunk.layers(bands, frames)
    torch.testing.assert_close(found["gru1"], first)
    torch.testing.assert_close(found["gru2"], first + second)
    assert [state.shape[1] for state in found.values()] == [9, 9, 9], (
        "a state for every frame, the last ones too"
    )


def test_statistics_make_each_band_of_the_data_standard_and_are_saved(tmp_path):
    waveforms = torch.randn(20, 3_000).mul(0.05).clamp(-1, 1)
    data = from_waveforms(waveforms, 8_000, lengths=torch.randint(500, 3_000, (20,)))
    encoder = encoders.fitted("gru2-16", data, kind="audio")
    assert encoder.config == {"kind": "audio", "name": "gru2-16", "sample_rate": 8_000, "bins": 40}
    bands, frames = encoder.adapt(encoder.inputs(data.sample(512)))
    real = bands[torch.arange(bands.shape[1]) < frames[:, None]]
    torch.testing.assert_close(real.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(40), atol=1e-4, rtol=0)
    encoder.save(tmp_path / "encoder.safetensors")
    again = encoders.load(tmp_path / "encoder.safetensors")
    x = encoder.inputs(data.sample(4))
    assert torch.equal(encoder.eval()(x), again.eval()(x))


def test_a_band_that_does_not_vary_and_silence_give_finite_features():
    data = from_waveforms(torch.zeros(3, 2_000), 8_000)
    for name in NAMES:
        build(name)
        encoder = encoders.fitted(name, data, kind="audio").eval()
        assert encoder(encoder.inputs(data.sample(3))).isfinite().all()


def test_raw_is_mean_and_deviation_of_the_real_frames():
    encoder, batch = build("gru2-16"), sounds()
    raw = encoder.raw(batch)
    assert raw.shape == (4, 80)
    for row, length in enumerate(LENGTHS.tolist()):
        bands = encoder.spectrogram(batch["waveform"][[row], :length])[0]
        expected = torch.cat([bands.mean(1), bands.std(1, correction=0)])
        torch.testing.assert_close(raw[row], expected, atol=1e-3, rtol=1e-4)


def test_sounds_of_another_rate_are_read_at_the_encoders_own():
    data = from_waveforms(torch.randn(2, 1_600).clamp(-1, 1), 16_000)
    read = build("gru2-16").evaluation_view(data)
    assert read.shape["sample_rate"] == 8_000 and read.batch(torch.arange(2))["waveform"].shape == (2, 800)


@pytest.mark.parametrize("samples", [0, 1, 150, 250])
@pytest.mark.parametrize("name", NAMES)
def test_sounds_shorter_than_a_frame_are_followed_by_silence(name, samples):
    encoder = build(name)
    assert encoder(encoder.inputs({"waveform": torch.rand(2, samples)})).isfinite().all()


def test_wav2vec2_has_the_frames_and_the_size_of_the_paper():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        network = audio.Wav2Vec2Network(audio.make_model("wav2vec2-base", 16_000))
        whole = transformers.Wav2Vec2ForPreTraining(network.model.config)
    assert [network.frames(n) for n in (400, 16_000, 250_000, 320_000)] == [1, 49, 781, 999]
    assert network.receptive == 400 and network.dim == 768
    assert sum(p.numel() for p in network.parameters()) == 94_371_712
    assert sum(p.numel() for p in whole.parameters()) == 95_044_608


@pytest.mark.parametrize("name", ["wav2vec2-tiny", "wav2vec2-mini"])
def test_frames_of_small_sizes_are_20_milliseconds_at_both_usual_rates(name):
    for rate in (8_000, 16_000):
        network = build(name, sample_rate=rate).trunk
        assert network.frames(10 * rate) == pytest.approx(500, abs=1)
        length = torch.tensor([rate, rate // 2])
        maps, frames = network.convolve(torch.randn(2, rate), length)
        assert frames.tolist() == network.frames(length).tolist()
        assert maps.shape == (2, network.frames(rate), network.channels)


def test_waveforms_for_wav2vec2_have_mean_0_and_variance_1():
    standardized, _ = audio.Standardized()((3 * sounds()["waveform"] + 0.1, LENGTHS))
    for row, length in zip(standardized, LENGTHS.tolist()):
        assert row[:length].mean().item() == pytest.approx(0, abs=1e-5)
        assert row[:length].var(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert not row[length:].any()


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_transformers_reads_what_was_written_and_gives_equal_features(tmp_path, norm, monkeypatch):
    pytest.importorskip("transformers")
    from unlabeled.encoders import wav2vec2

    monkeypatch.setitem(wav2vec2.SIZES, "wav2vec2-tiny", wav2vec2.SIZES["wav2vec2-tiny"]._replace(norm=norm))
    encoder = build("wav2vec2-tiny")
    x = encoder.inputs(sounds())
    with torch.no_grad():
        encoder.write_transformers(tmp_path)
        torch.testing.assert_close(encoder.read_transformers(tmp_path, x), encoder(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="encoder must be a wav2vec2"):
        build("gru2-16").write_transformers(tmp_path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"name": "gru0"}, "encoder must be one of"),
        ({"name": "resnet"}, "encoder must be one of"),
        ({"name": "gru2-16", "sample_rate": 0}, "sample_rate must"),
        ({"name": "gru2-16", "bins": -1}, "bins must"),
        ({"name": "gru2-16", "image_size": 8}, "got image_size"),
    ],
)
def test_nonsense_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        encoders.build(kind="audio", **options)


def test_names_can_all_be_built():
    pytest.importorskip("transformers")
    assert encoders.names("audio")[0] == "gru2-256"
    for name in encoders.names("audio"):
        if name != "wav2vec2-base":  # 94 million weights: built above, without memory
            assert build(name).config["name"] == name


def test_layers_that_are_dropped_still_have_gradients_for_processes_that_wait_for_them():
    encoder = build("wav2vec2-mini").train()
    encoder.trunk.model.config.layerdrop = 1.0
    found, _ = encoder.layers(encoder.inputs(sounds()))
    torch.testing.assert_close(found["layer4"], found["layer1"], rtol=0, atol=0)
    found["layer4"].square().sum().backward()
    assert all(p.grad is not None for p in encoder.trunk.model.encoder.layers.parameters())
    assert all((p.grad == 0).all() for p in encoder.trunk.model.encoder.layers.parameters())


def test_states_of_unequal_sequences_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    frames = torch.tensor([3, 17, 1, 17, 40, 8, 25, 2, 40, 11, 5])
    values = torch.randn(len(frames), 42, 6, dtype=torch.float64)
    values = (values * ragged.real(frames, 42)[:, :, None]).requires_grad_()
    trunk = audio.Recurrent(6, layers=2, width=6).double()
    found = trunk.layers(values, frames)[0]["gru2"]
    assert found.shape == (len(frames), 42, 6)
    (gradient,) = torch.autograd.grad(found.square().sum(), values)
    for row, count in enumerate(frames.tolist()):
        one = values[row : row + 1, :count].detach().requires_grad_()
        alone = one
        for unit in trunk.units:
            alone = alone + unit(alone)[0]
        torch.testing.assert_close(found[row, :count], alone[0])
        assert not found[row, count:].any()
        (expected,) = torch.autograd.grad(alone.square().sum(), one)
        torch.testing.assert_close(gradient[row, :count], expected[0])


def test_tokens_are_four_standardized_frames_side_by_side() -> None:
    network = build("mel-transformer-tiny").trunk
    bands, frames = torch.randn(2, 10, 40) * 3 + 1, torch.tensor([10, 6])
    tokens, counts = network.tokens(bands, frames)
    assert tokens.shape == (2, 3, 160) and counts.tolist() == [3, 2]
    for row, count in enumerate(frames.tolist()):
        real = bands[row, :count]
        standard = (real - real.mean(0)) / real.std(0, correction=0)
        for place in range(12):
            found = tokens[row, place // 4, 40 * (place % 4) : 40 * (place % 4 + 1)]
            expected = standard[place] if place < count else torch.zeros(40)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_neither_loudness_nor_a_constant_filter_changes_what_a_mel_transformer_hears() -> None:
    network = build("mel-transformer-tiny").trunk
    bands, frames = torch.randn(1, 30, 40), torch.tensor([30])
    first, second = (network.layers(given, frames)[0]["layer2"] for given in (bands, bands + torch.randn(40)))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_layers_of_a_mel_transformer_are_those_computed_by_hand() -> None:
    network = build("mel-transformer-tiny").trunk
    bands, frames = torch.randn(1, 20, 40), torch.tensor([20])
    tokens, _ = network.tokens(bands, frames)
    x = network.project(tokens)
    x = x + torch.nn.functional.gelu(network.position(x.mT)).mT
    for number, block in enumerate(network.blocks, 1):
        attended, _ = block.self_attn(*[block.norm1(x)] * 3)
        x = x + attended
        x = x + block.linear2(torch.nn.functional.gelu(block.linear1(block.norm2(x))))
        expected = network.norm(x) if number == 2 else x
        found = network.layers(bands, frames)[0][f"layer{number}"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
