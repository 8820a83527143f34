"""Frame prediction: the past in reverse, the future unseen, and better than copying."""

import math

import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.methods.frame_prediction import NEAR, FramePrediction, frame_losses, squared_error, targets

RING = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(name="lstm-16", *, channels=1, size=3, **options):
    encoder = encoders.build(name, kind="video", in_channels=channels, image_size=size)
    return FramePrediction(encoder, **{"past": 4, "reconstructed": 4, "future": 3} | options)


def circling(samples, frames=7):
    """A bright dot that goes round the border of 3 x 3 pixels, either way."""
    start, way = torch.randint(8, (samples, 1)), torch.randint(2, (samples, 1)) * 2 - 1
    places = torch.tensor(RING)[(start + way * torch.arange(frames)) % 8]
    video = torch.zeros(samples, frames, 1, 3, 3, dtype=torch.uint8)
    rows, times = torch.arange(samples)[:, None], torch.arange(frames)
    video[rows, times, 0, places[..., 0], places[..., 1]] = 255
    return video


def trained(method, steps=250):
    method.prepare(from_videos(circling(256)).clips(7))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"video": circling(32)}).backward()
        optimizer.step()
    return method.eval()


def numbered(frames=7):
    return torch.arange(frames).view(1, frames, 1, 1, 1).float()


def test_the_past_is_remembered_last_frame_first():
    back, ahead = targets(numbered(), 4)
    assert back.flatten().tolist() == [3, 2, 1, 0] and ahead.flatten().tolist() == [4, 5, 6]
    back, ahead = small(reconstructed=2).targets(numbered())
    assert back.flatten().tolist() == [3, 2] and ahead.flatten().tolist() == [4, 5, 6]


def test_losses_are_sums_over_the_pixels_of_a_frame():
    predicted, frames = torch.randn(3, 2, 1, 2, 2), torch.rand(3, 2, 1, 2, 2)
    for pixels in ("bernoulli", "gaussian"):
        expected = [0.0, 0.0]
        for sample in range(3):
            for frame in range(2):
                for p, x in zip(
                    predicted[sample, frame].flatten().tolist(), frames[sample, frame].flatten().tolist()
                ):
                    share = 1 / (1 + math.exp(-p))
                    entropy = -(x * math.log(share) + (1 - x) * math.log(1 - share))
                    expected[frame] += (entropy if pixels == "bernoulli" else 0.5 * (p - x) ** 2) / 3
        assert frame_losses(predicted, frames, pixels).tolist() == pytest.approx(expected, rel=1e-4)
    assert squared_error(torch.zeros(1, 1, 1, 2, 2), torch.ones(5, 3, 1, 2, 2)).item() == 4


