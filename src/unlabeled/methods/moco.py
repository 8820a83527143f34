"""MoCo: find the other view of an image among thousands of stored views of other images.

Withheld: which of many vectors (keys) shows the same image as a view (the query). Predicted: that key, by cosine
similarity, among it and the keys of earlier batches, all made by a slowly moving copy of the encoder.

Source: He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
https://arxiv.org/abs/1911.05722; Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive
Learning", 2020, https://arxiv.org/abs/2003.04297
Differs: the teacher moves after the optimizer step instead of before the next forward pass, which is equivalent; the
symmetric loss is the mean of both directions, where the authors' CIFAR-10 notebook adds them; version 1 (linear,
temperature 0.07) keeps the colour changes of version 2, where the paper's shift the hue more; version 2 blurs half of
the views. The optimizer is AdamW with warm-up, without decay of norms and biases; the authors' SGD decays everything.
Shortcut: batch norm reveals which query and key were in one batch, so both pass in small groups, the keys in random
ones that span all processes.
"""

import math
from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import with_queue
from unlabeled.parts.precision import full
from unlabeled.parts.queue import Queue
from unlabeled.parts.shuffle import in_groups, shuffled
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.two_views import TwoViews

__all__ = ["MoCo"]

QUEUE = 4096


class MoCo(TwoViews, Method[ImageEncoder]):
    """Find the other view of an image among thousands of stored views of other images.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; 0.2 in version 2, 0.07 in version 1.
        projection_dim: Width of the compared vectors.
        projection: Projection head; "mlp" in version 2, "linear" in version 1.
        queue: Number of stored keys that each query is compared with. [default: 4096, at most the number of images]
        momentum: Momentum of the teacher; 0.999 for ImageNet, 0.99 for shorter runs.
        symmetric: Use each view once as the query and once as the key; doubles the work of a step.
        splits: Groups that batch norm sees separately in each process; each has at least 8 images.
        **views: How the views are drawn.
    """

    view_names = ("query", "key")
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)
    recipe: ClassVar = {"epochs": 24, "lr": 2e-3, "queue": 2048}
    smallest: ClassVar = {"queue": 16}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.2,
        projection_dim: Count = 128,
        projection: Literal["mlp", "linear"] = "mlp",
        queue: Count | None = None,
        momentum: Fraction = 0.99,
        symmetric: bool = False,
        splits: Count = 4,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature, self.symmetric, self.splits = temperature, symmetric, splits
        hidden = [encoder.dim] if projection == "mlp" else []
        self.head = mlp(encoder.dim, *hidden, projection_dim, norm=False)
        self.teacher = Teacher(encoder, self.head, momentum=momentum)
        self.queue = Queue(queue or QUEUE, projection_dim, may_shrink=queue is None)

    def chance(self, samples: int) -> float:
        return math.log(len(self.queue.rows) + 1)

    def prepare(self, data: Data) -> None:
        self.queue.fit(len(data), "images")

    def forward(self, batch: Batch) -> Tensor:
        views = self.two_views(batch)
        stored = self.queue.rows.clone()
        losses = []
        for query, key in [(0, 1), (1, 0)][: 1 + self.symmetric]:
            queries = self.head(in_groups(self.encoder, views[query], self.splits))
            keys = F.normalize(full(shuffled(self.teacher, views[key], self.splits)), dim=1)
            losses.append(with_queue(queries, gather.own(keys), stored, self.temperature))
            if self.training:
                self.queue.push(keys)
        return torch.stack(losses).mean()
