"""PIRL: recognise each image among all images, from a view of it and from its shuffled tiles.

Withheld: which image of the data a view or a set of shuffled tiles shows. Predicted: the stored vector of that image,
by cosine similarity, whatever the order of the tiles.

Source: Misra, van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", 2019,
https://arxiv.org/abs/1912.01991
Differs: by default the loss is the exact softmax over all images, which small data allows; `negatives` chooses the
paper's noise-contrastive estimation, with 32,000 of them. Temperature 0.1, the paper's 0.07. Crops show at least 0.2
of the area, the paper's 0.08, with half of its jitter, for small images. Small tiles are enlarged until every weight of
the encoder can learn from them. The optimizer is AdamW, not SGD.
Shortcut: colours identify an image, so those of the view and of each tile are changed separately; edges continue from
tile to tile, so each is cut from a random position of its cell. Only views update the stored vectors: tiles, which look
alike in all images at first, would pull these together.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, PositiveFraction, Several, ViewOptions, WholeNumber
from unlabeled.parts import patches
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.memory_bank import MemoryBank
from unlabeled.parts.one_view import OneView
from unlabeled.parts.padding import input_size
from unlabeled.parts.precision import full

__all__ = ["PIRL"]


class PIRL(OneView, Method[ImageEncoder]):
    """Recognise each image among all images, from a view of it and from its shuffled tiles.

    The metric `similarity` is the mean cosine similarity of the shuffled tiles with the stored vector of their image.

    Args:
        encoder: Network whose features are kept; it sees views and single tiles.
        temperature: Softmax temperature.
        negatives: Number of stored vectors that an image is compared with, its own perhaps among them, by
            noise-contrastive estimation; 0 compares it with all.
        momentum: Fraction of a stored vector that an update keeps.
        puzzle_weight: Weight of the shuffled tiles; that of the views is 1 minus it.
        grid: Tiles per side.
        tile_ratio: Side of a tile relative to its cell; the rest is room for its random position.
        tile_size: Side in pixels to which tiles are resized for the encoder. [default: as cut, or larger where the
            encoder takes no such size or some of its weights would see only padding; a ViT's own size]
        tile_crop: Smallest fraction of the image's area that is cut into tiles.
        projection_dim: Width of the stored vectors.
        **views: How the views are drawn; colours and flips also of each tile.
    """

    held_out = "undefined"
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, flip=0.5)
    example = "photos"

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.1,
        negatives: WholeNumber = 0,
        momentum: Fraction = 0.5,
        puzzle_weight: Fraction = 0.5,
        grid: Several = 3,
        tile_ratio: PositiveFraction = 0.85,
        tile_size: Count | None = None,
        tile_crop: PositiveFraction = 0.6,
        projection_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature, self.negatives, self.puzzle_weight = temperature, negatives, puzzle_weight
        self.grid, self.cut = grid, patches.tile_side(encoder.image_size, grid, tile_ratio)
        self.tile_size = input_size(encoder, self.cut, tile_size=tile_size)
        self.puzzle_views = Views(encoder.image_size // grid * grid, crop=tile_crop, jitter=0, gray=0, flip=0)
        self.tile_views = Views(self.cut, **self.view_options(views) | {"crop": 1.0}, aspect=1.0)
        self.head = mlp(encoder.dim, projection_dim)
        self.tile_head = mlp(encoder.dim, projection_dim)
        self.joint_head = nn.Linear(grid**2 * projection_dim, projection_dim)
        self.bank = MemoryBank(projection_dim, momentum)

    def chance(self, samples: int) -> float | None:
        return self.bank.chance(self.negatives)

    def prepare(self, data: Data) -> None:
        self.bank.fill(len(data))

    def tiles(self, batch: Batch) -> Tensor:
        """Shuffled tiles, each with its own colours, float, shape (batch, tiles, channels, size, size)."""
        tiles = patches.tiles(self.puzzle_views(batch), self.grid, self.cut)
        colored = self.tile_views({"image": tiles.flatten(0, 1)}).unflatten(0, tiles.shape[:2])
        return patches.permute(colored, torch.rand(tiles.shape[:2], device=tiles.device).argsort(1))

    def puzzle_vectors(self, tiles: Tensor) -> Tensor:
        """Unit vectors, float, shape (batch, projection_dim), of tiles (batch, tiles, channels, size, size)."""
        singles = tiles.flatten(0, 1)
        if self.tile_size is not None:
            singles = F.interpolate(singles, self.tile_size, mode="bilinear", antialias=True)
        vectors = rearrange(self.tile_head(self.encoder(singles)), "(b n) d -> b (n d)", n=self.grid**2)
        return F.normalize(full(self.joint_head(vectors)), dim=1)

    def forward(self, batch: Batch) -> Tensor:
        index, rows = batch["index"], self.bank.current()
        whole = self.embed_features(self.encoder(self.views(batch)))
        puzzle = self.puzzle_vectors(self.tiles(batch))
        value, other = (
            self.bank.compare(vectors, rows, index, self.negatives, self.temperature)
            for vectors in (whole, puzzle)
        )
        self.metrics = {"similarity": (puzzle * rows[index]).sum(1).mean().detach()}
        if self.training:
            self.bank.update(whole, index)
        return (1 - self.puzzle_weight) * value + self.puzzle_weight * other

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images, their shuffled tiles, and the image among these whose vector is nearest to that of the tiles."""
        images, tiles = self.encoder.inputs(batch), self.tiles(batch)
        similarity = self.puzzle_vectors(tiles) @ self.embed_features(self.encoder(images)).T
        shuffled = patches.assemble(F.pad(tiles, (1, 1, 1, 1), value=1.0), self.grid)
        return {"image": images, "shuffled tiles": shuffled, "nearest image": images[similarity.argmax(1)]}
