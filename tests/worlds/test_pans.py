"""Pans: geometry with closed forms, and a control in which frames show nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.worlds import pans

UPRIGHT = math.pi / 2


def seen(picture: Tensor, x: float, y: float, heading: float, size: int) -> Tensor:
    return pans.look(picture, torch.tensor([[x, y, heading]]), size)[0]


def picture(size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8)


def test_an_upright_camera_at_the_centre_sees_the_picture_unchanged() -> None:
    torch.testing.assert_close(seen(picture(), 0, 0, UPRIGHT, 16), picture() / 255, atol=1e-4, rtol=0)


def test_whole_pixels_to_the_right_and_up_move_the_picture_left_and_down() -> None:
    moved, whole = seen(picture(), 3, 2, UPRIGHT, 16), picture() / 255
    torch.testing.assert_close(moved[:, 2:, :-3], whole[:, :-2, 3:], atol=1e-4, rtol=0)
    back = seen((moved * 255).round().to(torch.uint8), -3, -2, UPRIGHT, 16)
    torch.testing.assert_close(back[:, :-2, 3:], whole[:, :-2, 3:], atol=1e-2, rtol=0)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turning_to_the_left_turns_the_picture_to_the_right_about_the_centre(quarters: int) -> None:
    turned = seen(picture(), 0, 0, UPRIGHT * (1 + quarters), 16)
    torch.testing.assert_close(turned, torch.rot90(picture() / 255, -quarters, (1, 2)), atol=1e-3, rtol=0)


def test_turning_does_not_move_the_centre() -> None:
    dot = torch.zeros(1, 9, 9, dtype=torch.uint8)
    dot[0, 4, 4] = 255
    for degrees in (-30, -7, 13, 30):
        image = seen(dot, 0, 0, UPRIGHT + math.radians(degrees), 9)[0]
        assert image[4, 4] == pytest.approx(1, abs=1e-3) and int(image.flatten().argmax()) == 40


def test_outside_a_picture_is_its_reflection_and_no_border() -> None:
    moved = seen(picture(), 4, 0, UPRIGHT, 16)
    torch.testing.assert_close(moved[:, :, 12:], (picture() / 255)[:, :, 12:].flip(2), atol=1e-3, rtol=0)


def test_wide_pictures_are_not_squeezed() -> None:
    wide = torch.zeros(1, 8, 16, dtype=torch.uint8)
    wide[0, 2:6, 6:10] = 255
    image = seen(wide, 0, 0, UPRIGHT, 16)[0] > 0.5
    assert image.any(0).sum() == image.any(1).sum() == 8


def make(n: int = 5, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    return pans.make(n, seed, **{"pictures": torch.stack([picture(), picture(seed=1)]), "size": 12} | options)


def test_walks_have_the_documented_shapes_and_motions_their_range() -> None:
    made = make(400, frames=3, shift=3, turn=30)
    assert made["video"].shape == (400, 3, 3, 12, 12) and made["video"].dtype == torch.uint8
    assert made["picture"][:4].tolist() == [0, 1, 0, 1]
    apart = (made["pose"][:, :, None] - made["pose"][:, None]).abs().amax((0, 1, 2))
    limits = torch.tensor([3, 3, math.radians(30)])
    assert bool((apart <= limits).all()) and bool((apart > 0.9 * limits).all())


def test_the_seed_decides_everything_and_blank_frames_show_nothing() -> None:
    torch.manual_seed(1)
    first = make(seed=4)
    torch.manual_seed(2)
    assert all(torch.equal(value, make(seed=4)[key]) for key, value in first.items())
    assert not torch.equal(first["pose"], make(seed=5)["pose"])
    blank = make(seed=4, blank=True)
    assert len(blank["video"].unique()) == 1 and torch.equal(blank["pose"], first["pose"])


@pytest.mark.parametrize("option", [{"n": 0}, {"frames": 0}, {"size": 0}, {"shift": -1}, {"turn": -1}])
def test_bad_values_are_named(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        make(**option)
