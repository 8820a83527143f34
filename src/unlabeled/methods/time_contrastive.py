"""TCN: identify the same moment, seen from elsewhere, among other moments that look alike.

Withheld: which frame of another camera shows the same moment (or, with one camera, nearly the same one). Predicted:
that frame, by its distance to this one in an embedding, among the frames of other moments of the same scene.

Source: Sermanet, Lynch, Chebotar, Hsu, Jang, Schaal, Levine, "Time-Contrastive Networks: Self-Supervised Learning from
Video", 2018, https://arxiv.org/abs/1704.06888
Differs: the encoder starts from random weights, where the paper's is pretrained on the classes of ImageNet; one
convolution precedes the spatial softmax, where the paper has two, and another layer after it. Colours are scaled,
images are not. Negatives are moments of the same scene only; the n-pairs loss is the mean over both directions. There
is no dropout, where the authors' code drops a fifth. The optimizer is AdamW.
Shortcut: what all frames of a camera have in common, such as its colours, identifies no moment, and a gain of each
colour is drawn for each camera, so that only what moves is left. With one camera nothing asks for the same embedding
from elsewhere: score that by `alignment` within a camera. Moments that look alike because nothing moves are wrong
negatives.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data.cameras import Scenes
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Fraction, Positive, Several
from unlabeled.parts.frames import as_images, one_each
from unlabeled.parts.heads import SpatialSoftmax
from unlabeled.parts.time_contrast import closest, npairs_loss, triplet_loss

__all__ = ["TimeContrastive"]


class TimeContrastive(Method[ImageEncoder]):
    """Identify the same moment, seen from elsewhere, among other moments of the same scene.

    The metric `closest` is the fraction of the frames whose positive is closer than every negative. The vector of an
    encoder that averages over the image forgets where things are; its maps do not.

    Args:
        encoder: Network whose features are kept.
        views: Source of the positive: the same moment of another camera, or a near one of the same camera.
        objective: Loss: "triplet" with semi-hard negatives, or "npairs", the softmax over all moments.
        moments: Moments of a scene that are compared.
        positive_radius: Largest distance in frames of a positive of the same camera; its negatives are more than
            twice as far away.
        margin: By how much the squared distance of the negative must be larger than that of the positive.
        embedding_dim: Width of the compared vectors.
        gain: Largest change of the brightness of each colour, drawn for each view of a scene.
    """

    kind = "cameras"
    encoder_kind = "image"
    defaults: ClassVar = {"encoder": "conv4", "batch_size": 4, "lr": 1e-3, "weight_decay": 1e-6}
    smallest: ClassVar = {"moments": 4, "image_size": 16}

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        views: Literal["multi", "single"] = "multi",
        objective: Literal["triplet", "npairs"] = "triplet",
        moments: Several = 16,
        positive_radius: Count = 2,
        margin: Positive = 0.2,
        embedding_dim: Count = 32,
        gain: Fraction = 0.4,
    ) -> None:
        super().__init__(encoder)
        self.objective, self.moments, self.margin, self.gain = objective, moments, margin, gain
        self.positive_radius = positive_radius if views == "single" else 0
        self.negative_radius = 2 * self.positive_radius
        width = list(encoder.map_dims.values())[-1]
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

    def training_view(self, data: Scenes) -> Scenes:
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
        """Embeddings of images, float, shape (batch, embedding_dim), of length 1 for triplets."""
        embeddings = self.head(list(self.encoder.maps(images).values())[-1])
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
        # Another moment in each row, from an early one of the first scene to a late one of the last.
        moment = torch.linspace(0, views.shape[2] - 1, len(views) + 2).round().long()[1:-1]
        anchor = embeddings[scene, 0, moment]
        predicted = (embeddings[:, 1] - anchor[:, None]).square().sum(-1).argmin(1)
        return {
            "one view": images[scene, 0, moment],
            "the same moment": images[scene, 1, moment],
            "predicted": images[scene, 1, predicted],
        }
