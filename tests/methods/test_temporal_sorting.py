"""Temporal sorting: what is shown, the loss as a slow loop computes it, and worlds whose order cannot be known."""

import math

import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.video import Frames
from unlabeled.methods.temporal_sorting import PAIRS, TemporalSorting, one_channel, pairs
from unlabeled.parts.orders import shuffle


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(channels=1, **options):
    """The method with a network of one convolution, for frames of 8 x 8."""
    trunk = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU())
    frame = encoders.wrap(trunk, in_channels=channels, image_size=8)
    encoder = Frames(frame, {"name": "own", "in_channels": channels, "image_size": 8, "frames": 4})
    return TemporalSorting(encoder, **{"crop": 1.0, "flip": 0.0, "dim": 16, "gap": 2} | options)


def brightening(samples, frames=9):
    """Clips that grow brighter or darker evenly, each at its own pace."""
    start, pace = torch.rand(samples, 1), torch.rand(samples, 1)
    bright = start + (pace - start) * torch.linspace(0, 1, frames)
    ground = 0.1 * torch.rand(samples, 1, 1, 8, 8)
    return (200 * bright.view(samples, frames, 1, 1, 1) + 50 * ground).to(torch.uint8)


def in_any_order(samples):
    video = brightening(samples)
    return video[torch.arange(samples)[:, None], torch.rand(video.shape[:2]).argsort(1)]


def still(samples):
    return brightening(samples)[:, :1].expand(-1, 9, -1, -1, -1)


def trained(world, steps):
    """Accuracy and loss on 2,000 new clips after a short training."""
    method = small()
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"video": world(64)}).backward()
        optimizer.step()
    with torch.no_grad():
        loss = method.eval()({"video": world(2000)}).item()
    return method.metrics["accuracy"].item(), loss


