"""Noise as targets: points that images exchange and never lose; the assignment against scipy; what is learned."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.noise_as_targets import NoiseAsTargets, loss
from unlabeled.parts import gather


def build(samples: int = 20, **options) -> NoiseAsTargets:
    torch.manual_seed(0)
    encoder = encoders.build("conv4", image_size=12, input="sobel")
    method = NoiseAsTargets(encoder, **{"target_dim": 8, "hidden_dim": 32} | options)
    method.prepare(range(samples))  # type: ignore[arg-type]
    method.begin_epoch(range(samples))  # type: ignore[arg-type]
    return method


def images(count: int = 20) -> Tensor:
    """Four kinds of stripes in turn, with noise."""
    ramp = torch.arange(12.0)
    waves = [ramp * 1.5, ramp[:, None] * 0.7, ramp + ramp[:, None], 0.8 * (ramp - ramp[:, None])]
    patterns = torch.stack([torch.sin(wave).expand(12, 12) for wave in waves])[torch.arange(count) % 4]
    noise = 5 * torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(count))
    return (128 + 100 * patterns[:, None] + noise).clamp(0, 255).to(torch.uint8)


def batch(*index: int) -> dict[str, Tensor]:
    rows = torch.tensor(index)
    return {"image": images()[rows], "index": rows}


def give(method: NoiseAsTargets) -> NoiseAsTargets:
    method.views = lambda batch: batch["image"] / 255  # type: ignore[assignment]
    return method


def units(count: int, dim: int = 8, seed: int = 1) -> Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_loss_is_half_the_squared_distance_in_value_and_gradient_and_1_at_chance() -> None:
    vectors, points = units(5).double().requires_grad_(), units(5, seed=2).double()
    slow = sum(((v - c) ** 2).sum() / 2 for v, c in zip(vectors, points)) / 5
    torch.testing.assert_close(loss(vectors, points), slow)
    torch.testing.assert_close(*(torch.autograd.grad(x, vectors)[0] for x in (loss(vectors, points), slow)))
    torch.testing.assert_close(loss(vectors, points), (1 - (vectors * points).sum(1)).mean())
    assert loss(torch.eye(4)[:2], torch.eye(4)[2:]).item() == build().chance(2) == 1


def test_points_are_spread_over_the_sphere_and_every_image_has_its_own() -> None:
    method = build(4000)
    torch.testing.assert_close(method.points.norm(dim=1), torch.ones(4000))
    assert method.points.mean(0).norm() < 4 / 4000**0.5
    assert method.point_of.sort().values.tolist() == list(range(4000))


def test_exchange_matches_the_assignment_of_scipy_and_never_raises_the_loss() -> None:
    method, index = build(), torch.tensor([7, 3, 11, 0, 19, 4])
    for seed in range(10):
        vectors, owned = units(6, seed=seed), method.point_of[index]
        squares = torch.cdist(vectors.double(), method.points[owned].double()).square()
        expected = owned[torch.from_numpy(linear_sum_assignment(squares.numpy())[1])]
        before = loss(vectors, method.points[owned])
        moved = method.exchange(vectors, index)
        assert torch.equal(method.point_of[index], expected)
        assert moved.item() == pytest.approx((owned != expected).float().mean().item())
        assert loss(vectors, method.points[method.point_of[index]]) <= before + 1e-6


def test_all_points_stay_in_use_and_never_move() -> None:
    method = build()
    points = method.points.clone()
    rest = [number for number in range(20) if number not in (2, 5, 8, 9)]
    before = method.point_of[rest].clone()
    method(batch(9, 2, 8, 5))
    assert torch.equal(method.point_of[rest], before)
    for step in range(5):
        torch.manual_seed(step)
        method(batch(*torch.randperm(20)[:8].tolist()))
    assert method.point_of.sort().values.tolist() == list(range(20)) and torch.equal(method.points, points)
    assert not torch.equal(method.point_of, torch.arange(20))


def test_one_exchange_among_all_images_recovers_shuffled_points() -> None:
    method, shuffle = build(), torch.randperm(20)
    method.exchange(method.points[shuffle], torch.arange(20))
    assert torch.equal(method.point_of, shuffle)
    assert loss(method.points[shuffle], method.points[method.point_of]).item() == pytest.approx(0, abs=1e-6)


def test_points_are_exchanged_before_the_loss_and_belong_to_indices_not_to_batch_positions() -> None:
    method, other = give(build()).eval(), give(build()).eval()
    index = torch.tensor([7, 3, 11])
    vectors = method.embed_features(method.encoder(images()[index] / 255))
    owned = method.points[method.point_of[index]]
    best = torch.from_numpy(linear_sum_assignment(-(vectors @ owned.T).detach().numpy())[1])
    method.training = other.training = True  # norms stay in evaluation mode
    torch.testing.assert_close(method(batch(7, 3, 11)), loss(vectors, owned[best]))
    other(batch(11, 7, 3))
    assert torch.equal(method.point_of, other.point_of)


def test_points_are_exchanged_in_the_requested_epochs() -> None:
    method, exchanged = build(exchange_interval=3), []
    for epoch in range(7):
        if epoch:
            method.begin_epoch(range(20))  # type: ignore[arg-type]
        before = method.point_of.clone()
        torch.manual_seed(epoch)
        method(batch(*torch.randperm(20)[:10].tolist()))
        exchanged.append(not torch.equal(method.point_of, before))
        assert ("exchanged" in method.metrics) == exchanged[-1]
    assert exchanged == [True, False, False, True, False, False, True]


def test_evaluation_mode_and_views_do_not_change_the_points() -> None:
    method = build().eval()
    before = method.point_of.clone()
    values = {method(batch(1, 2, 3)).item() for _ in range(3)}
    assert torch.equal(method.point_of, before) and len(values) == 3  # other views, the same points


def test_repeated_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"index must not repeat an image within a batch, got \[3, 5, 3\]"):
        build()(batch(3, 5, 3))


def test_training_before_points_are_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="points must be drawn first"):
        NoiseAsTargets(encoders.build("conv4", image_size=12, input="sobel"))(batch(0, 1))


def test_resumed_method_continues_with_the_same_points() -> None:
    method, resumed = build(exchange_interval=2), build(exchange_interval=2)
    method(batch(0, 5, 6, 9))
    resumed.prepare(range(20))  # type: ignore[arg-type]
    resumed.load_state_dict(method.state_dict())
    values = []
    for one in (method, resumed):
        torch.manual_seed(5)
        values.append(one(batch(2, 5, 9, 1)))
    assert torch.equal(*values) and torch.equal(method.point_of, resumed.point_of)
    assert torch.equal(method.points, resumed.points)


def kinship(exchange: bool) -> float:
    """How much nearer the points of images of one kind are to each other than to those of other kinds, in cosines."""
    method = build(crop=0.6)
    if not exchange:
        method.exchange_interval = 1000
        method.begin_epoch(range(20))  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(25):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method(batch(*range(20))).backward()
        optimizer.step()
    points = method.points[method.point_of]
    cosines, kinds = points @ points.T, torch.arange(20) % 4
    same = (kinds[:, None] == kinds) & ~torch.eye(20, dtype=torch.bool)
    return (cosines[same].mean() - cosines[kinds[:, None] != kinds].mean()).item()


def test_images_of_one_kind_get_nearby_points_if_points_are_exchanged() -> None:
    assert kinship(exchange=True) > 0.15
    assert abs(kinship(exchange=False)) < 0.1


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch(1, 2, 3, 4))
    value.backward()
    assert value.dtype == method.points.dtype == torch.float32 and value.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_pictures_show_the_nearest_of_any_images_to_a_view() -> None:
    method = build(samples=4).eval()  # images beyond those of the training have no point
    method.views = lambda batch: batch["image"].roll(1, 0) / 255  # type: ignore[assignment]
    given = batch(2, 9, 15, 11)
    pictures = method.pictures(given)
    assert list(pictures) == ["view", "original image", "nearest image"]
    assert torch.equal(pictures["original image"], given["image"] / 255)
    assert torch.equal(pictures["nearest image"], pictures["original image"].roll(1, 0))


def test_exchange_is_exact_in_mixed_precision_and_that_of_the_first_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = build()
    vectors = F.normalize(units(1) + 0.01 * units(20, seed=2), dim=1)  # all alike to bfloat16
    expected = linear_sum_assignment(-(vectors.double() @ method.points.double().T).numpy())[1]
    with torch.autocast("cpu", torch.bfloat16):
        method.exchange(vectors, torch.arange(20))
    assert method.point_of.tolist() == expected.tolist() != list(range(20))
    other = build()
    monkeypatch.setattr(gather, "broadcast", lambda columns: columns.flip(0))
    other.exchange(vectors, torch.arange(20))
    assert other.point_of.tolist() == expected.tolist()[::-1]


def test_non_finite_vectors_give_a_non_finite_loss_and_exchange_nothing() -> None:
    method = build()
    torch.nn.init.constant_(method.head[-1].bias, torch.nan)
    before = method.point_of.clone()
    assert method(batch(3, 1, 2)).isnan() and not method.metrics
    assert torch.equal(method.point_of, before)
