"""Contrastive pairs: pull two views of one image together and push different images apart up to a margin.

Withheld: which views show the same image. Predicted: that, by their distance: small within an image, at least the
margin between images.

Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", 2006,
https://doi.org/10.1109/CVPR.2006.100
Differs: similar pairs are two random views of an image, not neighbours in the data; dissimilar pairs are all others of
the batch, and both kinds weigh the same. By default vectors have length 1 and 128 numbers; the paper's are free, with
few numbers. The optimizer is AdamW with warm-up.
Shortcut: without dissimilar pairs a constant is the optimum. Free vectors can grow until every pair is beyond the
margin, after which only the pull remains; unit vectors cannot. Colours are jittered, else they identify the image.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.two_views import TwoViews
from unlabeled.parts.view_distances import partners_closest, view_distances

__all__ = ["ContrastivePairs", "pair_loss"]

LEAST = 1e-12
"""Squared distance at which the push ends: the root has no slope at 0, where no direction leads apart."""


@full_precision
def pair_loss(similar: Tensor, squares: Tensor, dissimilar: Tensor, margin: float) -> Tensor:
    """Half of the squared distance of similar pairs, half of what dissimilar pairs lack to the margin, squared.

    Args:
        similar: Squared distances of similar pairs, float, any shape.
        squares: Squared distances, float, any shape.
        dissimilar: Which of `squares` are of dissimilar pairs, bool, same shape; as many in every process.
        margin: Distance, not squared, from which dissimilar pairs are left alone.

    Returns:
        Mean of the mean over similar and the mean over dissimilar pairs, scalar; margin ** 2 / 4 if all vectors are
        equal.
    """
    missing = (margin - squares.clamp(min=LEAST).sqrt()).clamp(min=0) * dissimilar
    return (similar.mean() + missing.square().sum() / dissimilar.sum().clamp(min=1)) / 4


class ContrastivePairs(TwoViews, Method[ImageEncoder]):
    """Pull two views of one image together and push different images apart up to a margin.

    The metric `closest` is the fraction of the views whose partner is closer than all other images; `active` is that
    of the dissimilar pairs within the margin, which alone push.

    Args:
        encoder: Network whose features are kept.
        margin: Distance up to which different images are pushed apart; unrelated unit vectors have 1.41.
        unit: Compare vectors of length 1; else of any length, as in the paper.
        projection_dim: Width of the compared vectors.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        margin: Positive = 1.0,
        unit: bool = True,
        projection_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.margin, self.unit = margin, unit
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = mlp(encoder.dim, encoder.dim, projection_dim, last_norm=unit)

    def chance(self, samples: int) -> float:
        return self.margin**2 / 4

    def forward(self, batch: Batch) -> Tensor:
        vectors = (full(self.head(self.encoder(view))) for view in self.two_views(batch))
        first, second = (F.normalize(x, dim=1) if self.unit else x for x in vectors)
        similar, squares, others = view_distances(first, second)
        within = (squares.detach() < self.margin**2) & others
        self.metrics = {
            "closest": partners_closest(similar, squares, others),
            "active": within.sum() / others.sum(),
        }
        return pair_loss(similar, squares, others, self.margin)
