"""Jigsaw: predict the order of an image's shuffled tiles, which takes knowing how parts make a whole.

Withheld: the order of the tiles. Predicted: which permutation of a fixed set shuffled them.

Source: Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", 2016,
https://arxiv.org/abs/1603.09246
Differs: the encoder's pooling replaces the layer fc6 of each tile; the permutations come from groups, which are farther
apart than a greedy search finds; colour channels are not shifted; crops vary in scale. The set has 72 permutations by
default, the paper's best 1,000, and an image makes one puzzle per step, not many. The head has a norm and no dropout.
Small tiles are enlarged until every weight of the encoder can learn from them. The optimizer is AdamW, not SGD.
Shortcut: edges continue from tile to tile, so each tile is cut from a random position of its cell; brightness varies
slowly over an image, so each channel of each tile gets the same mean and deviation (0.5 and 0.25, because encoders take
images in 0..1); lenses cause coloured fringes near the border, so some images are grey.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, PositiveFraction, Several, ViewOptions
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import classifier
from unlabeled.parts.padding import input_size
from unlabeled.parts.permutations import permutation_set

__all__ = ["Jigsaw"]


class Jigsaw(Method[ImageEncoder]):
    """Predict the order of an image's shuffled tiles.

    Args:
        encoder: Network whose features are kept; it sees one tile at a time.
        permutations: Size of the set; more is harder, and 9, 72, 504 or 1512 are as far apart as can be.
        grid: Tiles per side.
        tile_ratio: Side of a tile relative to its cell; the rest is room for its random position.
        tile_size: Side in pixels to which tiles are resized for the encoder. [default: as cut, or larger where the
            encoder takes no such size or some of its weights would see only padding; a ViT's own size]
        normalize: Give every tile the same brightness and contrast.
        puzzles: Puzzles made of each image in a step.
        head_dim: Width of the layer that sees all tiles.
        **views: How the images are cropped and converted to grayscale.
    """

    view_defaults = ViewOptions(crop=0.5, gray=0.3)
    recipe: ClassVar = {"epochs": 30, "lr": 2e-3}
    smallest: ClassVar = {"permutations": 9}
    example = "photos"
    permutations: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        permutations: Several = 72,
        grid: Several = 3,
        tile_ratio: PositiveFraction = 0.85,
        tile_size: Count | None = None,
        normalize: bool = True,
        puzzles: Count = 1,
        head_dim: Count = 512,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.grid, self.cut = grid, patches.tile_side(encoder.image_size, grid, tile_ratio)
        self.tile_size = input_size(encoder, self.cut, tile_size=tile_size)
        self.normalize, self.puzzles = normalize, puzzles
        self.views = Views(encoder.image_size // grid * grid, **self.view_options(views))
        self.head = classifier(grid**2 * encoder.dim, head_dim, permutations)
        self.register_buffer("permutations", permutation_set(permutations, grid**2))

    def chance(self, samples: int) -> float:
        return math.log(len(self.permutations))

    def logits(self, tiles: Tensor) -> Tensor:
        """Logits of the permutations, shape (batch, permutations), of tiles (batch, tiles, channels, size, size)."""
        tiles = rearrange(tiles, "b n c h w -> (b n) c h w")
        if self.tile_size is not None:
            tiles = F.interpolate(tiles, self.tile_size, mode="bilinear", antialias=True)
        if self.normalize:  # after resizing, which takes more contrast from sharp tiles than from smooth ones
            tiles = patches.standardize(tiles, 0.5, 0.25)
        return self.head(rearrange(self.encoder(tiles), "(b n) d -> b (n d)", n=self.grid**2)).float()

    def forward(self, batch: Batch) -> Tensor:
        images = torch.cat([self.views(batch) for _ in range(self.puzzles)])
        tiles, labels = patches.puzzle(images, self.grid, self.cut, self.permutations)
        logits = self.logits(tiles)
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.views(batch)
        tiles, _ = patches.puzzle(images, self.grid, self.cut, self.permutations)
        predicted = self.permutations[self.logits(tiles).argmax(dim=1)]
        gap = images.shape[3] // self.grid - self.cut
        tiles = F.pad(tiles, (gap // 2, gap - gap // 2) * 2, value=1.0)
        rows = {"shuffled": tiles, "put back": patches.permute(tiles, predicted.argsort(dim=1))}
        return {"image": images} | {name: patches.assemble(row, self.grid) for name, row in rows.items()}
