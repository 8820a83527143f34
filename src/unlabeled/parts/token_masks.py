"""Which cells of a grid are hidden from a transformer. In every mask True means hidden."""

import math

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.parts.masks import intervals

__all__ = [
    "FEWEST",
    "blockwise",
    "both",
    "cover",
    "numbers",
    "pick",
    "random_cells",
    "rectangles",
    "some",
    "some_blockwise",
    "tubes",
]

FEWEST = 0.05
"""Fraction of the cells that rectangles leave visible."""
RECTANGLES = 32
"""Drawn for a blockwise mask; it takes as many as it needs."""
LEAST_AREA, MOST_ASPECT = 16 / 196, 10 / 3
"""Of these rectangles: area as a fraction of the grid, and height divided by width or the other way round."""


def some(mask: float, cells: int, what: str) -> int:
    """A fraction of the cells, rounded down.

    Args:
        mask: Fraction to hide, in 0..1, both excluded.
        cells: Cells that there are.
        what: They are, in words.

    Raises:
        UserError: It is none.
    """
    if (hidden := int(mask * cells)) == 0:
        raise UserError(f"mask must hide at least one of the {cells} {what}, got {mask}")
    return hidden


def random_cells(batch: int, cells: int, hidden: int, device: torch.device) -> Tensor:
    """Masks with the same number of hidden cells, each set of cells equally likely.

    Args:
        batch: Number of masks.
        cells: Cells of a grid.
        hidden: How many of them are hidden.
        device: Device of the masks.

    Returns:
        Bool, shape (batch, cells).
    """
    return torch.rand(batch, cells, device=device).argsort(1).argsort(1) < hidden


def blockwise(batch: int, grid: tuple[int, int], hidden: int | Tensor, device: torch.device) -> Tensor:
    """Masks with given numbers of hidden cells, in rectangles of random size, shape and place.

    Of the last rectangle only random cells are hidden. Every place within the grid is equally likely.

    Args:
        batch: Number of masks.
        grid: Rows and columns.
        hidden: How many cells are hidden, in all masks or in each, int64, shape (batch,).
        device: Device of the masks.

    Returns:
        Bool, shape (batch, rows * columns).
    """
    draws = torch.rand(2, batch, RECTANGLES, 1, device=device)
    hidden = torch.as_tensor(hidden, device=device).view(-1, 1, 1)
    least = hidden.clamp(max=LEAST_AREA * grid[0] * grid[1])
    area = least + (hidden - least) * draws[0]
    root = (math.log(MOST_ASPECT) * (draws[1] - 0.5)).exp()  # of the height divided by the width
    rows, columns = (
        intervals(lengths.round().int().clamp(1, most), most)
        for lengths, most in zip((area.sqrt() * root, area.sqrt() / root), grid)
    )
    covered = (rows[..., None] & columns[..., None, :]).flatten(2)
    first = torch.where(covered.any(1), covered.int().argmax(1), RECTANGLES)
    score = first + torch.rand(first.shape, device=device)
    return score.argsort(1).argsort(1) < hidden[:, 0]


def some_blockwise(
    batch: int, grid: tuple[int, int], masked: float, shares: tuple[float, float], device: torch.device
) -> Tensor:
    """Blockwise masks of which some hide nothing, and the others different shares of the cells.

    Exactly round(masked * batch) of them hide something, at least one cell. Their shares are drawn from as many equal
    parts of the range, one from each, so that all batches hide about equally much.

    Args:
        batch: Number of masks.
        grid: Rows and columns.
        masked: Fraction of the masks that hide something, in 0..1.
        shares: Smallest and largest fraction of the cells that such a mask hides, in 0..1.
        device: Device of the masks.

    Returns:
        Bool, shape (batch, rows * columns), in random order.
    """
    count = round(masked * batch)
    part = (torch.arange(count, device=device) + torch.rand(count, device=device)) / max(1, count)
    cells = (shares[0] + (shares[1] - shares[0]) * part) * grid[0] * grid[1]
    hidden = torch.zeros(batch, dtype=torch.int64, device=device)
    hidden[torch.randperm(batch, device=device)[:count]] = cells.long().clamp(min=1)
    return blockwise(batch, grid, hidden, device)


def rectangles(
    batch: int,
    grid: tuple[int, int],
    count: int,
    area: float,
    aspect: tuple[float, float],
    device: torch.device,
) -> Tensor:
    """Rectangles of one size, drawn once, at random places.

    Every place within the grid is equally likely, its last row and column included. So cells in the middle lie in more
    rectangles than those at the border.

    Args:
        batch: Number of samples.
        grid: Rows and columns.
        count: Rectangles of a sample, which may overlap.
        area: Fraction of the grid that a rectangle covers, up to rounding of its sides, in 0..1.
        aspect: Least and largest height of a rectangle, divided by its width.
        device: Device of the masks.

    Returns:
        Bool, shape (batch, count, rows * columns).
    """
    ratio = aspect[0] + (aspect[1] - aspect[0]) * torch.rand(()).item()
    cells = area * grid[0] * grid[1]
    sides = round((cells * ratio) ** 0.5), round((cells / ratio) ** 0.5)
    rows, columns = (
        intervals(torch.full((batch, count, 1), min(max(1, side), most), device=device), most)
        for side, most in zip(sides, grid)
    )
    return (rows[..., None] & columns[..., None, :]).flatten(2)


def cover(regions: Tensor, fewest: int, hidden: Tensor | None = None) -> Tensor:
    """Union of regions of each sample; regions that would leave too few visible cells are left out.

    Args:
        regions: Bool, shape (batch, regions, cells).
        fewest: Least number of visible cells.
        hidden: Cells that are hidden anyway, bool, shape (batch, cells); None for none.

    Returns:
        Bool, shape (batch, cells).
    """
    hidden = torch.zeros_like(regions[:, 0]) if hidden is None else hidden
    for region in regions.unbind(1):
        both = hidden | region
        hidden = torch.where((~both).sum(1, keepdim=True) >= fewest, both, hidden)
    return hidden


def tubes(mask: Tensor, times: int) -> Tensor:
    """The same mask at all times, bool, shape (batch, times * cells), of a mask of shape (batch, cells)."""
    return mask.repeat(1, times)


def numbers(mask: Tensor) -> Tensor:
    """Numbers of the cells that a mask marks, in order, int64, shape (batch, marked).

    Args:
        mask: Bool, shape (batch, cells), with equally many marked cells in all samples.
    """
    marked = mask.sum(1)
    assert bool((marked == marked[0]).all())
    return mask.nonzero()[:, 1].view(len(mask), -1)


def both(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the visible and of the hidden cells, as in `numbers`."""
    return numbers(~mask), numbers(mask)


def pick(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Tokens of some cells, shape (batch, picked, dim).

    Args:
        tokens: Of all cells, shape (batch, cells, dim).
        numbers: Of cells, int64, shape (batch, picked).
    """
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))
