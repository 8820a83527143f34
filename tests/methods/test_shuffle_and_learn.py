"""Shuffle and Learn: what may be drawn, questions that only the middle decides, and worlds that cannot be told."""

import math

import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.video import Frames
from unlabeled.methods.shuffle_and_learn import (
    QUESTIONS,
    ShuffleAndLearn,
    balanced_accuracy,
    draw_frames,
    loss,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**options):
    """The method with a network of one convolution, for grey frames of 8 x 8."""
    trunk = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
    frame = encoders.wrap(trunk, in_channels=1, image_size=8)
    encoder = Frames(frame, {"name": "own", "in_channels": 1, "image_size": 8, "frames": 4})
    plain = {"crop": 1.0, "flip": 0.0, "dim": 16}
    return ShuffleAndLearn(encoder, **plain | options)


def brightening(samples, frames=16):
    """Clips that grow brighter or darker evenly, each at its own pace."""
    start, pace = torch.rand(samples, 1), torch.rand(samples, 1)
    bright = start + (pace - start) * torch.linspace(0, 1, frames)
    ground = 0.1 * torch.rand(samples, 1, 1, 8, 8)
    return (200 * bright.view(samples, frames, 1, 1, 1) + 50 * ground).to(torch.uint8)


def in_any_order(video):
    order = torch.rand(video.shape[:2]).argsort(1)
    return video[torch.arange(len(video))[:, None], order]


def trained(method, world, steps=150):
    """Balanced accuracy on new clips after a short training."""
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"video": world(64)}).backward()
        optimizer.step()
    method.eval()
    with torch.no_grad():
        found = []
        for _ in range(5):
            method({"video": world(400)})
            found.append(method.metrics["balanced accuracy"].item())
    return sum(found) / 5


@pytest.mark.parametrize(
    "frames, window, tau_min, tau_max", [(16, 16, 3, 8), (60, 30, 5, 12), (20, 9, 3, 2), (9, 5, 1, 60)]
)
def test_what_is_drawn(frames, window, tau_min, tau_max):
    a, b, c, d, e = draw_frames(torch.rand(10_000, frames), window, tau_min, tau_max).unbind(1)
    assert (a < b).all() and (b < c).all() and (c < d).all() and (d < e).all()
    assert a.min() >= 0 and e.max() < frames and (e - a < window).all()
    assert (d - b <= tau_max).all() and (d - b >= 2).all()
    assert ((b - a).minimum(e - d) >= tau_min).all()
    assert (b - a).min() == tau_min and (d - b).max() == min(tau_max, window - 1 - 2 * tau_min)
    if window < frames:  # every window occurs
        assert a.min() == 0 and e.max() == frames - 1


def test_ends_agree_and_only_the_middle_decides():
    a, b, c, d, e = range(5)
    assert ((b, c, d), (b, a, d), (b, e, d)) == QUESTIONS
    for first, middle, last in QUESTIONS:
        assert (first, last) == (b, d)
        assert (first < middle < last) == (middle == c)


def test_windows_are_drawn_where_something_moves():
    motions = torch.zeros(4000, 100)
    motions[:, 40:60] = torch.rand(4000, 20) + 0.1
    drawn = draw_frames(motions, 12, 2, 5)
    inside = ((drawn >= 40) & (drawn < 60)).all(1)
    assert inside.float().mean() > 0.95
    motions = torch.ones(4000, 40)
    motions[:, 20:] = 3.0
    # Windows wholly in the faster half weigh three times as much as the others.
    assert (draw_frames(motions, 8, 1, 5) >= 20).all(1).float().mean() == pytest.approx(39 / 59, abs=0.05)


def test_windows_without_motion_are_drawn_evenly_and_a_pause_is_no_obstacle():
    drawn = draw_frames(torch.zeros(5000, 20), 9, 1, 5)
    assert (drawn >= 0).all() and (drawn < 20).all() and drawn[:, 0].max() >= 11
    pauses = torch.zeros(2000, 40)
    pauses[:, 20::2] = 1.0
    drawn = draw_frames(pauses, 9, 1, 5)
    assert (drawn[:, 0] >= 12).all()  # the first window that holds a moving frame starts there


def test_loss_and_meter_in_closed_form():
    logits = torch.randn(7, 3)
    share = logits.sigmoid()
    total = sum(
        -0.25 * math.log(row[0]) - 0.375 * (math.log(1 - row[1]) + math.log(1 - row[2])) for row in share
    )
    assert loss(logits, 0.25).item() == pytest.approx(total / 7, rel=1e-5)
    prior = torch.full((4, 3), math.log(0.25 / 0.75))
    assert loss(prior, 0.25).item() == pytest.approx(small().chance(4), rel=1e-5)
    assert small().chance(4) == pytest.approx(0.5623, abs=1e-4)
    for constant in (-5.0, 0.0, 5.0):
        assert balanced_accuracy(torch.full((6, 3), constant), 0.25).item() == 0.5
    right = torch.tensor([[0.0, -2.0, -2.0]]).expand(3, 3)  # careful, but the order is right
    assert balanced_accuracy(right, 0.25).item() == 1
    mixed = torch.tensor([[1.0, 1.0, -2.0], [-2.0, -2.0, -2.0]])
    assert balanced_accuracy(mixed, 0.25).item() == pytest.approx((0.5 + 0.75) / 2)


