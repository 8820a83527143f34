"""data2vec: predict at hidden patches what a slowly moving copy of the encoder computes from the whole image.

Withheld: rectangles of patches, which a learned token replaces in the encoder's input. Predicted: for each of them the
copy's output there, averaged over its last blocks and normalised, by one linear layer.

Source: Baevski, Hsu, Xu, Babu, Gu, Auli, "data2vec: A General Framework for Self-supervised Learning in Speech, Vision
and Language", 2022, https://arxiv.org/abs/2202.03555
Differs: the network is small by default, for images of 32 pixels, with fixed positions, unscaled layers and no
stochastic depth. All images have equally many hidden patches. The momentum rises along a cosine to 1. The loss is the
mean over the dimensions, not their sum divided by a root. Views have no changes of colour by default.
Shortcut: features that are the same everywhere would be easy to predict. Targets receive no gradient, come from the
slowly moving copy and are normalised; the loss cannot show a collapse, the metric `target std` does.
"""

from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, Range, ViewOptions
from unlabeled.parts.cubes import fits
from unlabeled.parts.heads import near_zero
from unlabeled.parts.hidden_patches import HiddenPatches, zero_loss
from unlabeled.parts.precision import full
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.token_masks import numbers, pick

__all__ = ["Data2Vec"]


class Data2Vec(HiddenPatches, Method[ImageEncoder]):
    """Predict at hidden patches what a slowly moving copy of the encoder computes from the whole image.

    The metric `target std` is the standard deviation of the targets over the patches of all images of a batch, before
    they are normalised: near 0 all are the same.

    Args:
        encoder: Network whose features are kept; in training it sees all patches, hidden ones as the learned token.
        mask: Fraction of the patches that are hidden, rounded down to whole patches.
        layers: Last blocks of the copy whose outputs are averaged; 6 of 12 in the paper.
        beta: Error below which the loss is quadratic.
        momentum: Initial momentum of the teacher, 0.999 in the paper; rises to 1 along a cosine.
        **views: How the views are drawn.
    """

    defaults: ClassVar = {"encoder": "vit-gap-small", "batch_size": 128, "lr": 5e-4, "clip": 3.0}
    view_defaults = ViewOptions(crop=0.2, jitter=0.0, flip=0.5)
    smallest: ClassVar = {"encoder": "vit-gap-tiny", "layers": 2}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        mask: Annotated[float, Range(above=0, below=1)] = 0.6,
        layers: Count = 3,
        beta: Positive = 2.0,
        momentum: Fraction = 0.99,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, mask, token=True)
        if layers > len(encoder.map_dims):
            raise UserError(
                f"layers must be at most the {len(encoder.map_dims)} of the encoder, got {layers}"
            )
        self.layers, self.beta = layers, beta
        self.head = near_zero(nn.Linear(encoder.trunk.dim, encoder.trunk.dim))
        self.teacher = Teacher(encoder, momentum=momentum, rising=True)
        self.baseline.fill_(zero_loss(beta))  # if targets are normal; a collapsed encoder goes to 0

    def targets(self, images: Tensor) -> Tensor:
        """The teacher's normalised mean over its last blocks, float, shape (batch, patches, dim)."""
        teacher = self.teacher.network
        states = teacher.trunk.model.forward_intermediates(
            teacher.adapt(images), self.layers, output_fmt="NLC", intermediates_only=True
        )
        return self.watched(torch.stack(states).mean(0))

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predictions of the hidden patches' features in order, float, shape (batch, hidden, dim)."""
        return full(self.head(self.hidden_tokens(images, mask)))

    def forward(self, batch: Batch) -> Tensor:
        images, mask = self.draw(batch)
        targets = pick(self.targets(images), numbers(mask))
        return F.smooth_l1_loss(self.predict(images, mask), targets, beta=self.beta)

    def patch_pictures(self, images: Tensor, patches: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Hidden patches are replaced by the patch of any image that fits the prediction best."""
        predicted, targets = self.predict(images, mask), self.targets(images)
        return fits(patches, numbers(~mask), numbers(mask), predicted, targets)
