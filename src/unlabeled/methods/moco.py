"""MoCo: find the other view of an image among thousands of stored views of other images.

Withheld: which of many vectors (keys) shows the same image as a view (the query). Predicted: that key, by
cosine similarity, among it and the keys of earlier batches, all made by a slowly moving copy of the encoder.

Source: He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
https://arxiv.org/abs/1911.05722; Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive
Learning", 2020, https://arxiv.org/abs/2003.04297
Differs: the teacher moves after the optimizer step instead of before the next forward, which is the same; the
symmetric loss is the mean of both directions, where the authors' CIFAR-10 notebook adds them up; version 1 (linear,
temperature 0.07) keeps the colour changes of version 2, where the paper's turn the hue more. The weights move by the
loop's AdamW, warmed up and without decay of norms and biases; the authors' SGD decays everything.
Shortcut: batch norm tells which query and key were in one batch, so both pass in small groups, the keys in
random ones that reach over all processes.
"""

import math
import warnings
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.kernels.partition import log_partition
from unlabeled.method import Batch, Method
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.queue import Queue
from unlabeled.parts.shuffle import in_groups, shuffled
from unlabeled.parts.teacher import Teacher

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["MoCo"]


@full_precision
def loss(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE: the own key's share in a softmax over it and the queue.

    Args:
        queries: Projections of the student, float, shape (batch, dim); only their directions count.
        keys: Unit vectors of the teacher, row by row the same images, float, shape (batch, dim).
        queue: Unit vectors of other images, float, shape (stored, dim).
        temperature: Divides the cosines, above 0.

    Returns:
        Mean over the batch, scalar, in nats; ln(stored + 1) when all vectors are equal.
    """
    queries = F.normalize(queries, dim=1)
    positive = (queries * keys).sum(1) / temperature
    everyone = torch.logaddexp(positive, log_partition(queries, queue, 1 / temperature))
    return (everyone - positive).mean()


class MoCo(Method):
    """Find the other view of an image among thousands of stored views of other images.

    Args:
        encoder: Network whose features are kept.
        temperature: Sharpness of the softmax over similarities; 0.2 in version 2, 0.07 in version 1.
        projection_dim: Width of the vectors that are compared.
        projection: Layers between the features and these vectors; "mlp" in version 2, "linear" in version 1.
        queue: Keys of earlier batches that a query is compared with.
        momentum: Share of the teacher that is kept in a step; 0.999 for ImageNet, 0.99 for shorter trainings.
        symmetric: Whether each view is once the query and once the key; twice the work in a step.
        splits: Groups in each process that batch norm sees one by one; each has at least 8 images.
        crop: Smallest share of the image's area that a view shows.
        jitter: Strength of the colour changes; 0.5 is version 2's.
        gray: Probability that a view loses its colours.
        blur: Probability that a view is blurred; 0.5 in version 2 for ImageNet, 0 in version 1.
        flip: Probability that a view is mirrored; 0 where left and right differ in meaning, as in digits.
        degrees: Largest rotation of a view, to either side.
    """

    smallest: ClassVar = {"queue": 16}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: float = 0.2,
        projection_dim: int = 128,
        projection: Literal["mlp", "linear"] = "mlp",
        queue: int = 4096,
        momentum: float = 0.99,
        symmetric: bool = False,
        splits: int = 4,
        crop: float = 0.2,
        jitter: float = 0.5,
        gray: float = 0.2,
        blur: float = 0.0,
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        check.positive(temperature=temperature, projection_dim=projection_dim, queue=queue, splits=splits)
        check.fraction(momentum=momentum)
        check.choice(["mlp", "linear"], projection=projection)
        self.temperature, self.momentum = temperature, momentum
        self.symmetric, self.splits = symmetric, splits
        size = self.encoder.image_size
        self.views = Views(size, crop=crop, jitter=jitter, gray=gray, blur=blur, flip=flip, degrees=degrees)
        hidden = [self.encoder.dim] if projection == "mlp" else []
        self.head = mlp(self.encoder.dim, *hidden, projection_dim, norm=False)
        self.teacher = Teacher(self.encoder, self.head)
        self.queue = Queue(queue, projection_dim)

    def chance(self, samples: int) -> float:
        return math.log(len(self.queue.rows) + 1)

    def prepare(self, data: "Data") -> None:
        self.teacher.restart(self.encoder, self.head)
        stored = len(self.queue.rows)
        if stored > len(data):
            warnings.warn(
                f"queue ({stored}) is larger than the data ({len(data)}), so images meet their own earlier keys "
                "as if they were others; choose a smaller one",
                stacklevel=2,
            )

    def forward(self, batch: Batch) -> Tensor:
        views = [self.views(batch), self.views(batch)]
        stored = self.queue.rows.clone()
        losses = []
        for query, key in [(0, 1), (1, 0)][: 1 + self.symmetric]:
            queries = self.head(in_groups(self.encoder, views[query], self.splits))
            keys = F.normalize(full(shuffled(self.teacher, views[key], self.splits)), dim=1)
            losses.append(loss(queries, gather.own(keys), stored, self.temperature))
            if self.training:
                self.queue.push(keys)
        return torch.stack(losses).mean()

    def after_step(self, progress: float) -> None:
        self.teacher.update(self.momentum, self.encoder, self.head)

    def embed_features(self, features: Tensor) -> Tensor:
        return self.head(features)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        return {"image": self.encoder.inputs(batch), "query": self.views(batch), "key": self.views(batch)}
