"""Time cycle: the losses, perfect features return to the start, and tracks are learned where there are any."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data.video.data import from_videos
from unlabeled.encoders.video import Frames
from unlabeled.methods.time_cycle import TimeCycle, affinity, alignment, inliers
from unlabeled.parts.patches import crop
from unlabeled.parts.places import border, moving_places, sample


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small(**options) -> TimeCycle:
    """The method with a network of two convolutions, for grey frames of 36 x 36 with 9 x 9 positions."""
    layers = [
        (nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
        for before, after in ((1, 16), (16, 32))
    ]
    frame = encoders.wrap(nn.Sequential(*layers[0], *layers[1]), in_channels=1, image_size=36)
    encoder = Frames(frame, {"name": "own", "in_channels": 1, "image_size": 36, "frames": 4})
    return TimeCycle(encoder, **{"crop": 1.0, "frames": 3} | options)


class Oracle(nn.Module):
    """Where affinities lie on average, and by which angle they are turned."""

    def forward(self, affinities: Tensor) -> Tensor:
        def centres(count: int) -> Tensor:
            axis = (2 * torch.arange(count) + 1) / count - 1
            return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), 2).flatten(0, 1).to(affinities)

        rows, side = round(affinities.shape[1] ** 0.5), affinities.shape[3]
        found = affinities.flatten(2).mT @ centres(rows)
        middle = found.mean(1)
        (u, v), (right, down) = centres(side).T, (found - middle[:, None]).unbind(2)
        angle = torch.atan2((u * down - v * right).sum(1), (u * right + v * down).sum(1))
        return torch.cat([middle, angle[:, None]], 1)


class Always(nn.Module):
    """The same place for all affinities."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = place

    def forward(self, affinities: Tensor) -> Tensor:
        return self.place.expand(len(affinities), 3)


def perfect(frames: int, speed: int) -> Tensor:
    """Maps of a texture of which no two positions are alike, that moves left, shape (frames, 1, channels, 9, 9)."""
    width = 9 + speed * (frames - 1)
    codes = torch.eye(9 * width).view(1, 9 * width, 9, width).double()
    return torch.stack([codes[..., speed * t : speed * t + 9] for t in range(frames)])


