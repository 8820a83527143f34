"""Triplets: let the other view of an image be closer than a different image, by a margin.

Withheld: which view shows the same image as the anchor. Predicted: that view, by its distance, which must be smaller
than that of a negative.

Source: Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", 2015,
https://arxiv.org/abs/1503.03832; the hardest negatives of a batch as in Hermans, Beyer, Leibe, "In Defense of the
Triplet Loss for Person Re-Identification", 2017, https://arxiv.org/abs/1703.07737
Differs: no labels: the positive is another view of the image, the negatives are views of other images. If no
negative is farther away than the positive, the farthest one counts as semi-hard. The hardest negatives use squared
distances of unit vectors, where the paper's distances are unbounded. The optimizer is AdamW with warm-up.
Shortcut: colours identify images, so they are jittered. If all images have the same vector, the loss equals the margin,
and the hardest negatives can drive the training there: semi-hard ones are the default, and the metric `active` shows
it.
"""

from typing import Annotated, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, Range, ViewOptions
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full
from unlabeled.parts.time_contrast import mine
from unlabeled.parts.two_views import TwoViews
from unlabeled.parts.view_distances import partners_closest, view_distances

__all__ = ["Triplet", "choose", "violations"]

Mining = Literal["random", "semi-hard", "hardest"]


@torch.no_grad()
def choose(positive: Tensor, distances: Tensor, allowed: Tensor, mining: Mining) -> Tensor:
    """Negative of each anchor.

    Args:
        positive: Distance to the positive, float, shape (anchors,).
        distances: To every candidate, float, shape (anchors, candidates).
        allowed: Which candidates are negatives of an anchor, at least one of each, bool, same shape.
        mining: "random"; "hardest", the closest; "semi-hard", the closest that is farther away than the positive, or
            the farthest if there is none.

    Returns:
        Index of a candidate, int64, shape (anchors,); the first of equally distant ones.
    """
    if mining == "random":
        return torch.rand_like(distances).masked_fill(~allowed, -1).argmax(1)
    if mining == "hardest":
        return distances.masked_fill(~allowed, torch.inf).argmin(1)
    return mine(distances, positive, allowed)


def violations(positive: Tensor, distances: Tensor, allowed: Tensor, margin: float, mining: Mining) -> Tensor:
    """By how much each anchor's negative is too close.

    Args:
        positive: Squared distance to the positive, float, shape (anchors,).
        distances: Squared distance to every candidate, float, shape (anchors, candidates).
        allowed: Which candidates are negatives of an anchor, at least one of each, bool, same shape.
        margin: By how much the negative must be farther away than the positive.
        mining: As in `choose`.

    Returns:
        0 or more, float, shape (anchors,); the margin if all vectors are equal.
    """
    negative = distances.gather(1, choose(positive, distances, allowed, mining)[:, None])[:, 0]
    return (positive - negative + margin).clamp(min=0)


class Triplet(TwoViews, Method[ImageEncoder]):
    """Let the other view of an image be closer than a different image, by a margin.

    The metric `active` is the fraction of the triplets that violate the margin, the only ones with a gradient;
    `closest` is the fraction of the views whose partner is closer than all other images.

    Args:
        encoder: Network whose features are kept.
        margin: By how much the squared distance of the negative must be larger than that of the positive.
        mining: Negative of each anchor: "random"; "semi-hard", the closest that is farther away than the positive;
            "hardest", the closest.
        projection_dim: Width of the compared vectors, which have length 1.
        **views: How the views are drawn.
    """

    compares_samples = True
    view_defaults = ViewOptions(crop=0.2, jitter=0.5, gray=0.2, blur=0.0, flip=0.5, degrees=0.0)

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        margin: Annotated[float, Range(above=0, at_most=4)] = 0.2,
        mining: Literal["random", "semi-hard", "hardest"] = "semi-hard",
        projection_dim: Count = 128,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder, views)
        self.margin = margin
        self.mining: Mining = mining
        self.head = mlp(encoder.dim, encoder.dim, projection_dim, last_norm=True)

    def chance(self, samples: int) -> float:
        return self.margin

    def forward(self, batch: Batch) -> Tensor:
        vectors = full(self.head(self.encoder(torch.cat(self.two_views(batch)))))
        positive, distances, others = view_distances(*F.normalize(vectors, dim=1).chunk(2))
        violation = violations(positive, distances, others, self.margin, self.mining)
        active = (violation.detach() > 0).float().mean()
        self.metrics = {"active": active, "closest": partners_closest(positive, distances, others)}
        return violation.mean()