@pytest.mark.parametrize("pixels", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("parts", [{}, {"future": 0}, {"reconstructed": 0}, {"reconstructed": 2}])
def test_step_zero_is_at_chance_the_mean_frame(pixels, parts):
    method = small(pixels=pixels, **parts)
    assert method.chance(8) is None
    frames = 4 + parts.get("future", 3)
    data = from_videos(circling(200, frames)).clips(frames)
    method.prepare(data)
    mean = torch.logit(method.mean, eps=NEAR) if pixels == "bernoulli" else method.mean
    back, ahead = method.targets(method.encoder.inputs(data.sample(256)))
    drawn = mean.expand(200, frames, 1, 3, 3)
    exact = sum(frame_losses(drawn[:, : part.shape[1]], part, pixels).sum() for part in (back, ahead))
    assert method.chance(8) == pytest.approx(float(exact), rel=1e-4)
    assert method(data.batch(torch.arange(200))).item() == pytest.approx(float(exact), rel=0.03)


def test_without_future_it_is_an_lstm_autoencoder():
    method = small(future=0)
    assert method.foresee is None and "future" not in dict(method.named_children())
    frames = torch.rand(5, 4, 1, 3, 3)
    video = {"video": (255 * frames).round().to(torch.uint8)}
    frames = video["video"] / 255
    _, state = method.encoder.trunk(frames.flatten(2))
    output, _ = method.remember.recurrent(torch.zeros(5, 4, 1), state)
    logits = method.remember.last(output)  # the mean frame is 0.5 before prepare: no departure from it
    each = nn.functional.binary_cross_entropy_with_logits(logits, frames.flip(1).flatten(2), reduction="none")
    assert method(video).item() == pytest.approx(each.sum().item() / 5, rel=1e-5)
    assert set(method.metrics) == {"reconstruction"}
    assert set(method.pictures(video)) == {"given", "remembered"}


def test_without_reconstruction_it_is_a_predictor():
    method = small(reconstructed=0)
    assert method.remember is None
    method({"video": circling(4)})
    assert "reconstruction" not in method.metrics and "future" in method.metrics
    assert set(method.pictures({"video": circling(4)})) == {"given", "what follows", "foreseen"}


@pytest.mark.parametrize("conditional", [False, True])
def test_the_future_is_never_seen(conditional):
    method = small(conditional=conditional).eval()
    nn.init.normal_(method.foresee.last.weight)
    frames = circling(6).float() / 255
    drawn = method.predict(frames[:, :4])
    hidden = frames.clone()
    hidden[:, 4:] = torch.nan
    for found, again in zip(drawn, method.predict(hidden[:, :4])):
        assert torch.equal(found, again)
    video = circling(6)
    replaced = video.clone()
    replaced[:, 4:] = 0
    first, second = method.pictures({"video": video}), method.pictures({"video": replaced})
    assert torch.equal(first["foreseen"], second["foreseen"])
    assert torch.equal(first["remembered"], second["remembered"])
    assert not torch.equal(first["what follows"], second["what follows"])


def test_a_conditional_decoder_is_shown_the_truth_one_step_late_and_itself_at_test():
    method = small(conditional=True)
    nn.init.normal_(method.foresee.last.weight)
    past, ahead = circling(5)[:, :4] / 255, torch.rand(5, 3, 1, 3, 3)
    back = torch.rand(5, 4, 1, 3, 3)
    for step in range(3):
        changed = ahead.clone()
        changed[:, step] = torch.rand(5, 1, 3, 3)
        before = method.predict(past, (back, ahead))[1]
        after = method.predict(past, (back, changed))[1]
        assert torch.equal(before[:, : step + 1], after[:, : step + 1])
        assert not torch.equal(before[:, step + 1 :], after[:, step + 1 :]) or step == 2
    own = method.frames(method.predict(past)[1])
    shown = method.frames(method.predict(past, (back, own))[1])
    torch.testing.assert_close(own, shown)


def test_unconditional_decoders_ignore_the_truth():
    method = small()
    past = circling(5)[:, :4] / 255
    truth = torch.rand(5, 4, 1, 3, 3), torch.rand(5, 3, 1, 3, 3)
    for found, again in zip(method.predict(past, truth), method.predict(past)):
        assert torch.equal(found, again)


def test_it_foresees_better_than_copying_and_order_matters_most_for_the_future():
    method = trained(small())
    batch = {"video": circling(200)}
    with torch.no_grad():
        method(batch)
        metrics = dict(method.metrics)
        assert metrics["copy-last error"].item() == pytest.approx(
            2.0, abs=1e-3
        )  # the dot is never there again
        assert metrics["mean-frame error"].item() == pytest.approx(7 / 8, abs=0.05)
        assert metrics["future error"] < 0.3 * metrics["mean-frame error"]
        past = batch["video"][:, :4] / 255
        ahead = batch["video"][:, 4:] / 255
        backward = method.predict(past.flip(1))
        assert squared_error(method.frames(backward[1]), ahead) > 3 * metrics["future error"]
        # Turned round, the dot is drawn where it would go from there: the frames before the first.
        shown = method.pictures(batch)
        torch.testing.assert_close(shown["given"][:, :, :, 6:9], past[:, 2])
        error = (shown["remembered"] - shown["given"]).square().mean()
        assert error < 0.3 * (shown["given"] - 1 / 9).square().mean()


@pytest.mark.parametrize("name", ["lstm-16", "frames-conv4", "conv3d"])
def test_any_encoder_of_videos_will_do(name):
    method = small(name, channels=3, size=8, units=12)
    batch = {"video": torch.randint(0, 256, (4, 7, 3, 8, 8), dtype=torch.uint8)}
    nn.init.normal_(method.remember.last.weight)
    nn.init.normal_(method.foresee.last.weight)
    method(batch).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.encoder.parameters())
    shown = method.pictures(batch)
    assert {picture.shape for picture in shown.values()} == {(4, 3, 8, 32), (4, 3, 8, 24)}
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in shown.values())


def test_the_features_are_the_state_of_the_encoder():
    method = small().eval()
    batch = {"video": circling(5, 4)}
    x = batch["video"] / 255
    _, (hidden, cell) = method.encoder.trunk(x.flatten(2))
    torch.testing.assert_close(method.features(batch), torch.cat([hidden[0], cell[0]], 1))


def test_it_reads_clips_of_past_and_future():
    data = from_videos(circling(6, 30))
    clips = small(stride=2).training_view(data)
    assert clips.shape["frames"] == 7 and (clips.places.diff(dim=1) == 2).all()


def test_mirrored_clips_are_mirrored_as_a_whole():
    method = small(flip=1.0, size=4)
    video = torch.randint(0, 256, (3, 7, 1, 4, 4), dtype=torch.uint8)
    seen = []
    method.encoder.trunk.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    method({"video": video})
    torch.testing.assert_close(seen[0], (video[:, :4].flip(4) / 255).flatten(2))


@pytest.mark.parametrize(
    "option",
    [
        {"past": 0},
        {"reconstructed": -1},
        {"reconstructed": 5},
        {"future": -1},
        {"reconstructed": 0, "future": 0},
        {"stride": 0},
        {"units": -1},
        {"past": float("nan")},
        {"pixels": "poisson"},
        {"flip": 1.5},
    ],
)
def test_bad_values_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        small(**option)
