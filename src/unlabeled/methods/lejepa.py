"""LeJEPA: let all views of an image agree while the vectors of all images are distributed normally.

Withheld: the other views of an image. Predicted: the mean of the vectors of its large views, by the vector of each
view, large or small. Along random lines the vectors of a batch must be distributed like N(0, 1), which is SIGReg.

Source: Balestriero, LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025,
https://arxiv.org/abs/2511.08544
Differs: two large views and no small ones, the paper has 2 and 6, as more views are fewer steps on a small budget; 256
lines, the paper's 1,024; hidden layers 512 wide, the paper's 2,048; no blur, as images are small. Crops are resampled
bilinearly. The frequencies of the test run from 0 to 3, as in the authors' code.
Shortcut: equal vectors for all images agree best. They are far from normal, but the gradient there is the same for all
images, so that only a network that tells them apart leads away: its last layer must not start at zero. Neither a
teacher nor negatives nor a stopped gradient is needed.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.kernels.characteristic import characteristic
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Fraction, PositiveFraction, ViewOptions, WholeNumber
from unlabeled.parts import gather
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.two_views import TwoViews

__all__ = ["LeJEPA"]

POINTS, HIGHEST = 17, 3.0
"""Frequencies of the Epps-Pulley test, from 0 to the highest."""


def quadrature() -> tuple[Tensor, Tensor]:
    """Characteristic function of N(0, 1) at the frequencies, and their weights: the trapezoidal rule times a normal
    window, doubled for the negative frequencies; float64, shape (points,) each."""
    frequencies = torch.linspace(0, HIGHEST, POINTS, dtype=torch.float64)
    normal = (-frequencies.square() / 2).exp()
    weights = 2 * normal * HIGHEST / (POINTS - 1)
    weights[[0, -1]] /= 2
    return normal, weights


@full_precision
def sigreg(vectors: Tensor, lines: Tensor) -> Tensor:
    """Epps-Pulley statistic of the vectors of all processes along lines: how far they are from N(0, 1).

    Args:
        vectors: Float, shape (views, batch, dim); each view is tested alone.
        lines: Unit vectors, the same in every process, float, shape (dim, lines).

    Returns:
        Mean over lines and views, scalar; about 1.05 for normal vectors, 0.4 times the samples if all are zero.
    """
    normal, weights = (x.to(vectors)[:, None, None] for x in quadrature())
    means = gather.mean_over_processes(characteristic(vectors @ lines, HIGHEST / (POINTS - 1), POINTS))
    squares = (means[..., 0] - normal).square() + means[..., 1].square()
    return (weights * squares).sum(0).mean() * vectors.shape[1] * gather.processes()


@full_precision
def disagreement(vectors: Tensor, large: int) -> Tensor:
    """Mean squared difference of the vectors of an image from the mean of those of its first, large views.

    Args:
        vectors: Float, shape (views, batch, dim).
        large: How many of the views are large ones.
    """
    return (vectors - vectors[:large].mean(0)).square().mean()


class LeJEPA(TwoViews, Method[ImageEncoder]):
    """Let all views of an image agree while the vectors of all images are distributed normally.

    The metric `sigreg` is near 1 where they are, and 0.4 times the batch where all are equal.

    Args:
        encoder: Network whose features are kept.
        regularization: Weight of SIGReg, 0.01 to 0.1 in the paper; that of the disagreement is 1 minus it. SIGReg
            grows with the batch, so twice the batch may need half the weight.
        lines: Number of random lines, drawn anew in each step.
        projection_dim: Width of the compared vectors.
        hidden_dim: Width of the hidden layers of the head.
        local_crops: Number of small crops of each image, in addition to the two large ones.
        local_size: Side of the small crops in pixels. [default: about half of the large ones']
        local_crop: Smallest fraction of the image's area in a small crop; the largest is `crop`.
        **views: How the crops are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        regularization: Fraction = 0.05,
        lines: Count = 256,
        projection_dim: Count = 64,
        hidden_dim: Count = 512,
        local_crops: WholeNumber = 0,
        local_size: Count | None = None,
        local_crop: PositiveFraction = 0.05,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views, small=(local_crops, local_size, local_crop))
        self.regularization, self.lines = regularization, lines
        self.head = mlp(encoder.dim, hidden_dim, hidden_dim, projection_dim)

    def chance(self, samples: int) -> float:
        """Of vectors that say nothing of the image: independent normals."""
        normal, weights = quadrature()
        # From the mean of the two large views, of which a large view is itself a part.
        small = self.small_crops.count
        apart = (2 * 1 / 2 + small * 3 / 2) / (2 + small)
        test = (weights * (1 - normal.square())).sum().item()
        return (1 - self.regularization) * apart + self.regularization * test

    def forward(self, batch: Batch) -> Tensor:
        vectors = full(self.crop_projections(batch))
        lines = F.normalize(torch.randn(vectors.shape[2], self.lines, device=vectors.device), dim=0)
        spread = sigreg(vectors, gather.broadcast(lines).to(vectors.dtype))
        self.metrics = {"sigreg": spread.detach()}
        return (1 - self.regularization) * disagreement(vectors, 2) + self.regularization * spread
