"""A second layer of atoms, each of them on a few maps of the first layer that respond at the same places.

Source: Coates, Ng, "Selecting Receptive Fields in Deep Networks", 2011,
https://neurips.cc/virtual/2011/poster/2794
"""

import torch
from torch import Tensor, nn

from unlabeled.encoders.filters import FLOOR, Filters, both_signs

__all__ = ["SecondLayer"]

GROUPS, SIZE, ATOMS = 8, 64, 96
"""Largest number of groups of maps and of maps in each, and number of atoms of each group."""
WIDTH = 3
"""Largest number of cells on a side of a patch."""
EPS = 0.01
"""Variance that is added to that of each patch; roots of the code have about 0.1."""


class SecondLayer(nn.Module):
    """How similar patches of groups of maps are to each atom of the group and to its negative, beyond a threshold.

    Args:
        maps: Number of maps of the first layer.
        cells: Cells on a side of these.
        most: Largest dimension, exceeded only by one group alone.
    """

    groups: Tensor

    def __init__(self, maps: int, cells: int, most: int = 2 * ATOMS * GROUPS) -> None:
        super().__init__()
        size, width = min(SIZE, maps), min(WIDTH, cells)
        count = min(GROUPS, maps // size, max(1, most // (2 * ATOMS)))
        self.register_buffer("groups", torch.arange(count * size).view(count, size))
        self.filters = nn.ModuleList(Filters(size, ATOMS, (width, width), eps=EPS) for _ in range(count))
        self.dim = 2 * ATOMS * count

    def inputs(self, maps: Tensor) -> list[Tensor]:
        """Roots of the maps of each group, float, shape (batch, maps of a group, rows, columns) each."""
        roots = (maps + FLOOR).sqrt()
        return [roots[:, group] for group in self.groups]

    def forward(self, maps: Tensor) -> Tensor:
        """The code, float, shape (batch, dim, rows, columns), of maps, float, shape (batch, maps, rows, columns)."""
        pairs = zip(self.filters, self.inputs(maps), strict=True)
        products = [filters.products(group) for filters, group in pairs]  # type: ignore[operator]
        signed = torch.cat(products, 1)
        return both_signs(signed, signed.abs())
