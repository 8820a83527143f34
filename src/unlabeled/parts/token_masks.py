"""Which cells of a grid are hidden from a transformer. In every mask True means hidden."""

import torch
from torch import Tensor

from unlabeled.parts.masks import intervals

__all__ = ["cover", "numbers", "pick", "random_cells", "rectangles", "tubes"]


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


def cover(regions: Tensor, fewest: int) -> Tensor:
    """Union of regions of each sample; regions that would leave too few visible cells are left out.

    Args:
        regions: Bool, shape (batch, regions, cells).
        fewest: Least number of visible cells.

    Returns:
        Bool, shape (batch, cells).
    """
    hidden = torch.zeros_like(regions[:, 0])
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


def pick(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Tokens of some cells, shape (batch, picked, dim).

    Args:
        tokens: Of all cells, shape (batch, cells, dim).
        numbers: Of cells, int64, shape (batch, picked).
    """
    return tokens.gather(1, numbers[:, :, None].expand(-1, -1, tokens.shape[2]))
