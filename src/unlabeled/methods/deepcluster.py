"""DeepCluster: group the features of all images, learn to tell the groups apart, and group again.

Withheld: the cluster in which k-means put an image before this epoch. Predicted: it, from a crop.

Source: Caron, Bojanowski, Joulin, Douze, "Deep Clustering for Unsupervised Learning of Visual Features",
2018, https://arxiv.org/abs/1807.05520
Differs: the last ReLU stays, since the features are the encoder's own; PCA keeps 64 components, not 256; the head has
no optimizer of its own, so momentum outlives its new start in every epoch. The weights move by the loop's AdamW with
warm-up and cosine; the paper has SGD at one rate.
Shortcut: an empty cluster takes half of the largest one, and clusters are drawn equally often however small
they are, so one answer for all images does not pay; the encoder sees gradients of brightness, not colours.
"""

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.kmeans import agreement, kmeans, whiten

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["DeepCluster"]

DEFAULT_CLUSTERS = 100
FEATURES_AT_ONCE = 512


class DeepCluster(Method):
    """Group the features of all images and learn to tell the groups apart.

    Args:
        encoder: Network whose features are kept.
        clusters: Number of groups: about ten times the classes expected, at most a quarter of the samples; by
            default 100, or a tenth of the samples where that is less.
        components: Principal components of the features that are clustered.
        iterations: Rounds of k-means.
        crop: Smallest share of the image's area that is shown.
        flip: Probability that an image is mirrored.
    """

    encoder_input = "sobel"
    held_out = "undefined"
    smallest: ClassVar = {"clusters": 3}
    assignments: Tensor
    used: Tensor
    agreement: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        clusters: int | None = None,
        components: int = 64,
        iterations: int = 20,
        crop: float = 0.08,
        flip: float = 0.5,
    ) -> None:
        super().__init__(encoder)
        check.at_least(2, clusters=DEFAULT_CLUSTERS if clusters is None else clusters)
        check.at_least(1, components=components, iterations=iterations)
        self.clusters, self.components, self.iterations = clusters, components, iterations
        self.views = Views(self.encoder.image_size, crop=crop, jitter=0, gray=0, flip=flip)
        self.head = nn.Linear(self.encoder.dim, DEFAULT_CLUSTERS if clusters is None else clusters)
        self.register_buffer("assignments", torch.zeros(0, dtype=torch.long))
        self.register_buffer("used", torch.tensor(self.head.out_features))
        self.register_buffer("agreement", torch.zeros(()))

    def chance(self, samples: int) -> float:
        return math.log(int(self.used))

    def prepare(self, data: "Data") -> None:
        if self.clusters is None:
            self.used.fill_(min(DEFAULT_CLUSTERS, max(2, len(data) // 10)))
        elif self.clusters > len(data) // 4:
            most = len(data) // 4
            raise UserError(f"clusters must be at most a quarter of the samples, {most}, got {self.clusters}")
        self.assignments = torch.zeros(len(data), dtype=torch.long, device=self.used.device)

    @torch.no_grad()
    def begin_epoch(self, data: "Data") -> Tensor:
        features = F.normalize(whiten(self._all_features(data), self.components), dim=1)
        found = gather.broadcast(kmeans(features, int(self.used), self.iterations).assignments)
        self.agreement.copy_(agreement(self.assignments, found))
        self.assignments.copy_(found)
        self.head.weight.copy_(gather.broadcast(torch.randn_like(self.head.weight) * 0.01))
        self.head.bias.zero_()
        sizes = torch.bincount(found)
        return 1 / (len(sizes) * sizes[found].float())

    def forward(self, batch: Batch) -> Tensor:
        if not len(self.assignments):
            raise UserError("assignments must be made first: call prepare(data), then begin_epoch(data)")
        labels = self.assignments[batch["index"]]
        logits = self._logits(self.views(batch))
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.metrics = {"accuracy": accuracy, "agreement": self.agreement.clone()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        logits = self._logits(images)
        labels = logits.argmax(dim=1)
        itself = torch.eye(len(images), dtype=torch.bool, device=images.device)
        together = (labels[:, None] == labels) & ~itself
        mates = images[together.int().argmax(dim=1)].where(together.any(dim=1)[:, None, None, None], 0.5)
        likeness = logits[:, labels].masked_fill(itself, -torch.inf)
        closest = images[likeness.argmax(dim=1)]
        return {"image": images, "same predicted cluster": mates, "next in likeness": closest}

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.head(self.encoder(images)).float()
        unused = torch.arange(logits.shape[1], device=logits.device) >= self.used
        return logits.masked_fill(unused, -torch.inf)

    def _all_features(self, data: "Data") -> Tensor:
        training = self.encoder.training
        self.encoder.eval()
        device = self.used.device
        parts = []
        for part in data.batches(FEATURES_AT_ONCE):
            parts.append(self.features({name: value.to(device) for name, value in part.items()}).float())
        self.encoder.train(training)
        return torch.cat(parts)