def test_step_zero_is_at_chance():
    method = small()
    value = method({"video": brightening(64)}).item()
    assert value == pytest.approx(method.chance(64), abs=0.02)


def test_order_is_learned_where_it_shows():
    assert trained(small(), brightening, steps=120) > 0.8


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_worlds_without_order_stay_at_chance(head):
    accuracy = trained(small(head=head), lambda samples: in_any_order(brightening(samples)), steps=60)
    assert abs(accuracy - 0.5) < 0.03


def test_a_world_that_stands_still_is_exactly_at_chance():
    still = brightening(64)[:, :1].expand(-1, 16, -1, -1, -1)
    assert trained(small(), lambda samples: still, steps=20) == 0.5


def test_the_linear_head_adds_up_what_it_says_of_each_frame():
    five = torch.rand(40, 5, 1, 8, 8)
    other = five.clone()
    other[:, 2] = torch.rand(40, 1, 8, 8)  # another middle, which changes the first question alone
    moved = five.clone()
    moved[:, 1] = torch.rand(40, 1, 8, 8)
    both = moved.clone()
    both[:, 2] = other[:, 2]
    for head, additive in (("linear", True), ("mlp", False)):
        method = small(head=head).eval()
        nn.init.normal_(method.head[-1].weight)
        plain, *rest = (method.logits(frames)[:, 0] for frames in (five, other, moved, both))
        interaction = (rest[2] - rest[1] - rest[0] + plain).abs().max()
        assert (interaction < 1e-4) == additive


def test_backward_gives_the_same_answers_on_average():
    method = small()
    nn.init.normal_(method.head[-1].weight)
    five = torch.rand(6, 5, 1, 8, 8)
    seen = {tuple(method.logits(five)[0].tolist()) for _ in range(60)}
    assert 2 <= len(seen) <= 8  # each question forward or backward
    method.eval()
    assert torch.equal(method.logits(five), method.logits(five))


def test_one_view_for_a_whole_clip():
    method = small(crop=0.3, flip=0.5, jitter=1.0)
    still = torch.randint(0, 256, (20, 1, 1, 8, 8), dtype=torch.uint8).expand(-1, 16, -1, -1, -1)
    five = method.draw({"video": still})
    assert five.shape == (20, 5, 1, 8, 8)
    assert torch.equal(five, five[:, :1].expand_as(five))


def test_the_encoder_reads_single_frames_and_every_weight_learns():
    encoder = encoders.build("frames-conv4", kind="video", image_size=16)
    method = ShuffleAndLearn(encoder)
    assert method.frame is encoder.frame
    batch = {"video": torch.randint(0, 256, (8, 16, 3, 16, 16), dtype=torch.uint8)}
    method(batch).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert encoder.frame(torch.rand(2, 3, 16, 16)).shape == (2, encoder.dim)
    with pytest.raises(ValueError, match="single frames"):
        ShuffleAndLearn(encoders.build("lstm-16", kind="video"))


@pytest.mark.parametrize("name", ["balls", "moving_digits"])
def test_windows_are_chosen_by_motion_unless_asked_otherwise(name):
    clips = small().training_view(open_data(name).subset(torch.arange(4)))
    assert clips.shape["frames"] > small().window


def test_the_default_looks_where_something_moves():
    video = torch.zeros(64, 40, 1, 8, 8, dtype=torch.uint8)
    video[:, 24:] = torch.randint(256, (64, 16, 1, 8, 8), dtype=torch.uint8)
    video[:, 0, 0, 0, 0] = torch.arange(64, dtype=torch.uint8)
    method, drawn = small(), []

    def keep(motions, *rest):
        drawn.append(draw_frames(motions, *rest))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeled.methods.shuffle_and_learn.draw_frames", keep)
        method(method.training_view(from_videos(video)).batch(torch.arange(64)))
    assert (drawn[0] >= 23).all(1).float().mean() > 0.9  # even draws would give a sixth


def test_short_videos_give_their_own_length_and_none_gives_no_window():
    assert small().training_view(from_videos(brightening(3, 14))).shape["frames"] == 14
    assert small().training_view(from_videos(brightening(3, 90))).shape["frames"] == 48
    assert small(stride=3).training_view(from_videos(brightening(3, 40))).shape["frames"] == 14
    with pytest.raises(ValueError, match="the frames of the longest video"):
        small().training_view(from_videos(brightening(3, 9)))


def test_it_reads_clips_and_shows_its_questions():
    data = from_videos(brightening(6, 40))
    method = small(frames=20, window=12, stride=1)
    clips = method.training_view(data)
    assert len(clips) == 12 and clips.shape["frames"] == 20
    shown = method.pictures(clips.batch(torch.arange(4)))
    assert shown["question"].shape == (4, 1, 8, 24) and shown["true order"].shape == (4, 1, 8, 40)
    assert shown["truth"] == ["between", "not between", "not between", "between"]
    assert set(shown["answer"]) <= {"between", "not between"}


@pytest.mark.parametrize(
    "option",
    [
        {"frames": 11},
        {"frames": -1},
        {"stride": 0},
        {"window": 6},
        {"tau_min": 0},
        {"tau_max": 1},
        {"positives": 0.0},
        {"positives": float("nan")},
        {"head": "deep"},
        {"dim": 0},
        {"crop": 0.0},
        {"flip": 2.0},
        {"jitter": -1.0},
    ],
)
def test_bad_values_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        small(**option)
