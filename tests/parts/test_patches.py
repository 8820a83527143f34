"""Cells, crops and standardised tiles against plain indexing."""

import pytest
import torch

from unlabeled.parts.patches import (
    SCALES,
    assemble,
    cells,
    crop,
    overlapping,
    permute,
    standardize,
    textured,
    tile_side,
    tiles,
)
from unlabeled.parts.permutations import permutation_set


def test_cells_are_numbered_row_by_row():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    found = cells(image, 3)
    for row in range(3):
        for column in range(3):
            expected = image[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(found[0, 3 * row + column], expected)


def test_assemble_inverts_cells():
    images = torch.randn(4, 3, 12, 8)
    assert torch.equal(assemble(cells(images, 4), 4), images)


def test_crop_equals_slices():
    images = torch.randn(5, 3, 9, 7)
    corners = torch.tensor([[0, 0], [5, 3], [2, 1], [4, 0], [1, 3]])
    found = crop(images, corners, 4)
    for image, (top, left), tile in zip(images, corners.tolist(), found):
        assert torch.equal(tile, image[:, top : top + 4, left : left + 4])


def test_standardized_channels_have_the_mean_and_deviation_asked_for():
    # Nearly constant channels become the mean.
    images = torch.rand(6, 3, 8, 8) * (0.1 + torch.rand(6, 3, 1, 1)) + torch.rand(6, 3, 1, 1)
    found = standardize(images, 0.5, 0.25)
    torch.testing.assert_close(found.mean(dim=(2, 3)), torch.full((6, 3), 0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        found.std(dim=(2, 3), correction=0), torch.full((6, 3), 0.25), atol=1e-5, rtol=0
    )


def test_standardized_constant_is_the_mean_and_brightness_is_forgotten():
    for value in (0.1, 0.7, 1 / 3):
        assert (standardize(torch.full((2, 3, 7, 7), value), 0.5, 0.25) == 0.5).all()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(standardize(images), standardize(images * 0.5 + 0.2), atol=1e-4, rtol=0)


def test_tile_of_each_position_is_the_one_the_permutation_names():
    numbered = torch.arange(9).float().view(1, 9, 1, 1, 1).expand(2, 9, 1, 4, 4)
    permutations = torch.tensor([[8, 3, 5, 7, 2, 1, 4, 0, 6], [1, 2, 3, 4, 5, 6, 7, 8, 0]])
    assert torch.equal(permute(numbered, permutations)[:, :, 0, 0, 0].long(), permutations)


def test_inverse_permutation_puts_the_image_back_together():
    images = torch.rand(72, 3, 12, 12)
    permutations = permutation_set(72, 9)
    puzzle = permute(tiles(images, 3, 4), permutations)
    back = permute(puzzle, permutations.argsort(dim=1))
    assert torch.equal(assemble(back, 3), images)


def test_positions_of_tiles_are_uniform_in_their_cells():
    position = torch.arange(12 * 12).float().view(1, 1, 12, 12).expand(500, 1, 12, 12)
    corner = tiles(position, 2, 4)[:, :, 0, 0, 0].long()  # cells of 6, tiles of 4: corners 0, 1 and 2
    rows, columns = corner // 12, corner % 12
    for cell in range(4):
        assert (rows[:, cell] // 6 == cell // 2).all() and (columns[:, cell] // 6 == cell % 2).all()
    for offsets in (rows % 6, columns % 6):
        share = torch.bincount(offsets.flatten(), minlength=3) / offsets.numel()
        assert len(share) == 3
        torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.04, rtol=0)


def test_overlapping_patches_are_cut_row_by_row_half_a_patch_apart() -> None:
    images = torch.arange(2 * 3 * 12 * 12).view(2, 3, 12, 12)
    cut = overlapping(images, 3).view(2, 3, 3, 3, 6, 6)
    for row in range(3):
        for column in range(3):
            expected = images[:, :, 3 * row : 3 * row + 6, 3 * column : 3 * column + 6]
            assert torch.equal(cut[:, row, column], expected)


def test_squares_lie_inside_and_have_each_of_the_sides():
    images = torch.rand(400, 3, 24, 24)
    squares = textured(images, 12)
    column, row, side = squares.unbind(1)
    assert set(side.tolist()) == {float(round(scale * 12)) for scale in SCALES}
    for center in (column, row):
        assert (center - side / 2 >= 0).all() and (center + side / 2 <= 24).all()
        assert torch.equal((center - side / 2).round(), center - side / 2)  # on whole pixels


def test_squares_lie_where_the_gradient_is():
    images = torch.full((400, 3, 32, 32), 0.5)
    images[:, :, :16, 16:] = torch.rand(400, 1, 16, 16)
    column, row, side = textured(images, 8).unbind(1)
    overlap = [
        ((x + side / 2).clamp(*ends) - (x - side / 2).clamp(*ends)) / side
        for x, ends in ((column, (16, 32)), (row, (0, 16)))
    ]
    assert (overlap[0] * overlap[1] > 0).float().mean() > 0.95 and (overlap[0] * overlap[1]).mean() > 0.6


def test_squares_are_drawn_in_proportion_to_the_mean_squared_gradient():
    """Two places of one pixel's brightness each, whose squared gradients are as one to four."""
    images = torch.zeros(4000, 1, 24, 24)
    images[:, :, 5, 5], images[:, :, 18, 18] = 0.5, 1.0
    column, _, _ = textured(images, 4).unbind(1)
    assert (column > 12).float().mean().item() == pytest.approx(0.8, abs=0.03)


def test_squares_of_flat_images_lie_anywhere():
    squares = textured(torch.full((2000, 3, 12, 12), 0.3), 6)
    assert squares.isfinite().all()
    whole = squares[squares[:, 2] == 6]
    counts = (whole[:, :2] - 3).long()
    assert (7 * counts[:, 0] + counts[:, 1]).bincount(minlength=49).min() > 0


@pytest.mark.parametrize(
    ("size", "ratio", "side"), [(32, 0.85, 8), (32, 1.0, 10), (32, 0.99, 9), (12, 0.1, 2), (255, 0.75, 64)]
)
def test_a_tile_leaves_room_in_its_cell_unless_it_is_all_of_it(size: int, ratio: float, side: int) -> None:
    assert tile_side(size, 3, ratio) == side


def test_cells_of_less_than_four_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 12, got 11"):
        tile_side(11, 3, 0.5)
