"""SwAV: predict the cluster of one crop of an image from another crop.

Withheld: to which of the learned prototypes a large crop belongs, where each prototype gets equally many images.
Predicted: that assignment, from every other crop, large or small.

Source: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised Learning of Visual Features by
Contrasting Cluster Assignments", 2020, https://arxiv.org/abs/2006.09882
Differs: several processes share one queue, where the authors' code has one each, so that the assignments are those of
one process. By default there are fewer prototypes and the crops are larger, for small images, with half of the paper's
jitter and no blur (0.5 in the paper). Crops are resampled bilinearly. The optimizer is AdamW, not SGD under LARC with a
rate that ends above 0.
Shortcut: one prototype for all images would be easy to predict, so the assignments are balanced over the batch.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, PositiveFraction, ViewOptions, WholeNumber
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.multi_crop import swapped_prediction
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.queue import Queue
from unlabeled.parts.sinkhorn import sinkhorn
from unlabeled.parts.two_views import TwoViews

__all__ = ["SwAV"]


@full_precision
def similarity(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of unit vectors (..., dim) and prototypes (prototypes, dim), shape (..., prototypes)."""
    return vectors @ prototypes.T


class SwAV(TwoViews, Method[ImageEncoder]):
    """Predict the cluster of one crop of an image from another crop.

    Args:
        encoder: Network whose features are kept.
        prototypes: Number of clusters; 3000 in the paper for ImageNet.
        temperature: Softmax temperature of the predicted assignment.
        epsilon: Softness of the target assignment; try 0.03 where the loss stays at chance.
        iterations: Sinkhorn iterations that balance the assignments.
        projection_dim: Width of the clustered vectors.
        hidden_dim: Width of the hidden layer of the head; 2048 in the paper.
        queue: Earlier samples that help to balance the assignments; 0, or a few thousand for small batches.
        queue_steps: Optimizer steps before the queue is used.
        freeze_steps: Optimizer steps before the prototypes move.
        local_crops: Number of small crops of each image, in addition to the two large ones.
        local_size: Side of the small crops in pixels. [default: about half of the large ones']
        local_crop: Smallest fraction of the image's area in a small crop; the largest is `crop`.
        **views: How the crops are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.3, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)
    recipe: ClassVar = {"epochs": 11, "lr": 2e-3, "prototypes": 128}
    smallest: ClassVar = {"prototypes": 8}
    steps: Tensor
    start: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        prototypes: Count = 256,
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        projection_dim: Count = 128,
        hidden_dim: Count = 512,
        queue: WholeNumber = 0,
        queue_steps: WholeNumber = 1000,
        freeze_steps: WholeNumber = 100,
        local_crops: WholeNumber = 4,
        local_size: Count | None = None,
        local_crop: PositiveFraction = 0.1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, small=(local_crops, local_size, local_crop))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_steps, self.freeze_steps = queue_steps, freeze_steps
        self.head = mlp(encoder.dim, hidden_dim, projection_dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, projection_dim), dim=1))
        self.queues = nn.ModuleList(Queue(queue, projection_dim) for _ in range(2))
        self.register_buffer("start", self.prototypes.detach().clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def chance(self, samples: int) -> float:
        return math.log(len(self.prototypes))

    def forward(self, batch: Batch) -> Tensor:
        vectors = F.normalize(full(self.crop_projections(batch)), dim=2)
        frozen = self.steps < self.freeze_steps
        # While frozen the gradient is 0 rather than None, which several processes could not average.
        prototypes = torch.where(frozen, self.prototypes.detach(), self.prototypes)
        codes = torch.stack([self.codes(vectors[0], self.queues[0]), self.codes(vectors[1], self.queues[1])])
        return swapped_prediction(similarity(vectors, prototypes), codes, self.temperature)

    @torch.no_grad()
    def codes(self, vectors: Tensor, queue: nn.Module) -> Tensor:
        """Assignments of one crop, balanced over all processes and the queue, shape (batch, prototypes)."""
        assert isinstance(queue, Queue)
        everyone = samples = gather.gather(vectors)
        if len(queue.rows) and queue.full and self.steps >= self.queue_steps:
            samples = torch.cat([everyone, queue.rows])
        assignments = sinkhorn(similarity(samples, self.prototypes), self.epsilon, self.iterations)
        if self.training:
            queue.push(everyone)
        return gather.own(assignments[: len(everyone)])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.steps += 1
        moved = F.normalize(self.prototypes, dim=1)
        # The optimizer's momentum and weight decay move parameters whose gradient is 0.
        self.prototypes.copy_(torch.where(self.steps <= self.freeze_steps, self.start, moved))
