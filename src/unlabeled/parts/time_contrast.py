"""Losses over two videos of the same moments: a moment and its positive against other moments of the scene.

Source: Sermanet, Lynch, Chebotar, Hsu, Jang, Schaal, Levine, "Time-Contrastive Networks: Self-Supervised Learning from
Video", 2018, https://arxiv.org/abs/1704.06888
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.parts import gather
from unlabeled.parts.precision import full_precision

__all__ = ["closest", "mine", "negatives", "npairs_loss", "triplet_loss"]

PENALTY = 0.002
"""Weight of the squared length of the embeddings in the n-pairs loss."""


def negatives(time: Tensor, radius: int) -> Tensor:
    """Which frames of a scene are negatives of which: those farther apart than the radius.

    Args:
        time: int64, shape (batch, 2, moments).
        radius: In frames.

    Returns:
        bool, shape (batch, 2 * moments, 2 * moments).
    """
    flat = time.flatten(1)
    return (flat[:, :, None] - flat[:, None]).abs() > radius


def mine(distances: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """Semi-hard negatives: the closest that is farther than the positive; the farthest if there is none.

    Args:
        distances: From each anchor to each frame, float, shape (..., anchors, frames).
        positive: From each anchor to its positive, float, shape (..., anchors).
        allowed: Which frames are negatives of an anchor, bool, the shape of `distances`.

    Returns:
        Index of the negative of each anchor, int64, shape (..., anchors); meaningless if none is allowed.
    """
    farther = allowed & (distances > positive[..., None])
    closest = distances.masked_fill(~farther, torch.inf).argmin(-1)
    farthest = distances.masked_fill(~allowed, -torch.inf).argmax(-1)
    return closest.where(farther.any(-1), farthest)


@full_precision
def triplet_loss(embeddings: Tensor, time: Tensor, radius: int, margin: float) -> Tensor:
    """Positives must be closer than negatives by a margin.

    Args:
        embeddings: Of the same moments twice, unit vectors, float, shape (batch, 2, moments, dim).
        time: Number of each frame, int64, shape (batch, 2, moments).
        radius: Frames no farther apart than this are no negatives.
        margin: In squared distance, 0..4.

    Returns:
        Mean over both views of all moments of all processes that have a negative, scalar; the margin if all vectors are
        equal.
    """
    vectors, allowed = rearrange(embeddings, "b v m d -> b (v m) d"), negatives(time, radius)
    distances = (vectors[:, :, None] - vectors[:, None]).square().sum(-1)
    number = torch.arange(distances.shape[1], device=distances.device)
    partner = number.roll(distances.shape[1] // 2)
    positive = distances[:, number, partner]
    negative = distances.gather(2, mine(distances, positive, allowed)[..., None])[..., 0]
    return gather.mean((positive - negative + margin).clamp(min=0), allowed.any(-1))


@full_precision
def npairs_loss(embeddings: Tensor, time: Tensor, radius: int) -> Tensor:
    """InfoNCE of inner products with the moments of the other view, in both directions.

    Args:
        embeddings: Of the same moments twice, float, shape (batch, 2, moments, dim).
        time: Number of each frame, int64, shape (batch, 2, moments).
        radius: Frames no farther apart than this are no negatives.

    Returns:
        Mean over both views, in nats, with a small penalty on the lengths; scalar.
    """
    first, second = embeddings.unbind(1)
    moments = time.shape[2]
    others = negatives(time, radius)[:, :moments, moments:]
    candidates = others | torch.eye(moments, dtype=torch.bool, device=time.device)
    logits = first @ second.mT
    forth = logits.masked_fill(~candidates, -torch.inf)
    back = logits.mT.masked_fill(~candidates.mT, -torch.inf)
    target = torch.arange(moments, device=time.device).expand(len(time), -1)
    entropy = F.cross_entropy(forth.mT, target) + F.cross_entropy(back.mT, target)
    # A quarter of the sum of both views' mean squared lengths, as in the reference code.
    lengths = embeddings.square().sum(-1).mean((0, 2))
    return entropy / 2 + PENALTY * lengths.sum() / 4


def closest(embeddings: Tensor, time: Tensor, radius: int) -> Tensor:
    """Fraction of the frames whose positive is closer than every negative of the other view, scalar.

    Args:
        embeddings: Of the same moments twice, float, shape (batch, 2, moments, dim).
        time: Number of each frame, int64, shape (batch, 2, moments).
        radius: Frames no farther apart than this are no negatives.
    """
    first, second = embeddings.unbind(1)
    distances = (first[:, :, None] - second[:, None]).square().sum(-1)
    others = negatives(time, radius)[:, : time.shape[2], time.shape[2] :]
    positive = distances.diagonal(dim1=1, dim2=2)[..., None]
    return (distances.masked_fill(~others, torch.inf) > positive).all(2).float().mean()
