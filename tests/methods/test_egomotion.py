"""Egomotion: bins, what a mirror makes of a motion, both frames by the same network, and what is learned."""

import math
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.trajectories import Trajectories, from_trajectories
from unlabeled.methods.egomotion import Egomotion, loss, quantiles
from unlabeled.parts import poses
from unlabeled.worlds import pans, rooms

TINY: dict[str, Any] = {"bins": 5, "reach": 3, "pairs": 4, "hidden_dim": 32, "dropout": 0.0}


def build(**options: Any) -> Egomotion:
    torch.manual_seed(0)
    return Egomotion(encoders.build("conv4", image_size=16), **TINY | options)


@cache
def house() -> Trajectories:
    return from_trajectories(rooms.make(4, 3, frames=24, size=16))


def prepared(data: Trajectories | None = None, **options: Any) -> Egomotion:
    method, data = build(**options), data or house()
    method.prepare(method.training_view(data))
    return method


def test_loss_and_gradient_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, requires_grad=True)
    targets = torch.randint(5, (4, 3), generator=generator)
    slow = logits.new_zeros(())
    for pair in range(4):
        for part in range(3):
            slow = slow - (logits[pair, part, targets[pair, part]] - logits[pair, part].exp().sum().log()) / 4
    torch.testing.assert_close(loss(logits, targets), slow)
    fast, wanted = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss(logits, targets), slow)
    )
    torch.testing.assert_close(fast, wanted)


def test_bins_hold_equally_many_motions_and_rounding_never_separates_equal_ones() -> None:
    motions = torch.randn(7000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 20, 0.1])
    method = build(bins=7)
    method.edges.copy_(quantiles(motions, 7))
    for part in range(3):
        counts = method.bin(motions)[:, part].bincount(minlength=7)
        assert counts.min() > 950 and counts.max() < 1050
    still = torch.zeros(1000, 3)
    still[:400, 0] = torch.rand(400) + 1
    method.edges.copy_(quantiles(still + 1e-7 * torch.randn(1000, 3), 7))
    bins = method.bin(still + 1e-7 * torch.randn(1000, 3))
    assert len(bins[400:, 0].unique()) == 1 and len(bins[:, 1:].unique()) == 1


def test_chance_is_the_loss_of_always_predicting_the_frequencies_of_the_bins() -> None:
    pictures = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    even = from_trajectories(pans.make(300, 0, pictures=pictures, size=16, frames=4))
    assert prepared(even).chance(8) == pytest.approx(3 * math.log(5), abs=1e-2)
    method, motions = prepared(flip=0.0), []
    for walk in house().batch(torch.arange(4))["pose"]:
        motions += [poses.motion(walk[a], walk[a + gap]) for gap in (1, 2, 3) for a in range(24 - gap)]
    bins = method.bin(torch.stack(motions))
    guess = (
        torch.stack([bins[:, part].bincount(minlength=5) / len(bins) for part in range(3)])
        .clamp(min=1e-9)
        .log()
    )
    always = loss(guess.expand(len(bins), -1, -1), bins)
    assert method.chance(8) == pytest.approx(float(always), abs=1e-5)
    assert method.chance(8) < 3 * math.log(5)


def test_bins_are_those_of_the_training_data_and_are_saved_with_the_state() -> None:
    method = prepared()
    assert bool((method.edges.diff(dim=0) >= 0).all()) and method.edges.any()
    other = build()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.edges, method.edges) and other.chance(1) == method.chance(1)


def test_pairs_are_at_most_reach_apart_and_have_the_motion_between_them() -> None:
    """Frames whose pixels are their number, at poses that are it too."""
    number = torch.arange(12)
    video = number[None, :, None, None, None].expand(3, -1, 3, 16, 16).to(torch.uint8)
    pose = torch.stack([number, 0 * number, 0 * number], -1).float().expand(3, -1, -1)
    gaps: set[int] = set()
    for seed in range(20):
        torch.manual_seed(seed)
        images, motions = build().draw({"video": video, "pose": pose})
        assert images.shape == (12, 2, 3, 16, 16)
        numbers = (images[:, :, 0, 0, 0] * 255).round()
        torch.testing.assert_close(motions[:, 0], numbers[:, 1] - numbers[:, 0])
        gaps |= {*motions[:, 0].long().tolist()}
    assert gaps == {1, 2, 3}


