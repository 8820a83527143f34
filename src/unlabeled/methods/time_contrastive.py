"""TCN: tell the same moment, seen from elsewhere, from other moments that look alike.

Withheld: which frame of another camera shows the same moment (or, with one camera, nearly the same one). Predicted:
that frame, by its distance to this one in an embedding, among the frames of other moments of the same scene.

Source: Sermanet, Lynch, Chebotar, Hsu, Jang, Schaal, Levine, "Time-Contrastive Networks: Self-Supervised Learning from
Video", 2018, https://arxiv.org/abs/1704.06888
Differs: the encoder starts from random weights, where the paper's has learned ImageNet's classes; one convolution
stands before the spatial softmax, where the paper has two and another layer behind it. Colours are scaled, images are
not. Negatives are moments of the same scene only; the n-pairs loss is the mean over both directions. Nothing is
dropped out, where the authors' code drops a fifth. The weights move by the loop's AdamW.
Shortcut: what all frames of a camera have in common, such as its colours, tells no moment from another, and a gain of
each colour is drawn for each camera, so that only what moves is left. With one camera nothing asks for the same
embedding from elsewhere: score that by `alignment` within a camera. Moments that look alike because nothing moves are
wrong negatives.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts import gather
from unlabeled.parts.frames import as_images, one_each
from unlabeled.parts.precision import full_precision

if TYPE_CHECKING:
    from unlabeled.data.cameras import Scenes

__all__ = ["TimeContrastive"]

PENALTY = 0.002
"""Weight of the squared length of the embeddings in the n-pairs loss."""


def mined(distances: Tensor, positive: Tensor, allowed: Tensor) -> Tensor:
    """Semi-hard negatives: the closest that is farther than the positive; the farthest where none is.

    Args:
        distances: From each anchor to each frame, float, shape (..., anchors, frames).
        positive: From each anchor to its positive, float, shape (..., anchors).
        allowed: Which frames are negatives of an anchor, bool, the shape of `distances`.

    Returns:
        Number of the negative of each anchor, int64, shape (..., anchors); of no meaning where none is allowed.
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
        radius: Frames that are no farther away than this are no negatives.
        margin: In squared distance, 0..4.

    Returns:
        Mean over both views of all moments of all processes that have a negative, scalar; the margin when all vectors
        are equal.
    """
    vectors, allowed = rearrange(embeddings, "b v m d -> b (v m) d"), negatives(time, radius)
    distances = (vectors[:, :, None] - vectors[:, None]).square().sum(-1)
    number = torch.arange(distances.shape[1], device=distances.device)
    partner = number.roll(distances.shape[1] // 2)
    positive = distances[:, number, partner]
    negative = distances.gather(2, mined(distances, positive, allowed)[..., None])[..., 0]
    has = allowed.any(-1).float()
    count = gather.mean_over_processes(has.sum()).clamp(min=1)
    return ((positive - negative + margin).clamp(min=0) * has).sum() / count


@full_precision
def npairs_loss(embeddings: Tensor, time: Tensor, radius: int) -> Tensor:
    """The positive's share in a softmax over the inner products with the moments of the other view.

    Args:
        embeddings: Of the same moments twice, float, shape (batch, 2, moments, dim).
        time: Number of each frame, int64, shape (batch, 2, moments).
        radius: Frames that are no farther away than this are no negatives.

    Returns:
        Mean over both views, in nats, with a small penalty on the lengths; scalar.
    """
    first, second = embeddings.unbind(1)
    moments = time.shape[2]
    others = negatives(time, radius)[:, :moments, moments:]
    shown = others | torch.eye(moments, dtype=torch.bool, device=time.device)
    logits = first @ second.mT
    forth = logits.masked_fill(~shown, -torch.inf)
    back = logits.mT.masked_fill(~shown.mT, -torch.inf)
    target = torch.arange(moments, device=time.device).expand(len(time), -1)
    entropy = F.cross_entropy(forth.mT, target) + F.cross_entropy(back.mT, target)
    # A quarter of the sum of both views' mean squared lengths, as the reference has it.
    lengths = embeddings.square().sum(-1).mean((0, 2))
    return entropy / 2 + PENALTY * lengths.sum() / 4


def negatives(time: Tensor, radius: int) -> Tensor:
    """Which frames of a scene are negatives of which: those farther away than the radius.

    Args:
        time: int64, shape (batch, 2, moments).
        radius: In frames.

    Returns:
        bool, shape (batch, 2 * moments, 2 * moments).
    """
    flat = time.flatten(1)
    return (flat[:, :, None] - flat[:, None]).abs() > radius


class SpatialSoftmax(nn.Module):
    """Where in the image each channel is: the mean place under the softmax of its map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Columns and rows in -1..1, float, shape (batch, 2 * channels), of maps (batch, channels, height, width)."""
        height, width = maps.shape[2:]
        weights = maps.flatten(2).softmax(2).unflatten(2, (height, width))
        row, column = (
            torch.linspace(-1, 1, side, device=maps.device, dtype=maps.dtype) for side in (height, width)
        )
        return torch.cat([weights.sum(2) @ column, weights.sum(3) @ row], 1)


class TimeContrastive(Method):
    """Tell the same moment, seen from elsewhere, from other moments of the same scene.

    The metric `closest` is the share of the frames to which their positive is closer than every negative. The vector of
    an encoder that averages over the image forgets where things are; its maps know.

    Args:
        encoder: Network whose features are kept.
        views: Where the positive is from: the same moment of another camera, or a near one of the same camera.
        objective: How positives and negatives are compared: "triplet" with semi-hard negatives, or "npairs", the
            softmax over all moments.
        moments: Moments of a scene that are compared, at least 2.
        positive_radius: Most frames between a moment and its positive with one camera, whose negatives are more than
            twice as far away.
        margin: By how much the squared distance of the negative must be larger than that of the positive.
        embedding_dim: Width of the vectors that are compared.
        gain: Largest change of the brightness of each colour, drawn for each view of a scene.
    """

    kind = "cameras"
    encoder_kind = "image"
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": "conv4",
        "batch_size": 4,
        "lr": 1e-3,
        "weight_decay": 1e-6,
    }
    smallest: ClassVar = {"moments": 4}

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: Literal["multi", "single"] = "multi",
        objective: Literal["triplet", "npairs"] = "triplet",
        moments: int = 16,
        positive_radius: int = 2,
        margin: float = 0.2,
        embedding_dim: int = 32,
        gain: float = 0.4,
    ) -> None:
        super().__init__(encoder)
        check.choice(("multi", "single"), views=views)
        check.choice(("triplet", "npairs"), objective=objective)
        check.whole(moments=moments, positive_radius=positive_radius, embedding_dim=embedding_dim)
        check.at_least(2, moments=moments)
        check.at_least(1, positive_radius=positive_radius, embedding_dim=embedding_dim)
        check.positive(margin=margin)
        check.fraction(gain=gain)
        self.objective, self.moments, self.margin, self.gain = objective, moments, margin, gain
        self.positive_radius = positive_radius if views == "single" else 0
        self.negative_radius = 2 * self.positive_radius
        width = list(self.encoder.map_dims.values())[-1]
        self.head = nn.Sequential(
            nn.Conv2d(width, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            SpatialSoftmax(),
            nn.Linear(2 * 64, embedding_dim),
        )

    def chance(self, samples: int) -> float | None:
        if self.objective == "triplet":
            return self.margin
        return None if self.negative_radius else math.log(self.moments)

    def training_view(self, data: "Scenes"):  # type: ignore[override]
        return data.moments(self.moments, self.positive_radius)

    def forward(self, batch: Batch) -> Tensor:
        views, time = batch["views"], batch["time"]
        images = self.encoder.inputs(as_images(views))
        gains = 1 + self.gain * (2 * torch.rand(*views.shape[:2], views.shape[3], device=images.device) - 1)
        gains = gains.repeat_interleave(views.shape[2], dim=1).flatten(0, 1)
        embeddings = self.embed((images * gains[..., None, None]).clamp(0, 1))
        embeddings = embeddings.unflatten(0, views.shape[:3])
        self.metrics = {"closest": closest(embeddings.detach(), time, self.negative_radius)}
        if self.objective == "triplet":
            return triplet_loss(embeddings, time, self.negative_radius, self.margin)
        return npairs_loss(embeddings, time, self.negative_radius)

    def embed(self, images: Tensor) -> Tensor:
        """Vectors that are compared, float, shape (batch, embedding_dim), of length 1 for triplets."""
        embeddings = self.head(list(self.encoder.maps(images).values())[-1])  # type: ignore[operator]
        return F.normalize(embeddings, dim=1) if self.objective == "triplet" else embeddings

    def features(self, batch: Batch, layer: str | None = None) -> Tensor:
        return super().features(one_each(batch), layer)

    def embedding(self, batch: Batch) -> Tensor:
        return self.embed(self.encoder.inputs(one_each(batch)))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        views, scene = batch["views"][:, :2], torch.arange(len(batch["views"]))
        images = self.encoder.inputs(as_images(views)).unflatten(0, views.shape[:3])
        embeddings = self.embed(images.flatten(0, 2)).unflatten(0, views.shape[:3])
        # Another moment in each row, from the first scene's early one to the last one's late one.
        moment = torch.linspace(0, views.shape[2] - 1, len(views) + 2).round().long()[1:-1]
        anchor = embeddings[scene, 0, moment]
        found = (embeddings[:, 1] - anchor[:, None]).square().sum(-1).argmin(1)
        return {
            "one view": images[scene, 0, moment],
            "the same moment": images[scene, 1, moment],
            "found": images[scene, 1, found],
        }


def closest(embeddings: Tensor, time: Tensor, radius: int) -> Tensor:
    """Share of the frames to which their positive is closer than every negative of the other view, scalar.

    Args:
        embeddings: Of the same moments twice, float, shape (batch, 2, moments, dim).
        time: Number of each frame, int64, shape (batch, 2, moments).
        radius: Frames that are no farther away than this are no negatives.
    """
    first, second = embeddings.unbind(1)
    distances = (first[:, :, None] - second[:, None]).square().sum(-1)
    others = negatives(time, radius)[:, : time.shape[2], time.shape[2] :]
    positive = distances.diagonal(dim1=1, dim2=2)[..., None]
    return (distances.masked_fill(~others, torch.inf) > positive).all(2).float().mean()
