"""Environment predictive coding: what is hidden stays hidden, and only relative poses count."""

import math
from typing import Any

import pytest
import torch

from unlabeled import encoders
from unlabeled.data.trajectories import Trajectories, from_trajectories
from unlabeled.method import Batch
from unlabeled.methods.trajectory_unmasking import TrajectoryUnmasking, visible
from unlabeled.parts.info_nce import in_batch, nearest
from unlabeled.worlds import rooms

TINY: dict[str, Any] = {
    "zones": 4,
    "zone_frames": 2,
    "stride": 1,
    "masked": 2,
    "projection_dim": 8,
    "heads": 2,
}
HIDDEN = torch.tensor([[[1, 2]], [[0, 3]], [[3, 2]]])


def build(**options: Any) -> TrajectoryUnmasking:
    torch.manual_seed(0)
    return TrajectoryUnmasking(encoders.build("conv4", image_size=16), **TINY | options)


def walks(n: int = 5, **options: Any) -> Trajectories:
    return from_trajectories(rooms.make(n, 3, frames=12, size=16, **options))


def batch(method: TrajectoryUnmasking) -> Batch:
    torch.manual_seed(1)
    return method.training_view(walks()).batch(torch.arange(3))


def test_masked_zones_and_their_guards_are_not_visible() -> None:
    shown = visible(torch.tensor([[1], [3]]), 4, 3, 0)
    assert shown.int().tolist() == [[1] * 3 + [0] * 3 + [1] * 6, [1] * 9 + [0] * 3]
    guarded = visible(torch.tensor([[1], [3]]), 4, 3, 2)
    assert guarded.int().tolist() == [[1] + [0] * 7 + [1] * 4, [1] * 7 + [0] * 5]


def test_each_zone_is_hidden_once_in_groups_of_their_own() -> None:
    method, orders = build(zones=7, masked=3), set()
    for seed in range(30):
        torch.manual_seed(seed)
        groups = method.draw({"video": torch.zeros(2, 14, 3, 4, 4)})
        assert groups.shape == (2, 2, 3)
        assert all(len(walk.unique()) == 6 and walk.min() >= 0 and walk.max() < 7 for walk in groups)
        orders |= {tuple(walk.flatten().tolist()) for walk in groups}
    assert len(orders) > 50


