"""APC's loss in closed form, what each prediction may know, and sounds in which there is nothing to predict."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods.apc import APC, loss
from unlabeled.worlds import tones


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 48) -> Sounds:
    made = tones.make(count, 0)
    return from_waveforms(
        made["waveform"][:, :6_000], tones.SAMPLE_RATE, lengths=made["length"].clamp(max=6_000)
    )


def noise(count: int = 48) -> Sounds:
    return from_waveforms(torch.randn(count, 6_000).mul(0.1).clamp(-1, 1), 8_000)


def build(data: Sounds, name: str = "gru2-24", **options) -> APC:
    torch.manual_seed(0)
    method = APC(encoders.fitted(name, data, kind="audio"), **options)
    method.prepare(method.training_view(data))
    return method


def trained(method: APC, data: Sounds, steps: int) -> float:
    """Loss relative to that of saying the mean, on the last quarter of the sounds, after training on the others."""
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    rows = torch.arange(len(data))
    train, test = rows[: 3 * len(rows) // 4], rows[3 * len(rows) // 4 :]
    for _ in range(steps):
        optimizer.zero_grad()
        method(data.batch(train[torch.randperm(len(train))[:12]])).backward()
        optimizer.step()
    bands, frames, predicted = method.predict(data.batch(test))
    mean = loss(torch.zeros_like(bands), bands, frames, method.ahead)
    return (loss(predicted, bands, frames, method.ahead) / mean).item()


def test_loss_equals_a_slow_loop_over_real_targets() -> None:
    predicted, bands, frames = torch.randn(3, 7, 2), torch.randn(3, 7, 2), torch.tensor([7, 2, 4])
    errors = [
        (predicted[row, now] - bands[row, now + 2]).abs().mean()
        for row in range(3)
        for now in range(int(frames[row]) - 2)
    ]
    torch.testing.assert_close(loss(predicted, bands, frames, 2), torch.stack(errors).mean())


def test_saying_nothing_costs_the_mean_size_and_is_chance() -> None:
    data = melodies()
    method = build(data)
    torch.nn.init.zeros_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    batch = data.sample(512)
    bands, frames = method.encoder.adapt(method.encoder.inputs(batch))
    real = torch.arange(bands.shape[1]) < frames[:, None]
    real[:, : method.ahead] = False
    expected = bands[real].abs().mean()
    torch.testing.assert_close(method(batch), expected)
    assert method.chance(48) == pytest.approx(expected.item(), rel=1e-6)


def test_repeating_the_present_frame_gains_nothing() -> None:
    data = melodies()
    method = build(data, "gru1-40")
    method.encoder.trunk.layers = lambda bands, frames: ({"mel": bands}, frames)
    torch.nn.init.eye_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    batch = data.sample(8)
    bands, frames = method.encoder.adapt(method.encoder.inputs(batch))
    errors = [(row[3:count] - row[: count - 3]).abs() for row, count in zip(bands, frames.tolist())]
    torch.testing.assert_close(method(batch), torch.cat(errors).mean())
    assert method.metrics["gain"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ahead", [4, 5, 6])
def test_a_copy_is_right_at_the_period_of_the_sound_alone(ahead: int) -> None:
    bands = torch.randn(2, 5, 3).repeat(1, 6, 1)
    value = loss(bands, bands, torch.tensor([30, 17]), ahead)
    assert (value == 0) == (ahead == 5)


def test_each_prediction_knows_the_past_alone() -> None:
    method = build(melodies())
    bands, frames = torch.randn(2, 30, 40), torch.tensor([30, 30])
    changed = bands.clone()
    changed[:, 12] += 1
    said = [method.head(method.encoder.trunk.layers(given, frames)[0]["gru2"]) for given in (bands, changed)]
    assert torch.equal(said[0][:, :12], said[1][:, :12])
    assert not torch.isclose(said[0][:, 12], said[1][:, 12]).all()


def test_padding_changes_neither_loss_nor_gradients() -> None:
    data = melodies()
    method, found = build(data), []
    batch = data.sample(4)
    longer = batch | {"waveform": torch.nn.functional.pad(batch["waveform"], (0, 5_000))}
    for given in (batch, longer):
        method.zero_grad()
        value = method(given)
        value.backward()
        found.append([value.detach(), *(parameter.grad.clone() for parameter in method.parameters())])  # type: ignore[union-attr]
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


def test_sounds_without_a_target_do_not_count() -> None:
    method = build(melodies())
    short = {"waveform": torch.randn(2, 400).mul(0.1), "length": torch.tensor([300, 400])}
    value = method(short)
    value.backward()
    assert value.item() == 0 and not method.head.weight.grad.any()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"ahead must be below the frames of a sound, 3 at most, got 3"):
        method.prepare(from_waveforms(short["waveform"], 8_000))


def test_features_are_the_mean_of_the_states_of_all_frames() -> None:
    data = melodies()
    method = build(data).eval()
    batch = data.sample(3)
    layers, frames = method.encoder.layers(method.encoder.inputs(batch))
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(method.features(batch)[row], layers["gru2"][row, :count].mean(0))


def test_learns_melodies_and_finds_nothing_in_noise() -> None:
    music, hiss = melodies(), noise()
    learned, nothing = (trained(build(data), data, 40) for data in (music, hiss))
    assert learned < 0.85, "of four seeds 0.73 to 0.80 after 30 steps"
    assert 0.98 < nothing < 1.1


def test_frames_in_order_are_foreseen_and_shuffled_ones_are_not() -> None:
    data, errors = noise(32), {}
    shapes = torch.randn(3, 40)
    circle = torch.cat([shapes, -shapes])
    for shuffled in (False, True):

        def front(x: tuple[Tensor, Tensor], shuffled: bool = shuffled) -> tuple[Tensor, Tensor]:
            count = len(x[0])
            turn = (
                torch.randint(6, (count, 30)) if shuffled else torch.randint(6, (count, 1)) + torch.arange(30)
            )
            return circle[turn % 6], torch.full((count,), 30)

        method = build(data)
        del method.encoder._modules["adapt"]
        method.encoder.__dict__["adapt"] = front
        errors[shuffled] = trained(method, data, 40)
    assert errors[False] < 0.3
    assert errors[True] > 0.98


def test_long_sounds_are_heard_in_pieces() -> None:
    data = noise(4)
    read = APC(encoders.fitted("gru1-8", data, kind="audio"), crop_seconds=0.25).training_view(data)
    assert read.sample(4)["waveform"].shape == (4, 2_000)


def test_pictures_stand_at_the_time_that_they_are_of() -> None:
    method = build(melodies(), ahead=2).eval()
    batch = melodies().sample(3)
    pictures = method.pictures(batch)
    assert list(pictures) == ["heard so far", "predicted", "true"]
    assert all(picture.shape == pictures["true"].shape for picture in pictures.values())
    length = int(method.encoder.adapt(method.encoder.inputs(batch))[1].min())
    torch.testing.assert_close(pictures["heard so far"][..., 2:length], pictures["true"][..., : length - 2])


def test_encoders_that_hear_the_future_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder must be causal, such as gru3, got audio-conv"):
        APC(encoders.build("audio-conv", kind="audio"))


@pytest.mark.parametrize(
    ("option", "value"), [("ahead", 0), ("ahead", 1.5), ("crop_seconds", math.nan), ("crop_seconds", 0)]
)
def test_nonsense_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        APC(encoders.build("gru1-8", kind="audio"), **{option: value})
