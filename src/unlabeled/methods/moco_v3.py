"""MoCo v3: find the other view of an image among keys of the batch from a slowly moving copy of the encoder.

Withheld: which of the keys of a batch, computed by a slowly moving copy of the encoder, shows the same image as a view
(the query). Predicted: that key, by cosine similarity, after a predictor that the copy lacks; there is no queue.

Source: Chen, Xie, He, "An Empirical Study of Training Self-Supervised Vision Transformers", 2021,
https://arxiv.org/abs/2104.02057
Differs: the heads are narrower (4096 and 256 in the paper) and the views are not blurred, for small images; the paper
blurs the first always and the second with probability 0.1. Crops have at least 0.2 of the area, as the paper's for
ResNets; for ViTs it has 0.08. The teacher moves after the optimizer step instead of before its next forward pass, which
is equivalent. timm's ViTs learn their position embeddings, which the paper keeps fixed. Crops are resampled
bilinearly. The optimizer is AdamW for every encoder, as the paper's for ViTs; it has LARS for ResNets.
Shortcut: the statistics of batch norm reveal which images were in one batch, so several processes need synchronised
norms. Training the first layer of a ViT makes it unstable in a way that the loss hardly shows, so that layer stays
random.
"""

import math
from functools import partial
from typing import Unpack

from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.info_nce import in_batch
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.two_views import TwoViews

__all__ = ["MoCoV3"]


class MoCoV3(TwoViews, Method[ImageEncoder]):
    """Find the other view of an image among keys of the batch from a slowly moving copy of the encoder.

    Args:
        encoder: Network whose features are kept; for a ViT the projection head has three layers, otherwise two.
        temperature: Softmax temperature; the paper has 0.2 for ViTs and 1 for ResNets.
        momentum: Initial momentum of the teacher; rises to 1 along a cosine.
        projection_dim: Width of the compared vectors.
        hidden_dim: Width of the hidden layers of the projection head and the predictor.
        freeze_patches: Do not train the first layer of a ViT, which embeds the patches.
        second_blur: Probability that the second view is blurred; `blur` is that of the first, `solarize` of the second.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_names = ("first view", "second view")
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, solarize=0.2, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        temperature: Positive = 0.2,
        momentum: Fraction = 0.99,
        projection_dim: Count = 128,
        hidden_dim: Count = 512,
        freeze_patches: bool = True,
        second_blur: Fraction = 0.0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, second_blur=second_blur)
        self.temperature = temperature
        if encoder.is_vit and freeze_patches:
            encoder.trunk.model.patch_embed.requires_grad_(False)
        widths = [hidden_dim] * (2 if encoder.is_vit else 1)
        norm = partial(nn.BatchNorm1d, projection_dim, affine=False)  # neither scale nor shift
        self.head = mlp(encoder.dim, *widths, projection_dim, last_bias=False).append(norm())
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim, last_bias=False)
        if encoder.is_vit:
            self.predictor.append(norm())
        self.teacher = Teacher(encoder, self.head, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return 4 * self.temperature * math.log(samples)

    def forward(self, batch: Batch) -> Tensor:
        first, second = self.two_views(batch)
        queries = [self.predictor(self.head(self.encoder(view))) for view in (first, second)]
        keys = [self.teacher(view) for view in (second, first)]
        losses = [in_batch(query, key, self.temperature) for query, key in zip(queries, keys, strict=True)]
        # The sum of both directions; the temperature cancels the factor 1 / temperature of their gradients.
        return 2 * self.temperature * (losses[0] + losses[1])
