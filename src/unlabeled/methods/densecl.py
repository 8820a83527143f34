"""DenseCL: find the other view of an image, and of each place in it, among stored views of other images.

Withheld: which of many vectors shows the same image as a view, and which the same place as a cell of its map.
Predicted: these vectors of a slowly moving copy of the network, by cosine similarity. The same place is the cell of the
other view whose features are most similar.

Source: Wang, Zhang, Shen, Kong, Li, "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", 2020,
https://arxiv.org/abs/2011.09157
Differs: the cells are those of the deepest map with at least 4 x 4, as small images leave the last one fewer; the
paper's last map has 7 x 7. 4,096 stored keys, the paper's 65,536, and momentum 0.99, the paper's 0.999, for short runs;
no blur. The teacher moves after the optimizer step, which is equivalent. The optimizer is AdamW, not SGD.
Shortcut: batch norm reveals which query and key were in one batch, so both pass in small groups, the keys in random
ones that span all processes. With a single cell all of it is MoCo, twice. Until the queue is full of keys the loss may
rise.
"""

import math
from functools import partial
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, ViewOptions
from unlabeled.parts import gather, patches
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import with_queue
from unlabeled.parts.maps import blank_maps, deepest, vector_and_map
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.queue import Queue
from unlabeled.parts.shuffle import in_groups, shuffled
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.two_views import TwoViews

__all__ = ["DenseCL"]

STORED, FEWEST_ROWS = 4096, 4


@torch.no_grad()
@full_precision
def correspondence(queries: Tensor, keys: Tensor) -> Tensor:
    """For each cell of one view the cell of the other view with the most similar features.

    Args:
        queries: Features of the cells of one view, float, shape (batch, channels, cells).
        keys: Those of the other view, float, shape (batch, channels, its cells).

    Returns:
        Index of the other view's cell, int64, shape (batch, cells).
    """
    return (F.normalize(queries, dim=1).mT @ F.normalize(keys, dim=1)).argmax(2)


class DenseCL(TwoViews, Method[ImageEncoder]):
    """Find the other view of an image, and of each place in it, among stored views of other images.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature.
        cell_weight: Weight of the cells; that of whole images is 1 minus it.
        projection_dim: Width of the compared vectors.
        queue: Number of stored keys that each query is compared with. [default: 4096, at most the number of images]
        momentum: Momentum of the teacher; 0.999 for ImageNet, 0.99 for shorter runs.
        splits: Groups that batch norm sees separately in each process; each has at least 8 images.
        **views: How the views are drawn.
    """

    view_names = ("query", "key")
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)
    smallest: ClassVar = {"queue": 20}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.2,
        cell_weight: Fraction = 0.5,
        projection_dim: Count = 128,
        queue: Count | None = None,
        momentum: Fraction = 0.99,
        splits: Count = 4,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature, self.cell_weight, self.splits = temperature, cell_weight, splits
        maps = blank_maps(encoder)
        self.layer = deepest(maps, FEWEST_ROWS)
        channels, self.grid = maps[self.layer].shape[1], maps[self.layer].shape[2]
        self.head = mlp(encoder.dim, encoder.dim, projection_dim, norm=False)
        layers = nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, projection_dim, 1)
        self.cell_head = nn.Sequential(*layers)
        self.teacher = Teacher(encoder, self.head, self.cell_head, momentum=momentum)
        self.queue = Queue(queue or STORED, 2 * projection_dim, may_shrink=queue is None)

    def chance(self, samples: int) -> float:
        return math.log(len(self.queue.rows) + 1)

    def prepare(self, data: Data) -> None:
        self.queue.fit(len(data), "images")

    def outputs(self, encoder: nn.Module, head: nn.Module, cell_head: nn.Module, images: Tensor) -> Tensor:
        """For each image one row of numbers, which `parts` takes apart."""
        vector, features = vector_and_map(encoder, images, self.layer)
        parts = head(vector), cell_head(features), features
        return torch.cat([full(part).flatten(1) for part in parts], 1)

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected images (batch, dim), projected cells (batch, dim, cells) and features (batch, channels, cells)."""
        dim, cells = self.queue.rows.shape[1] // 2, self.grid**2
        image, projected, features = rows.split([dim, dim * cells, rows.shape[1] - dim * (1 + cells)], 1)
        return image, projected.unflatten(1, (dim, -1)), features.unflatten(1, (-1, cells))

    def forward(self, batch: Batch) -> Tensor:
        query_view, key_view = self.two_views(batch)
        student = partial(self.outputs, self.encoder, self.head, self.cell_head)
        image, cells, features = self.parts(in_groups(student, query_view, self.splits))
        teacher = partial(self.outputs, *self.teacher.networks)
        everyone = self.parts(shuffled(teacher, key_view, self.splits))
        key, key_cells, key_features = (gather.own(part) for part in everyone)
        index = correspondence(features, key_features)[:, None].expand_as(cells)
        partners = F.normalize(key_cells, dim=1).gather(2, index)
        # The random rows at the start have unit length as a whole, not in each half.
        stored = F.normalize(self.queue.rows.unflatten(1, (2, -1)), dim=2).unbind(1)
        pairs = (rearrange(x, "b d s -> (b s) d") for x in (cells, partners))
        of_images = with_queue(image, F.normalize(key, dim=1), stored[0], self.temperature)
        of_cells = with_queue(*pairs, stored[1], self.temperature)
        if self.training:
            pooled = everyone[0], everyone[1].mean(2)
            self.queue.push(torch.cat([F.normalize(part, dim=1) for part in pooled], 1))
        return (1 - self.cell_weight) * of_images + self.cell_weight * of_cells

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """In addition to the views, the query put together from those cells of the key that match its own."""
        pictures = super().pictures(batch)
        views = [pictures[name] for name in self.view_names]
        maps = [vector_and_map(self.encoder, view, self.layer)[1].flatten(2) for view in views]
        cells = patches.cells(F.interpolate(views[1], views[1].shape[2] // self.grid * self.grid), self.grid)
        matched = patches.permute(cells, correspondence(*maps))
        return pictures | {"query from cells of the key": patches.assemble(matched, self.grid)}
