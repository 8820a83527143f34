"""PASE: each loss alone and together, what damage may reach, and noise in which no two sounds can be told apart."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.method import Waveforms
from unlabeled.methods import pase
from unlabeled.methods.pase import PASE, another
from unlabeled.parts.workers import chunks
from unlabeled.worlds import tones

WORKERS = ("waveform", "spectrum", "mfcc", "prosody", "local_info", "global_info")
PAIRS_ALONE = dict.fromkeys(WORKERS[:4], 0.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 12, samples: int = 6_000) -> Sounds:
    made = tones.make(count, 0)
    return from_waveforms(made["waveform"][:, :samples], 8_000, lengths=made["length"].clamp(max=samples))


def noise(seed: int, colored: bool = False, count: int = 32) -> Sounds:
    """Sounds of different lengths, levels and offsets; white, or every other one dull and the others sharp."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2_800, 5_000, (count,), generator=generator)
    waveform = torch.randn(count, 5_000, generator=generator)
    if colored:
        low = torch.arange(count)[:, None] % 2 == 0
        waveform = torch.where(
            low, waveform.cumsum(1), waveform.diff(dim=1, n=2, prepend=torch.zeros(count, 2))
        )
        waveform = waveform / waveform.std(1, keepdim=True)
    level = 0.02 + 0.1 * torch.rand(count, 1, generator=generator)
    return from_waveforms((level * waveform + level).clamp(-1, 1), 8_000, lengths=lengths)


def build(data: Sounds | None = None, **options: Any) -> PASE:
    torch.manual_seed(0)
    method = PASE(encoders.build("pase-tiny", kind="audio", sample_rate=8_000), **{"hidden": 16} | options)
    if data is not None:
        method.prepare(method.training_view(data))
    return method


def gradients(method: PASE, batch: dict[str, Tensor]) -> list[Tensor]:
    """Of the encoder, with pairs that a seed decides."""
    torch.manual_seed(1)
    return list(torch.autograd.grad(method(batch), list(method.encoder.parameters()), allow_unused=True))


def test_every_worker_begins_at_1_and_so_does_their_mean() -> None:
    data = melodies()
    method = build(data)
    value = method(data.sample(12))
    assert value.item() == pytest.approx(method.chance(12), rel=0.05) and method.chance(12) == 1
    assert method.metrics.keys() == {*WORKERS, "local_info_accuracy", "global_info_accuracy"}
    for name in WORKERS:
        assert method.metrics[name].item() == pytest.approx(1, abs=0.1), name


def test_loss_and_gradient_are_the_weighted_means_of_those_of_each_worker_alone() -> None:
    data = melodies()
    weights = dict(zip(WORKERS, (0.5, 1.0, 2.0, 1.5, 3.0, 0.0)))
    method = build(data, **weights)
    assert "global_info" not in {*method.regressions, *method.pairs}
    heads = [head for part in (method.regressions, method.pairs) for head in part.values()]
    for head in heads:
        torch.nn.init.normal_(head.head[-1].weight)  # type: ignore[union-attr, arg-type, index]
    batch, total = data.sample(6), [torch.zeros_like(p) for p in method.encoder.parameters()]
    together = gradients(method, batch)
    for name in WORKERS[:5]:
        alone = build(data, **dict.fromkeys(WORKERS, 0.0) | {name: 7.0})
        alone.load_state_dict(method.state_dict(), strict=False)
        for sum_, gradient in zip(total, gradients(alone, batch), strict=True):
            sum_ += weights[name] / 8 * gradient
        torch.testing.assert_close(alone.metrics[name], method.metrics[name])
    for ours, expected in zip(together, total, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-3)


def test_regressions_equal_a_slow_loop_over_frames() -> None:
    data = melodies(4)
    method = build(data, local_info=0.0, global_info=0.0)
    batch = data.sample(4)
    method(batch)
    layers, frames = method.encoder.layers(method.encoder.inputs(batch))
    for name, worker in method.regressions.items():
        errors = []
        for row, count in enumerate(frames.tolist()):
            alone = {"waveform": batch["waveform"][[row], : int(batch["length"][row])]}
            target, real = method.describe(*method.encoder.inputs(alone))
            assert real.shape == (1, count) and real.all()
            difference = (
                worker.head(layers["code"][row, :count]) - (target[name][0] - worker.mean) / worker.std
            )
            errors += [*(difference.abs() if name == "waveform" else difference.square()).mean(1)]
        expected = torch.stack(errors).mean() / worker.constant
        torch.testing.assert_close(method.metrics[name], expected.detach(), atol=2e-3, rtol=2e-3)


def test_the_other_sound_is_never_the_same_and_all_are_equally_likely() -> None:
    drawn = torch.stack([another(5) for _ in range(4_000)])
    assert (drawn.sort(1).values == torch.arange(5)).all()
    for row in range(5):
        counts = torch.bincount(drawn[:, row], minlength=5)
        assert counts[row] == 0 and ((counts[torch.arange(5) != row] - 1_000).abs() < 150).all()
    with pytest.raises(ValueError, match="batch_size must be at least 2, for pairs of two sounds, got 1"):
        another(1)


def test_padding_changes_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = melodies(4), []
    method, batch = build(data), data.sample(4)
    monkeypatch.setattr(pase, "another", lambda count: (torch.arange(count) + 1) % count)
    for head in [*method.regressions.values(), *method.pairs.values()]:
        torch.nn.init.normal_(head.head[-1].weight, std=0.1)  # type: ignore[union-attr, arg-type, index]
    for more in (0, 3_000):
        method.zero_grad()
        value = method(batch | {"waveform": F.pad(batch["waveform"], (0, more))})
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-2)


