"""BEiT: predict which of some hundred kinds of patches is hidden, where the kinds are clusters of patches.

Withheld: rectangles of patches, which a learned token replaces in the encoder's input. Predicted: the cluster of each
hidden patch, by one linear layer; clusters are found by k-means before training.

Source: Bao, Dong, Piao, Wei, "BEiT: BERT Pre-Training of Image Transformers", 2021, https://arxiv.org/abs/2106.08254
Differs: the paper's 8,192 kinds are codes of DALL-E's discrete autoencoder, whose weights are a download; here they are
clusters of single patches with normalised contrast. The network is small by default, for images of 32 pixels, with
fixed positions instead of biases of relative ones, unscaled layers and no stochastic depth. All images have equally
many hidden patches.
Shortcut: the most frequent kinds can be guessed without looking, so the loss counts only below the entropy of the
clusters, which is given as chance. Neighbours tell single patches, so whole rectangles are hidden.
"""

from typing import Annotated, ClassVar, Unpack

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Range, Several, ViewOptions
from unlabeled.parts import masked_codes
from unlabeled.parts.cubes import completed, replace
from unlabeled.parts.dictionary import normalize_contrast
from unlabeled.parts.heads import near_zero
from unlabeled.parts.hidden_patches import HiddenPatches
from unlabeled.parts.kmeans import nearest
from unlabeled.parts.token_masks import numbers

__all__ = ["BEiT"]

SAMPLES, PATCHES = 2048, 50_000
"""Images, and patches of them, that are clustered."""
FLAT = 10 / 255**2
"""Variance that is added to that of a patch, as in `dictionary`."""


class BEiT(HiddenPatches, Method[ImageEncoder]):
    """Predict which of some hundred kinds of patches is hidden, where the kinds are clusters of patches.

    The metrics are the accuracy on hidden patches and `codes`, the number of equally frequent clusters that would be as
    hard to guess as those of the batch.

    Args:
        encoder: Network whose features are kept; in training it sees all patches, hidden ones as the learned token.
        mask: Fraction of the patches that are hidden, rounded down to whole patches.
        codes: Clusters of patches.
        **views: How the views are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-gap-small", "batch_size": 128, "clip": 3.0}
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "image_size": 16, "codes": 8}
    centres: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        mask: Annotated[float, Range(above=0, below=1)] = 0.4,
        codes: Several = 512,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, mask, token=True)
        self.head = near_zero(nn.Linear(encoder.trunk.dim, codes))
        self.register_buffer("centres", torch.zeros(codes, encoder.in_channels * encoder.patch_size**2))

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        points = self.describe(self.views(data.sample(SAMPLES)))
        points = points[torch.randperm(len(points))[:PATCHES].to(points.device)]
        if len(points) < len(self.centres):
            raise UserError(
                f"codes must be at most the {len(points)} patches of {data.name}, got {len(self.centres)}"
            )
        masked_codes.find(points, self.centres, self.baseline)
        if not self.baseline > 0:
            raise UserError(f"images of {data.name} must have patches that differ, got one cluster for all")

    def describe(self, images: Tensor) -> Tensor:
        """What is clustered of each patch, float, shape (batch * patches, numbers)."""
        return normalize_contrast(self.joined(images).flatten(0, 2), FLAT)

    def targets(self, images: Tensor) -> Tensor:
        """Cluster of each patch, int64, shape (batch, patches)."""
        return nearest(self.describe(images), self.centres).view(len(images), -1)

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Logits of the clusters of hidden patches in order, float, shape (batch * hidden, codes)."""
        return self.head(self.hidden_tokens(images, mask)).flatten(0, 1)

    def forward(self, batch: Batch) -> Tensor:
        images, mask = self.draw(batch)
        logits, codes = self.predict(images, mask), self.targets(images)[mask]
        used = masked_codes.entropy(codes, len(self.centres)).exp()
        self.metrics = {"accuracy": masked_codes.accuracy(logits, codes), "codes": used}
        return masked_codes.loss(logits, codes)

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hidden patches are replaced by the means of clusters, with the true mean and deviation of the patch."""
        hidden, whole = numbers(mask), self.joined(images)
        true, predicted = (
            completed(whole, hidden, self.centres[codes].unflatten(0, hidden.shape)).view_as(patches)
            for codes in (self.targets(images)[mask], self.predict(images, mask).argmax(1))
        )
        visible = replace(patches, hidden, 0.5)
        return {"visible": visible, "true codes": true, "predicted codes": predicted}
