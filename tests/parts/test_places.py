"""Patches at places: where their positions lie, what is cut out, where something moves, and what is drawn."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.parts.places import SCALE, border, localizer, moving_places, points, sample, thirds


def place(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def test_points_are_those_of_a_slow_loop() -> None:
    x, y, angle = 0.3, -0.2, 0.7
    found = points(place(x, y, angle), 4)
    for row in range(4):
        for column in range(4):
            right, down = (2 * column + 1) / 4 - 1, (2 * row + 1) / 4 - 1
            true = (
                x + (math.cos(angle) * right - math.sin(angle) * down) / 3,
                y + (math.sin(angle) * right + math.cos(angle) * down) / 3,
            )
            assert found[0, row, column].tolist() == pytest.approx(true)


def test_patches_of_whole_positions_are_cut_out_exactly() -> None:
    maps = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(sample(maps, place(0, 0, 0), 3), maps[:, :, 3:6, 3:6])
    torch.testing.assert_close(sample(maps, place(4 / 9, -2 / 9, 0), 3), maps[:, :, 2:5, 5:8])
    turned = maps[:, :, 3:6, 3:6].rot90(1, (2, 3))
    torch.testing.assert_close(sample(maps, place(0, 0, math.pi / 2), 3), turned)


def test_what_lies_beyond_the_frame_is_zero_or_reflected() -> None:
    maps = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    outside = place(8 / 9, 0, 0)  # columns 7, 8 and one beyond
    assert sample(maps, outside, 3)[..., 2].eq(0).all()
    reflected = sample(maps, outside, 3, "reflection")
    torch.testing.assert_close(reflected, maps[:, :, 3:6, [7, 8, 8]])


def test_patches_lie_where_the_last_frame_changes_within_the_frame_and_the_angles() -> None:
    torch.manual_seed(0)
    clips = torch.zeros(600, 3, 1, 18, 18)
    clips[:, 0] = torch.rand(600, 1, 18, 18)  # what happened before does not count
    clips[:, 2, :, 10:, 10:] = 1  # cells 5 to 8 of 0 to 8
    clips[:300, 2] = torch.rand(300, 1, 18, 18)
    places = moving_places(clips, 45.0)
    anywhere, moving = places.split(300)
    assert places[:, :2].abs().max() <= 1 - SCALE + 1e-6
    assert places[:, 2].abs().max() <= math.pi / 4 < places[:, 2].abs().max() + 0.02
    assert anywhere[:, :2].amin() < -0.6 and anywhere[:, :2].amax() > 0.6
    # The ten windows of 3x3 cells that share most with them begin at cell 3 or later, of 0 to 6, within half a cell.
    assert moving[:, :2].amin() >= (2 * 2.5 / 6 - 1) * (1 - SCALE) - 1e-6 and moving[:, :2].amax() > 0.6
    assert moving_places(clips, 0.0)[:, 2].eq(0).all()


def test_borders_are_those_of_the_patch() -> None:
    drawn = border(place(0, 0, 0), 9)[0]
    square = torch.zeros(9, 9)
    square[3:6, 3:6] = 1
    square[4, 4] = 0
    assert torch.equal(drawn.float() * square, square) and drawn[[0, 8]].sum() == 0 and drawn[4, 4] == 0
    assert torch.equal(border(place(2 / 9, 0, 0), 9)[0], drawn.roll(1, 1))
    torch.testing.assert_close(border(place(0, 0, math.pi / 2), 33), border(place(0, 0, 0), 33))
    corner = border(place(0, 0, math.pi / 4), 99)[0].nonzero().float().mean(1)  # a diamond is wider
    assert (
        border(place(0, 0, math.pi / 4), 99)[0].any(0).sum()
        > 1.3 * border(place(0, 0, 0), 99)[0].any(0).sum()
    )
    assert corner.mean() == pytest.approx(49, abs=0.5)


def test_localizer_first_answers_the_middle_and_has_the_shape_of_the_paper_at_its_size() -> None:
    torch.manual_seed(0)
    network = localizer(10)
    assert network[0].weight.shape == (128, 900, 4, 4) and network[2].weight.shape == (64, 128, 4, 4)
    assert network[5].weight.shape == (3, 1024)
    assert network(torch.rand(4, 900, 10, 10).softmax(1)).abs().max() < 0.05
    for side in (2, 3, 5):
        assert localizer(side)(torch.rand(2, 9 * side**2, side, side)).shape == (2, 3)


def test_patches_have_a_third_of_the_positions_or_the_encoder_is_refused() -> None:
    def frame(name: str, size: int) -> encoders.ImageEncoder:
        return encoders.build(name, image_size=size)

    assert thirds(frame("conv4", 64), None) == ("s3", 5, 20)
    assert thirds(frame("conv4", 64), "s4") == ("s4", 2, 16)
    with pytest.raises(ValueError, match="image_size must be at least 24, got 16"):
        thirds(frame("conv4", 16), None)
    for size in (24, 32):
        with pytest.raises(ValueError, match=f"in proportion to its images, .* of {size} pixels"):
            thirds(frame("alexnet", size), None)
    with pytest.raises(ValueError, match="layer must be one of s1, s2, s3, s4, got s9"):
        thirds(frame("conv4", 64), "s9")
