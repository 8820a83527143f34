"""Noise as targets: assign every image a random point on the unit sphere, and let images exchange points.

Withheld: nothing. Predicted: the point of an image, which is noise; what is learned is which images get nearby points,
and that all crops of an image share one.

Source: Bojanowski, Joulin, "Unsupervised Learning by Predicting Noise", 2017, https://arxiv.org/abs/1704.05310
Differs: the points have 64 dimensions, not 2,048, and the head has one hidden layer without dropout, not two. Points
are exchanged in every epoch; in the authors' code, once every 3 epochs. The optimizer is AdamW with warm-up and cosine,
not SGD.
Shortcut: the points are all different and never move, so one vector for all images does not pay off; the vectors have
length 1, otherwise their scale would decide the loss. With weak crops, the network memorises its points. It sees
gradients of brightness, not colours.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.kernels.assignment import assign
from unlabeled.method import Batch, Method
from unlabeled.options import Count, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.memory_bank import refuse_rows
from unlabeled.parts.one_view import OneView
from unlabeled.parts.precision import full_precision

__all__ = ["NoiseAsTargets", "loss"]


@full_precision
def loss(vectors: Tensor, points: Tensor) -> Tensor:
    """Half the squared distance.

    Args:
        vectors: Unit vectors, float, shape (batch, dim).
        points: Point of each image, unit vectors, float, shape (batch, dim).

    Returns:
        Mean over the batch, scalar, in 0..2; 1 for unrelated directions.
    """
    return (vectors - points).square().sum(1).mean() / 2


@full_precision
def costs(vectors: Tensor, points: Tensor) -> Tensor:
    """Half the squared distances less a constant, never in half precision, whose rounding would decide near ties.

    Args:
        vectors: Unit vectors, float, shape (images, dim).
        points: Unit vectors, float, shape (points, dim).

    Returns:
        Float, shape (images, points), in -1..1: the distance of unit vectors is smallest where their product is
        largest.
    """
    return -(vectors @ points.T)


class NoiseAsTargets(OneView, Method[ImageEncoder]):
    """Assign every image a random point on the unit sphere, and let images exchange points.

    The metric `exchanged` is the fraction of the images of a step that get the point of another image.

    Args:
        encoder: Network whose features are kept.
        target_dim: Dimension of the points; 2048 in the paper.
        exchange_interval: Number of epochs from one exchange of points to the next, starting with the first epoch; 3
            in the authors' code.
        hidden_dim: Width of the hidden layer of the head.
        **views: How the images are cropped and mirrored.
    """

    encoder_input = "sobel"
    held_out = "undefined"
    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, flip=0.5)
    points: Tensor
    point_of: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        target_dim: Count = 64,
        exchange_interval: Count = 1,
        hidden_dim: Count = 512,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.exchange_interval = exchange_interval
        self.head = mlp(encoder.dim, hidden_dim, target_dim)
        self.register_buffer("points", torch.zeros(0, target_dim))
        self.register_buffer("point_of", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("epoch", torch.tensor(-1))

    def chance(self, samples: int) -> float:
        return 1.0

    def prepare(self, data: Data) -> None:
        refuse_rows(len(data), self.points.shape[1])
        points = F.normalize(torch.randn(len(data), self.points.shape[1]), dim=1)
        self.points = gather.broadcast(points.to(self.points))
        self.point_of = torch.arange(len(data), device=self.points.device)
        self.epoch.fill_(-1)

    def begin_epoch(self, data: Data) -> None:
        self.epoch += 1

    def forward(self, batch: Batch) -> Tensor:
        if not len(self.points):
            raise UserError("points must be drawn first: call prepare(data)")
        vectors, index = self.embed_features(self.encoder(self.views(batch))), batch["index"]
        self.metrics = {}
        if self.training and int(self.epoch) % self.exchange_interval == 0:
            everyone = gather.gather(vectors.detach())
            # If a vector is not finite, neither is the loss, which the training loop reports.
            if everyone.isfinite().all():
                self.metrics = {"exchanged": self.exchange(everyone, gather.gather(index))}
        return loss(vectors, self.points[self.point_of[index]].to(vectors.dtype))

    @torch.no_grad()
    def exchange(self, vectors: Tensor, index: Tensor) -> Tensor:
        """Redistribute the points of some images among them, so that the sum of the squared distances is minimal.

        Args:
            vectors: Unit vectors of the images of all processes, float, shape (images, dim).
            index: Number of each image, int64, shape (images,).

        Returns:
            Fraction of the images that now have another point, scalar.

        Raises:
            UserError: An image occurs twice, so that it would get two points.
        """
        if len(index.unique()) < len(index):
            raise UserError(f"index must not repeat an image within a batch, got {index.tolist()}")
        before = self.point_of[index]
        columns = assign(costs(vectors, self.points[before].to(vectors.dtype)))
        after = before[gather.broadcast(columns)]  # each process may round the products differently
        self.point_of[index] = after
        return (after != before).float().mean()
