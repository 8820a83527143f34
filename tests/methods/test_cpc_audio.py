"""CPC for sounds: its loss by a loop and in closed form, where negatives are from, what a state may know, and noise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods import cpc_audio
from unlabeled.methods.cpc_audio import CPCAudio, accuracy, draw, scores
from unlabeled.parts.info_nce import first_of
from unlabeled.worlds import tones


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 16, samples: int = 9_999) -> Sounds:
    made = tones.make(count, 0)
    return from_waveforms(made["waveform"][:, :samples], 8_000, lengths=made["length"].clamp(max=samples))


def noise(count: int, seed: int = 0) -> Sounds:
    waveform = torch.randn(count, 4_000, generator=torch.Generator().manual_seed(seed))
    return from_waveforms(waveform.mul(0.1).clamp(-1, 1), 8_000)


def build(data: Sounds | None = None, **options: Any) -> CPCAudio:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"ahead": 4, "negatives": 20} | options
    method = CPCAudio(encoders.build("cpc-tiny", kind="audio", sample_rate=8_000), **settings)
    if data is not None:
        method.prepare(method.training_view(data))
    return method


def test_loss_and_its_gradient_equal_a_slow_loop() -> None:
    predictions, targets = (torch.randn(2, 5, 3).double().requires_grad_() for _ in range(2))
    frames, index = torch.tensor([5, 3]), torch.tensor([[0, 2, 4, 2], [6, 7, 5, 7]])
    logits = scores(predictions, targets, index, 2)
    fast = first_of(logits, torch.arange(3) < (frames - 2)[:, None])
    losses, flat = [], targets.flatten(0, 1)
    for row, count in enumerate(frames.tolist()):
        for place in range(count - 2):
            own = predictions[row, place] @ targets[row, place + 2]
            others = [n for n in index[row].tolist() if n != 5 * row + place + 2]
            fits = torch.stack([own, *(predictions[row, place] @ flat[n] for n in others)])
            losses.append(fits.logsumexp(0) - own)
    slow = torch.stack(losses).mean()
    assert len(losses) == 4
    torch.testing.assert_close(fast, slow)
    slopes = [torch.autograd.grad(value, (predictions, targets)) for value in (fast, slow)]
    for ours, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, expected)


def test_forward_is_the_mean_over_all_distances_by_a_map_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(3)
    method = build(data)
    batch = data.batch(torch.arange(3))
    layers, frames = method.encoder.layers(method.encoder.inputs(batch))
    size = layers["conv"].shape[1]
    index = draw(frames, size, torch.eye(3).bool(), 20)
    monkeypatch.setattr(cpc_audio, "draw", lambda *_: index)
    flat, losses = layers["conv"].flatten(0, 1), []
    for distance, predict in enumerate(method.maps, 1):
        for row, count in enumerate(frames.tolist()):
            for place in range(count - distance):
                true = size * row + place + distance
                numbers = [true, *(n for n in index[row].tolist() if n != true)]
                fits = flat[numbers] @ predict(layers["context"][row, place])
                losses.append(fits.logsumexp(0) - fits[0])
    torch.testing.assert_close(method(batch), torch.stack(losses).mean())


@pytest.mark.parametrize("count", [1, 20])
def test_maps_of_zeros_give_the_logarithm_of_the_candidates_and_no_accuracy(count: int) -> None:
    data = melodies(4)
    method = build(data, negatives=count, among="all")
    for predict in method.maps:
        torch.nn.init.zeros_(predict.weight)  # type: ignore[arg-type]
    value = method(data.sample(4)).item()
    assert method.chance(4) == pytest.approx(math.log(1 + count))
    assert method.chance(4) - 0.1 < value <= method.chance(4) + 1e-5, "a negative that is true does not count"
    assert method.metrics["accuracy"] < 0.05


def test_predictions_that_are_right_have_no_loss_and_full_accuracy() -> None:
    targets = 50 * torch.eye(12).expand(2, 12, 12)
    index = torch.arange(24).expand(2, 24)[:, torch.randperm(24)]
    logits = scores(targets.roll(-3, 1), targets, index[:1].remainder(12) + torch.tensor([[0], [12]]), 3)
    counted = torch.ones(2, 9, dtype=torch.bool)
    assert first_of(logits, counted).item() == 0 and accuracy(logits, counted) == 1
    shuffled = scores(targets.roll(-3, 1), targets, index.remainder(12)[:, torch.randperm(24)] * 1, 3)
    assert shuffled.shape == (2, 9, 25)


def test_order_of_the_negatives_does_not_matter() -> None:
    predictions, targets, index = torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.randint(12, (2, 9))
    first, second = (scores(predictions, targets, x, 1).logsumexp(2) for x in (index, index.flip(1)))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("among", ["sound", "group", "all"])
def test_negatives_are_real_frames_of_the_allowed_sounds_all_equally_likely(among: str) -> None:
    data, seen = melodies(6), []
    data.groups = torch.tensor([3, 8, 3, 8, 8, 1])
    method = build(data, among=among, negatives=4_000)

    def noted(*given: Any) -> Tensor:
        seen.append(draw(*given))
        return seen[-1]

    cpc_audio.draw, original = noted, cpc_audio.draw
    try:
        batch = data.batch(torch.tensor([5, 1, 0, 4, 2]))
        method(batch)
    finally:
        cpc_audio.draw = original
    frames = method.encoder.trunk.frames(batch["length"])
    size = int(frames.max())
    groups = {"sound": torch.arange(5), "group": batch["group"], "all": torch.zeros(5)}[among]
    for row, index in enumerate(seen[0]):
        mates = [other for other in range(5) if groups[other] == groups[row]]
        possible = torch.cat([other * size + torch.arange(int(frames[other])) for other in mates])
        counts = torch.bincount(index, minlength=5 * size)
        assert counts[possible].sum() == 4_000
        expected = 4_000 / len(possible)
        surprise = ((counts[possible] - expected) ** 2 / expected).sum() / len(possible)
        assert 0.5 < surprise < 1.6, "the mean of a chi-square over its degrees of freedom is 1"


def test_groups_are_needed_for_negatives_of_the_same_group() -> None:
    with pytest.raises(
        ValueError, match="among must be sound or all for array, which has no groups, got group"
    ):
        build(melodies(4), among="group")


def test_a_state_knows_no_sample_after_its_frame() -> None:
    network = build().encoder.trunk
    waveform, length = torch.randn(1, 4_000, requires_grad=True), torch.tensor([4_000])
    states = network.layers(waveform, length)[0]["context"]
    for place in (0, 7, 30):
        (slope,) = torch.autograd.grad(states[0, place].sum(), waveform, retain_graph=True)
        last = slope[0].nonzero().max().item()
        assert last == place * network.hop + network.receptive - 1
        assert slope[0, : network.receptive].any(), "but all that came before"


@pytest.mark.parametrize(("rate", "receptive", "frames"), [(16_000, 465, 126), (8_000, 225, 254)])
def test_frames_are_10_milliseconds_as_in_the_paper(rate: int, receptive: int, frames: int) -> None:
    network = encoders.build("cpc-tiny", kind="audio", sample_rate=rate).trunk
    assert network.hop == 0.01 * rate and network.receptive == receptive
    assert 2 * network.hop < receptive < 3 * network.hop, "a frame overlaps with the next two"
    maps, count = network.convolve(torch.randn(1, 20_480), torch.tensor([20_480]))
    assert maps.shape == (1, frames, 32) and count.item() == network.frames(20_480) == frames


def test_base_has_the_sizes_of_the_paper() -> None:
    network = encoders.build("cpc-base", kind="audio", sample_rate=16_000).trunk
    assert network.map_dims == {"conv": 512, "context": 256}
    assert [tuple(c.weight.shape) for c in network.convolutions] == [
        (512, 1, 10), (512, 512, 8), (512, 512, 4), (512, 512, 4), (512, 512, 4),
    ]  # fmt: skip


def test_padding_changes_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(3)
    method, found = build(data), []
    batch = data.sample(3)
    longer = batch | {"waveform": F.pad(batch["waveform"], (0, 4_000))}

    def first_frames(frames: Tensor, size: int, allowed: Tensor, count: int) -> Tensor:
        return size * torch.arange(len(frames))[:, None] + torch.arange(count)

    monkeypatch.setattr(cpc_audio, "draw", first_frames)
    for given in (batch, longer):
        method.zero_grad()
        value = method(given)
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-3)


def trained(method: CPCAudio, data: Callable[[int], Sounds]) -> Tensor:
    """Loss of each distance after 40 steps, as a fraction of chance, float, shape (ahead,)."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        method(data(step).sample(8, seed=step)).backward()
        optimizer.step()
    with torch.no_grad():
        pairs = zip(*method.compare(data(40).sample(8, seed=40)), strict=True)
        return torch.stack([first_of(*pair) for pair in pairs]) / method.chance(8)


