"""VICReg: let two views of an image agree, every feature vary over images, and no two features vary together.

Withheld: the other view. Predicted: its vector, as the two shall be equal. Each feature must keep a standard deviation
of 1 over a batch of images, and be uncorrelated with every other one.

Source: Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
2021, https://arxiv.org/abs/2105.04906
Differs: the projector is 512 wide, the paper's 8,192, and crops show at least 0.2 of the area, the paper's 0.08, for
small images and batches of a few hundred; the three weights are the paper's. No blur. The variance term is the mean of
both views, as in the authors' code; the paper adds them. Crops are resampled bilinearly, not bicubically. The weights
move by the loop's AdamW; the paper has LARS.
Shortcut: equal vectors for all images agree best, but have no variance, which costs `variance` times 0.99; one feature
in all dimensions costs covariance. Either guard alone leaves the other way to collapse open.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, NonNegative, Positive, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision
from unlabeled.parts.two_views import TwoViews

__all__ = ["VICReg"]

EPS = 1e-4


@full_precision
def loss(first: Tensor, second: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    """Weighted sum of the three terms; variances and covariances are those over the samples of all processes.

    Args:
        first: Projections of one view of each image, float, shape (batch, dim).
        second: Projections of the other view, row by row the same images, float, shape (batch, dim).
        invariance: Weight of the mean squared difference of the views, at least 0.
        variance: Weight of how far the standard deviation of a feature is below 1, at least 0.
        covariance: Weight of the squared covariances of different features, summed and divided by dim, at least 0.

    Returns:
        Scalar; 0 for equal views with uncorrelated features of variance 1, 0.99 * variance where all rows are equal.

    Raises:
        UserError: There is a single sample, which has no variance.
    """
    check.at_least(2, samples=len(first) * gather.processes())
    views = [rows - gather.mean_over_processes(rows.mean(0)) for rows in (first, second)]
    missing = sum(missing_variance(view) for view in views) / 2
    redundant = sum(squared_covariances(view) for view in views)
    return invariance * F.mse_loss(first, second) + variance * missing + covariance * redundant


def variances(centred: Tensor) -> Tensor:
    """Variances of the features, float, shape (dim,), over the samples of all processes."""
    return gather.sum_over_processes(centred.square().sum(0)) / (len(centred) * gather.processes() - 1)


def missing_variance(centred: Tensor) -> Tensor:
    """By how much the standard deviation of a feature is below 1, mean over the features, scalar in 0..1."""
    return F.relu(1 - (variances(centred) + EPS).sqrt()).mean()


def squared_covariances(centred: Tensor) -> Tensor:
    """Sum of the squared covariances of different features, divided by the number of features, scalar.

    Args:
        centred: Rows without their mean over all processes, float, shape (batch, dim).
    """
    samples, dim = len(centred) * gather.processes(), centred.shape[1]
    # Products of features and products of samples have the same sum of squares, so the smaller matrix is computed.
    if samples < dim:
        everyone = gather.gather(centred)
        products = everyone @ everyone.T
    else:
        products = gather.sum_over_processes(centred.T @ centred)
    all_pairs = (products / (samples - 1)).square().sum()
    return (all_pairs - variances(centred).square().sum()) / dim


class VICReg(TwoViews, Method[ImageEncoder]):
    """Let two views of an image agree, every feature vary over images, and no two features vary together.

    Args:
        encoder: Network whose features are kept.
        invariance: Weight of the difference of the two views.
        variance: Weight of the variance that features lack.
        covariance: Weight of the covariances of different features.
        projection_dim: Width of the projector and of the compared vectors.
        second_blur: Probability that the second view is blurred; `blur` is that of the first, `solarize` of the second.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, solarize=0.2, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        invariance: Positive = 25.0,
        variance: NonNegative = 25.0,
        covariance: NonNegative = 1.0,
        projection_dim: Count = 512,
        second_blur: Fraction = 0.0,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, second_blur=second_blur)
        self.weights = invariance, variance, covariance
        self.head = mlp(encoder.dim, projection_dim, projection_dim, projection_dim, last_bias=False)

    def chance(self, samples: int) -> float:
        """Of projections that say nothing of the image: independent normals, of the scale that costs least."""
        invariance, variance, covariance = self.weights
        scale = min(1.0, variance / (4 * invariance))
        noise = (self.head[-1].out_features - 1) / max(1, samples - 1)
        return 2 * invariance * scale**2 + variance * (1 - scale) + 2 * covariance * scale**4 * noise

    def forward(self, batch: Batch) -> Tensor:
        return loss(*self.projections(batch), *self.weights)
