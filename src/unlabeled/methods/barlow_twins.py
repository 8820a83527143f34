"""Barlow Twins: let each feature agree between two views of an image, and no two features say the same.

Withheld: the other view. Predicted: its features, each by the same feature of this view and by no other one: their
cross-correlations over a batch shall be the identity matrix.

Source: Zbontar, Jing, Misra, LeCun, Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", 2021,
https://arxiv.org/abs/2103.03230
Differs: the projector is 512 wide, the paper's 8,192, for batches of a few hundred images; the weight of an
off-diagonal entry is the paper's, so that all of them together weigh less. No blur, as images are small. Crops are
resampled bilinearly, not bicubically. The weights move by the loop's AdamW; the paper has LARS.
Shortcut: equal features for all images have no correlation once they are standardised, and cost the whole diagonal;
equal features in all dimensions cost the off-diagonal. So nothing collapses without a teacher or negatives.
"""

from typing import ClassVar, Unpack

from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision
from unlabeled.parts.two_views import TwoViews

__all__ = ["BarlowTwins"]

EPS = 1e-5


@full_precision
def loss(first: Tensor, second: Tensor, redundancy: float) -> Tensor:
    """Squared distance of the cross-correlations from the identity, over the samples of all processes.

    Args:
        first: Projections of one view of each image, float, shape (batch, dim).
        second: Projections of the other view, row by row the same images, float, shape (batch, dim).
        redundancy: Weight of the off-diagonal entries, above 0.

    Returns:
        Scalar; 0 where views agree in uncorrelated dimensions, dim where all rows are equal.
    """
    first, second = _standardised(first), _standardised(second)
    samples = len(first) * gather.processes()
    diagonal = gather.mean_over_processes((first * second).mean(0))
    # The sum of squares of all correlations by the smaller products: of features, or of samples.
    if samples < first.shape[1]:
        one, other = gather.gather(first), gather.gather(second)
        all_pairs = ((one @ one.T) * (other @ other.T)).sum() / samples**2
    else:
        all_pairs = gather.mean_over_processes(first.T @ second / len(first)).square().sum()
    return (diagonal - 1).square().sum() + redundancy * (all_pairs - diagonal.square().sum())


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - gather.mean_over_processes(rows.mean(0))
    return centred * (gather.mean_over_processes(centred.square().mean(0)) + EPS).rsqrt()


class BarlowTwins(TwoViews, Method[ImageEncoder]):
    """Let each feature agree between two views of an image, and no two features say the same.

    Args:
        encoder: Network whose features are kept.
        redundancy: Weight of the off-diagonal correlations, 0.0051 in the paper.
        projection_dim: Width of the projector and of the compared vectors.
        second_blur: Probability that the second view is blurred; `blur` is that of the first, `solarize` of the second.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(
        crop=0.08, jitter=0.5, gray=0.2, blur=0.0, solarize=0.2, flip=0.5, degrees=0.0
    )
    recipe: ClassVar = {"epochs": 16, "lr": 2e-3, "crop": 0.2}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        redundancy: Positive = 0.0051,
        projection_dim: Count = 512,
        second_blur: Fraction = 0.0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, second_blur=second_blur)
        self.redundancy = redundancy
        self.head = mlp(encoder.dim, projection_dim, projection_dim, projection_dim, last_bias=False)

    def chance(self, samples: int) -> float:
        """Of projections that say nothing of the image: independent standard normals."""
        dim, noise = self.head[-1].out_features, 1 / max(1, samples - 1)
        return dim * (1 + noise) + self.redundancy * dim * (dim - 1) * noise

    def forward(self, batch: Batch) -> Tensor:
        return loss(*self.projections(batch), self.redundancy)
