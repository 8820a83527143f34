import pytest
import torch

from unlabeled.parts.masks import blocks, central, region, ring

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_central_hole_is_a_quarter_of_the_image_in_its_middle(size):
    drop = central(3, size, CPU)
    assert drop.shape == (3, 1, size, size)
    assert (drop.flatten(1).sum(1) == size**2 // 4).all()
    assert torch.equal(drop, drop.flip(2, 3))


@pytest.mark.parametrize("size", [8, 28, 32, 100])
def test_blocks_cover_something_and_at_most_a_quarter(size):
    area = blocks(1000, size, CPU).flatten(1).float().mean(1)
    assert area.min() > 0
    assert area.max() <= 0.25
    assert area.unique().numel() > 3


def test_a_block_is_a_rectangle_inside_the_image():
    for drop in blocks(200, 32, CPU, count=1, area=0.1)[:, 0]:
        rows, columns = drop.any(1), drop.any(0)
        assert torch.equal(drop, rows[:, None] & columns)
        for side in (rows, columns):
            assert 1 <= side.sum() == side.nonzero().max() - side.nonzero().min() + 1


def test_blocks_reach_every_place():
    assert blocks(2000, 16, CPU).any(0).all()


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_regions_cover_a_fifth_to_three_tenths(size):
    area = region(1000, size, CPU).flatten(1).double().mean(1)
    assert area.min() >= 0.2
    assert area.max() <= 0.3
    assert area.unique().numel() > 3


def test_regions_are_smooth_blobs_that_differ_between_images():
    drop = region(50, 64, CPU)
    assert len(drop.flatten(1).unique(dim=0)) == 50
    borders = (drop[..., 1:] != drop[..., :-1]).float().mean()
    assert borders < 0.5 * 2 * 0.25 * 0.75


def test_ring_is_all_that_is_known_within_its_width():
    drop = central(1, 12, CPU)
    hole = drop[0, 0].nonzero()
    for width in (1, 2):
        expected = torch.zeros(12, 12, dtype=torch.bool)
        for y in range(12):
            for x in range(12):
                distance = (hole - torch.tensor([y, x])).abs().amax(1).min()
                expected[y, x] = 0 < distance <= width
        assert torch.equal(ring(drop, width)[0, 0], expected)
