"""data2vec for sounds: targets and loss as a slow loop computes them, what masked frames may know, and noise."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods import data2vec_audio
from unlabeled.methods.data2vec_audio import Data2VecAudio, targets
from unlabeled.parts import ragged
from unlabeled.parts.masked_codes import code_pictures
from unlabeled.parts.spans import spans
from unlabeled.worlds import tones


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 4, samples: int = 4_000) -> Sounds:
    made = tones.make(count, 0)
    lengths = made["length"].clamp(max=samples) - 500 * (torch.arange(count) % 4)
    return from_waveforms(made["waveform"][:, :samples], tones.SAMPLE_RATE, lengths=lengths)


def build(**options: Any) -> Data2VecAudio:
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE)
    return Data2VecAudio(encoder, **{"layers": 2} | options)


def heard(method: Data2VecAudio, data: Sounds) -> tuple[Tensor, Tensor]:
    batch = data.batch(torch.arange(len(data)))
    return method.encoder.trunk.convolve(*method.encoder.adapt(method.encoder.inputs(batch)))


def masking(monkeypatch: pytest.MonkeyPatch, masked: Tensor) -> None:
    monkeypatch.setattr(data2vec_audio, "spans", lambda lengths, size, *_: masked[:, :size])


@pytest.mark.parametrize("layers", [1, 2])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, data = build(layers=layers).double().eval(), melodies(3)
    with torch.no_grad():
        for parameter in (*method.teacher.parameters(), *method.head.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
    batch = data.batch(torch.arange(3)) | {"waveform": data.batch(torch.arange(3))["waveform"].double()}
    network = method.encoder.trunk
    maps, frames = network.convolve(*method.encoder.adapt(method.encoder.inputs(batch)))
    masked = spans(frames, maps.shape[1], 0.65, 10)
    masking(monkeypatch, masked)
    terms = []
    for row, count in enumerate(frames.tolist()):  # each sound alone, so without padding
        hidden = network.project(maps[[row], :count])[0]
        said = method.head(network.context(hidden, frames[[row]], masked[[row], :count])[-1][0])
        state, parts = hidden + network.model.encoder.pos_conv_embed(hidden), []
        state = network.model.encoder.layer_norm(state)
        for layer in method.teacher.networks[0]:  # type: ignore[union-attr]
            attended = layer.layer_norm(state + layer.attention(state)[0])
            inner = layer.feed_forward(attended)
            state = layer.final_layer_norm(attended + inner)
            parts.append(inner[0].detach())
        normal = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in parts[-layers:]]
        mean = torch.stack(normal).mean(0)
        true = (mean - mean.mean(0)) / (mean.var(0, correction=0) + 1e-5).sqrt()
        terms += [(said[t] - true[t]).square().mean() for t in range(count) if masked[row, t]]
    fast, slow = method(batch), torch.stack(terms).mean()
    assert len(terms) == masked.sum() < frames.sum()
    torch.testing.assert_close(fast, slow, atol=1e-7, rtol=1e-6)
    weights = [p for p in method.parameters() if p.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights, allow_unused=True) for x in (fast, slow))):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_each_number_of_a_target_has_mean_0_and_variance_1_over_its_sound_and_0_costs_1() -> None:
    outputs, frames = [torch.randn(2, 50, 8) * 3 + 5 for _ in range(3)], torch.tensor([50, 31])
    made = targets(outputs, frames)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(made[row, :count].mean(0), torch.zeros(8), atol=1e-5, rtol=0)
        torch.testing.assert_close(made[row, :count].var(0, correction=0), torch.ones(8), atol=1e-3, rtol=0)
        assert not made[row, count:].any()
    scaled = targets([outputs[0], 100 * outputs[1] - 7, outputs[2]], frames)
    torch.testing.assert_close(scaled, made, atol=1e-4, rtol=1e-3)  # every layer counts alike
    assert targets([torch.ones(1, 4, 8)], torch.tensor([4])).abs().max() < 1e-3


def test_masked_frames_reach_no_prediction_but_set_the_targets() -> None:
    method = build().train()
    maps, frames = torch.randn(2, 40, 32), torch.tensor([40, 33])
    masked = spans(frames, 40)
    other = torch.where(masked[:, :, None], torch.randn(2, 40, 32), maps)
    method.encoder.eval()
    said = [method.predict(x, frames, masked) for x in (maps, other)]
    torch.testing.assert_close(*said, atol=1e-5, rtol=1e-5)
    first, second = (method.targets(x, frames)[masked] for x in (maps, other))
    assert (first - second).abs().max() > 0.1


def test_targets_neither_drop_out_nor_draw_and_the_teacher_has_layers_alone() -> None:
    method = Data2VecAudio(encoders.build("wav2vec2-mini", kind="audio", sample_rate=8_000)).train()
    data = melodies(2, 2_000)
    maps, frames = heard(method, data)
    state = torch.get_rng_state()
    first, second = (method.targets(maps, frames) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert torch.equal(state, torch.get_rng_state()) and method.encoder.trunk.model.training
    names = [name for name, _ in method.teacher.named_parameters()]
    assert len(names) == len(list(method.encoder.trunk.model.encoder.layers.parameters()))
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_padding_changes_no_target() -> None:
    method, data = build().eval(), melodies(3)
    maps, frames = heard(method, data)
    longer = F.pad(maps, (0, 0, 0, 30), value=9.0)
    first, second = (method.targets(x, frames) for x in (maps, longer))
    torch.testing.assert_close(first, second[:, : maps.shape[1]], atol=1e-4, rtol=1e-4)
    assert not second[:, maps.shape[1] :].any()


def trained(noise: bool) -> tuple[float, float]:
    """How much is explained, after a few steps, of how targets at a time differ between sounds; their deviation."""
    torch.manual_seed(0)
    method, data = build(span=3), melodies(16, 4_000)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    for step in range(60):
        hiss = from_waveforms((0.1 * torch.randn(8, 4_000)).clamp(-1, 1), 8_000)
        optimizer.zero_grad()
        method((hiss if noise else data).sample(8, seed=step)).backward()
        optimizer.step()
        method.after_step(step / 60)
    maps, frames = heard(method.eval(), hiss if noise else data.subset(torch.arange(8)))
    masked = spans(frames.amin().expand(1), maps.shape[1], 0.3, 3).expand(len(maps), -1)
    with torch.no_grad():
        predicted, true = method.predict(maps, frames, masked), method.targets(maps, frames)[masked]
    predicted, true = predicted.view(len(maps), -1), true.view(len(maps), -1)
    errors, variance = (predicted - true).square().sum(), (true - true.mean(0)).square().sum()
    return 1 - (errors / variance).item(), method.metrics["target std"].item()


def test_what_the_rest_of_a_melody_tells_is_predicted_and_of_noise_only_the_time() -> None:
    music, spread = trained(noise=False)
    hiss, _ = trained(noise=True)
    assert music > 0.3 > 0.08 > hiss and spread > 0.01


def test_pictures_show_the_best_fitting_frames_and_nonsense_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, data = build().eval(), melodies(2)
    maps, frames = heard(method, data)
    masked = spans(frames, maps.shape[1])
    masking(monkeypatch, masked)
    true = method.targets(maps, frames)[masked]
    monkeypatch.setattr(method, "predict", lambda *given: true)
    batch = data.batch(torch.arange(2))
    shown = method.pictures(batch)
    bands = method.encoder.spectrogram(method.encoder.inputs(batch)[0])
    real, own = ragged.real(frames, maps.shape[1]), torch.arange(masked.numel()).view(masked.shape)
    expected = code_pictures(bands, real, masked, own, own)["true codes"]
    assert torch.equal(shown["best fit"], expected)  # type: ignore[arg-type]
    assert not torch.equal(shown["hidden"], expected)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layers must be at most the 2 of the encoder, got 3"):
        build(layers=3)
    with pytest.raises(ValueError, match="encoder must be a wav2vec2 such as wav2vec2-mini, got gru2-16"):
        Data2VecAudio(encoders.build("gru2-16", kind="audio", sample_rate=8_000))
