"""What is restored, what is hidden, what the gains compare with, and sounds of which nothing can be restored."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods.audio_restoration import AudioRestoration, loss
from unlabeled.worlds import tones

GAPS = {"noise": "none", "band": 1.0, "peak": 1.0, "probability": 1.0}
"""Dropped spans alone."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 24) -> Sounds:
    made = tones.make(count, 0)
    return from_waveforms(made["waveform"], tones.SAMPLE_RATE, lengths=made["length"])


def build(data: Sounds, name: str = "gru1-16", **options) -> AudioRestoration:
    torch.manual_seed(0)
    method = AudioRestoration(encoders.fitted(name, data, kind="audio"), **options)
    method.prepare(method.training_view(data))
    return method


def bands_of(method: AudioRestoration, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Bands of the sounds and of the damaged ones, true frames, and frames that dropped spans touch, one by one."""
    waveform, length = method.encoder.inputs(batch)
    clean, damaged, dropped = method.damage(waveform, length, 8_000)
    bands, frames = method.spectra((clean, length))
    given, _ = method.spectra((damaged, length))
    touched = torch.zeros(bands.shape[:2], dtype=torch.bool)
    for row in range(len(bands)):
        for frame in range(int(frames[row])):
            touched[row, frame] = dropped[row, 80 * frame : 80 * frame + 200].any()
    return bands, given, frames, touched


def test_loss_equals_a_slow_loop_over_real_frames_in_value_and_gradient() -> None:
    restored, clean = torch.randn(3, 7, 2, requires_grad=True), torch.randn(3, 7, 2)
    frames, total, slope = torch.tensor([7, 2, 4]), 0.0, torch.zeros(3, 7, 2)
    for row, frame, band in torch.cartesian_prod(*map(torch.arange, (3, 7, 2))).tolist():
        if frame < frames[row]:
            difference = float(restored[row, frame, band].detach() - clean[row, frame, band])
            total, slope[row, frame, band] = total + abs(difference), math.copysign(1 / 26, difference)
    value = loss(restored, clean, frames)
    value.backward()
    assert value.item() == pytest.approx(total / 26, rel=1e-5)
    torch.testing.assert_close(restored.grad, slope)


def test_first_loss_is_that_of_the_damaged_sounds_which_gains_nothing() -> None:
    data = melodies(48)
    method = build(data)
    assert method(data.sample(48)).item() == pytest.approx(method.chance(48), rel=0.15)
    assert abs(method.metrics["gain_db"]) < 0.05


@pytest.mark.parametrize("name", ["gru1-16", "audio-conv"])
def test_gains_equal_a_slow_loop(name: str) -> None:
    data = melodies(4)
    method = build(data, name, probability=1.0)
    torch.nn.init.normal_(method.head.last.weight, std=0.3)
    batch = data.sample(4)
    torch.manual_seed(1)
    method(batch)
    torch.manual_seed(1)
    bands, given, frames, touched = bands_of(method, batch)
    torch.manual_seed(1)
    waveform, length = method.encoder.inputs(batch)
    restored = method.restore(method.damage(waveform, length, 8_000)[1], length)[1].detach()
    whole, gap = [], []
    for row, count in enumerate(frames.tolist()):
        known = (~touched[row, :count]).nonzero().flatten().numpy()
        for band in range(40):
            truth, said, had = (x[row, :count, band].numpy() for x in (bands, restored, given))
            line = np.interp(np.arange(count), known, had[known])
            whole += list(zip((said - truth) ** 2, (had - truth) ** 2))
            gap += [
                ((said[t] - truth[t]) ** 2, (line[t] - truth[t]) ** 2)
                for t in range(count)
                if touched[row, t]
            ]
    for metric, pairs in (("gain_db", whole), ("gain_dropped_db", gap)):
        after, before = np.mean(pairs, 0)
        assert method.metrics[metric].item() == pytest.approx(10 * math.log10(before / after), abs=1e-3)


def test_a_perfect_restoration_has_no_loss_and_the_largest_gain() -> None:
    data = melodies(4)
    method = build(data, probability=1.0)
    batch = data.sample(4)
    torch.manual_seed(1)
    bands, given, *_ = bands_of(method, batch)
    method.head.forward = lambda layers, frames, size: bands - given  # type: ignore[method-assign]
    torch.manual_seed(1)
    assert method(batch).item() < 1e-6 and method.metrics["gain_db"] > 60


def test_nothing_of_dropped_spans_reaches_the_encoder() -> None:
    data = melodies(4)
    method, batch, seen = build(data, **GAPS), data.sample(4), []
    method.encoder.adapt.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    torch.manual_seed(3)
    dropped = method.damage(batch["waveform"], batch["length"], 8_000)[2]
    other = torch.where(dropped, torch.rand_like(batch["waveform"]), batch["waveform"])
    values = []
    for waveform in (batch["waveform"], other):
        torch.manual_seed(3)
        values.append(method(batch | {"waveform": waveform}))
    assert dropped.any(1).all() and torch.equal(seen[0], seen[1]) and values[0] != values[1]


def test_padding_changes_neither_loss_nor_gradients() -> None:
    data, results = melodies(4), []
    method, batch = build(data, "audio-conv"), data.sample(4)
    torch.nn.init.normal_(method.head.last.weight, std=0.1)
    clean, damaged, dropped = method.damage(batch["waveform"], batch["length"], 8_000)
    for more in (0, 5_000):
        padded = tuple(torch.nn.functional.pad(x, (0, more)) for x in (clean, damaged, dropped))
        method.damage = lambda *given, padded=padded: padded  # type: ignore[method-assign]
        method.zero_grad()
        value = method(batch | {"waveform": padded[0]})
        value.backward()
        results.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
        results[-1] += list(method.metrics.values())
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-3)


def hiss(count: int, steady: bool) -> Sounds:
    """Noise of one level per sound, or of one that changes at random every frame."""
    level = torch.rand(count, 1 if steady else 50).mul(5).exp() * 0.002
    waveform = level.repeat_interleave(4_000 // level.shape[1], 1) * torch.randn(count, 4_000)
    return from_waveforms(waveform.clamp(-1, 1), 8_000)


@pytest.mark.parametrize("steady", [True, False])
def test_a_steady_level_goes_on_in_gaps_and_chance_cannot_be_restored(steady: bool) -> None:
    """Relative to the best constant of each band, in frames that were dropped as a whole."""
    data = hiss(48, steady)
    method = build(data, "gru1-24", span=10, drop=0.3, **GAPS)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        method(data.batch(torch.randperm(32)[:12])).backward()
        optimizer.step()
    waveform, length = method.encoder.inputs(data.batch(torch.arange(32, 48)))
    clean, damaged, dropped = method.damage(waveform, length, 8_000)
    bands, _ = method.spectra((clean, length))
    whole = dropped.unfold(1, 200, 80).all(2)
    error = (method.restore(damaged, length)[1] - bands)[whole].abs().mean()
    constant = (bands[whole] - bands[whole].median(0).values).abs().mean()
    share = (error / constant).item()
    assert share < 0.75 if steady else 0.97 < share < 1.2, share


def test_pictures_and_sounds_show_the_three_states() -> None:
    data = melodies(3)
    method = build(data, probability=1.0).eval()
    torch.nn.init.zeros_(method.head.last.weight)
    batch = data.sample(3)
    with torch.no_grad():
        rows = method.pictures(batch)
    names = ["undamaged", "damaged", "restored"]
    assert list(rows) == [*names, *(f"{name}, sound" for name in names)]
    clean, damaged, restored = (rows[f"{name}, sound"] for name in names)
    assert torch.equal(clean.length, batch["length"]) and clean.sample_rate == 8_000
    assert (clean.waveform - batch["waveform"]).abs().max() < 1e-3
    assert (damaged.waveform - clean.waveform).abs().max() > 0.01
    torch.testing.assert_close(restored.waveform, damaged.waveform, atol=1e-4, rtol=0)  # nothing was learned
    torch.testing.assert_close(rows["restored"], rows["damaged"])


def test_a_perfect_restoration_is_also_heard() -> None:
    data = melodies(6)
    method = build(data, noise="white", snr=0.0, band=1.0, peak=1.0, drop=0.0, probability=1.0).eval()
    method.restore = lambda damaged, length: (  # type: ignore[method-assign]
        method.spectra((damaged, length))[0],
        method.spectra((data.sample(6)["waveform"], length))[0],
    )
    rows = method.pictures(data.sample(6))
    clean, *others = (rows[f"{name}, sound"].waveform for name in ("undamaged", "damaged", "restored"))
    before, after = (10 * (clean.square().sum() / (clean - x).square().sum()).log10() for x in others)
    assert after > before + 3, (before, after)


def test_dictionaries_are_refused() -> None:
    encoder = encoders.build("mel-dictionary-16", kind="audio")
    with pytest.raises(
        ValueError, match="encoder must be a network such as audio-conv, got mel-dictionary-16"
    ):
        AudioRestoration(encoder)


@pytest.mark.parametrize(
    ("option", "value"), [("snr", -31.0), ("band", 0.0), ("peak", 1.5), ("drop", -0.1), ("noise", "pink")]
)
def test_nonsense_is_refused_by_name(option: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        AudioRestoration(encoders.build("gru1-8", kind="audio"), **{option: value})
