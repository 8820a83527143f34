"""Networks of one layer of atoms for videos: how similar every cube of space and time is to each atom, pooled.

Source: Coates, Lee, Ng, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning", 2011,
https://proceedings.mlr.press/v15/coates11a.html, here with cubes of several frames.
"""

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.encoders.filters import FLOOR, Filters, both_signs

__all__ = ["CubeCode", "cube_code"]

PATTERN = re.compile(r"cube-dictionary-([1-9][0-9]{0,4})(?:-([1-9][0-9]?)x([1-9][0-9]?))?")
WIDTH, FRAMES = 6, 4
"""Side in pixels and number of frames of a cube if the name does not say."""
CELLS = 9
"""Largest number of cells on a side of the map."""
ENTRIES = 2**22
"""Size of the code in memory at once; that of a single video may be larger."""


class CubeCode(Filters):
    """How similar every cube is to each atom and to its negative, beyond a threshold, averaged over time.

    The output is the square root of the code's mean over a coarse grid. A clip of fewer frames than a cube repeats its
    last frame.

    Args:
        channels: Channels of the frames.
        atoms: Number of filters.
        width: Side of a cube in pixels, at most that of the frames.
        frames: Frames of a cube.
        eps: Variance that is added to that of each cube; channels of the input have about 1.
        grid: Cells on a side of the output.
    """

    def __init__(
        self, channels: int, atoms: int, width: int, frames: int, *, eps: float = 0.01, grid: int = 3
    ) -> None:
        super().__init__(channels, atoms, (frames, width, width), eps=eps)
        self.width, self.frames, self.grid = width, frames, grid
        self.dim, self.map_dims = 2 * atoms * grid**2, {"atoms": 2 * atoms}

    def lengthen(self, x: Tensor) -> Tensor:
        """Clips with at least as many frames as a cube; if necessary, the last one is repeated.

        Args:
            x: Float, shape (batch, channels, frames, height, width).
        """
        missing = self.frames - x.shape[2]
        return x if missing <= 0 else torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The code by name, float, shape (batch, 2 * atoms, 1, rows, columns), of at most 9 rows and columns.

        Args:
            x: Float, shape (batch, channels, frames, height, width).
        """
        x = self.lengthen(x)
        size = max(1, ENTRIES // (self.map_dims["atoms"] * x[0, 0].numel()))
        return {"atoms": torch.cat([self._code(clips) for clips in x.split(size)])}

    def forward(self, x: Tensor) -> Tensor:
        """The code on a coarse grid, float, shape (batch, dim); the argument is that of `maps`."""
        pooled = F.adaptive_avg_pool2d(self.maps(x)["atoms"][:, :, 0], self.grid)
        return (pooled + FLOOR).sqrt().flatten(1)

    def _code(self, x: Tensor) -> Tensor:
        products = self.products(x)
        cells = 1, min(CELLS, products.shape[3]), min(CELLS, products.shape[4])
        return both_signs(*(F.adaptive_avg_pool3d(part, cells) for part in (products, products.abs())))


def cube_code(name: str, channels: int, image_size: int, frames: int) -> CubeCode | None:
    """The network of a name such as cube-dictionary-256 or cube-dictionary-256-8x4, cubes of 8 pixels and 4 frames.

    Args:
        name: Any name.
        channels: Channels of the frames.
        image_size: Height and width of the frames in pixels, at least those of a cube in the name.
        frames: Frames of the clips, at least those of a cube in the name.

    Returns:
        None if the name is a different one.
    """
    match = PATTERN.fullmatch(name)
    if match is None:
        return None
    width, depth = int(match[2] or min(WIDTH, max(1, image_size // 2))), int(match[3] or min(FRAMES, frames))
    if width > image_size:
        raise UserError(f"cubes must be at most as wide as the frames, {image_size} pixels, got {name}")
    if depth > frames:
        raise UserError(f"cubes must have at most as many frames as the clips, {frames}, got {name}")
    return CubeCode(channels, int(match[1]), width, depth)
