"""NNCLR: pull each view of an image towards the nearest neighbour of its other view among stored images.

Withheld: which of the views of a batch shows the image whose other view has a given nearest neighbour among the vectors
stored from earlier batches. Predicted: that view, by cosine similarity with the neighbour. Such pairs differ in more
than crops and colours.

Source: Dwibedi, Aytar, Tompson, Sermanet, Zisserman, "With a Little Help from My Friends: Nearest-Neighbor Contrastive
Learning of Visual Representations", 2021, https://arxiv.org/abs/2104.14548
Differs: 1,024 stored vectors, the paper's 98,304, as small data would otherwise offer an image its own old view; heads
512 and 128 wide, the paper's up to 4,096 and 256; temperature 0.2, the paper's 0.1; no blur and milder crops and
colours, as images are small. The optimizer is AdamW, not LARS.
Shortcut: the nearest neighbour of a vector would be itself, which leaves SimCLR, so vectors are stored only after the
neighbours have been found; at first neighbours are arbitrary, and the negatives of the batch do the work.
"""

import math
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import in_batch
from unlabeled.parts.precision import full
from unlabeled.parts.queue import Queue
from unlabeled.parts.two_views import TwoViews

__all__ = ["NNCLR"]

STORED = 1024


class NNCLR(TwoViews, Method[ImageEncoder]):
    """Pull each view of an image towards the nearest neighbour of its other view among stored images.

    The metric `agreement` is the fraction of the images whose two views have the same nearest neighbour.

    Args:
        encoder: Network whose features are kept.
        temperature: Softmax temperature; lower penalises hard negatives more.
        projection_dim: Width of the compared vectors.
        hidden_dim: Width of the hidden layers of both heads.
        queue: Number of stored vectors among which neighbours are searched; well below the number of images.
            [default: 1024, at most the number of images]
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.2,
        projection_dim: Count = 128,
        hidden_dim: Count = 512,
        queue: Count | None = None,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature = temperature
        self.head = mlp(encoder.dim, hidden_dim, hidden_dim, projection_dim, last_norm=True)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)
        self.queue = Queue(queue or STORED, projection_dim, may_shrink=queue is None)

    def chance(self, samples: int) -> float:
        return math.log(samples)

    def prepare(self, data: Data) -> None:
        self.queue.fit(len(data), "images")

    @torch.no_grad()
    def neighbours(self, vectors: Tensor) -> Tensor:
        """Index of the most similar stored vector, int64, shape (batch,), for unit vectors (batch, dim)."""
        with torch.autocast(vectors.device.type, enabled=False):
            return (vectors @ self.queue.rows.T).argmax(1)

    def forward(self, batch: Batch) -> Tensor:
        projections = self.projections(batch)
        vectors = [F.normalize(full(view.detach()), dim=1) for view in projections]
        nearest = [self.neighbours(view) for view in vectors]
        self.metrics = {"agreement": (nearest[0] == nearest[1]).float().mean()}
        partners = [self.queue.rows[index] for index in nearest]
        first, second = (self.predictor(view) for view in projections)
        if self.training:
            self.queue.push(gather.gather(vectors[0]))
        crossed = (partners[0], second), (partners[1], first)
        return torch.stack([in_batch(*pair, self.temperature) for pair in crossed]).mean()