def test_loss_equals_a_slow_loop_and_chance_is_that_of_equal_vectors() -> None:
    predictions, targets = torch.randn(
        2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    total = 0.0
    for row in range(6):
        cosines = [torch.cosine_similarity(predictions[row], target, dim=0) / 0.3 for target in targets]
        total -= float(cosines[row] - torch.stack(cosines).logsumexp(0))
    assert float(in_batch(predictions, targets, 0.3)) == pytest.approx(total / 6, rel=1e-6)
    ones = torch.ones(6, 4)
    assert float(in_batch(ones, ones, 0.1)) == pytest.approx(build().chance(3), rel=1e-6)
    assert nearest(targets, targets).tolist() == list(range(6))


@pytest.mark.parametrize("guard", [0, 1])
def test_pixels_of_hidden_zones_never_change_a_prediction_and_others_do(guard: int) -> None:
    method = build(guard=guard).eval()
    given = batch(method)
    usable = visible(HIDDEN[:, 0], 4, 2, guard)
    predictions, targets = method.predict(given, HIDDEN)
    noise = torch.randint(0, 256, given["video"].shape, dtype=torch.uint8)
    shown = usable[:, :, None, None, None]
    same, others = method.predict(given | {"video": given["video"].where(shown, noise)}, HIDDEN)
    torch.testing.assert_close(same, predictions, rtol=0, atol=0)
    assert not torch.isclose(others, targets).all(-1).any()
    different, kept = method.predict(given | {"video": given["video"].where(~shown, noise)}, HIDDEN)
    if guard == 0:
        torch.testing.assert_close(kept, targets, rtol=1e-5, atol=1e-6)
        assert not torch.isclose(different, predictions).all(-1).any()


def test_attention_to_what_is_hidden_is_exactly_zero() -> None:
    method = build(guard=1).eval()
    given = batch(method)
    described = torch.randn(3, 8, 8)
    _, weights = method.fill_in(described, given["pose"], HIDDEN[:, 0])
    hidden = ~visible(HIDDEN[:, 0], 4, 2, 1)
    assert weights.shape == (3, 2, 9) and bool(hidden.any())
    for walk in range(3):
        assert bool((weights[walk, :, 1:][:, hidden[walk]] == 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2))


def test_where_nothing_is_visible_the_prediction_is_finite_and_says_nothing() -> None:
    method = build(guard=8).eval()
    predictions, _ = method.predict(batch(method), HIDDEN)
    assert predictions.isfinite().all()
    torch.testing.assert_close(predictions, predictions[:1, :, :1].expand_as(predictions))


def test_a_rigid_motion_of_the_whole_walk_changes_nothing() -> None:
    method = build().eval()
    given = batch(method)
    angle, shift = torch.tensor(2.1), torch.tensor([5.0, -3.0])
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    moved = torch.cat([given["pose"][..., :2] @ turn.T + shift, given["pose"][..., 2:] + angle], -1)
    predictions, targets = method.predict(given, HIDDEN)
    after, same = method.predict(given | {"pose": moved}, HIDDEN)
    torch.testing.assert_close(after, predictions, rtol=0, atol=1e-5)
    assert torch.equal(same, targets)
    mirrored, _ = method.predict(given | {"pose": given["pose"] * torch.tensor([1.0, -1.0, -1.0])}, HIDDEN)
    assert (mirrored - predictions).abs().max() > 1e-3


def test_poses_do_not_matter_where_they_are_not_given() -> None:
    method = build(pose=False).eval()
    given = batch(method)
    predictions, _ = method.predict(given, HIDDEN)
    assert torch.equal(method.predict(given | {"pose": torch.randn(3, 8, 3)}, HIDDEN)[0], predictions)
    late = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(method.predict(given | {"video": given["video"][:, late]}, HIDDEN)[0], predictions)


def test_targets_are_means_over_their_zone_without_poses() -> None:
    method = build().eval()
    given = batch(method)
    _, targets = method.predict(given, HIDDEN)
    frames = given["video"][1].unflatten(0, (4, 2))[HIDDEN[1, 0]]
    images = {"image": frames.flatten(0, 1)}
    wanted = method.target(method.describe(images)).unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(targets[1, 0], wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(method.predict(given | {"pose": torch.randn(3, 8, 3)}, HIDDEN)[1], targets)


def test_poses_count_in_units_of_how_far_walks_reach() -> None:
    method, data = build(), walks()
    method.prepare(method.training_view(data))
    assert 0.1 < float(method.scale) < 3
    far = Trajectories(
        data.pixels,
        data.signals["pose"] * torch.tensor([10, 10, 1.0]),
        data.lengths,
        name="far",
        paths=data.paths,
    )
    other = build()
    other.prepare(other.training_view(far))
    torch.testing.assert_close(other.scale, 10 * method.scale)
    still = build()
    still.prepare(still.training_view(walks(still=True)))
    assert float(still.scale) == 1


def test_features_and_embeddings_read_images_and_walks_alike() -> None:
    method = build().eval()
    given = batch(method)
    assert method.features(given).shape == (3, method.encoder.dim)
    assert method.embedding(given).shape == (3, 8)
    images = walks().frames().batch(torch.arange(5))
    torch.testing.assert_close(method.features(images), method.encoder(method.encoder.inputs(images)))


def test_pictures_fill_in_hidden_zones_with_real_ones() -> None:
    method = build().eval()
    given = batch(method)
    pictures = method.pictures(given)
    assert list(pictures) == ["trajectory", "visible", "filled in", "path"]
    assert all(
        image.shape == (3, 3, 32, 32) and 0 <= image.min() <= image.max() <= 1 for image in pictures.values()
    )
    hidden = (pictures["visible"] != pictures["trajectory"]).any(1).float().mean((1, 2))
    assert bool(
        ((hidden > 0.4) & (hidden <= 0.5)).all()
    )  # two of four zones, but for pixels that are as gray
    same = (pictures["filled in"] == pictures["trajectory"]).all(1).float().mean((1, 2))
    assert bool((same >= 0.5).all())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("zones", 1),
        ("zones", 4.5),
        ("projection_dim", 8.0),
        ("masked", 4),
        ("masked", 0),
        ("guard", -1),
        ("temperature", 0.0),
        ("projection_dim", 7),
        ("heads", 0),
    ],
)
def test_bad_options_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        build(**{option: value})


def test_poses_tell_what_time_cannot() -> None:
    """Each walk goes round a circle of eight places, at two speeds; the places have new colours in every walk."""
    generator = torch.Generator().manual_seed(0)
    start, hops = (
        torch.randint(0, 8, (256, 1), generator=generator),
        torch.randint(0, 2, (256, 1), generator=generator),
    )
    place = (start + (2 * hops + 1) * torch.arange(16)) % 8
    colors = torch.randint(0, 256, (256, 8, 3), dtype=torch.uint8, generator=generator)
    video = colors.gather(1, place[..., None].expand(-1, -1, 3))[..., None, None].expand(-1, -1, -1, 8, 8)
    angle = place * (math.tau / 8)
    circles = from_trajectories({"video": video, "pose": torch.stack([angle.cos(), angle.sin(), angle], -1)})

    def share_found(steps: int, **options: Any) -> float:
        torch.manual_seed(0)
        encoder = encoders.build("conv4", image_size=8)
        fine = {"zones": 16, "zone_frames": 1, "stride": 1, "masked": 4, "projection_dim": 32}
        method = TrajectoryUnmasking(encoder, **fine, **options)
        data = method.training_view(circles)
        method.prepare(data)
        optimizer = torch.optim.AdamW(method.parameters(), lr=4e-3)
        shares = []
        for step in range(steps):
            torch.manual_seed(step)
            optimizer.zero_grad()
            method.train()(data.batch(torch.randperm(256)[:8])).backward()
            optimizer.step()
            shares.append(float(method.metrics["accuracy"]))
        return sum(shares[-10:]) / 10

    assert share_found(130) > 0.2
    assert share_found(40, pose=False) < 0.12  # 1 of 32 by guessing
