"""Patch tracking: which patches are compared, the ranking loss, and what is learned of things that move."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.video import from_videos
from unlabeled.data.video.data import Videos
from unlabeled.method import Batch
from unlabeled.methods.patch_tracking import PatchTracking, excess, ranking
from unlabeled.training.holdout import HeldOut
from unlabeled.worlds import balls, moving_digits


def videos(n: int = 8, seed: int = 0) -> Videos:
    return from_videos(moving_digits.make(n, seed, frames=10, size=24)["video"])


def build(**options: Any) -> PatchTracking:
    torch.manual_seed(0)
    encoder = encoders.build("frames-conv4", kind="video", in_channels=1, image_size=16, frames=2)
    return PatchTracking(encoder, **{"frames": 6, "embedding_dim": 8} | options)


def batch(method: PatchTracking, n: int = 8) -> Batch:
    torch.manual_seed(1)
    return method.training_view(videos(n)).batch(torch.arange(n))


def vectors(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_loss_and_gradient_of_hard_negatives_are_those_of_a_slow_loop() -> None:
    anchors, positives = vectors(6).requires_grad_(), vectors(6, 1).requires_grad_()
    groups = torch.tensor([0, 1, 2, 2, 4, 5])
    total, count = anchors.new_zeros(()), 0
    for row in range(5):  # the last does not count

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return 1 - F.cosine_similarity(a, b, dim=0)

        near = distance(anchors[row], positives[row])
        losses = [
            (near - distance(anchors[row], other[column]) + 0.5).clamp(min=0)
            for other in (anchors, positives)
            for column in range(6)
            if groups[column] != groups[row]
        ]
        total, count = total + torch.stack(losses).sort(descending=True).values[:3].sum(), count + 3
    allowed = (groups.repeat(2) != groups[:, None]) & (torch.arange(6) < 5)[:, None]
    fast, slow = ranking(excess(anchors, positives), allowed, 3, 0.5, True), total / count
    torch.testing.assert_close(fast, slow)
    for one, other in zip(
        *(torch.autograd.grad(v, (anchors, positives), retain_graph=True) for v in (fast, slow))
    ):
        torch.testing.assert_close(one, other)


def test_loss_is_zero_exactly_where_negatives_are_farther_by_the_margin() -> None:
    allowed = torch.tensor([[True, True]])
    assert ranking(torch.tensor([[-0.5, -0.6]]), allowed, 2, 0.5, True) == 0
    assert ranking(torch.tensor([[-0.4, -0.6]]), allowed, 2, 0.5, True) == pytest.approx(0.05)
    assert ranking(torch.tensor([[0.7, 0.2]]), ~allowed, 2, 0.5, True) == 0


def test_hard_negatives_are_the_closest_and_random_ones_are_any_allowed() -> None:
    far = torch.arange(8.0).repeat(2, 1).requires_grad_()
    allowed = torch.ones(2, 8, dtype=torch.bool)
    allowed[0, 7] = False
    ranking(far, allowed, 3, 0.5, True).backward()
    assert far.grad is not None
    assert (far.grad != 0).nonzero().tolist() == [[0, 4], [0, 5], [0, 6], [1, 5], [1, 6], [1, 7]]
    seen = torch.zeros(2, 8)
    for seed in range(60):
        torch.manual_seed(seed)
        far.grad = None
        ranking(far, allowed, 3, 0.5, False).backward()
        assert far.grad is not None and ((far.grad != 0).sum(1) == 3).all()
        seen += far.grad != 0
    assert seen[0, 7] == 0 and seen[allowed].min() > 5


def test_length_of_vectors_does_not_matter_and_collapse_has_the_chance_loss() -> None:
    anchors, positives = vectors(6), vectors(6, 1)
    torch.testing.assert_close(excess(3 * anchors, 7 * positives), excess(anchors, positives))
    same = torch.ones(6, 5)
    allowed = ~torch.eye(6, dtype=torch.bool).repeat(1, 2)
    for hard in (False, True):
        assert ranking(excess(same, same), allowed, 4, 0.5, hard) == pytest.approx(build().chance(6))


def test_patches_of_one_video_are_never_negatives_of_each_other() -> None:
    """Two videos of twelve frames give two clips each; the embedding is that of the video, so nothing is to do."""
    clips = from_videos(moving_digits.make(2, 0, frames=12, size=24)["video"])
    method = build()
    given = method.training_view(clips).batch(torch.arange(4))
    assert given["group"].tolist() == [0, 0, 1, 1]
    method.embed = lambda images: F.one_hot(given["group"].repeat(2), 8).float()  # type: ignore[method-assign]
    assert float(method(given)) == 0
    alone = {key: value for key, value in given.items() if key != "group"}
    torch.manual_seed(0)
    assert float(method(alone)) > 0  # by their index clips of one video would be negatives


def test_patches_are_cut_where_the_box_is_at_both_ends() -> None:
    method = build()
    given = batch(method)
    corners, side, counts = method.track(given["video"])
    first, last, again = method.ends(given)
    assert side == 12 and corners.shape == (8, 6, 2) and torch.equal(counts, again)
    assert float(counts.float().mean()) >= 0.75
    method.encoder.config["image_size"] = 12
    first, last, _ = method.ends(given)
    for end, patches in ((0, first), (-1, last)):
        for row in range(8):
            top, left = corners[row, end].tolist()
            cut = given["video"][row, end, :, top : top + 12, left : left + 12] / 255
            torch.testing.assert_close(patches[row], cut, atol=1e-5, rtol=0)
    # What is between the ends decides where the last patch is, and nothing else.
    assert not torch.equal(corners[:, 0], corners[:, -1])


def test_still_clips_are_left_out_and_still_videos_are_refused() -> None:
    method = build()
    given = batch(method)
    still = given["video"].clone()
    still[:4] = still[:4, :1]
    moving, counts = method.track(given["video"])[2], method.track(still)[2]
    assert not counts[:4].any() and torch.equal(counts[4:], moving[4:]) and bool(counts[4:].any())
    none = given | {"video": given["video"][:, :1].expand_as(given["video"])}
    value = method(none)
    value.backward()
    assert value == 0 and method.metrics["motion"] == 0
    static = from_videos(balls.make(8, 0, mode="static", size=24)["video"])
    with pytest.raises(ValueError, match="something that moves relative to its background, got array"):
        method.prepare(method.training_view(static))


def test_hard_negatives_come_late_and_never_in_evaluation() -> None:
    method, seen = build(random_until=0.4), []
    ranked = PatchTracking.forward.__globals__["ranking"]
    try:
        PatchTracking.forward.__globals__["ranking"] = lambda *given: seen.append(given[-1]) or ranked(*given)
        given = batch(method)
        for progress in (0.2, 0.4):
            method.after_step(progress)
            method.train()(given)
            method.eval()(given)
    finally:
        PatchTracking.forward.__globals__["ranking"] = ranked
    assert seen == [False, False, True, False]
    resumed = build(random_until=0.4)
    resumed.load_state_dict(method.state_dict())
    assert bool(resumed.hard) and bool(build(random_until=0.0).hard)


def test_features_and_pictures() -> None:
    method = build().eval()
    given = batch(method)
    frames = method.encoder.inputs(given)
    torch.testing.assert_close(method.features(given), method.encoder(frames))
    pictures = method.pictures(given)
    assert list(pictures)[:4] == ["first frame", "last frame", "first patch", "last patch"]
    assert "yes" in pictures["used"]
    corners, side, _ = method.track(given["video"])
    method.encoder.config["image_size"] = 24
    pictures = method.pictures(given)
    changed = (pictures["first frame"] - given["video"][:, 0] / 255).abs().amax(1) > 0  # type: ignore[operator]
    for row in range(8):
        top, left = corners[row, 0].tolist()
        assert not changed[row, top + 1 : top + side - 1, left + 1 : left + side - 1].any()


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch(method))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


@pytest.mark.parametrize("noise", [False, True])
def test_both_ends_of_a_track_are_matched_among_others_unless_frames_are_noise(noise: bool) -> None:
    def made(n: int, seed: int) -> Videos:
        video = moving_digits.make(n, seed, frames=6, size=24, glyphs="test" if seed else "train")["video"]
        if noise:
            generator = torch.Generator().manual_seed(seed)
            video = torch.randint(256, video.shape, generator=generator, dtype=torch.uint8)
        return from_videos(video)

    method = build(random_until=1.0)
    train, test = (method.training_view(made(n, seed)) for n, seed in ((128, 0), (64, 1)))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)

    def held_out() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(method.eval()(test.batch(torch.arange(64))))

    before = held_out()
    for step in range(25):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method.train()(train.batch(torch.randperm(128)[:32])).backward()
        optimizer.step()
    if noise:
        assert held_out() > 0.8 * method.chance(32)
    else:
        assert held_out() < 0.6 * before and before < method.chance(32)


def test_held_out_losses_have_random_negatives_even_when_training_has_hard_ones() -> None:
    data = videos(8)
    method = build(negatives=1)
    view = method.training_view(data)
    held_out = HeldOut(view, method, 8, 0)
    first = held_out.loss()
    method.after_step(1.0)
    assert method.hard and first is not None and held_out.loss() == first
    losses = []
    for hard in (False, True):
        method.hard.fill_(hard)
        torch.manual_seed(0)
        losses.append(method.train()(view.batch(torch.arange(8))).item())
    assert losses[1] > losses[0]  # so that the two differ


def test_embedding_is_that_of_the_head_and_tiny_frames_are_refused() -> None:
    method, given = build(), batch(build())
    torch.testing.assert_close(method.embedding(given), method.head(method.features(given)))
    tiny = from_videos(torch.zeros(2, 10, 1, 6, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="image_size must be at least 8, got 6"):
        build().training_view(tiny)
