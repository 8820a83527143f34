"""Masks of cells: exact numbers, every place equally likely, no row or column left out."""

import itertools
import math

import pytest
import torch

from unlabeled.parts.token_masks import blockwise, cover, numbers, pick, random_cells, rectangles, tubes

CPU = torch.device("cpu")
MANY = 20_000


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_random_cells_are_exactly_as_many_and_every_set_is_equally_likely() -> None:
    masks = random_cells(MANY, 5, 3, CPU)
    assert bool((masks.sum(1) == 3).all())
    sets = (masks.long() * 2 ** torch.arange(5)).sum(1).bincount(minlength=32)
    expected = [MANY / 10 if bin(number).count("1") == 3 else 0 for number in range(32)]
    deviation = (MANY * 0.1 * 0.9) ** 0.5
    assert (sets - torch.tensor(expected)).abs().max() < 4.5 * deviation
    assert bool((random_cells(7, 196, int(0.9 * 196), CPU).sum(1) == 176).all())  # the paper's


def corner(rectangle: torch.Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what must be a rectangle."""
    rows, columns = rectangle.any(1).nonzero()[:, 0], rectangle.any(0).nonzero()[:, 0]
    top, left, height, width = int(rows[0]), int(columns[0]), len(rows), len(columns)
    assert bool(rectangle[top : top + height, left : left + width].all())
    assert int(rectangle.sum()) == height * width
    return top, left, height, width


def test_rectangles_have_one_size_and_are_at_every_place_equally_often() -> None:
    """Official code never uses the last row and column of places."""
    found = rectangles(1500, (6, 8), 2, 0.2, (0.75, 1.5), CPU)
    corners = [corner(one.view(6, 8)) for one in found.flatten(0, 1)]
    ((height, width),) = {(h, w) for _, _, h, w in corners}
    places = list(itertools.product(range(6 - height + 1), range(8 - width + 1)))
    counts = torch.tensor([sum((top, left) == place for top, left, _, _ in corners) for place in places])
    assert int(counts.sum()) == 3000
    expected = 3000 / len(places)
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert chi < len(places) - 1 + 4 * math.sqrt(2 * (len(places) - 1))


def test_every_cell_is_hidden_as_often_as_its_mirror_images() -> None:
    found = torch.cat([rectangles(500, (5, 5), 4, 0.15, (0.75, 1.5), CPU).any(1) for _ in range(40)])
    often = found.float().mean(0).view(5, 5)
    assert often.min() > 0.1
    for mirrored in (often.flip(0), often.flip(1)):
        assert (often - mirrored).abs().max() < 0.03


def test_sizes_of_rectangles_follow_area_and_aspect() -> None:
    sizes = {corner(rectangles(1, (14, 14), 1, 0.15, (0.75, 1.5), CPU).view(14, 14))[2:] for _ in range(200)}
    area = 0.15 * 196
    possible = {
        (round((area * ratio) ** 0.5), round((area / ratio) ** 0.5))
        for ratio in torch.linspace(0.75, 1.5, 2001).tolist()
    }
    assert sizes == possible and {5, 6, 7} == {height for height, _ in sizes}
    assert corner(rectangles(1, (2, 2), 1, 0.01, (1.0, 1.0), CPU).view(2, 2))[2:] == (1, 1)
    assert bool(rectangles(1, (3, 4), 1, 1.0, (9.0, 9.0), CPU).view(3, 4).all(0).any())  # as high as the grid


def test_cover_is_the_union_but_leaves_enough_visible() -> None:
    regions = torch.rand(300, 4, 12) < 0.35
    plain = cover(regions, 0)
    assert torch.equal(plain, regions.any(1))
    covered = cover(regions, 4)
    assert bool(((~covered).sum(1) >= 4).all())
    for sample, result in zip(regions, covered):
        hidden: set[int] = set()
        for region in sample:
            both = hidden | set(region.nonzero()[:, 0].tolist())
            hidden = both if 12 - len(both) >= 4 else hidden
        assert set(result.nonzero()[:, 0].tolist()) == hidden


def test_cover_counts_what_is_hidden_anyway() -> None:
    regions, hidden = torch.rand(300, 4, 12) < 0.2, torch.rand(300, 12) < 0.3
    before = hidden.clone()
    covered = cover(regions, 4, hidden)
    plain = cover(torch.cat([hidden[:, None], regions], 1), 4)
    enough = (~hidden).sum(1) >= 4
    assert torch.equal(covered[enough], plain[enough]) and torch.equal(covered[~enough], hidden[~enough])
    assert torch.equal(hidden, before) and bool(enough.any() and (covered & ~hidden).any())


@pytest.mark.parametrize(("grid", "hidden"), [((14, 14), 75), ((8, 8), 25), ((8, 8), 38), ((2, 3), 1)])
def test_blockwise_masks_are_exact_in_blocks_and_symmetric(grid: tuple[int, int], hidden: int) -> None:
    masks = blockwise(4000, grid, hidden, CPU).view(-1, *grid)
    assert bool((masks.sum((1, 2)) == hidden).all())
    often = masks.float().mean(0)
    assert often.min() > 0
    for mirrored in (often.flip(0), often.flip(1)):
        assert (often - mirrored).abs().max() < 0.06
    if hidden > 20:  # neighbours are alike far more often than in random cells
        alike = (masks[:, 1:] == masks[:, :-1]).float().mean()
        share = hidden / masks[0].numel()
        assert alike > 0.3 + 0.7 * (share**2 + (1 - share) ** 2)


def test_tubes_are_the_same_at_all_times() -> None:
    mask = torch.rand(3, 6) < 0.5
    assert torch.equal(tubes(mask, 4).view(3, 4, 6), mask[:, None].expand(-1, 4, -1))


def test_numbers_and_picked_tokens() -> None:
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert numbers(mask).tolist() == [[0, 2], [2, 3]]
    tokens = torch.randn(2, 4, 3)
    assert torch.equal(pick(tokens, numbers(mask)), torch.stack([tokens[0, [0, 2]], tokens[1, [2, 3]]]))
    with pytest.raises(AssertionError):
        numbers(torch.tensor([[True, True, True], [False, False, True]]))  # four in all, but not two each
