"""Jigsaw: see the shuffled tiles of an image and name the order, which takes knowing how parts make a whole.

Withheld: the order of the tiles. Predicted: the number of the permutation that shuffled them, of a fixed set.

Source: Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", 2016,
https://arxiv.org/abs/1603.09246
Differs: the encoder's pooling stands for the layer fc6 of each tile; the permutations come from groups, which lie
farther apart than a greedy search finds; colour channels are not shifted; crops also vary in scale. The set has 72
permutations by default, where the paper's best has 1,000, and an image makes one puzzle in a step, not many. A norm
stands in the head, and nothing is dropped out. Small tiles are enlarged until every weight of the encoder can learn
from them. The weights move by the loop's AdamW; the paper has SGD.
Shortcut: edges continue from tile to tile, so each tile lies at a random place in its cell; brightness varies
slowly over an image, so each channel of each tile gets the same mean and deviation (0.5 and 0.25, because
encoders take images in 0..1); lenses fringe colours near the border, so some images are gray.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.padding import only_padding
from unlabeled.parts.permutations import permutation_set

__all__ = ["Jigsaw"]


def tiles(images: Tensor, grid: int, size: int) -> Tensor:
    """One tile from a random place of each cell of a grid.

    Args:
        images: Float, shape (batch, channels, height, height), the side a multiple of `grid`.
        grid: Cells per side.
        size: Side of a tile in pixels, at most that of a cell.

    Returns:
        Shape (batch, grid * grid, channels, size, size), row by row.
    """
    cells = rearrange(patches.cells(images, grid), "b n c h w -> (b n) c h w")
    corners = torch.randint(cells.shape[3] - size + 1, (len(cells), 2), device=images.device)
    return rearrange(patches.crop(cells, corners, size), "(b n) c h w -> b n c h w", b=len(images))


def shuffled(tiles: Tensor, permutations: Tensor) -> Tensor:
    """Tiles in another order: place j shows tile permutations[:, j].

    Args:
        tiles: Shape (batch, tiles, ...).
        permutations: int64, shape (batch, tiles).
    """
    return tiles[torch.arange(len(tiles), device=tiles.device)[:, None], permutations]


def idle(encoder: Any, size: int) -> bool:
    """Whether an encoder takes no tiles of some size, or has weights that learn from whole images but not from them."""
    device = next(encoder.parameters(), torch.zeros(())).device

    def unseen(side: int) -> set[tuple[str, int, int]]:
        return only_padding(encoder, torch.zeros(1, encoder.in_channels, side, side, device=device))

    try:
        return bool(unseen(size) - unseen(encoder.image_size))
    except (RuntimeError, ValueError, AssertionError):  # networks refuse sizes in ways of their own
        return True


def least_size(encoder: Any, size: int) -> int:
    """The least size of tiles, from the given one on, of which all weights can learn; at most that of the images."""
    return next(
        (side for side in range(size, encoder.image_size) if not idle(encoder, side)), encoder.image_size
    )


class Jigsaw(Method):
    """Name the permutation that shuffled the tiles of an image.

    Args:
        encoder: Network whose features are kept; it sees one tile at a time.
        permutations: Size of the set; more is harder, and 9, 72, 504 or 1512 are as far apart as can be.
        grid: Tiles per side.
        tile_ratio: Side of a tile relative to its cell; the rest is room for its random place.
        tile_size: Side in pixels to which tiles are resized for the encoder; by default they stay as cut, but are
            enlarged where the encoder takes no such size or some of its weights would see nothing but padding, and
            for a ViT to the size of its images.
        normalize: Whether every tile gets the same brightness and contrast.
        gray: Probability that an image loses its colours.
        crop: Smallest share of the image's area that a puzzle shows.
        puzzles: Puzzles made of each image in a step.
        head_dim: Width of the layer that sees all tiles.
    """

    smallest: ClassVar = {"permutations": 9}
    example = "photos"
    permutations: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        permutations: int = 72,
        grid: int = 3,
        tile_ratio: float = 0.85,
        tile_size: int | None = None,
        normalize: bool = True,
        gray: float = 0.3,
        crop: float = 0.5,
        puzzles: int = 1,
        head_dim: int = 512,
    ) -> None:
        super().__init__(encoder)
        check.at_least(2, permutations=permutations, grid=grid)
        check.positive(tile_ratio=tile_ratio, puzzles=puzzles, head_dim=head_dim)
        check.fraction(tile_ratio=tile_ratio)
        check.at_least(1, tile_size=1 if tile_size is None else tile_size)
        check.at_least(4 * grid, image_size=self.encoder.image_size)
        if tile_size is None and getattr(encoder, "is_vit", False):
            tile_size = self.encoder.image_size
        cell = self.encoder.image_size // grid
        self.grid, self.cut = grid, max(2, min(round(tile_ratio * cell), cell - (tile_ratio < 1)))
        least = (
            least_size(encoder, self.cut) if tile_size is None or tile_size < self.encoder.image_size else 1
        )
        if tile_size is not None and tile_size < self.encoder.image_size and idle(encoder, tile_size):
            raise UserError(
                f"tile_size must be at least {least}, so that every weight sees more than padding, got {tile_size}"
            )
        self.tile_size = tile_size or (least if least > self.cut else None)
        self.normalize, self.puzzles = normalize, puzzles
        self.views = Views(grid * cell, crop=crop, jitter=0, gray=gray, flip=0)
        self.head = mlp(grid**2 * self.encoder.dim, head_dim, permutations)
        nn.init.normal_(self.head[-1].weight, std=1e-3)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("permutations", permutation_set(permutations, grid**2))

    def chance(self, samples: int) -> float:
        return math.log(len(self.permutations))

    def logits(self, tiles: Tensor) -> Tensor:
        """Scores, shape (batch, permutations), of tiles, shape (batch, tiles, channels, size, size)."""
        count = tiles.shape[1]
        tiles = rearrange(tiles, "b n c h w -> (b n) c h w")
        if self.tile_size is not None:
            tiles = F.interpolate(tiles, self.tile_size, mode="bilinear", antialias=True)
        if self.normalize:  # after resizing, which takes more contrast from sharp tiles than from smooth ones
            tiles = patches.standardize(tiles, 0.5, 0.25)
        return self.head(rearrange(self.encoder(tiles), "(b n) d -> b (n d)", n=count)).float()

    def forward(self, batch: Batch) -> Tensor:
        images = torch.cat([self.views(batch) for _ in range(self.puzzles)])
        labels = torch.randint(len(self.permutations), (len(images),), device=images.device)
        logits = self.logits(shuffled(tiles(images, self.grid, self.cut), self.permutations[labels]))
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.views(batch)
        labels = torch.randint(len(self.permutations), (len(images),), device=images.device)
        puzzle = shuffled(tiles(images, self.grid, self.cut), self.permutations[labels])
        predicted = self.permutations[self.logits(puzzle).argmax(dim=1)]
        gap = images.shape[3] // self.grid - self.cut
        framed = F.pad(puzzle, (gap // 2, gap - gap // 2) * 2, value=1.0)
        back = shuffled(framed, predicted.argsort(dim=1))
        return {
            "image": images,
            "shuffled": patches.assemble(framed, self.grid),
            "put back": patches.assemble(back, self.grid),
        }