def told_apart(data: Sounds, name: str) -> tuple[float, float]:
    """Loss and accuracy, on the second half of the sounds, of a worker that has learned from codes of the first."""
    method = build(**PAIRS_ALONE, hidden=64)
    with torch.no_grad():
        layers, frames = method.encoder.layers(method.encoder.inputs(data.sample(len(data))))
    halves = list(zip(layers["code"].chunk(2), frames.chunk(2), strict=True))
    worker = method.pairs[name]
    optimizer = torch.optim.AdamW(worker.parameters(), lr=1e-2)
    for codes, count in [halves[0]] * 100:
        optimizer.zero_grad()
        worker(*chunks(codes, count, another(len(codes)), method.encoder.trunk.gap))[0].backward()
        optimizer.step()
    codes, count = halves[1]
    loss, accuracy = worker(*chunks(codes, count, another(len(codes)), method.encoder.trunk.gap))
    return loss.item(), accuracy.item()


@pytest.mark.parametrize("name", ["local_info", "global_info"])
def test_white_noise_of_many_lengths_and_levels_stays_at_chance_and_coloured_noise_does_not(
    name: str,
) -> None:
    white, colored = (told_apart(noise(0, colored, count=384), name) for colored in (False, True))
    assert white[0] > 0.98 and abs(white[1] - 0.5) < 0.07, white
    assert colored[0] < 0.85 and 0.68 < colored[1] < 0.85, "half of the others are alike"


def test_all_workers_learn_melodies_together() -> None:
    data = melodies(12, 4_000)
    method = build(data)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        method(data.sample(12)).backward()
        optimizer.step()
    found = {name: value.item() for name, value in method.metrics.items()}
    assert found["spectrum"] < 0.85 and found["mfcc"] < 0.95 and found["prosody"] < 0.9, found
    assert found["local_info"] < 0.95 and found["global_info"] < 0.95, found


def test_damage_reaches_what_is_heard_and_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(6)
    method, batch, heard, described = build(data, damage=1.0), data.sample(6), [], []
    layers, describe = method.encoder.layers, method.describe
    monkeypatch.setattr(method.encoder, "layers", lambda x: (heard.append(x[0]), layers(x))[1])
    monkeypatch.setattr(method, "describe", lambda *x: (described.append(x[0]), describe(*x))[1])
    method(batch)
    assert (described[0] - batch["waveform"]).abs().max() < 1e-3
    assert ((heard[0] - batch["waveform"]).abs().amax(1) > 1e-2).all()


def test_sounds_too_short_for_pairs_are_refused_unless_pairs_are_off() -> None:
    short = from_waveforms(torch.randn(3, 2_300).mul(0.1).clamp(-1, 1), 8_000)
    with pytest.raises(
        ValueError, match=r"or two sounds of array and crop_seconds at least 0.30 .* got 0.287 at most"
    ):
        build(short)
    with pytest.raises(ValueError, match=r"crop_seconds at least 0.30 seconds, got 0.2 at most"):
        build(melodies(), crop_seconds=0.2)
    assert build(short, local_info=0.0, global_info=0.0)(short.sample(3)).isfinite()


def test_silence_and_sounds_of_one_sample_have_finite_losses_and_gradients() -> None:
    method = build(melodies())
    value = method({"waveform": torch.zeros(3, 4_000), "length": torch.tensor([4_000, 1, 3_000])})
    value.backward()
    assert value.isfinite() and all(
        p.grad.isfinite().all() for p in method.parameters() if p.grad is not None
    )


def test_training_step_in_bfloat16_is_finite() -> None:
    data = melodies(4)
    method = build(data)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(data.sample(4))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


def test_pictures_show_targets_and_predictions_and_play_the_samples() -> None:
    data = melodies(3)
    method = build(data).eval()
    batch = data.sample(3)
    rows = method.pictures(batch)
    assert list(rows) == [f"{name}{end}" for name in WORKERS[:4] for end in ("", ", predicted")]
    frames = method.encoder.trunk.frames(batch["length"])
    size = int(frames.max())
    for name, numbers in (("spectrum", 129), ("mfcc", 39), ("prosody", 4)):
        true, predicted = rows[name], rows[f"{name}, predicted"]
        assert isinstance(true, Tensor) and isinstance(predicted, Tensor)
        assert true.shape == predicted.shape == (3, 1, numbers, size)
        assert (predicted - 0.5).abs().max() < 0.1 < (true - 0.5).abs().max(), "nothing was learned"
    sound = rows["waveform"]
    assert isinstance(sound, Waveforms) and sound.length.tolist() == (80 * frames).tolist()
    begin = (1_184 - 80) // 2
    x = torch.stack(
        [sound.waveform[0, : 80 * frames[0]], batch["waveform"][0, begin : begin + 80 * frames[0]]]
    )
    assert torch.corrcoef(x)[0, 1] > 0.99


@pytest.mark.parametrize("name", WORKERS)
def test_nonsense_is_refused_by_name(name: str) -> None:
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match=rf"^{name} must"):
            build(**{name: value})


def test_no_worker_and_other_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of waveform, .* must be above 0, got 0 for all"):
        build(**dict.fromkeys(WORKERS, 0.0))
    with pytest.raises(ValueError, match="encoder must be a network of PASE such as pase-mini, got gru3"):
        PASE(encoders.build("gru3", kind="audio"))


def test_silence_is_refused_as_nothing_in_it_can_be_predicted() -> None:
    silent = from_waveforms(torch.full((4, 4_000), 0.1), 8_000)
    with pytest.raises(ValueError, match="sounds must not all be silent for pase, got array"):
        build(silent)
    loud = torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    build(from_waveforms(torch.cat([silent.batch(torch.arange(4))["waveform"], loud]), 8_000))
