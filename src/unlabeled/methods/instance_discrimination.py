"""Instance discrimination: recognise each image among all images by their vectors in a memory bank.

Withheld: which image of the data a view shows. Predicted: its index, by cosine similarity with the stored vector of
each image.

Source: Wu, Xiong, Yu, Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018,
https://arxiv.org/abs/1805.01978
Differs: the proximal term is off by default, as in the authors' code; the colours change less, and images are mirrored,
which that code leaves out for CIFAR-10. Stored vectors start on the unit sphere; the authors' code draws their
components uniformly and does not normalise them. The optimizer is AdamW with warm-up.
Shortcut: colours identify an image, so they are jittered. An image is seen once per epoch, so stored vectors are stale;
with noise-contrastive estimation, the normalisation constant of the softmax is estimated on the first batch, so it
depends on the seed.
"""

from typing import Literal, Unpack

from torch import Tensor

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, NonNegative, Positive, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.memory_bank import MemoryBank
from unlabeled.parts.one_view import OneView

__all__ = ["InstanceDiscrimination"]


class InstanceDiscrimination(OneView, Method[ImageEncoder]):
    """Recognise each image among all images by their vectors in a memory bank.

    The metric `similarity` is the mean cosine similarity of a view with the stored vector of its image.

    Args:
        encoder: Network whose features are kept.
        loss: Exact "softmax" over all images; "nce", noise-contrastive estimation against a random sample of them, for
            millions of images.
        temperature: Softmax temperature; 0.07 in the paper for ImageNet.
        negatives: Number of stored vectors that "nce" compares each image with; its own may be among them.
        momentum: Fraction of a stored vector that an update keeps.
        proximal: Weight of the squared distance to an image's own stored vector, which stabilises training.
        projection_dim: Width of the stored vectors.
        **views: How the views are drawn.
    """

    held_out = "undefined"
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        loss: Literal["softmax", "nce"] = "softmax",
        temperature: Positive = 0.1,
        negatives: Count = 4096,
        momentum: Fraction = 0.5,
        proximal: NonNegative = 0.0,
        projection_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.temperature, self.negatives = temperature, negatives if loss == "nce" else 0
        self.proximal = proximal
        self.head = mlp(encoder.dim, projection_dim)
        self.bank = MemoryBank(projection_dim, momentum)

    def chance(self, samples: int) -> float | None:
        return self.bank.chance(self.negatives)

    def prepare(self, data: Data) -> None:
        self.bank.fill(len(data))

    def forward(self, batch: Batch) -> Tensor:
        index, rows = batch["index"], self.bank.current()
        vectors = self.embed_features(self.encoder(self.views(batch)))
        value = self.bank.compare(vectors, rows, index, self.negatives, self.temperature)
        similarity = (vectors * rows[index]).sum(1).mean()
        self.metrics = {"similarity": similarity.detach()}
        if self.training:
            self.bank.update(vectors, index)
        return value + self.proximal * (2 - 2 * similarity)