def test_learns_melodies_and_nothing_in_noise_beyond_frames_that_overlap() -> None:
    data = melodies(samples=4_000)
    music = trained(build(data), lambda step: data)
    hiss = trained(build(noise(8)), lambda step: noise(8, seed=1 + step))
    assert (music < 0.9).all()
    assert ((hiss[2:] > 0.95) & (hiss[2:] < 1.1)).all()


def test_sounds_of_one_frame_have_no_loss_and_short_data_is_refused() -> None:
    value = build()({"waveform": torch.randn(2, 300), "length": torch.tensor([225, 10])})
    value.backward()
    assert value == 0
    short = from_waveforms(torch.randn(2, 225 + 3 * 80).clamp(-1, 1), 8_000)
    with pytest.raises(ValueError, match="ahead must be below the frames of a sound, 4, got 4"):
        build(short)
    build(short, ahead=3)
    with pytest.raises(ValueError, match="ahead must be below the frames of a sound, 1, got 4"):
        build(from_waveforms(torch.randn(2, 100).clamp(-1, 1), 8_000))


def test_training_step_in_bfloat16_is_finite() -> None:
    data = melodies(4)
    method = build(data)
    with torch.autocast("cpu", torch.bfloat16):
        value = method(data.sample(4))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


def test_pictures_stand_at_the_time_that_they_are_of() -> None:
    data = melodies(3)
    method = build(data).eval()
    pictures = method.pictures(data.batch(torch.arange(3)))
    sound, predicted, probability = (picture for picture in pictures.values() if isinstance(picture, Tensor))
    frames = method.encoder.trunk.frames(data.lengths)
    assert sound.shape == predicted.shape and probability.shape == (3, 1, 4, sound.shape[3])
    assert (predicted[..., :4] == 0.5).all()
    columns = [predicted[row, 0, :, 4:count].T for row, count in enumerate(frames.tolist())]
    for row, those in enumerate(columns):
        own = sound[row, 0, :, : frames[row]].T
        assert (those[:, None] == own).all(2).any(1).all(), "each is a frame of the same sound"
    for distance in range(1, 5):
        values = probability[:, 0, distance - 1]
        assert (values[:, :distance] == 0).all() and (values[0, distance : frames[0]] > 0).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("ahead", 0), ("negatives", 0), ("among", "speaker"), ("crop_seconds", math.nan), ("ahead", 1.5)],
)
def test_nonsense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        build(**{option: value})


def test_other_encoders_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder must be a network of CPC such as cpc-mini, got gru3"):
        CPCAudio(encoders.build("gru3", kind="audio"))
