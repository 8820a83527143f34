"""BYOL: predict what a slowly moving copy of the encoder computes for the other view of an image.

Withheld: the other view. Predicted: the teacher's projection of it, from the student's; no other image is compared.

Source: Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", 2020,
https://arxiv.org/abs/2006.07733
Differs: by default the heads are narrower (4096 and 256 in the paper) and the views are not blurred, for small
images. Crops are resampled bilinearly, not bicubically. The weights are updated by the loop's AdamW; the paper has
LARS.
Shortcut: a constant output has loss 0. The predictor, which the teacher lacks, the moving average and the batch norms
of the heads keep the training away from it; the loss cannot show a collapse, the spread of the projections does.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views
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


class BYOL(TwoViews, Method):
    """Predict what a slowly moving copy of the encoder says about the other view of an image.

    Args:
        encoder: Network whose features are kept.
        momentum: Share of the teacher that is kept in the first step, 0.996 in the paper; rises to 1 along a cosine.
        projection_dim: Width of the vectors that are predicted.
        hidden_dim: Width of the hidden layer of both heads.
        crop: Smallest share of the image's area that a view shows.
        jitter: Strength of the colour changes; 0.5 is the paper's.
        gray: Probability that a view loses its colours.
        blur: Probability that the first view is blurred; 1.0 in the paper.
        second_blur: Probability that the second view is blurred; 0.1 in the paper.
        solarize: Probability that the bright pixels of the second view are inverted.
        flip: Probability that a view is mirrored; 0 where left and right differ in meaning, as in digits.
        degrees: Largest rotation of a view, to either side.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        momentum: float = 0.99,
        projection_dim: int = 128,
        hidden_dim: int = 512,
        crop: float = 0.08,
        jitter: float = 0.5,
        gray: float = 0.2,
        blur: float = 0.0,
        second_blur: float = 0.0,
        solarize: float = 0.2,
        flip: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        check.fraction(momentum=momentum, second_blur=second_blur)
        check.positive(projection_dim=projection_dim, hidden_dim=hidden_dim)
        views = partial(Views, self.encoder.image_size, crop=crop, jitter=jitter, saturation=0.4 * jitter)
        views = partial(views, gray=gray, flip=flip, degrees=degrees)
        self.first_views = views(blur=blur)
        self.second_views = views(blur=second_blur, solarize=solarize)
        self.head = mlp(self.encoder.dim, hidden_dim, projection_dim, last_bias=False)
        self.predictor = mlp(projection_dim, hidden_dim, projection_dim, last_bias=False)
        self.teacher = Teacher(self.encoder, self.head, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return 4.0  # two directions, each 2 for unrelated vectors; a collapsed encoder goes to 0 instead

    def two_views(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.first_views(batch), self.second_views(batch)

    def forward(self, batch: Batch) -> Tensor:
        views = self.two_views(batch)
        first, second = (self.predictor(self.head(self.encoder(view))) for view in views)
        first_target, second_target = (self.teacher(view) for view in views)
        return loss(first, second_target) + loss(second, first_target)
