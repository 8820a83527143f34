"""HuBERT's loss against a loop, the clusters of its frames, what masked frames may know, and noise."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders, pretrain
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.exporting import export
from unlabeled.methods import hubert
from unlabeled.methods.hubert import HuBERT, scores
from unlabeled.parts import masked_codes
from unlabeled.parts.kmeans import nearest
from unlabeled.parts.spans import spans
from unlabeled.worlds import tones

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 12, samples: int | None = None) -> Sounds:
    made = tones.make(count, 0)
    waveform = made["waveform"][:, : samples or 99_999]
    return from_waveforms(waveform, 8_000, lengths=made["length"].clamp(max=waveform.shape[1]))


def noise(count: int, seed: int = 0) -> Sounds:
    waveform = torch.randn(count, 3_000, generator=torch.Generator().manual_seed(seed))
    return from_waveforms(waveform.mul(0.1).clamp(-1, 1), 8_000)


def build(data: Sounds | None = None, rate: int = 8_000, **options: Any) -> HuBERT:
    torch.manual_seed(0)
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=rate)
    settings: dict[str, Any] = {"clusters": 12} | options
    method = HuBERT(encoder, **settings)
    if data is not None:
        method.prepare(method.training_view(data))
    return method


def teacher(folder: Path, name: str = "wav2vec2-tiny", rate: int = 8_000) -> str:
    torch.manual_seed(5)
    encoders.build(name, kind="audio", sample_rate=rate).save(folder / "encoder.safetensors")
    return str(folder)


def heard(method: HuBERT, data: Sounds) -> tuple[Tensor, Tensor]:
    return method.encoder.adapt(method.encoder.inputs(data.batch(torch.arange(len(data)))))


def masking(monkeypatch: pytest.MonkeyPatch, masked: Tensor) -> None:
    def given(lengths: Tensor, size: int, *_: Any) -> Tensor:
        return torch.nn.functional.pad(masked, (0, size - masked.shape[1]))

    monkeypatch.setattr(hubert, "spans", given)


def test_loss_and_its_gradient_equal_a_slow_loop_over_cosines() -> None:
    vectors, codes = (torch.randn(size, 3).double().requires_grad_() for size in (6, 4))
    clusters, losses = torch.tensor([0, 3, 3, 1, 2, 0]), []
    for vector, cluster in zip(vectors, clusters.tolist()):
        fits = [torch.cosine_similarity(vector, code, dim=0) / 0.3 for code in codes]
        losses.append(torch.stack(fits).logsumexp(0) - fits[cluster])
    slow, fast = torch.stack(losses).mean(), masked_codes.loss(scores(vectors, codes, 0.3), clusters)
    torch.testing.assert_close(fast, slow)
    for ours, expected in zip(*(torch.autograd.grad(x, (vectors, codes)) for x in (fast, slow)), strict=True):
        torch.testing.assert_close(ours, expected)


def test_loss_is_that_of_the_masked_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(3)
    method = build(data).eval()
    sound = heard(method, data)
    frames = method.encoder.trunk.frames(sound[1])
    masked = spans(frames, int(frames.max()), 0.8, 10)
    masking(monkeypatch, masked)
    maps, _ = method.encoder.trunk.convolve(*sound)
    context = method.encoder.trunk.context(method.encoder.trunk.project(maps)[0], frames, masked)[-1]
    clusters, losses = method.targets(sound), []
    for row, place in masked.nonzero().tolist():
        said = method.head(context[row, place])
        fits = torch.cosine_similarity(said[None], method.codes, dim=1) / 0.1
        losses.append(fits.logsumexp(0) - fits[clusters[row, place]])
    torch.testing.assert_close(method(data.batch(torch.arange(3))), torch.stack(losses).mean())
    assert int(masked.sum()) == len(losses) < int(frames.sum())


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_cluster_of_a_frame_is_that_of_the_samples_it_starts_with(rate: int) -> None:
    method = build(rate=rate)
    network = method.encoder.trunk
    waveform = torch.randn(1, rate // 2)
    vectors, frames = method.describe((waveform, torch.tensor([rate // 2])))
    assert vectors.shape[1] == frames.item() == network.frames(rate // 2)
    for place in (0, 1, int(frames) - 1):
        start, window = place * network.hop, method.mfcc.spectrogram.window
        alone, _ = method.mfcc(waveform[:, start : start + window], torch.tensor([window]))
        torch.testing.assert_close(vectors[0, place, :13], alone[0, 0, :13], atol=1e-3, rtol=1e-4)
        assert start + window <= (place * network.hop + network.receptive) <= rate // 2
    assert network.hop == 0.02 * rate and method.mfcc.spectrogram.hop == 0.01 * rate


def test_clusters_are_those_of_k_means_and_chance_is_their_entropy() -> None:
    data = melodies()
    method = build(data)
    vectors, frames = method.describe(heard(method, data))
    points = torch.cat([row[:count] for row, count in zip(vectors, frames.tolist())])
    clusters = nearest(points, method.centres)
    for number in range(12):
        members = points[clusters == number]
        assert len(members) and (members.mean(0) - method.centres[number]).norm() < 0.3 * points.std(0).norm()
    share = torch.bincount(clusters) / len(clusters)
    assert method.chance(4) == pytest.approx(-(share * share.log()).sum().item(), rel=1e-5)
    assert 1 < method.chance(4) < math.log(12)  # type: ignore[operator]
    assert {"centres", "baseline"} <= method.state_dict().keys()


def test_loudness_changes_no_cluster() -> None:
    data = melodies(4)
    method = build(data)
    quieter = from_waveforms(0.1 * data.batch(torch.arange(4))["waveform"], 8_000, lengths=data.lengths)
    first, second = (method.targets(heard(method, given)) for given in (data, quieter))
    real = torch.arange(first.shape[1]) < method.encoder.trunk.frames(data.lengths)[:, None]
    assert (first == second)[real].float().mean() > 0.98


def test_masked_frames_reach_the_predictions_through_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build().eval()
    maps, frames = torch.randn(2, 40, 32), torch.tensor([40, 33])
    masked = spans(frames, 40)
    masking(monkeypatch, masked)
    other = torch.where(masked[:, :, None], torch.randn(2, 40, 32), maps)
    heard_too = torch.where(masked[:, :, None], maps, torch.randn(2, 40, 32))
    said = []
    for given in (maps, other, heard_too):
        monkeypatch.setattr(method.encoder.trunk, "convolve", lambda *_, given=given: (given, frames))
        said.append(method.predict((maps, frames))[2])
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)
    assert not torch.isclose(said[0], said[2]).all(1).any()


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_gradient_of_the_convolutions_is_the_wanted_part(factor: float) -> None:
    data, found = melodies(4), {}
    for given in (factor, 1.0):
        method = build(data, convolution_gradient=given)
        torch.manual_seed(1)
        method(data.sample(4)).backward()
        model = method.encoder.trunk.model
        found[given] = [
            [p.grad for p in part.parameters()]
            for part in (
                model.feature_extractor,
                torch.nn.ModuleList([model.feature_projection, model.encoder]),
            )
        ]
    for reduced, whole in zip(found[factor][0], found[1.0][0], strict=True):
        torch.testing.assert_close(reduced, factor * whole, atol=1e-8, rtol=1e-4)
    for same, whole in zip(found[factor][1], found[1.0][1], strict=True):
        torch.testing.assert_close(same, whole)


def test_padding_changes_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(3)
    method = build(data).eval()
    batch = data.sample(3)
    longer = batch | {"waveform": torch.nn.functional.pad(batch["waveform"], (0, 4_000))}
    frames = method.encoder.trunk.frames(batch["length"])
    masking(monkeypatch, spans(frames, int(frames.max())))
    found = []
    for given in (batch, longer):
        method.zero_grad()
        value = method(given)
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-3)


def test_more_than_half_of_the_frames_are_masked() -> None:
    method, frames = build(), torch.full((64,), 400)
    share = hubert.spans(frames, 400, method.mask, method.span).float().mean()
    assert share == pytest.approx(1 - (1 - 0.08) ** 10, abs=0.01)


def test_sounds_of_one_frame_have_nothing_masked_and_a_finite_loss() -> None:
    method = build(melodies())
    value = method({"waveform": torch.randn(2, 300), "length": torch.tensor([300, 10])})
    value.backward()
    assert value == 0 and all(metric.isfinite() for metric in method.metrics.values())


def test_silence_and_too_few_frames_are_refused() -> None:
    with pytest.raises(
        ValueError, match="sounds of array must have frames that differ, got one cluster for all"
    ):
        build(from_waveforms(torch.zeros(3, 4_000), 8_000))
    with pytest.raises(ValueError, match="clusters must be at most the number of points, 2, got 12"):
        build(from_waveforms(torch.randn(1, 500).clamp(-1, 1), 8_000))


def test_second_iteration_clusters_the_features_of_a_layer_of_the_first(tmp_path: Path) -> None:
    data = melodies()
    method = build(data, teacher=teacher(tmp_path))
    first = encoders.load(tmp_path / "encoder.safetensors").eval()
    layers, frames = first.layers(first.inputs(data.batch(torch.arange(12))))
    vectors, count = method.describe(heard(method, data))
    torch.testing.assert_close(vectors, layers["layer1"], atol=1e-5, rtol=1e-5)
    assert torch.equal(count, frames) and method.centres.shape == (12, 48)
    assert build(teacher=str(tmp_path), layer=2).layer == "layer2"


def test_teacher_hears_everything_and_never_changes(tmp_path: Path) -> None:
    data = melodies()
    method = build(data, teacher=teacher(tmp_path)).train()
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    method(data.sample(6)).backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    sound = heard(method.train(), data)
    expected = method.targets(sound)
    method.teacher.trunk.model.config.layerdrop = 1.0
    assert torch.equal(method.targets(sound), expected), "it drops no layer while the student learns"


def test_iterations_follow_each_other_through_run_folders(tmp_path: Path) -> None:
    settings = {"encoder": "wav2vec2-tiny", "clusters": 6, "batch_size": 4, "steps": 2, "quiet": True}
    first = pretrain("hubert", melodies(8), out=tmp_path / "one", **settings)
    second = pretrain("hubert", melodies(8), out=tmp_path / "two", teacher=str(first.path), **settings)
    assert second.history[-1]["loss"] > 0


def test_other_teachers_and_layers_are_refused(tmp_path: Path) -> None:
    rule = r"teacher must be a wav2vec2 with frames of 160 samples at 8000 Hz, got "
    (tmp_path / "other").mkdir()
    for name, rate in (("wav2vec2-tiny", 16_000), ("gru2-16", 8_000)):
        with pytest.raises(ValueError, match=rule + name):
            build(teacher=teacher(tmp_path / "other", name, rate))
    with pytest.raises(ValueError, match="teacher must be a run folder or an encoder file, got nowhere"):
        build(teacher="nowhere")
    with pytest.raises(ValueError, match="layer must be at most 2, that of the teacher's last, got 3"):
        build(teacher=teacher(tmp_path), layer=3)
    with pytest.raises(ValueError, match="layer must be left out without a teacher, got 1"):
        build(layer=1)


def test_hubert_of_transformers_opens_the_encoder_and_gives_equal_features(tmp_path: Path) -> None:
    data = melodies(2, samples=4_000)
    method = build(data)
    method(data.sample(2)).backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    encoder = method.encoder.eval()
    folder = export(encoder, tmp_path / "x", format="transformers").path
    model = transformers.HubertModel.from_pretrained(str(folder)).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(str(folder))
    batch = data.batch(torch.arange(2))
    for row, length in enumerate(batch["length"].tolist()):
        waveform = batch["waveform"][row, :length].numpy()
        given = extractor(waveform, sampling_rate=8_000, return_tensors="pt")
        with torch.no_grad():
            theirs = model(given["input_values"]).last_hidden_state.mean(1)
            ours = encoder((batch["waveform"][[row], :length], torch.tensor([length])))
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def trained(method: HuBERT, data: Callable[[int], Sounds]) -> float:
    """Loss of the last of 24 steps, as a fraction of chance."""
    optimizer, values = torch.optim.AdamW(method.parameters(), lr=5e-3), []
    for step in range(24):
        optimizer.zero_grad()
        value = method(data(step).sample(8, seed=step))
        value.backward()
        optimizer.step()
        values.append(value.item() / method.chance(8))  # type: ignore[operator]
    return sum(values[-6:]) / 6


def test_learns_melodies_and_nothing_in_noise() -> None:
    options = {"span": 3, "convolution_gradient": 1.0}
    data = melodies(16, samples=3_000)
    music = trained(build(data, **options), lambda step: data)
    hiss = trained(build(noise(16), **options), lambda step: noise(8, seed=1 + step))
    assert music < 0.85
    assert 0.97 < hiss < 1.1


def test_mixed_precision_changes_no_target_and_gives_a_finite_loss() -> None:
    data = melodies(4)
    method = build(data)
    expected = method.targets(heard(method, data))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method.targets(heard(method, data)), expected)
        value = method(data.sample(4))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


def test_pictures_show_masked_frames_by_their_true_and_predicted_codes() -> None:
    data = melodies(3)
    pictures = build(data).eval().pictures(data.sample(3))
    assert list(pictures) == ["sound", "hidden", "true codes", "predicted codes"]
    sound, hidden, true, predicted = (picture for picture in pictures.values() if isinstance(picture, Tensor))
    changed = (sound != hidden).any(2, keepdim=True)
    assert 0.3 < changed.float().mean() < 0.9
    for picture in (true, predicted):
        torch.testing.assert_close(torch.where(changed, 0, picture), torch.where(changed, 0, sound))
    assert not torch.equal(true, predicted)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, 0) for name in ("clusters", "layer", "mask", "span", "code_dim", "temperature")),
        *(("mask", 1.1), ("convolution_gradient", math.nan), ("crop_seconds", 0.0), ("span", 2.5)),
    ],
)
def test_nonsense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        build(**{option: value})
