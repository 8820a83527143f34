"""RotNet: exact turns, labels that cannot leak, a loss that starts at chance."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.methods.rotnet import ANGLES, RotNet, turn
from unlabeled.parts.augment import rotate


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def glyph() -> torch.Tensor:
    """An F: no turn or mirror image of it is itself."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., 1:7, 2] = image[..., 1, 2:6] = image[..., 3, 2:5] = 1
    return image


def batch(samples: int = 6, size: int = 16) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (samples, 3, size, size), dtype=torch.uint8)
    return {"image": images, "index": torch.arange(samples)}


class Fixed(nn.Module):
    """An encoder without weights that remembers what it saw."""

    dim, in_channels, image_size = 48, 3, 8

    def inputs(self, batch):
        return batch["image"].float() / 255

    def forward(self, x):
        self.seen = x
        return F.adaptive_avg_pool2d(x, 4).flatten(1)


def test_quarter_turns_are_exact_and_counter_clockwise():
    image = glyph()
    height, width = image.shape[2:]
    for quarters in range(4):
        assert torch.equal(turn(image, 90.0 * quarters), torch.rot90(image, quarters, (2, 3)))
    once = turn(image, 90.0)
    for row in range(height):  # what was at the right is now at the top
        for column in range(width):
            assert once[0, 0, width - 1 - column, row] == image[0, 0, row, column]
    assert torch.equal(turn(turn(turn(once, 90.0), 90.0), 90.0), image)


def test_mirroring_after_a_quarter_turn_would_confuse_90_and_270():
    image = glyph()
    assert torch.equal(turn(image, 90.0).flip(3), turn(image.flip(3), 270.0))
    assert not torch.equal(turn(image, 90.0), turn(image.flip(3), 270.0))


def test_mirroring_comes_before_turning():
    encoder = Fixed()
    method = RotNet(encoder, crop=1.0, flip=1.0)
    images = batch(2, 8)
    method(images)
    upright = images["image"].flip(3) / 255
    for angle, copies in zip(ANGLES["4"], encoder.seen.chunk(4)):
        torch.testing.assert_close(copies, turn(upright, angle))


@pytest.mark.parametrize("rotations, count", [("4", 4), ("0-180", 2), ("90-270", 2), ("8", 8)])
def test_step_zero_is_at_chance_and_every_copy_is_in_the_batch(rotations, count):
    encoder = Fixed()
    method = RotNet(encoder, rotations=rotations)
    loss = method(batch(5, 8))
    assert len(encoder.seen) == 5 * count
    assert loss.item() == pytest.approx(math.log(count), abs=1e-3)
    assert method.chance(5) == pytest.approx(math.log(count))


def test_loss_is_the_mean_over_copies_of_the_log_probability_of_their_angle():
    encoder = Fixed()
    method = RotNet(encoder, crop=1.0, flip=0.0)
    nn.init.normal_(method.head.weight)
    images = batch(3, 8)
    total = 0.0
    for image in encoder.inputs(images):
        for label in range(4):
            logits = method.head(encoder(torch.rot90(image, label, (1, 2))[None]))[0].detach()
            total -= float(logits[label] - torch.logsumexp(logits, 0)) / 12
    assert method(images).item() == pytest.approx(total, rel=1e-5)
    assert method.metrics["accuracy"] <= 1


def test_round_images_stay_at_chance_however_long_one_trains():
    offsets = torch.arange(16) - 7.5
    radius = (offsets.square() + offsets[:, None].square()).sqrt()
    rings = torch.stack([torch.sin(radius * (1 + k / 4)) for k in range(8)])
    images = ((rings + 1) * 127).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    method = RotNet(encoders.build("conv4", image_size=16), crop=1.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for _ in range(8):
        loss = method({"image": images})
        assert loss.item() >= math.log(4) - 1e-4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_upright_images_are_learned():
    images = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    images[:, :, :6] = torch.randint(150, 255, (8, 1, 1, 1), dtype=torch.uint8)
    method = RotNet(encoders.build("conv4", image_size=16))
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(15):
        loss = method({"image": images})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


def test_eight_angles_lie_45_degrees_apart():
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    spot = torch.exp(-((x - 24) ** 2 + (y - 13) ** 2) / 18)[None, None]
    copies = [turn(spot, angle) for angle in ANGLES["8"]]
    middle = slice(6, 27)
    for number, copy in enumerate(copies):
        exact = rotate(spot, torch.tensor([22.5 + 45.0 * number]))
        torch.testing.assert_close(copy[..., middle, middle], exact[..., middle, middle], atol=0.05, rtol=0)


def test_none_of_eight_angles_is_sharper_and_no_corner_tells():
    noise = torch.rand(64, 1, 24, 24)
    copies = [turn(noise, angle) for angle in ANGLES["8"]]
    sharpness = torch.stack(
        [copy.diff(dim=2).square().mean() + copy.diff(dim=3).square().mean() for copy in copies]
    )
    assert sharpness.max() / sharpness.min() < 1.02
    plain = [rotate(noise, torch.full((64,), angle)) for angle in (0.0, 45.0)]
    assert plain[0].diff(dim=2).square().mean() > 1.3 * plain[1].diff(dim=2).square().mean()
    outside = copies[0] == 0.5
    assert outside[..., 0, 0].all() and not outside[..., 12, 12].any()
    inside = turn(torch.ones(1, 1, 24, 24), 22.5)
    torch.testing.assert_close(inside[inside != 0.5], torch.ones(int((inside != 0.5).sum())))


def test_pictures_turn_back_by_the_predicted_angle():
    method = RotNet(Fixed())
    images = batch(8, 8)
    with torch.no_grad():  # always answers 90 degrees
        method.head.bias[1] = 1
    shown = method.pictures(images)
    assert all(picture.shape == (8, 3, 8, 8) for picture in shown.values())
    torch.testing.assert_close(shown["turned"][1], torch.rot90(shown["image"][1], 1, (1, 2)))
    torch.testing.assert_close(shown["turned back"][1], shown["image"][1])
    torch.testing.assert_close(shown["turned back"][0], torch.rot90(shown["image"][0], 3, (1, 2)))


@pytest.mark.parametrize("name, value", [("rotations", "3"), ("crop", 0.0), ("flip", 1.5)])
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        RotNet(Fixed(), **{name: value})
