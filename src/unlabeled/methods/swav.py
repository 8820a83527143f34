"""SwAV: predict the cluster of one crop of an image from another crop.

Withheld: to which of the learned prototypes a large crop belongs, where each prototype gets an equal share of
the images. Predicted: that assignment, from every other crop, large or small.

Source: Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, "Unsupervised Learning of Visual Features by
Contrasting Cluster Assignments", 2020, https://arxiv.org/abs/2006.09882
Differs: several processes share one queue, where the authors' code has one in each, so that the assignments are those
of one process. By default there are fewer prototypes and the crops are larger, for small images. Crops are resampled
bilinearly. The weights move by the loop's AdamW; the paper has SGD under LARC with a rate that ends above 0.
Shortcut: one prototype for all would be easy to predict, so the assignments are balanced over the batch.
"""

import math
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.queue import Queue

__all__ = ["SwAV"]


@full_precision
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments close to exp(scores / epsilon) that use all prototypes about equally.

    Args:
        scores: Similarity of samples and prototypes, float, shape (samples, prototypes).
        epsilon: Softness, above 0; larger is closer to uniform.
        iterations: Rounds of scaling columns and rows, at least 1.

    Returns:
        Probabilities, float, shape (samples, prototypes): rows sum to 1, columns to nearly the same number.
    """
    logarithm = scores / epsilon
    for _ in range(iterations):
        logarithm = logarithm.log_softmax(0).log_softmax(1)
    return logarithm.exp()


@full_precision
def similarity(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines of unit vectors (..., dim) and prototypes (prototypes, dim), shape (..., prototypes)."""
    return vectors @ prototypes.T


