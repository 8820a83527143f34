"""BYOL: predict what a slowly moving copy of the encoder computes for the other view of an image.

Withheld: the other view. Predicted: the teacher's projection of it, from the student's; no other image is compared.

Source: Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020,
https://arxiv.org/abs/2006.07733
Differs: by default the heads are narrower (4096 and 256 in the paper) and the views are not blurred, for small images;
the paper blurs the first always and the second with probability 0.1. Crops are resampled bilinearly, not bicubically.
The optimizer is AdamW, not LARS.
Shortcut: a constant output has loss 0. The predictor, which the teacher lacks, the moving average and the batch norms
of the heads keep the training away from it; the loss cannot show a collapse, the spread of the projections does.
"""

from typing import ClassVar, Unpack

import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision
from unlabeled.parts.teacher import Teacher
from unlabeled.parts.two_views import TwoViews

__all__ = ["BYOL"]


@full_precision
def loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Squared distance between directions: 2 - 2 * cosine.

    Args:
        predictions: Of the student for one view, float, shape (batch, dim).
        targets: Of the teacher for the other view, float, shape (batch, dim); receives no gradient.

    Returns:
        Mean over the batch, scalar, in 0..4; 2 for unrelated directions.
    """
    cosine = (F.normalize(predictions, dim=1) * F.normalize(targets.detach(), dim=1)).sum(1)
    return (2 - 2 * cosine).mean()


class BYOL(TwoViews, Method[ImageEncoder]):
    """Predict what a slowly moving copy of the encoder computes for the other view of an image.

    Args:
        encoder: Network whose features are kept.
        momentum: Initial momentum of the teacher, 0.996 in the paper; rises to 1 along a cosine.
        projection_dim: Width of the predicted vectors.
        hidden_dim: Width of the hidden layer of both heads.
        second_blur: Probability that the second view is blurred; `blur` is that of the first, `solarize` of the second.
        **views: How the views are drawn.
    """

    view_defaults = ViewOptions(
        crop=0.08, jitter=0.5, gray=0.2, blur=0.0, solarize=0.2, flip=0.5, degrees=0.0
    )
    recipe: ClassVar = {"epochs": 13, "lr": 2e-3, "momentum": 0.97, "crop": 0.2, "jitter": 0.5, "gray": 0.2}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        momentum: Fraction = 0.99,
        projection_dim: Count = 128,
        hidden_dim: Count = 512,
        second_blur: Fraction = 0.0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, second_blur=second_blur)
        self.head = mlp(encoder.dim, hidden_dim, projection_dim, last_bias=False)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim, last_bias=False)
        self.teacher = Teacher(encoder, self.head, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return 4.0  # two directions, each 2 for unrelated vectors; a collapsed encoder goes to 0 instead

    def forward(self, batch: Batch) -> Tensor:
        views = self.two_views(batch)
        first, second = (self.predictor(self.head(self.encoder(view))) for view in views)
        first_target, second_target = (self.teacher(view) for view in views)
        return loss(first, second_target) + loss(second, first_target)
