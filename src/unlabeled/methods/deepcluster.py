"""DeepCluster: cluster the features of all images, learn to predict the clusters, and cluster again.

Withheld: the cluster to which k-means assigned an image before this epoch. Predicted: it, from a crop.

Source: Caron, Bojanowski, Joulin, Douze, "Deep Clustering for Unsupervised Learning of Visual Features",
2018, https://arxiv.org/abs/1807.05520
Differs: the last ReLU stays, since the features are the encoder's own; PCA keeps 64 components, not 256; the head has
no optimizer of its own, so momentum survives its reset in every epoch. The optimizer is AdamW with warm-up and cosine,
not SGD at a constant rate.
Shortcut: an empty cluster takes half of the largest one, and clusters are drawn equally often however small they are,
so one answer for all images does not pay; the encoder sees gradients of brightness, not colours.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Several, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.parts.features import all_features
from unlabeled.parts.kmeans import agreement, kmeans, whiten
from unlabeled.parts.pictures import mates

__all__ = ["DeepCluster"]

DEFAULT_CLUSTERS = 100


class DeepCluster(Method[ImageEncoder]):
    """Cluster the features of all images, learn to predict the clusters, and cluster again.

    Args:
        encoder: Network whose features are kept.
        clusters: Number of clusters: about ten times the expected classes, at most a quarter of the samples.
            [default: 100, or a tenth of the samples where that is less]
        components: Principal components of the features that are clustered.
        iterations: Iterations of k-means.
        **views: How the images are cropped and mirrored.
    """

    encoder_input = "sobel"
    held_out = "undefined"
    view_defaults = ViewOptions(crop=0.08, flip=0.5)
    recipe: ClassVar = {"epochs": 27, "lr": 2e-3}
    smallest: ClassVar = {"clusters": 3}
    assignments: Tensor
    used: Tensor
    agreement: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        clusters: Several | None = None,
        components: Count = 64,
        iterations: Count = 20,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.clusters, self.components, self.iterations = clusters, components, iterations
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = nn.Linear(encoder.dim, DEFAULT_CLUSTERS if clusters is None else clusters)
        self.register_buffer("assignments", torch.zeros(0, dtype=torch.long))
        self.register_buffer("used", torch.tensor(self.head.out_features))
        self.register_buffer("agreement", torch.zeros(()))

    def chance(self, samples: int) -> float:
        return math.log(int(self.used))

    def prepare(self, data: Data) -> None:
        if self.clusters is None:
            self.used.fill_(min(DEFAULT_CLUSTERS, max(2, len(data) // 10)))
        elif self.clusters > (most := len(data) // 4):
            raise UserError(f"clusters must be at most a quarter of the samples, {most}, got {self.clusters}")
        self.assignments = torch.zeros(len(data), dtype=torch.long, device=self.used.device)

    @torch.no_grad()
    def begin_epoch(self, data: Data) -> Tensor:
        features = all_features(self.encoder, self.features, data, self.used.device)
        features = F.normalize(whiten(features, self.components), dim=1)
        clusters = gather.broadcast(kmeans(features, int(self.used), self.iterations).assignments)
        self.agreement.copy_(agreement(self.assignments, clusters))
        self.assignments.copy_(clusters)
        self.head.weight.copy_(gather.broadcast(torch.randn_like(self.head.weight) * 0.01))
        self.head.bias.zero_()
        sizes = torch.bincount(clusters)
        return 1 / (len(sizes) * sizes[clusters].float())

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
        nearest = logits[:, labels].fill_diagonal_(-torch.inf).argmax(dim=1)
        return {"image": images, "same predicted cluster": mates(images, labels), "nearest": images[nearest]}

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.head(self.encoder(images)).float()
        unused = torch.arange(logits.shape[1], device=logits.device) >= self.used
        return logits.masked_fill(unused, -torch.inf)