def codes(samples: int, related: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Textures of random codes that move by up to a position per frame; where frames are not related, always new ones.

    Returns:
        Places, vectors of the patches and of all frames, and where the patches were in the frame before.
    """
    code = F.normalize(torch.randn(2, samples, 24, 11, 11), dim=2)
    code = code[:1].expand_as(code) if related else code
    speed = torch.randint(-1, 2, (samples, 2))
    corners = 1 + speed * torch.arange(2)[:, None, None]
    maps = torch.stack([crop(code[t], corners[t], 9) for t in range(2)])
    uniform = 2 * torch.rand(samples, 3) - 1
    places = uniform * torch.tensor([2 / 3, 2 / 3, math.pi / 4])
    before = places + F.pad(2 / 9 * speed.flip(1), (0, 1))
    return places, F.normalize(sample(maps[-1], places, 3), dim=1), maps, before


def at(column: int, row: int, angle: float) -> Tensor:
    """A patch whose centre is that of a position."""
    return torch.tensor([[(2 * column - 8) / 9, (2 * row - 8) / 9, angle]]).double()


def slow_sample(maps: Tensor, place: Tensor, side: int) -> tuple[Tensor, list[dict[tuple[int, int], Tensor]]]:
    """A patch of one map, shape (channels, side, side), and the weights of the positions that each is a mean of."""
    rows, patch, used = maps.shape[1], [], []
    x, y, angle = place
    for down in range(side):
        for right in range(side):
            u, v = (2 * right + 1) / side - 1, (2 * down + 1) / side - 1
            column = ((x + (angle.cos() * u - angle.sin() * v) / 3 + 1) * rows - 1) / 2
            row = ((y + (angle.sin() * u + angle.cos() * v) / 3 + 1) * rows - 1) / 2
            weights = {
                (r, c): (1 - (row - r).abs()) * (1 - (column - c).abs())
                for r in (math.floor(row.detach()), math.floor(row.detach()) + 1)
                for c in (math.floor(column.detach()), math.floor(column.detach()) + 1)
                if 0 <= r < rows and 0 <= c < rows
            }
            patch.append(
                sum((weight * maps[:, r, c] for (r, c), weight in weights.items()), 0 * maps[:, 0, 0])
            )
            used.append(weights)
    return torch.stack(patch, 1).unflatten(1, (side, side)), used


def slow_step(method: TimeCycle, query: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inliers, place and next query of one sample."""
    likeness = torch.einsum("chw,crk->rkhw", query, maps) / method.temperature
    affinities = likeness.exp() / likeness.exp().sum((0, 1))
    place = method.localizer(affinities.flatten(0, 1)[None])[0]
    patch, used = slow_sample(maps, place, method.side)
    pairs = [
        (weight, weight * affinities[r, c, position // method.side, position % method.side])
        for position, weights in enumerate(used)
        for (r, c), weight in weights.items()
    ]
    inside, found = (torch.stack(values).sum() for values in zip(*pairs))
    return found / inside.clamp(min=1), place, patch / patch.norm(dim=0)


def slow_alignment(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean over a grid of points of the squared distance of where two places take them."""

    def matrix(place: Tensor) -> Tensor:
        x, y, angle = place
        rows = [angle.cos() / 3, -angle.sin() / 3, x], [angle.sin() / 3, angle.cos() / 3, y]
        return torch.stack([torch.stack(row) for row in rows])

    line = torch.linspace(-1, 1, 20, dtype=predicted.dtype)
    grid = torch.stack([*torch.meshgrid(line, line, indexing="xy"), torch.ones(20, 20).to(line)]).flatten(1)
    return (matrix(predicted) @ grid - matrix(true) @ grid).square().sum(0).mean()


def test_alignment_and_its_gradient_are_those_of_a_slow_loop() -> None:
    predicted, true = torch.randn(3, 3).double().requires_grad_(), torch.randn(3, 3).double()
    fast = alignment(predicted, true)
    slow = torch.stack([slow_alignment(*pair) for pair in zip(predicted, true)])
    torch.testing.assert_close(fast, slow)
    for one, other in zip(*(torch.autograd.grad(value.sum(), predicted) for value in (fast, slow))):
        torch.testing.assert_close(one, other)
    assert alignment(true + torch.tensor([0, 0, 2 * math.pi]), true).abs().max() < 1e-12


def test_affinities_sum_to_one_over_the_positions_of_the_frame() -> None:
    query, maps = F.normalize(torch.randn(2, 5, 3, 3), dim=1), F.normalize(torch.randn(2, 5, 9, 9), dim=1)
    found = affinity(query, maps, 0.1)
    assert found.shape == (2, 81, 3, 3)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 3, 3))
    code = perfect(1, 0)[0]
    own = affinity(sample(code, at(5, 4, 0), 3), code, 0.044).argmax(1)[0]
    assert own.tolist() == [[31, 32, 33], [40, 41, 42], [49, 50, 51]]


def test_inliers_are_all_at_the_right_place_and_none_elsewhere() -> None:
    code = perfect(1, 0)[0]
    found = affinity(sample(code, at(5, 4, 0), 3), code, 0.01)
    assert inliers(found, at(5, 4, 0)).item() == pytest.approx(1)
    assert inliers(found, at(5, 4, math.pi / 2)).item() == pytest.approx(1 / 9)  # the middle stays
    assert inliers(found, at(2, 4, 0)).item() == pytest.approx(0, abs=1e-12)
    assert inliers(found, at(40, 4, 0)).item() == 0
    even = torch.full((1, 81, 3, 3), 1 / 81).double()
    for place in (at(4, 4, 0.3), at(8, 4, 0)):  # a third of the second lies beyond the border
        assert inliers(even, place).item() == pytest.approx(1 / 81)


@pytest.mark.parametrize("speed", [0, 1])
@pytest.mark.parametrize("angle", [0.0, math.pi / 2])
def test_perfect_features_are_tracked_by_the_planted_shift_and_return_to_their_start(
    speed: int, angle: float
) -> None:
    method = small(frames=4).double()
    method.localizer = Oracle()  # type: ignore[assignment]
    maps, start = perfect(4, speed), at(3, 5, angle)
    query = sample(maps[-1], start, 3)
    similarity, back = method.skips(query, maps)
    backward, forward = method.tracks(query, maps)
    frames = [at(3 + speed * n, 5, angle) for n in (1, 2, 3)]
    torch.testing.assert_close(torch.cat(backward), torch.cat(frames), atol=1e-6, rtol=0)
    longest = torch.cat([places[:1] for places in forward])
    torch.testing.assert_close(longest, torch.cat([frames[1], frames[0], start]), atol=1e-6, rtol=0)
    for ends in (back, forward[-1]):
        assert alignment(ends, start.expand(3, -1)).max() < 1e-12
    torch.testing.assert_close(similarity, torch.ones(3).double(), atol=1e-6, rtol=0)
    unrelated = torch.cat([maps[:-1, :, torch.randperm(maps.shape[2])], maps[-1:]])
    lost, back = method.skips(query, unrelated)
    assert lost.max() < 0.3 and alignment(back, start.expand(3, -1)).min() > 0.01


def test_loss_and_gradients_are_those_of_cycles_of_each_length_alone() -> None:
    method = small(skip_weight=0.3, cycle_weight=0.2).double()
    nn.init.normal_(method.localizer[-1].weight, std=0.3)
    places = torch.tensor([[0.1, -0.2, 0.4], [-0.5, 0.3, -0.6]]).double()
    query = F.normalize(torch.rand(2, 6, 3, 3).double(), dim=1).requires_grad_()
    maps = F.normalize(torch.rand(3, 2, 6, 9, 9).double(), dim=2).requires_grad_()
    method.see = lambda clips: (clips, places, query, maps)  # type: ignore[method-assign]
    fast = method({"video": torch.rand(2, 3, 1, 36, 36)})
    found, skips, cycles = [], [], []
    for row, true in enumerate(places):
        for t in range(2):
            similarity, _, there = slow_step(method, query[row], maps[t, row])
            found.append(similarity)
            skips.append(slow_alignment(slow_step(method, there, maps[2, row])[1], true))
        for way in ([1, 2], [1, 0, 1, 2]):
            now = query[row]
            for t in way:
                _, place, now = slow_step(method, now, maps[t, row])
            cycles.append(slow_alignment(place, true))
    similarity, skip, cycle = (torch.stack(values).mean() for values in (found, skips, cycles))
    slow = 1 - similarity + 0.3 * skip + 0.2 * cycle
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(method.metrics["similarity"], similarity.detach())
    inputs = (query, maps, *method.localizer.parameters())
    for one, other in zip(*(torch.autograd.grad(value, inputs) for value in (fast, slow))):
        torch.testing.assert_close(one, other)
        assert one.abs().max() > 0


def test_gradient_of_a_cycle_reaches_frames_through_the_patches_cut_out_of_them() -> None:
    method = small().double()
    nn.init.normal_(method.localizer[-1].weight, std=0.3)
    maps = F.normalize(torch.rand(3, 1, 6, 9, 9).double(), dim=2)
    query, first = maps[-1, :, :, :3, :3], maps[0].clone().requires_grad_()
    cut = F.normalize(sample(first, at(4, 4, 0), 3), dim=1)
    (gradient,) = torch.autograd.grad(method.step(cut, maps[-1])[1].sum(), first)
    assert gradient[0, :, 3:6, 3:6].abs().min() > 0 and gradient.abs().sum((0, 1)).count_nonzero() == 9
    assert method.step(query, first)[1].requires_grad


@pytest.mark.parametrize("related", [True, False])
def test_cycles_teach_the_localizer_to_follow_textures_and_unrelated_frames_teach_nothing(
    related: bool,
) -> None:
    method = small(frames=2)
    optimizer = torch.optim.Adam(method.localizer.parameters(), lr=3e-3)

    def run(given: tuple[Tensor, ...]) -> Tensor:
        method.see = lambda clips: (clips, *given[:3])  # type: ignore[method-assign]
        return method({"video": torch.zeros(len(given[0]), 2, 1, 36, 36)})

    for _ in range(90):
        optimizer.zero_grad()
        run(codes(16, related)).backward()
        optimizer.step()
    with torch.no_grad():
        places, query, maps, before = test = codes(100)
        found = method.tracks(query, maps)[0][0]
        missed, moved = ((place - before)[:, :2].norm(dim=1).mean() for place in (found, places))
        distances = []
        for given in (test, codes(100, related=False)):
            run(given)
            distances.append(method.metrics["distance"].item())
    middle = places[:, :2].norm(dim=1).mean().item() / 2  # what answering the middle of the frame would reach
    assert distances[1] > 0.9 * middle
    if related:
        assert missed < 0.85 * moved and distances[0] < 0.75 * middle
    else:
        assert missed > moved and distances[0] > 0.9 * middle


def test_chance_is_the_loss_of_always_answering_the_mean_place_with_even_affinities() -> None:
    method, video = small(), torch.rand(40, 3, 1, 36, 36)
    method.see = lambda clips: (  # type: ignore[method-assign]
        clips,
        moving_places(clips, 45.0),
        torch.ones(40, 4, 3, 3) / 2,
        torch.ones(3, 40, 4, 9, 9) / 2,
    )
    torch.manual_seed(3)
    method.prepare(SimpleNamespace(sample=lambda count: {"video": video}))
    torch.manual_seed(3)
    places = moving_places(method.draw({"video": video}), 45.0)
    method.localizer = Always(places.mean(0))  # type: ignore[assignment]
    torch.manual_seed(3)
    assert method({"video": video}).item() == pytest.approx(method.chance(40), abs=1e-5)


def test_what_surrounds_a_patch_does_not_change_its_vectors() -> None:
    method, clips = small(rotation=0.0).eval(), torch.rand(4, 3, 1, 36, 36)
    with torch.no_grad():
        torch.manual_seed(1)
        patches, places, query, _ = method.see(clips)
        assert patches.shape == (4, 1, 12, 12)
        covered = sample(torch.ones(4, 1, 36, 36), places, 36)  # zero only beyond the border
        assert covered.min() > 0
        hidden = clips.clone()
        axis = (2 * torch.arange(36) + 1) / 36 - 1
        far = torch.maximum(
            (axis - places[:, None, None, 0]).abs(), (axis[:, None] - places[:, 1, None, None]).abs()
        )
        hidden[:, -1, 0][far > 0.45] = 0.5
        hidden[:, -2, 0] = hidden[:, -1, 0] + clips[:, -2, 0] - clips[:, -1, 0]  # moves as before
        torch.manual_seed(1)
        again = method.see(hidden)
    torch.testing.assert_close(again[1], places)
    torch.testing.assert_close(again[2], query)


def test_pictures_show_the_patch_backward_and_forward_again() -> None:
    method = small(crop=1.0, flip=0.0, frames=4)
    method.views.aspect = 1.0
    method.localizer = Always(torch.zeros(3))  # type: ignore[assignment]
    video = torch.full((2, 4, 1, 36, 36), 0.5) * torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1)
    pictures = method.pictures({"video": video})
    assert list(pictures) == ["patch", "backward", "forward again"]
    backward, forward = (
        rearrange(pictures[name], "b c h (t w) -> b t c h w", t=4) for name in ("backward", "forward again")
    )
    drawn = border(torch.zeros(1, 3), 36)[0] > 0
    for frames in (backward[:, 1:].flip(1), forward[:, :3]):
        torch.testing.assert_close(frames[..., ~drawn], video[:, :3].expand(-1, -1, 3, -1, -1)[..., ~drawn])
        assert (frames[:, :, 0][..., drawn] > 0.9).all() and (frames[:, :, 1][..., drawn] < 0.1).all()
    torch.testing.assert_close(backward[0, 1], forward[0, 2])
    assert not torch.equal(backward[:, 0], forward[:, 3])  # the true place and where the track ended


def test_training_step_in_bfloat16_is_finite_and_close() -> None:
    method, batch = small(flip=0.0), {"video": torch.rand(4, 3, 1, 36, 36)}
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(method(batch))
    values[1].backward()
    assert values[1].dtype == torch.float32
    assert values[1].item() == pytest.approx(values[0].item(), abs=0.01)


def test_every_weight_learns_and_nonsense_is_refused() -> None:
    encoder = encoders.build("frames-conv4", kind="video", image_size=36)
    method = TimeCycle(encoder)
    clips = method.training_view(from_videos(torch.randint(256, (4, 9, 3, 40, 40), dtype=torch.uint8)))
    assert clips.shape["frames"] == 5 and (method.side, method.patch_size) == (3, 12)
    method(clips.batch(torch.arange(4))).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())
    with pytest.raises(ValueError, match="frames=3 frames, got 2"):
        small()({"video": torch.rand(2, 2, 1, 36, 36)})
    with pytest.raises(ValueError, match="single frames"):
        TimeCycle(encoders.build("conv3d", kind="video"))
