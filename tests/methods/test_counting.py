"""Counting: sums that must agree, a margin that must be kept, and tiles that share all but their content."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.counting import Counting, distances
from unlabeled.parts import patches
from unlabeled.parts.shrink import KERNELS, halvings, shrink

PLAIN = {"crop": 1.0, "gray": 0.0, "flip": 0.0, "normalize": False}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Fixed(nn.Module):
    """An encoder without weights that remembers what it saw."""

    dim, in_channels, image_size = 12, 3, 16

    def inputs(self, batch):
        return batch["image"].float() / 255

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def batch(samples: int = 6, size: int = 16) -> dict[str, Tensor]:
    images = torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8)
    return {"image": images, "index": torch.arange(samples)}


def counting(encoder: nn.Module, **options) -> Counting:
    return Counting(encoder, **options)  # type: ignore[arg-type]


def test_every_kernel_keeps_constants_and_is_used():
    matrices = halvings(8)
    torch.testing.assert_close(matrices.sum(2), torch.ones(len(KERNELS), 8))
    constant = shrink(torch.full((len(KERNELS), 3, 16, 16), 0.3), matrices)
    torch.testing.assert_close(constant, torch.full((len(KERNELS), 3, 8, 8), 0.3))
    method, images = counting(Fixed(), **PLAIN), batch(1)["image"].expand(200, -1, -1, -1)
    small = method.tiles({"image": images})[:, 0]
    each = shrink(images[: len(KERNELS)] / 255, matrices)
    drawn = (small[:, None] - each).abs().amax((2, 3, 4)).argmin(1).bincount(minlength=len(KERNELS))
    assert drawn.min() > 25


def test_quarters_make_up_the_image_and_the_other_image_is_from_another_sample():
    method, given = counting(Fixed(), **PLAIN), batch(5)
    for _ in range(20):
        tiles = method.tiles(given)
        images = given["image"] / 255
        torch.testing.assert_close(patches.assemble(tiles[:, 2:], 2), images)
        own, other = (shrink(images, halvings(8)[0].expand(5, -1, -1)), tiles[:, 1])
        nearest = (other[:, None] - own).square().mean((2, 3, 4)).argmin(1)
        assert (nearest != torch.arange(5)).all() and nearest.unique().numel() == 5
        assert ((tiles[:, 0, None] - own).square().mean((2, 3, 4)).argmin(1) == torch.arange(5)).all()


def test_both_images_are_grey_or_neither():
    tiles = counting(Fixed(), gray=0.67, normalize=False).tiles(batch(300))
    gray = (tiles[:, :, 0] - tiles[:, :, 1]).abs().amax((2, 3)) < 1e-6
    assert (gray == gray[:, :1]).all()
    assert gray[:, 0].float().mean().item() == pytest.approx(0.67, abs=0.08)


def test_loss_and_its_gradient_match_a_slow_loop():
    whole, parts, other = (
        torch.rand(4, 3).double(),
        torch.rand(4, 4, 3).double() / 2,
        torch.rand(4, 3).double(),
    )
    given = [values.requires_grad_() for values in (whole, parts, other)]
    same, different = distances(*given)
    margin = float(different.detach().sort().values[1:3].mean())  # two of four are within the margin
    loss = (same + (margin - different).clamp(min=0)).mean()
    loss.backward()
    total, gradients = 0.0, [torch.zeros_like(values) for values in given]
    whole, parts, other = (values.detach() for values in given)
    for i in range(4):
        near, far = [], []
        for unit in range(3):
            amount = sum(float(parts[i, j, unit]) for j in range(4))
            near.append(float(whole[i, unit]) - amount)
            far.append(float(other[i, unit]) - amount)
        short = margin - sum(value**2 for value in far)
        total += (sum(value**2 for value in near) + max(0.0, short)) / 4
        for unit in range(3):
            pushed = -2 * far[unit] / 4 if short > 0 else 0.0
            gradients[0][i, unit] = 2 * near[unit] / 4
            gradients[1][i, :, unit] = -2 * near[unit] / 4 - pushed
            gradients[2][i, unit] = pushed
    assert loss.item() == pytest.approx(total, rel=1e-9)
    for values, gradient in zip(given, gradients):
        torch.testing.assert_close(values.grad, gradient)
    assert (given[2].grad == 0).all(1).sum() == 2  # beyond the margin nothing pushes


def test_method_computes_that_loss():
    method = counting(Fixed(), **PLAIN, margin=3.0, counts=5, hidden_dim=8)
    nn.init.normal_(method.head[-1].weight)  # type: ignore[arg-type]
    given = batch(4)
    torch.manual_seed(2)
    loss = method(given)
    torch.manual_seed(2)
    whole, parts, other = method.count(method.tiles(given))
    same, different = distances(whole, parts, other)
    assert loss.item() == pytest.approx((same + F.relu(3.0 - different)).mean().item(), rel=1e-5)
    assert parts.shape == (4, 4, 5) and min(x.min() for x in (whole, parts, other)) >= 0


def test_counts_of_zero_cost_the_margin_and_no_constant_costs_less():
    method = counting(Fixed(), margin=7.0, counts=4)
    with torch.no_grad():
        method.head[-1].weight.zero_()  # type: ignore[operator]
    costs = []
    for level in (0.0, 0.1, 0.4, 0.44, 0.6, 1.0):
        with torch.no_grad():
            method.head[-1].bias.fill_(level)  # type: ignore[operator]
        costs.append(method(batch()).item())
    assert costs[0] == pytest.approx(7.0) and method.chance(6) == 7.0
    assert min(costs) == pytest.approx(7.0) and costs[-1] == pytest.approx(9 * 4)


class Dots(nn.Module):
    """A hand-made counter of upper left corners of bright spots, for the shades of red and green."""

    dim, in_channels, image_size = 2, 3, 32
    inputs = None

    def forward(self, x: Tensor) -> Tensor:
        bright = F.pad((x[:, :2] > 0.6).float(), (1, 0, 1, 0))
        here, left, above = bright[..., 1:, 1:], bright[..., 1:, :-1], bright[..., :-1, 1:]
        return (here * (1 - left) * (1 - above)).sum((2, 3))


def test_a_counter_of_dots_solves_the_task():
    """Dots of two by two pixels that cross no border of a quarter: the first distance is 0, the other is not."""
    images = torch.zeros(6, 3, 32, 32)
    for number, image in enumerate(images):
        for place in torch.randperm(64)[: 3 + 4 * number].tolist():
            row, column = divmod(place, 8)
            image[number % 2, 4 * row : 4 * row + 2, 4 * column : 4 * column + 2] = 1
    method = counting(Dots(), **PLAIN, tile_size=16)
    method.halvings = method.halvings[:1].expand(len(KERNELS), -1, -1)  # the box, to which dots are pixels
    method.head = nn.Sequential()
    given = {"image": images}
    whole, parts, other = method.count(method.tiles(given))
    assert whole.sum(1).tolist() == [3 + 4 * number for number in range(6)]
    same, different = distances(whole, parts, other)
    assert not same.any() and different.min() >= 10
    assert method(given).item() == 0


def test_tiles_have_the_same_brightness_and_contrast():
    encoder = Fixed()
    counting(encoder, gray=0.0)(batch(4))
    assert encoder.seen.shape == (24, 3, 8, 8)
    torch.testing.assert_close(encoder.seen.mean((2, 3)), torch.full((24, 3), 0.5), atol=1e-4, rtol=0)


def test_loss_of_equal_images_stays_at_the_margin():
    """A negative control: where all images are alike, no counts satisfy both terms."""
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).expand(8, -1, -1, -1)
    method = counting(encoders.build("conv4", image_size=16), counts=20, hidden_dim=32, crop=1.0, flip=0.0)
    assert train(method, images, 40) > 0.85 * method.margin


def train(method: Counting, images: Tensor, steps: int) -> float:
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        losses.append(method({"image": images}))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses[-5:]).mean().item()


def test_different_images_are_learned():
    images = 255 * F.interpolate(torch.rand(8, 3, 4, 4), 16)
    method = counting(encoders.build("conv4", image_size=16), counts=20, hidden_dim=32, crop=1.0, flip=0.0)
    assert train(method, images.to(torch.uint8), 60) < 0.5 * method.margin


def test_first_distances_are_of_the_order_of_the_margin():
    for counts in (20, 1000):
        torch.manual_seed(0)
        method = counting(encoders.build("conv4", image_size=16), counts=counts)
        method(batch(16))
        assert 0.03 * method.margin < method.metrics["same"] < 3 * method.margin


def test_pictures_show_tiles_and_counts():
    method = counting(Fixed(), counts=10)
    shown = method.pictures(batch(3))
    assert shown["quarters"].shape == (3, 3, 20, 20) and shown["counts of the whole"].shape == (3, 1, 3, 3)
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in shown.values())
    assert math.isclose(
        max(float(shown[n].max()) for n in shown if n == "summed counts of the quarters"), 1, abs_tol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "value"), [("margin", 0.0), ("counts", 0), ("hidden_dim", 0), ("tile_size", 0), ("gray", 1.5)]
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        counting(Fixed(), **{name: value})


def test_a_single_sample_of_a_process_is_compared_with_that_of_the_next(monkeypatch: pytest.MonkeyPatch):
    method, given, mine = counting(Fixed(), **PLAIN), batch(3), 2
    given["image"] = given["image"] // 8 + 60 * torch.arange(3, dtype=torch.uint8)[:, None, None, None]
    monkeypatch.setattr("unlabeled.parts.gather.processes", lambda: 3)
    monkeypatch.setattr("unlabeled.parts.gather.rank", lambda: mine)
    monkeypatch.setattr(
        "unlabeled.parts.gather.gather", lambda rows: given["image" if rows.ndim == 4 else "index"]
    )
    tiles = method.tiles({name: value[mine:] for name, value in given.items()})
    means = given["image"].float().mean((2, 3)) / 255
    torch.testing.assert_close(tiles[0, 0].mean((1, 2)), means[mine], atol=0.02, rtol=0)
    torch.testing.assert_close(tiles[0, 1].mean((1, 2)), means[0], atol=0.02, rtol=0)
    assert (means[0] - means[mine]).abs().max() > 0.05
