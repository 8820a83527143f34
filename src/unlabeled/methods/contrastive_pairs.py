"""Contrastive pairs: pull two views of one image together and push different images apart up to a margin.

Withheld: which views show the same image. Predicted: the pairs that do, by their distance: small within an image, at
least the margin between images.

Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", 2006,
https://doi.org/10.1109/CVPR.2006.100
Differs: similar pairs are two random views of an image, not neighbours in the data; dissimilar pairs are all others of
the batch, and both kinds have the same total weight. By default, vectors have 128 dimensions and length 1; the paper's
have few dimensions and any length. The optimizer is AdamW with warm-up.
Shortcut: without dissimilar pairs, a constant is optimal. Vectors of any length can grow until every pair is beyond the
margin, after which only attraction remains; unit vectors cannot. Colours are jittered, else they identify the image.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Positive, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.two_views import TwoViews
from unlabeled.parts.view_distances import partners_closest, view_distances

__all__ = ["ContrastivePairs", "pair_loss"]

LEAST = 1e-12
"""Squared distance below which pairs have no gradient: at 0 that of the root is infinite, in no direction."""


@full_precision
def pair_loss(similar: Tensor, squares: Tensor, dissimilar: Tensor, margin: float) -> Tensor:
    """Half the squared distance of similar pairs, and half the squared shortfall of dissimilar pairs from the margin.

    Args:
        similar: Squared distances of similar pairs, float, any shape.
        squares: Squared distances, float, any shape.
        dissimilar: Which of `squares` are of dissimilar pairs, bool, same shape; equally many in every process.
        margin: Distance, not squared, from which dissimilar pairs are left alone.

    Returns:
        Mean of the mean over similar and the mean over dissimilar pairs, scalar; margin ** 2 / 4 if all vectors are
        equal.
    """
    shortfall = (margin - squares.clamp(min=LEAST).sqrt()).clamp(min=0) * dissimilar
    return (similar.mean() + shortfall.square().sum() / dissimilar.sum().clamp(min=1)) / 4


class ContrastivePairs(TwoViews, Method[ImageEncoder]):
    """Pull two views of one image together and push different images apart up to a margin.

    The metric `closest` is the fraction of the views whose partner is closer than all other images; `active` is the
    fraction of the dissimilar pairs within the margin, which are the only ones that are pushed apart.

    Args:
        encoder: Network whose features are kept.
        margin: Distance up to which different images are pushed apart; that of unrelated unit vectors is 1.41.
        normalize: Compare vectors of length 1; otherwise of any length, as in the paper.
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
        normalize: bool = True,
        projection_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.normalize, self.margin = normalize, margin
        self.head = mlp(encoder.dim, encoder.dim, projection_dim, last_norm=normalize)

    def chance(self, samples: int) -> float:
        return self.margin**2 / 4

    def forward(self, batch: Batch) -> Tensor:
        vectors = (full(self.head(self.encoder(view))) for view in self.two_views(batch))
        first, second = (F.normalize(x, dim=1) if self.normalize else x for x in vectors)
        similar, squares, others = view_distances(first, second)
        within = (squares.detach() < self.margin**2) & others
        self.metrics = {
            "closest": partners_closest(similar, squares, others),
            "active": within.sum() / others.sum(),
        }
        return pair_loss(similar, squares, others, self.margin)
