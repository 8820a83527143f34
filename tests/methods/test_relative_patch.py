"""Relative patch location: correct positions, and no way to predict them but from the content."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.methods.relative_patch import OUTER, RelativePatch, layout

PLAIN = {"crop": 1.0, "color": "keep", "pixelate": 0.0}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Fixed(nn.Module):
    """An encoder without weights that remembers what it saw."""

    dim, in_channels, image_size = 12, 3, 32

    def inputs(self, batch):
        return batch["image"].float() / 255

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


def batch(samples: int = 6, size: int = 32) -> dict[str, Tensor]:
    return {"image": torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8)}


def last_loss(method: RelativePatch, draw, steps: int = 150, lr: float = 3e-3) -> float:
    """Mean loss of the last steps of a training on ever new images."""
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(method({"image": draw()}))
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses[-20:]).mean().item()


@pytest.mark.parametrize("size", [12, 16, 32, 64, 96, 224])
@pytest.mark.parametrize(("gap", "shift"), [(0.5, 0.07), (0.0, 0.0), (0.5, 0.0), (1.0, 0.3)])
def test_grid_fits_and_no_larger_one_would(size, gap, shift):
    side, space, most = layout(size, gap, shift)
    total = 3 * side + 2 * space + 2 * most
    assert total <= size and (space > 2 * most or not gap)
    assert 3 * (side + 1) + 2 * math.floor(gap * (side + 1) + 0.5) + 2 * shift * (side + 1) > size - 6


def test_layout_has_the_proportions_of_the_paper():
    assert layout(384 + 14, 0.5, 0.07) == (96, 48, 7)
    assert layout(64, 0.5, 0.07) == (15, 8, 1)


def test_patches_lie_at_their_positions_with_gaps_between_them():
    """The image tells its own coordinates: red is the column, green the row."""
    ramp = torch.arange(32.0) / 32
    image = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.zeros(32, 32)])
    method = RelativePatch(Fixed(), **PLAIN)  # type: ignore[arg-type]
    side, space, most = method.side, method.space, method.shift
    assert most > 0
    cut = method.cut(image.expand(300, -1, -1, -1)).unflatten(0, (300, 9))
    left, top = ((32 * cut[:, :, channel, 0, 0]).round().long() for channel in (0, 1))
    shifts = set()
    for number, place in enumerate(OUTER):
        row, column = divmod(place, 3)
        for offset, steps in (
            (left[:, place] - left[:, 4], column - 1),
            (top[:, place] - top[:, 4], row - 1),
        ):
            expected = steps * (side + space)
            assert (offset - expected).abs().max() <= 2 * most
            assert steps == 0 or (offset.abs() - side >= space - 2 * most).all()
            shifts |= set((offset - expected).tolist())
        assert number == place - (place > 4)
    assert shifts == set(range(-2 * most, 2 * most + 1))
    assert left.min() >= 0 and left.max() + side <= 32 and left[:, 0].unique().numel() > 2


@pytest.mark.parametrize("samples", [1, 5])
def test_first_loss_is_at_chance(samples):
    method = RelativePatch(Fixed())  # type: ignore[arg-type]
    assert method(batch(samples)).item() == pytest.approx(math.log(8), abs=1e-2)
    assert method.chance(samples) == pytest.approx(math.log(8))


def test_loss_and_its_gradient_match_a_slow_loop():
    """Each of the eight neighbours beside the centre, and the centre beside each, whose place is then the opposite."""
    encoder = Fixed()
    method = RelativePatch(encoder, **PLAIN, head_dim=16, patch_size=8).eval()  # type: ignore[arg-type]
    nn.init.normal_(method.head[-1].weight)  # type: ignore[arg-type]
    loss = method(batch(3))
    loss.backward()
    vectors = F.adaptive_avg_pool2d(encoder.seen, 2).flatten(1).view(3, 9, 12)
    names = {-1: {-1: 0, 0: 1, 1: 2}, 0: {-1: 3, 1: 4}, 1: {-1: 5, 0: 6, 1: 7}}
    total, weight = 0.0, method.head[-1].weight
    gradient = torch.zeros_like(weight)  # type: ignore[arg-type]
    for own in vectors:
        for row in (-1, 0, 1):
            for column in (-1, 0, 1):
                if row == column == 0:
                    continue
                other, center = own[3 * (row + 1) + column + 1], own[4]
                for pair, label in (
                    ((center, other), names[row][column]),
                    ((other, center), names[-row][-column]),
                ):
                    hidden = method.head[:-1](torch.cat(pair)[None])[0].detach()
                    scores = method.head(torch.cat(pair)[None])[0].detach().double()
                    share = scores.exp() / scores.exp().sum()
                    total -= float(share[label].log()) / 48
                    share[label] -= 1
                    gradient += share.float()[:, None] * hidden / 48
    assert loss.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_dropped_channels_do_not_reach_the_encoder():
    encoder = Fixed()
    method = RelativePatch(encoder, crop=1.0, pixelate=0.0)  # type: ignore[arg-type]

    def seen(images: Tensor) -> Tensor:
        torch.manual_seed(4)
        method({"image": images})
        return encoder.seen

    images = batch(4)["image"]
    plain = seen(images)
    flat = (plain - 0.5).abs().amax((2, 3)) < 0.05
    assert (flat.sum(1) == 2).all()
    red_gone = images.clone()
    red_gone[:, 0] = 255 - red_gone[:, 0]
    without_red = flat[:, 0]
    assert 0.4 < without_red.float().mean() < 0.9
    assert torch.equal(seen(red_gone)[without_red], plain[without_red])


def test_pixelate_is_the_fraction_of_pixelated_patches():
    method = RelativePatch(Fixed(), color="keep", pixelate=0.33)  # type: ignore[arg-type]
    patches = torch.rand(2000, 3, method.side, method.side)
    changed = (method.disguise(patches) - patches).abs().amax((1, 2, 3)) > 1e-4
    assert changed.float().mean().item() == pytest.approx(0.33, abs=0.06)


class Borders(Fixed):
    """An encoder that sees nothing but the borders of a grey patch."""

    dim, in_channels, image_size = 28, 1, 25

    def forward(self, x: Tensor) -> Tensor:
        sides = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], dim=1)
        return 4 * F.adaptive_avg_pool1d(sides, 7).flatten(1) - 2


def test_texture_that_continues_is_a_shortcut_that_gaps_prevent():
    """Images of blurred noise have no layout: only the borders of patches tell which of them touch."""

    def loss(gap: float, shift: float) -> float:
        torch.manual_seed(0)
        method = RelativePatch(Borders(), gap=gap, shift=shift, patch_size=7, **PLAIN)  # type: ignore[arg-type]
        draw = lambda: F.avg_pool2d(torch.rand(32, 1, 27, 27), 3, stride=1)  # noqa: E731
        return last_loss(method, draw, 100, 1e-2)

    assert loss(0.0, 0.0) < math.log(8) - 0.35
    assert loss(0.5, 0.07) > math.log(8) - 0.03


class Fringes(Fixed):
    """An encoder that sees nothing but how well green, moved by a pixel, fits red."""

    dim, image_size = 9, 32

    def forward(self, x: Tensor) -> Tensor:
        red, green = (x - x.mean((2, 3), keepdim=True))[:, :2].unbind(1)
        inner = red[:, 1:-1, 1:-1]
        side = inner.shape[1]
        moved = [green[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
        return 40 * torch.stack([(one * inner).mean((1, 2)) for one in moved], 1)


def aberrant(count: int = 24, size: int = 32) -> Tensor:
    """Noise whose green channel lies a pixel further out than red and blue, in each direction."""
    noise = torch.rand(count, size + 2, size + 2)
    step = torch.tensor([-1] * (size // 3) + [0] * (size - 2 * (size // 3)) + [1] * (size // 3))
    place = torch.arange(size) + 1
    green = noise[:, (place - step)[:, None], place - step]
    plain = noise[:, 1:-1, 1:-1]
    return torch.stack([plain, green, plain], 1)


def test_displaced_channels_are_a_shortcut_that_dropping_prevents():
    def loss(color: str) -> float:
        torch.manual_seed(0)
        options = PLAIN | {"color": color, "patch_size": 8, "head_dim": 64}
        return last_loss(RelativePatch(Fringes(), **options), aberrant, 80, 1e-2)  # type: ignore[arg-type]

    assert loss("keep") < 1.0
    assert loss("drop") > math.log(8) - 0.03


def test_tint_that_reveals_the_position_is_a_shortcut_that_projection_prevents():
    ramp = torch.linspace(-0.3, 0.3, 32)

    def draw() -> Tensor:
        tint = torch.tensor([-1.0, 2, -1])[:, None, None] * (ramp + ramp[:, None] / 3) / 4
        return 0.5 + tint + 0.05 * torch.rand(32, 1, 32, 32)

    def loss(color: str) -> float:
        torch.manual_seed(0)
        options = PLAIN | {"color": color, "head_dim": 64}
        return last_loss(RelativePatch(Fixed(), **options), draw, 60)  # type: ignore[arg-type]

    assert loss("keep") < 1.7
    assert loss("project") > math.log(8) - 0.03


def test_layout_is_learned():
    """Each image has a bright top and a red left."""
    images = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    images += torch.linspace(200, 0, 32)[:, None].to(torch.uint8)
    images[:, 0] += torch.linspace(50, 0, 32).to(torch.uint8)
    method = RelativePatch(encoders.build("conv4", image_size=32), head_dim=64, **PLAIN)  # type: ignore[arg-type]
    assert last_loss(method, lambda: images, 40) < 1.0


def test_small_patches_are_enlarged_and_grey_images_keep_their_values():
    method = RelativePatch(encoders.build("resnet10", image_size=32))
    assert method.side == 7 and method.patch_size == 17
    gray = RelativePatch(encoders.build("conv4", image_size=32, in_channels=1), pixelate=0.0)
    patches = torch.rand(4, 1, gray.side, gray.side)
    torch.testing.assert_close(gray.disguise(patches), patches)


def test_pictures_put_patches_where_they_are_predicted():
    method = RelativePatch(Fixed(), **PLAIN)  # type: ignore[arg-type]
    with torch.no_grad():  # always answers the lower right corner
        method.head[-1].weight.zero_()  # type: ignore[operator]
        method.head[-1].bias[7] = 1  # type: ignore[index]
    shown = method.pictures(batch(2))
    side = method.side + 2
    assert shown["patches"].shape == shown["arranged as predicted"].shape == (2, 3, 3 * side, 3 * side)
    cells = shown["arranged as predicted"].unfold(2, side, side).unfold(3, side, side)
    before = shown["patches"].unfold(2, side, side).unfold(3, side, side)
    assert torch.equal(cells[:, :, 1, 1], before[:, :, 1, 1]) and not cells[:, :, 0].any()
    others = before.flatten(2, 3)[:, :, OUTER]
    torch.testing.assert_close(cells[:, :, 2, 2], others.mean(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [("gap", -0.1), ("shift", 1.1), ("color", "grey"), ("pixelate", 2.0), ("patch_size", 0), ("crop", 0.0)],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        RelativePatch(Fixed(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [12, 13, 14])
def test_patches_of_one_pixel_are_refused(size):
    encoder = encoders.build("conv4", image_size=size)
    if size == 14:
        assert RelativePatch(encoder).side == 2
        return
    message = f"leave patches of at least 2 pixels in images of {size}, got gap 0.5 and shift 0.07"
    with pytest.raises(ValueError, match=message):
        RelativePatch(encoder)
    assert RelativePatch(encoder, gap=0.0, shift=0.0).side == 4
