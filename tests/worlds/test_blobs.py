"""Blobs: the masks are those of the things, lightness and hue know nothing of each other, nothing leaves the frame."""

import math

import pytest
import torch
from einops import rearrange

from unlabeled.parts.color import rgb_to_lab
from unlabeled.worlds import blobs


@pytest.fixture(scope="module")
def made():
    return blobs.make(16, seed=0)


def lab(video: torch.Tensor) -> torch.Tensor:
    images = rgb_to_lab(rearrange(video, "n t c h w -> (n t) c h w").float() / 255)
    return rearrange(images, "(n t) c h w -> n t c h w", n=len(video))


def test_shapes_ranges_and_kinds(made):
    assert made["video"].shape == (16, 12, 3, 64, 64) and made["video"].dtype == torch.uint8
    assert made["masks"].shape == (16, 12, 64, 64) and made["masks"].dtype == torch.uint8
    assert made["masks"].unique().tolist() == [0, 1, 2]
    for thing in (1, 2):
        assert set(made[f"shape_{thing}"].tolist()) == {0, 1}
        assert made[f"hue_{thing}"].min() >= 0 and made[f"hue_{thing}"].max() <= 2 * math.pi
        assert made[f"speed_{thing}"].min() >= 0.8 and made[f"speed_{thing}"].max() <= 2.4


def test_the_same_seed_gives_the_same_videos_and_another_gives_others(made):
    again, other = blobs.make(16, seed=0), blobs.make(16, seed=1)
    assert all(torch.equal(made[name], again[name]) for name in made)
    assert not torch.equal(made["video"], other["video"])


def test_every_thing_has_its_hue_and_its_size(made):
    colors = lab(made["video"])[:, :, 1:]
    for thing in (1, 2):
        shown = made["masks"] == thing
        for row in range(16):
            a, b = colors[row].movedim(1, 0)[:, shown[row]].mean(1)
            hue = made[f"hue_{thing}"][row]
            assert torch.cos(torch.atan2(b, a) - hue) > 0.99
        # An area of pi r**2 with r of 8 to 12, disc or square, whole in the first frame.
        assert shown[:, 0].sum((1, 2)).min() >= 190 and shown[:, 0].sum((1, 2)).max() <= 470


def test_things_stay_in_sight_and_the_second_is_in_front(made):
    second = (made["masks"] == 2).sum((2, 3))
    assert (second - second[:, :1]).abs().max() <= 44  # a row and a column of its border
    assert (made["masks"] == 1).sum((2, 3))[:, 0].min() > 0


def test_lightness_tells_nothing_of_the_hues():
    """Other hues at the same places leave the lightness as it was, up to the rounding of pixels."""
    lasting, changing = (blobs.make(4, seed=3, hues=hues)["video"] for hues in ("video", "frame"))
    assert (lasting[:, 1:] != changing[:, 1:]).any()
    assert (lab(lasting)[:, :, 0] - lab(changing)[:, :, 0]).abs().max() < 0.5
    assert torch.equal(lasting[:, 0], changing[:, 0])


def test_no_pixel_is_clipped(made):
    colors = lab(made["video"])
    assert (colors[:, :, 1:].norm(dim=2).max() - blobs.CHROMA).abs() < 1.5
    low, high = blobs.LIGHTNESS
    assert colors[:, :, 0].min() > low - 1 and colors[:, :, 0].max() < high + 1


def test_without_motion_all_frames_are_one():
    still = blobs.make(2, seed=0, motion=0.0)
    assert torch.equal(still["video"], still["video"][:, :1].expand_as(still["video"]))
    assert torch.equal(still["masks"], still["masks"][:, :1].expand_as(still["masks"]))


def test_texture_moves_with_the_thing():
    """What is under a thing's centre stays what it was, while the place where it stood changes."""
    made = blobs.make(16, seed=5, frames=4)
    light, masks = lab(made["video"])[:, :, 0], made["masks"] == 2
    axis = torch.arange(64.0)
    centre = torch.stack(
        [(masks.sum(3) * axis).sum(2) / masks.sum((2, 3)), (masks.sum(2) * axis).sum(2) / masks.sum((2, 3))],
        2,
    )
    carried, stayed = [], []
    for row in range(16):
        first, last = (centre[row, frame].round().long().tolist() for frame in (0, 3))
        crop = [
            light[row, t, y - 4 : y + 5, x - 4 : x + 5] for t, (y, x) in ((0, first), (3, last), (3, first))
        ]
        carried.append((crop[0] - crop[1]).abs().mean())
        stayed.append((crop[0] - crop[2]).abs().mean())
    assert torch.stack(carried).mean() < 0.5 * torch.stack(stayed).mean()


def test_size_scales_everything():
    small, large = (blobs.make(4, seed=2, frames=4, size=size) for size in (32, 64))
    share = [(made["masks"] > 0).float().mean((1, 2, 3)) for made in (small, large)]
    torch.testing.assert_close(share[0], share[1], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"size": 8}, "size must be at least 16"),
        ({"motion": float("nan")}, "motion must be at least 0"),
        ({"hues": "never"}, "hues must be one of"),
    ],
)
def test_refuses_nonsense(options, message):
    with pytest.raises(ValueError, match=message):
        blobs.make(**{"n": 1, "seed": 0, **options})