@full_precision
def loss(scores: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Swapped prediction: cross-entropy of each crop with the assignment of each other, assigned crop.

    Args:
        scores: Cosines with the prototypes, float, shape (crops, batch, prototypes).
        codes: Assignments of the first crops, float, shape (assigned, batch, prototypes).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the batch and all pairs of different crops, scalar, in nats; ln(prototypes) at equal scores.
    """
    predictions = (scores / temperature).log_softmax(-1)
    entropy = -torch.einsum("abp,cbp->ac", codes, predictions) / codes.shape[1]
    different = ~torch.eye(*entropy.shape, dtype=torch.bool, device=entropy.device)
    return (entropy * different).sum() / different.sum()


class SwAV(Method):
    """Predict the cluster of one crop of an image from another crop.

    Args:
        encoder: Network whose features are kept.
        prototypes: Number of clusters; 3000 in the paper for ImageNet.
        temperature: Sharpness of the predicted assignment.
        epsilon: Softness of the assignment that is predicted; try 0.03 where the loss stays at chance.
        iterations: Rounds of balancing the assignments.
        projection_dim: Width of the vectors that are clustered.
        hidden_dim: Width of the hidden layer of the head; 2048 in the paper.
        queue: Earlier samples that help to balance the assignments; 0, or a few thousand for small batches.
        queue_steps: Optimizer steps before the queue is used.
        freeze_steps: Optimizer steps before the prototypes move.
        local_crops: Number of small crops for each image, beside the two large ones.
        local_size: Side of the small crops in pixels; about half of the large ones' if None.
        crop: Smallest share of the image's area in a large crop, and largest in a small one.
        local_crop: Smallest share of the image's area in a small crop.
        jitter: Strength of the colour changes; 1 is the paper's.
        gray: Probability that a crop loses its colours.
        blur: Probability that a crop is blurred; 0.5 in the paper.
        flip: Probability that a crop is mirrored; 0 where left and right differ in meaning, as in digits.
        degrees: Largest rotation of a crop, to either side.
    """

    compares_samples = True
    smallest: ClassVar = {"prototypes": 8}
    steps: Tensor
    start: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        prototypes: int = 256,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        projection_dim: int = 128,
        hidden_dim: int = 512,
        queue: int = 0,
        queue_steps: int = 1000,
        freeze_steps: int = 100,
        local_crops: int = 4,
        local_size: int | None = None,
        crop: float = 0.3,
        local_crop: float = 0.1,
        jitter: float = 0.5,
        gray: float = 0.2,
        blur: float = 0.0,
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        check.positive(temperature=temperature, epsilon=epsilon)
        check.at_least(1, prototypes=prototypes, iterations=iterations)
        check.at_least(1, projection_dim=projection_dim, hidden_dim=hidden_dim)
        check.at_least(0, queue=queue, queue_steps=queue_steps)
        check.at_least(0, freeze_steps=freeze_steps, local_crops=local_crops)
        check.at_least(1, local_size=1 if local_size is None else local_size)
        if not 0 < local_crop <= crop:
            raise UserError(f"local_crop must be above 0 and at most crop ({crop}), got {local_crop}")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_steps, self.freeze_steps, self.local_crops = queue_steps, freeze_steps, local_crops
        size, patch = self.encoder.image_size, self.encoder.patch_size or 1
        small: int = local_size or max(1, size // 2 // patch) * patch
        if local_crops and hasattr(encoder, "takes") and not self.encoder.takes(small):
            name = self.encoder.config["name"]
            raise UserError(
                f"local_crops must be 0 for {name}, which takes no crops of {small} pixels, got {local_crops}"
            )
        views = partial(Views, jitter=jitter, gray=gray, blur=blur, flip=flip, degrees=degrees)
        self.views = views(size, crop=crop)
        self.local_views = views(small, crop=local_crop, crop_max=crop)
        self.head = mlp(self.encoder.dim, hidden_dim, projection_dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, projection_dim), dim=1))
        self.queues = nn.ModuleList(Queue(queue, projection_dim) for _ in range(2))
        self.register_buffer("start", self.prototypes.detach().clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def chance(self, samples: int) -> float:
        return math.log(len(self.prototypes))

    def forward(self, batch: Batch) -> Tensor:
        features = self.encoder(torch.cat([self.views(batch), self.views(batch)]))
        if self.local_crops:
            small = torch.cat([self.local_views(batch) for _ in range(self.local_crops)])
            features = torch.cat([features, self.encoder(small)])
        vectors = F.normalize(full(self.head(features)), dim=1)
        vectors = rearrange(vectors, "(crop sample) dim -> crop sample dim", crop=2 + self.local_crops)
        frozen = self.steps < self.freeze_steps
        # Where frozen the gradient is 0 rather than None, which several processes could not average.
        prototypes = torch.where(frozen, self.prototypes.detach(), self.prototypes)
        codes = torch.stack([self.codes(vectors[0], self.queues[0]), self.codes(vectors[1], self.queues[1])])
        return loss(similarity(vectors, prototypes), codes, self.temperature)

    @torch.no_grad()
    def codes(self, vectors: Tensor, queue: nn.Module) -> Tensor:
        """Assignments of one crop, balanced over all processes and the queue, shape (batch, prototypes)."""
        assert isinstance(queue, Queue)
        everyone = samples = gather.gather(vectors)
        if len(queue.rows) and queue.full and self.steps >= self.queue_steps:
            samples = torch.cat([everyone, queue.rows])
        assigned = sinkhorn(similarity(samples, self.prototypes), self.epsilon, self.iterations)
        if self.training:
            queue.push(everyone)
        return gather.own(assigned[: len(everyone)])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        self.steps += 1
        moved = F.normalize(self.prototypes, dim=1)
        # The optimizer's momentum and weight decay move parameters whose gradient is 0.
        self.prototypes.copy_(torch.where(self.steps <= self.freeze_steps, self.start, moved))

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        large = {"image": self.encoder.inputs(batch), "large crop": self.views(batch)}
        return large | ({"small crop": self.local_views(batch)} if self.local_crops else {})
