"""VideoMAE: the loss as a slow loop computes it, what stays hidden, and worlds in which nothing can be filled in."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.video import Clips
from unlabeled.encoders.video_vit import VideoViT
from unlabeled.methods.videomae import VideoMAE
from unlabeled.parts.token_masks import random_cells
from unlabeled.parts.transformer import positions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(channels: int = 1, size: int = 8, frames: int = 2, depth: int = 1, **options) -> VideoMAE:
    """The method with one block on cubes of 2 x 2 pixels."""
    trunk = VideoViT(channels, 2, depth, (1, 32, 1))
    config = {"name": "own", "in_channels": channels, "image_size": size, "frames": frames}
    plain = {"crop": 1.0, "flip": 0.0, "mask": 0.75, "decoder_dim": 32, "decoder_blocks": 1}
    return VideoMAE(Clips(Adapt("color", channels), trunk, config), **plain | options)


def planes(samples: int) -> Tensor:
    """Two frames of a brightness that rises evenly in one direction: any part of it tells the rest."""
    slope = (torch.rand(samples, 2, 1, 1, 1) - 0.5) / 8
    line = torch.arange(8) - 3.5
    return (0.5 + slope[:, 0] * line + slope[:, 1] * line[:, None])[:, None].expand(-1, 2, -1, -1, -1)


def noise(samples: int) -> Tensor:
    return torch.rand(samples, 2, 1, 8, 8)


def still(samples: int) -> Tensor:
    """Four frames of the same noise: only another frame tells what is hidden."""
    return torch.rand(samples, 1, 1, 4, 4).expand(-1, 4, -1, -1, -1)


def trained(method: VideoMAE, world, steps: int) -> float:
    """Loss on 500 new clips after a short training, divided by that of predicting the mean."""
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        method({"video": world(64)}).backward()
        optimizer.step()
    with torch.no_grad():
        return method({"video": world(500)}).item() / (3 / 4)


def cube(clip: Tensor, number: int, depth: int) -> Tensor:
    """A cube of 2 x 2 pixels and some frames of a clip of 8 x 8, (channels, depth, 2, 2)."""
    time, row, column = number // 16, number // 4 % 4, number % 4
    part = clip[depth * time : depth * (time + 1), :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    return part.transpose(0, 1)


def test_loss_and_its_gradient_are_those_of_a_slow_loop() -> None:
    method = small(2, frames=4, depth=2).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    clips = torch.rand(3, 4, 2, 8, 8).double()
    visible, hidden = method.mask(clips)
    method.mask = lambda clips: (visible, hidden)  # type: ignore[method-assign]
    trunk, rows = method.encoder.trunk, []
    for clip, seen in zip(clips, visible.tolist()):
        filters, bias = trunk.embed.weight, trunk.embed.bias
        tokens = [
            torch.stack([(one * (cube(clip, number, 2) - 0.5) / 0.25).sum() for one in filters])
            + bias
            + positions((2, 4, 4), 32)[number]
            for number in seen
        ]
        rows.append(torch.stack(tokens))
    answers = method.decoder(trunk.transformer(torch.stack(rows)), visible, hidden, (2, 4, 4))
    slow, count = torch.zeros((), dtype=torch.double), 0
    for clip, asked, answer in zip(clips, hidden.tolist(), answers):
        for number, predicted in zip(asked, answer):
            for values, numbers in zip(cube(clip, number, 2).flatten(1), predicted.view(2, 8)):
                mean = values.sum() / 8
                deviation = ((values - mean).square().sum() / 7).sqrt() + 1e-6
                slow = slow + ((numbers - (values - mean) / deviation) ** 2).sum()
                count += 8
    fast = method({"video": clips})
    torch.testing.assert_close(fast, slow / count)
    parameters = list(method.parameters())
    gradients = (torch.autograd.grad(value, parameters) for value in (fast, slow / count))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_exactly_as_many_places_are_hidden_the_same_at_all_times_and_all_equally_often() -> None:
    method = small(frames=4, mask=0.9)
    assert method.hidden == 14 and method.grid == (4, 4, 4)
    visible, hidden = method.mask(torch.zeros(4000))
    assert visible.shape == (4000, 4 * 2) and hidden.shape == (4000, 4 * 14)
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(64).expand(4000, -1))
    by_time = hidden.view(4000, 4, 14)
    assert torch.equal(by_time % 16, by_time[:, :1].expand_as(by_time) % 16)
    assert torch.equal(by_time // 16, torch.arange(4).view(1, 4, 1).expand_as(by_time))
    often = (by_time[:, 0].flatten() % 16).bincount(minlength=16) / 4000
    assert (often - 14 / 16).abs().max() < 4 * math.sqrt(14 / 16 * 2 / 16 / 4000)


def test_nothing_hidden_reaches_the_encoder_and_nothing_visible_counts() -> None:
    method, clips = small(frames=4), torch.rand(3, 4, 1, 8, 8)
    visible, hidden = method.mask(clips)
    method.mask = lambda clips: (visible, hidden)  # type: ignore[method-assign]
    place = torch.zeros(3, 64, dtype=torch.bool).scatter(1, hidden, True).view(3, 4, 1, 4, 4)
    concealed = place.repeat_interleave(2, 3).repeat_interleave(2, 4)
    seen: list[Tensor] = []
    method.encoder.trunk.transformer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    answers = [method.predict(x, visible, hidden) for x in (clips, torch.where(concealed, 9.0, clips))]
    assert torch.equal(seen[0], seen[1]) and torch.equal(*answers) and seen[0].shape == (3, 16, 32)
    assert method.predict(torch.where(concealed, clips, 0.5), visible, hidden).ne(answers[0]).any()
    method.predict = lambda *given: answers[0]  # type: ignore[method-assign]
    losses = [
        method({"video": x}).item() for x in (clips, torch.where(concealed, clips, torch.rand_like(clips)))
    ]
    assert losses[0] == losses[1] != method({"video": torch.rand_like(clips)}).item()


def test_targets_have_mean_0_and_variance_1_in_each_channel_of_each_cube() -> None:
    method = small(3, frames=4, depth=2)
    clips = torch.rand(2, 4, 3, 8, 8) * torch.tensor([1.0, 0.1, 0.01]).view(1, 1, 3, 1, 1)
    targets = method.targets(clips).view(2, 32, 3, 8)
    torch.testing.assert_close(targets.mean(3), torch.zeros(2, 32, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(3), torch.ones(2, 32, 3), atol=1e-2, rtol=0)
    assert torch.equal(method.targets(torch.full((1, 4, 3, 8, 8), 0.25)), torch.zeros(1, 32, 24))


def test_chance_is_the_loss_of_predicting_the_mean() -> None:
    method = small(2, frames=4, depth=2)
    method.prepare(from_videos(torch.randint(256, (60, 4, 2, 8, 8), dtype=torch.uint8)))
    assert method.chance(8) == pytest.approx(7 / 8, abs=1e-3)
    batch = {"video": torch.randint(256, (60, 4, 2, 8, 8), dtype=torch.uint8)}
    assert method(batch).item() == pytest.approx(7 / 8, abs=0.01)  # the first predictions are near 0


def test_what_is_visible_tells_what_is_hidden_where_it_can() -> None:
    assert trained(small(), planes, 30) < 0.4


def test_noise_stays_at_chance() -> None:
    assert trained(small(), noise, 30) > 0.99


def test_copying_from_another_time_is_the_shortcut_and_tubes_prevent_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert trained(small(size=4, frames=4, mask=0.5), still, 80) > 0.99

    def anywhere(mask: Tensor, times: int) -> Tensor:
        """As many hidden cubes, each at a place and time of its own."""
        return random_cells(len(mask), times * mask.shape[1], times * int(mask[0].sum()), mask.device)

    monkeypatch.setattr("unlabeled.methods.videomae.tubes", anywhere)
    assert trained(small(size=4, frames=4, mask=0.5), still, 80) < 0.4


def test_pictures_of_perfect_predictions_show_the_clip() -> None:
    method = small(3, frames=4, depth=2).eval()
    batch = {"video": torch.randint(256, (3, 4, 3, 8, 8), dtype=torch.uint8)}
    clips, hidden = batch["video"] / 255, torch.tensor([[0, 17, 5]] * 3)
    method.mask = lambda clips: (torch.tensor([[1, 2]] * 3), hidden)  # type: ignore[method-assign]
    true = method.targets(clips)[torch.arange(3)[:, None], hidden]
    method.predict = lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures(batch)
    assert torch.equal(shown["clip"], torch.cat([clips[:, 0], clips[:, 2]], 3))  # type: ignore[arg-type]
    torch.testing.assert_close(shown["completed"], shown["clip"])
    grey = (shown["visible"] == 0.5).all(1)  # type: ignore[union-attr]
    assert bool(grey[:, :2, :2].all() and grey[:, :2, 10:12].all() and grey[:, 2:4, 2:4].all())
    assert int(grey.sum()) == 3 * 3 * 4


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    encoder = encoders.build("vit3d-tiny", kind="video", image_size=16, frames=5)
    method = VideoMAE(encoder, decoder_blocks=1)
    assert method.frames == 4
    clips = method.training_view(from_videos(torch.randint(256, (4, 8, 3, 16, 16), dtype=torch.uint8)))
    method(clips.batch(torch.arange(8))).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    with pytest.raises(ValueError, match="frames=2 frames, got 3"):
        small()({"video": torch.rand(2, 3, 1, 8, 8)})
    with pytest.raises(ValueError, match="mask must hide at least one of the 16 places"):
        small(mask=0.05)
    with pytest.raises(ValueError, match="frames must be a multiple of the 2 of a cube, got 3"):
        VideoMAE(encoder, frames=3)
    with pytest.raises(ValueError, match="be a vision transformer of clips, such as vit3d-small, got conv3d"):
        VideoMAE(encoders.build("conv3d", kind="video"))
