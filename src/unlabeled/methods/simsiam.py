"""SimSiam: predict the projection of the other view of an image, which is held fixed meanwhile.

Withheld: the other view. Predicted: its projection, up to its length, from that of this view.

Source: Chen, He, "Exploring Simple Siamese Representation Learning", 2020, https://arxiv.org/abs/2011.10566
Differs: the heads are 512 and 128 wide, the paper's 2,048 and 512, and the projector has two layers, as the paper's for
CIFAR-10. The learning rate of the predictor falls like all others; the authors keep it constant. Crops of at least 0.2
of the area and no blur, as images are small. The weights move by the loop's AdamW; the paper has SGD.
Shortcut: a constant output has the lowest loss, -1. The predictor and the gradient that stops at the target keep the
training away from it; the metric `std` is 1 where directions are spread evenly, and goes to 0 in a collapse.
"""

from typing import ClassVar, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision
from unlabeled.parts.two_views import TwoViews

__all__ = ["SimSiam"]


@full_precision
def loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Negative cosine similarity.

    Args:
        predictions: From one view, float, shape (batch, dim).
        targets: Projections of the other view, float, shape (batch, dim); receive no gradient.

    Returns:
        Mean over the batch, scalar, in -1..1; 0 for unrelated directions.
    """
    return -F.cosine_similarity(predictions, targets.detach(), dim=1).mean()


class SimSiam(TwoViews, Method[ImageEncoder]):
    """Predict the projection of the other view of an image, which is held fixed meanwhile.

    Args:
        encoder: Network whose features are kept.
        projection_dim: Width of the projections.
        hidden_dim: Width of the predictor's hidden layer, a bottleneck.
        **views: How the views are drawn.
    """

    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)
    recipe: ClassVar = {"epochs": 16, "lr": 2e-3}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        projection_dim: Count = 512,
        hidden_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        norm = nn.BatchNorm1d(projection_dim, affine=False)
        self.head = mlp(encoder.dim, projection_dim, projection_dim, last_bias=False).append(norm)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim)

    def chance(self, samples: int) -> float:
        return 0.0  # unrelated directions; a collapsed encoder goes to -1

    def forward(self, batch: Batch) -> Tensor:
        first, second = self.projections(batch)
        spread = F.normalize(first.detach().float(), dim=1).std(0, correction=0).mean()
        self.metrics = {"std": spread * first.shape[1] ** 0.5}
        return (loss(self.predictor(first), second) + loss(self.predictor(second), first)) / 2
