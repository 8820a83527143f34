"""Noise as targets: give every image a random point of the sphere, and let images exchange their points.

Withheld: nothing. Predicted: the point of an image, which is noise; what is learned is which images get near points,
and that all crops of an image get one.

Source: Bojanowski, Joulin, "Unsupervised Learning by Predicting Noise", 2017, https://arxiv.org/abs/1704.05310
Differs: the points have 64 numbers, not 2,048, and the head has one hidden layer and no dropout, not two. Points are
exchanged in every epoch, once every 3 epochs in the authors' code. The optimizer is AdamW with warm-up and cosine, not
SGD.
Shortcut: points are all different and never move, so one vector for all images does not pay; the vectors have length 1,
else their scale decides the loss. With weak crops the network learns its points by heart. It sees gradients of
brightness, not colours.
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
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.one_view import OneView
from unlabeled.parts.precision import full_precision

__all__ = ["NoiseAsTargets", "loss"]


@full_precision
def loss(vectors: Tensor, points: Tensor) -> Tensor:
    """Half of the squared distance.

    Args:
        vectors: Unit vectors, float, shape (batch, dim).
        points: Point of each, unit vectors, float, shape (batch, dim).

    Returns:
        Mean over the batch, scalar, in 0..2; 1 for unrelated directions.
    """
    return (vectors - points).square().sum(1).mean() / 2


@full_precision
def costs(vectors: Tensor, points: Tensor) -> Tensor:
    """Squared distances, less a constant and halved; never computed in half precision, which would decide near ties.

    Args:
        vectors: Unit vectors, float, shape (images, dim).
        points: Unit vectors, float, shape (points, dim).

    Returns:
        Float, shape (images, points), in -1..1: of unit vectors the distance is least where the product is largest.
    """
    return -(vectors @ points.T)


class NoiseAsTargets(OneView, Method[ImageEncoder]):
    """Give every image a random point of the sphere, and let images exchange their points.

    The metric `exchanged` is the fraction of the images of a step that take the point of another one.

    Args:
        encoder: Network whose features are kept.
        target_dim: Numbers of a point; 2048 in the paper.
        every: Points are exchanged once in so many epochs, from the first one on; 3 in the authors' code.
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
        every: Count = 1,
        hidden_dim: Count = 512,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.every = every
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = mlp(encoder.dim, hidden_dim, target_dim)
        self.register_buffer("points", torch.zeros(0, target_dim))
        self.register_buffer("point_of", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("epoch", torch.tensor(-1))

    def chance(self, samples: int) -> float:
        return 1.0

    def prepare(self, data: Data) -> None:
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
        if self.training and int(self.epoch) % self.every == 0:
            everyone = gather.gather(vectors.detach())
            if everyone.isfinite().all():  # else the loss is no number either, which the training reports
                self.metrics = {"exchanged": self.exchange(everyone, gather.gather(index))}
        return loss(vectors, self.points[self.point_of[index]].to(vectors.dtype))

    @torch.no_grad()
    def exchange(self, vectors: Tensor, index: Tensor) -> Tensor:
        """Give the points of some images to the same images, so that the sum of the squared distances is the least.

        Args:
            vectors: Unit vectors of the images of all processes, float, shape (images, dim).
            index: Number of each image, int64, shape (images,).

        Returns:
            Fraction of the images that have another point now, scalar.

        Raises:
            UserError: An image is there twice, to which two points would be given.
        """
        if len(index.unique()) < len(index):
            raise UserError(f"index must name every image once in a batch, got {index.tolist()}")
        owned = self.point_of[index]
        columns = assign(costs(vectors, self.points[owned].to(vectors.dtype)))
        taken = owned[gather.broadcast(columns)]  # each process may round the products differently
        self.point_of[index] = taken
        return (taken != owned).float().mean()