def test_mirroring_negates_motions_and_turns_to_the_left() -> None:
    method = build(flip=1.0)
    images, motions = torch.rand(4, 2, 3, 16, 16), torch.randn(4, 3)
    mirrored, moved = method.mirror(images, motions)
    assert torch.equal(mirrored, images.flip(4))
    assert torch.equal(moved, motions * torch.tensor([1, -1, -1]))
    same, unmoved = build(flip=0.0).mirror(images, motions)
    assert torch.equal(same, images) and torch.equal(unmoved, motions)


def test_the_mirrored_view_of_a_house_is_that_of_the_mirrored_walk() -> None:
    """Pans over a picture and over its mirror image agree on what a mirror does to motions."""
    picture = torch.randint(
        256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    made = pans.make(1, 0, pictures=picture, size=16, frames=2)
    pose = made["pose"][0] * torch.tensor([-1.0, 1.0, -1.0]) + torch.tensor([0.0, 0.0, math.pi])
    other = pans.look(picture[0].flip(2), pose, 16)
    torch.testing.assert_close(other, made["video"][0].flip(3) / 255, atol=3e-3, rtol=0)
    there, mirrored = poses.motion(*made["pose"][0]), poses.motion(*pose)
    torch.testing.assert_close(mirrored, there * torch.tensor([1, -1, -1]), atol=1e-5, rtol=0)


def test_both_frames_pass_through_the_same_network_and_their_order_matters() -> None:
    method = prepared().eval()
    images = torch.rand(4, 2, 3, 16, 16)
    seen: list[Tensor] = []
    method.encoder.adapt.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits = method.logits(images)
    assert len(seen) == 1 and torch.equal(seen[0], images.flatten(0, 1))
    assert not torch.allclose(method.logits(images.flip(1)), logits, atol=1e-5)


def test_walks_that_do_not_move_or_are_too_short_are_refused() -> None:
    still = from_trajectories(rooms.make(2, 0, frames=6, size=16, still=True))
    with pytest.raises(ValueError, match="must move for egomotion, got array, in which no pose changes"):
        prepared(still)
    with pytest.raises(ValueError, match=r"reach must be below 24, .*, got 24"):
        build(reach=24).training_view(house())


def test_features_pictures_and_words() -> None:
    method = prepared().eval()
    given = method.training_view(house()).batch(torch.arange(4))
    assert method.features(given).shape == (4, method.encoder.dim)
    images = house().frames().batch(torch.arange(5))
    torch.testing.assert_close(method.features(images), method.encoder(method.encoder.inputs(images)))
    pictures = method.pictures(given)
    assert list(pictures) == ["first frame", "second frame", "motion", "predicted"]
    assert len(pictures["motion"]) == 4 and "ahead" in pictures["predicted"][0]
    assert not torch.equal(pictures["first frame"], pictures["second frame"])  # type: ignore[arg-type]


def accuracy(method: Egomotion, data: Trajectories) -> float:
    torch.manual_seed(5)
    with torch.no_grad():
        images, motions = method.eval().draw(method.training_view(data).batch(torch.arange(len(data))))
        return float((method.logits(images).argmax(2) == method.bin(motions)).float().mean())


@pytest.mark.parametrize("blank", [False, True])
def test_motions_over_unseen_pictures_are_recognised_unless_frames_are_empty(blank: bool) -> None:
    digits = [open_data("digits", split=split) for split in ("train", "test")]
    options = {"size": 12, "frames": 4, "shift": 6.0, "turn": 40.0, "blank": blank}
    train, test = (
        from_trajectories(pans.make(200, seed, pictures=data.batch(torch.arange(200))["image"], **options))
        for seed, data in enumerate(digits)
    )
    torch.manual_seed(0)
    method = Egomotion(encoders.build("conv4", image_size=12, in_channels=1), **TINY | {"bins": 3})
    data = method.training_view(train)
    method.prepare(data)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(30):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method.train()(data.batch(torch.randperm(200)[:12])).backward()
        optimizer.step()
    if blank:
        assert accuracy(method, test) == pytest.approx(1 / 3, abs=0.05)
    else:
        assert accuracy(method, test) > 0.4


def test_training_step_in_bfloat16_is_finite() -> None:
    method = prepared()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(method.training_view(house()).batch(torch.arange(4)))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert F.relu(value) == value
