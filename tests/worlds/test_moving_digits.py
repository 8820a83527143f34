"""Moving digits: mirrors, brightness that nothing loses, and a world that looks the same backward."""

import pytest
import torch

from unlabeled.worlds import moving_digits
from unlabeled.worlds.moving_digits import make, mirrored


def test_shapes_and_seeds():
    world = make(5, 3, digits=2, frames=7, size=20)
    assert world["video"].shape == (5, 7, 1, 20, 20) and world["video"].dtype == torch.uint8
    assert {name: (value.dtype, len(value)) for name, value in world.items() if name != "video"} == {
        "digit": (torch.int64, 5),
        "direction": (torch.int64, 5),
        "speed": (torch.float32, 5),
    }
    again, other = make(5, 3, digits=2, frames=7, size=20), make(5, 4, digits=2, frames=7, size=20)
    assert all(torch.equal(world[name], again[name]) for name in world)
    assert not torch.equal(world["video"], other["video"])


def test_mirrors_agree_with_following_a_ball_step_by_step():
    position, velocity, room = 3.2, 1.7, 8.0
    straight = torch.tensor([position + velocity * step for step in range(60)], dtype=torch.float64)
    found = []
    for _ in range(60):
        found.append(position)
        position += velocity
        while not 0 <= position <= room:
            position = 2 * room - position if position > room else -position
            velocity = -velocity
    torch.testing.assert_close(mirrored(straight, room), torch.tensor(found, dtype=torch.float64))
    assert mirrored(torch.tensor([-3.0]), 8.0).item() == 3 and mirrored(torch.tensor([17.0]), 8.0).item() == 1


def test_no_brightness_is_lost_and_nothing_leaves_the_frame():
    video = make(20, 0)["video"].float()
    light = video.sum((2, 3, 4))
    assert (light / light[:, :1] - 1).abs().max() < 0.02  # rounding to 256 levels


def test_overlapping_digits_keep_the_brighter_pixel(monkeypatch):
    both = make(8, 1, digits=2)["video"]
    glyphs = moving_digits._glyphs("train")
    monkeypatch.setattr(moving_digits, "_glyphs", lambda part: (torch.ones_like(glyphs[0]), glyphs[1]))
    white = make(8, 1, digits=2)["video"]
    assert white.max() == 255 and bool((both <= white).all())
    light = white.float().sum((2, 3, 4)) / 255
    assert light.min() >= 64 - 1 and light.max() <= 128 + 1 and light.min() < 120  # some of them overlap


def test_direction_is_that_of_the_middle_frame():
    world = make(400, 0, size=48, frames=5)
    video = world["video"].float()[:, :, 0]
    pixels = torch.arange(48.0)
    light = video.sum((2, 3))
    x = (video.sum(2) * pixels).sum(2) / light
    y = (video.sum(3) * pixels).sum(2) / light
    step = torch.stack([x[:, 3] - x[:, 1], -(y[:, 3] - y[:, 1])], 1) / 2
    length = step.norm(dim=1)
    straight = (length - world["speed"]).abs() < 0.02  # met no border
    assert straight.sum() > 300
    eighths = (torch.atan2(step[:, 1], step[:, 0]) / (torch.pi / 4)).round().long() % 8
    assert torch.equal(eighths[straight], world["direction"][straight])


def test_backward_is_as_likely_as_forward():
    video = make(1500, 0)["video"].float()[:, :, 0]
    spread = ((video.sum(2) * torch.arange(16.0)).sum(2) / video.sum((2, 3)) - 7.5).abs()
    for early, late in [(0, 19), (0, 10), (3, 16)]:
        error = (spread[:, early].var() / 1500 + spread[:, late].var() / 1500).sqrt()
        assert (spread[:, early].mean() - spread[:, late].mean()).abs() < 4 * error


def test_the_two_parts_share_no_handwriting():
    assert len(moving_digits._glyphs("train")[0]) == 1437 and len(moving_digits._glyphs("test")[0]) == 360


@pytest.mark.parametrize("option", [{"n": 0}, {"digits": 0}, {"frames": 0}, {"size": 8}, {"glyphs": "all"}])
def test_bad_values_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        make(**{"n": 1, "seed": 0, **option})