def test_loss_and_its_gradient_are_those_of_a_slow_loop():
    method = small().double()
    nn.init.normal_(method.head[-1].weight)
    batch = {"video": brightening(5).double() / 255}
    torch.manual_seed(1)
    fast = method(batch)
    torch.manual_seed(1)
    shuffled, labels = shuffle(method.draw(batch), method.orders)
    slow = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        codes = []
        for frame in shuffled[row]:
            *_, last = method.encoder.maps(frame[None]).values()
            codes.append(method.describe(last)[0].relu())
        compared = []
        for i in range(4):
            for j in range(i + 1, 4):
                compared.append(
                    (method.compare.weight @ torch.cat([codes[i], codes[j]]) + method.compare.bias).relu()
                )
        scores = method.head[-1].weight @ torch.cat(compared) + method.head[-1].bias
        slow = slow - (scores[labels[row]].exp() / scores.exp().sum()).log() / 5
    torch.testing.assert_close(fast.double(), slow, rtol=1e-5, atol=1e-6)  # logits are float32
    parameters = list(method.parameters())
    for one, other in zip(torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_pairs_are_taken_from_places_and_share_their_layer():
    codes = torch.arange(4.0)[None, :, None].expand(2, 4, 3)
    assert [tuple(row) for row in pairs(codes)[0, :, ::3].long().tolist()] == list(PAIRS)
    assert sorted(PAIRS) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    method = small(dim=16)
    assert method.compare.weight.shape == (16, 32) and method.head[0].weight.shape == (12, 6 * 16)


def test_each_frame_shows_one_channel_of_its_own():
    frames = torch.rand(300, 4, 3, 2, 2)
    shown = one_channel(frames)
    assert torch.equal(shown, shown[:, :, :1].expand_as(shown))
    which = (shown[:, :, :1] == frames).all(4).all(3)
    assert (which.sum(2) == 1).all()
    assert (which.float().mean((0, 1)) - 1 / 3).abs().max() < 0.06
    channel = which.int().argmax(2)
    assert (channel != channel[:, :1]).any(1).float().mean() > 0.9  # all four alike in one clip of 27
    video = torch.randint(256, (6, 9, 3, 8, 8), dtype=torch.uint8)
    split, plain = small(3).draw({"video": video}), small(3, split_channels=False).draw({"video": video})
    assert torch.equal(split[:, :, 0], split[:, :, 2]) and not torch.equal(plain[:, :, 0], plain[:, :, 2])


def test_each_frame_is_shifted_by_itself_and_all_else_is_alike():
    clips = still(50)
    frames = small(crop=0.3, flip=0.5, shift=0.0).draw({"video": clips})
    assert torch.equal(frames, frames[:, :1].expand_as(frames))
    method = small(shift=0.25)
    assert method.shift == 2 and method.views.size == 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeled.methods.temporal_sorting.clip_views", lambda views, video: video / 255)
        large = torch.randint(256, (50, 1, 1, 12, 12), dtype=torch.uint8).expand(-1, 9, -1, -1, -1)
        shown = method.draw({"video": large})
    seen = set()
    for row in range(50):
        for frame in shown[row, :, 0]:
            places = [
                (top, left)
                for top in range(5)
                for left in range(5)
                if torch.equal(large[row, 0, 0, top : top + 8, left : left + 8] / 255, frame)
            ]
            assert len(places) == 1
            seen.add(places[0])
    assert len(seen) == 25
    assert (shown != shown[:, :1]).flatten(1).any(1).all()


def test_frames_lie_where_something_moves_evenly_apart_and_in_order():
    video = torch.zeros(64, 40, 1, 8, 8, dtype=torch.uint8)
    video[:, 24:] = torch.arange(10, 26, dtype=torch.uint8).view(16, 1, 1, 1) * 10
    frames = small(shift=0.0, gap=3).draw({"video": video})
    numbers = (255 * frames.mean((2, 3, 4))).round().div(10).round().long() + 14  # 14 before frame 24
    inside = (numbers[:, 1:] >= 24).all(1)
    assert inside.float().mean() > 0.9  # even draws would give a sixth
    assert (numbers[inside, 1:].diff(dim=1) == 3).all()


def test_order_is_learned_where_it_shows():
    accuracy, loss = trained(brightening, 120)
    assert accuracy > 0.6 and loss < 0.5 * math.log(12)


@pytest.mark.parametrize("world", [in_any_order, still])
def test_worlds_without_order_stay_at_chance(world):
    accuracy, loss = trained(world, 40)
    assert abs(accuracy - 1 / 12) < 4 * math.sqrt(11 / 144 / 2000)
    assert loss > math.log(12) - 0.01


def test_step_zero_is_at_chance_and_orders_of_like_frames_are_not_told_apart():
    method = small(shift=0.0).eval()
    assert method.chance(8) == pytest.approx(math.log(12))
    assert method({"video": brightening(64)}).item() == pytest.approx(math.log(12), abs=0.05)
    nn.init.normal_(method.head[-1].weight)
    frames = method.draw({"video": still(4)})
    first, second = (method.logits(shuffle(frames, method.orders)[0]) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_pictures_put_frames_in_the_predicted_order():
    method = small(shift=0.0).eval()
    video = (20 * torch.arange(1, 10, dtype=torch.uint8)).view(1, 9, 1, 1, 1).expand(12, 9, 1, 8, 8)

    def told(shuffled: Tensor) -> Tensor:
        """Logits of one who knows: the order, forward or backward, in which frames that brighten stand."""
        rank = shuffled.mean((2, 3, 4)).argsort(1).argsort(1)
        forward = (rank[:, None] == method.orders).all(2)
        return (forward | (rank[:, None] == 3 - method.orders).all(2)).float()

    method.logits = told
    pictures = method.pictures({"video": video})
    assert pictures["answer"] == ["right"] * 12 and pictures["shuffled"].shape == (12, 1, 8, 32)
    same, true = pictures["put in order"], pictures["true order"]
    backward = torch.stack(true.split(8, 3)[::-1], 3).flatten(3, 4)
    for row in range(12):
        assert torch.equal(same[row], true[row]) or torch.equal(same[row], backward[row])


def test_every_weight_learns_and_videos_of_any_length_are_read():
    encoder = encoders.build("frames-conv4", kind="video", image_size=16)
    method = TemporalSorting(encoder, gap=2)
    clips = method.training_view(from_videos(torch.randint(256, (8, 30, 3, 16, 16), dtype=torch.uint8)))
    assert clips.shape["frames"] == 30
    method(clips.batch(torch.arange(8))).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    with pytest.raises(ValueError, match=r"3 \* gap \+ 1 = 7 frames, got 6"):
        small()({"video": brightening(2, 6)})
    with pytest.raises(ValueError, match="single frames"):
        TemporalSorting(encoders.build("lstm-16", kind="video"))
