"""Networks of one layer of atoms: how much every patch of an image is like each atom, pooled on a grid."""

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError

__all__ = ["NAME", "PatchCode", "dictionary", "is_dictionary"]

NAME = "dictionary-400"
"""Name of the usual one, dictionary-ATOMS or dictionary-ATOMS-WIDTH."""
PATTERN = re.compile(r"dictionary-([1-9][0-9]{0,5})(?:-([1-9][0-9]?))?")
THRESHOLD = 0.25
CELLS = 9
"""Cells on a side of the map, at most."""
ENTRIES = 2**21
"""Numbers of the code that stay in the cache while they are pooled."""


class PatchCode(nn.Module):
    """How much every patch is like each atom and like its negative, beyond a threshold.

    For a patch with its mean subtracted and divided by its deviation, s is the product with a filter plus an offset;
    the code is max(0, s - threshold) and max(0, -s - threshold), averaged over cells, then over a coarser grid.

    Args:
        channels: Channels of the images.
        atoms: Number of filters.
        width: Side of a patch in pixels, at most that of the images.
        eps: Variance that is added to that of each patch; channels of the input have about 1.
        grid: Cells on a side of the output.
    """

    def __init__(self, channels: int, atoms: int, width: int, *, eps: float = 0.01, grid: int = 3) -> None:
        super().__init__()
        self.width, self.eps, self.grid = width, eps, grid
        self.numbers = channels * width**2
        self.convolution = nn.Conv2d(channels, atoms, width, bias=False)
        nn.init.normal_(self.convolution.weight, std=self.numbers**-0.5)
        self.offset = nn.Parameter(torch.zeros(atoms))
        self.dim, self.map_dims = 2 * atoms * grid**2, {"atoms": 2 * atoms}

    @torch.no_grad()
    def set_filters(self, filters: Tensor, offsets: Tensor) -> None:
        """Take filters, float, shape (atoms, channels * width * width), and offsets, float, shape (atoms,)."""
        self.convolution.weight.copy_(filters.view_as(self.convolution.weight))
        self.offset.copy_(offsets)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The code by name, float, shape (batch, 2 * atoms, rows, columns), of at most 9 rows and columns."""
        size = max(1, ENTRIES // (len(self.offset) * x.shape[2] * x.shape[3]))
        if x.is_cuda or torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            size = len(x)
        return {"atoms": torch.cat([self._code(chunk) for chunk in x.split(max(1, size))])}

    def forward(self, x: Tensor) -> Tensor:
        """The code on a coarse grid, float, shape (batch, dim), of float, shape (batch, channels, height, width)."""
        return F.adaptive_avg_pool2d(self.maps(x)["atoms"], self.grid).flatten(1)

    def _code(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weight = self.convolution.weight
        box = torch.full_like(weight[:1], 1 / self.numbers)
        mean, square = F.conv2d(x, box), F.conv2d(x.square(), box)
        scale = ((square - mean.square()).clamp_min(0) + self.eps).rsqrt()
        # Filters without their mean do the same as patches without theirs.
        products = F.conv2d(x, weight - weight.mean((1, 2, 3), keepdim=True))
        signed = F.softshrink(products * scale + self.offset[:, None, None], THRESHOLD)
        cells = min(CELLS, signed.shape[2]), min(CELLS, signed.shape[3])
        difference, total = (F.adaptive_avg_pool2d(part, cells) for part in (signed, signed.abs()))
        return torch.cat([total + difference, total - difference], 1) / 2


def is_dictionary(name: str) -> bool:
    """Whether it is the name of a dictionary."""
    return PATTERN.fullmatch(name) is not None


def dictionary(name: str, channels: int, image_size: int) -> PatchCode:
    """The network of a name such as dictionary-400 or dictionary-400-6, whose patches are 6 pixels wide.

    Raises:
        ValueError: Patches are wider than images.
    """
    match = PATTERN.fullmatch(name)
    assert match
    width = int(match[2] or min(6, max(1, image_size // 2)))
    if width > image_size:
        raise UserError(f"patches must be at most as wide as the images, {image_size} pixels, got {name}")
    return PatchCode(channels, int(match[1]), width)
