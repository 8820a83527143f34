"""Exemplar: recognise which of thousands of image patches a strongly distorted patch comes from.

Withheld: the seed patch from which a distorted one was made. Predicted: that seed, as a class; every seed patch is a
class of its own.

Source: Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox, "Discriminative Unsupervised Feature Learning with
Exemplar Convolutional Neural Networks", 2014, https://arxiv.org/abs/1406.6909
Differs: patches are distorted anew in every step, where the paper stores some 100 versions of each seed. Seeds lie in
the central square of their images. Factors are drawn uniformly on a logarithmic scale. Small patches are enlarged until
every weight of the encoder can learn from them. There is no dropout, and the optimizer is AdamW, not SGD.
Shortcut: the mean colour would tell the seeds apart, so contrast, saturation, brightness and hue change; a rotated or
shifted patch is filled from the image around it, so no blank corners reveal how it was moved; patches without content
cannot be told apart, so seeds are drawn where brightness varies.
"""

import math
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Fraction, PositiveFraction, Range, Several, ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.distortion import Distortion, cut
from unlabeled.parts.heads import near_zero
from unlabeled.parts.padding import input_size
from unlabeled.parts.patches import textured

__all__ = ["Exemplar"]

DEFAULT_CLASSES = 8000  # more did not help the paper's small network


class Exemplar(Method[ImageEncoder]):
    """Recognise which of thousands of image patches a strongly distorted patch comes from.

    Args:
        encoder: Network whose features are kept; it sees one patch at a time.
        classes: Number of seed patches, one per image, from images spread evenly over the data. [default: 8000, or
            one per image if there are fewer images]
        patch_ratio: Side of the largest seed patches relative to the image; the smallest are about half as large.
        translation: Largest shift of a patch, relative to its side.
        scale: Largest factor by which the side of a patch is scaled; the smallest is its inverse.
        jitter: Strength of the colour changes. At 1, as in the paper, the principal components of the colours are
            multiplied by 0.5 to 2, saturation and value are raised to the power of 0.25 to 4, multiplied by 1 / 1.4 to
            1.4 and shifted by up to 0.1, and the hue is shifted by up to a tenth of a turn.
        degrees: Largest rotation of a patch, ± degrees.
        **views: How the colours of patches change and how they are rotated.
    """

    held_out = "undefined"
    view_defaults = ViewOptions(jitter=1.0, degrees=20.0)
    smallest: ClassVar = {"classes": 12}
    example = "photos"
    seeds: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        classes: Several | None = None,
        patch_ratio: PositiveFraction = 0.5,
        translation: Fraction = 0.2,
        scale: Annotated[float, Range(at_least=1)] = 1.4,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        options = {name: self.view_options(views)[name] for name in self.view_defaults}
        self.distort = Distortion(encoder.in_channels, translation=translation, scale=scale, **options)
        self.classes = classes
        self.side = max(4, round(patch_ratio * encoder.image_size))
        self.size = input_size(encoder, self.side, patch_size=None) or self.side
        self.head = near_zero(nn.Linear(encoder.dim, DEFAULT_CLASSES if classes is None else classes))
        self.register_buffer("seeds", torch.zeros(0, 3))

    def chance(self, samples: int) -> float:
        return math.log(max(1, len(self.seeds)))

    def training_view(self, data: Data) -> Data:
        data = super().training_view(data)
        count = self.head.out_features
        return data if len(data) <= count else data.subset(torch.arange(count) * len(data) // count)

    def prepare(self, data: Data) -> None:
        if self.classes is not None and self.classes > len(data):
            raise UserError(f"classes must be at most the number of images, {len(data)}, got {self.classes}")
        seeds = torch.cat([textured(self.encoder.inputs(part), self.side) for part in data.batches(256)])
        self.seeds = gather.broadcast(seeds.to(self.seeds.device))
        self.distort.fit(self.encoder.inputs(data.sample(512)).to(self.seeds.device))

    def logits(self, patches: Tensor) -> Tensor:
        """Logits of the seeds, float, shape (batch, seeds); outputs without a seed are dropped."""
        return self.head(self.encoder(patches)).float()[:, : len(self.seeds)]

    def forward(self, batch: Batch) -> Tensor:
        if not len(self.seeds):
            raise UserError("seeds must be drawn first: call prepare(data)")
        labels, images = batch["index"], self.encoder.inputs(batch)
        logits = self.logits(self.distort(images, self.seeds[labels], self.size))
        self.metrics = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        seeds = textured(images, self.side)
        originals, distorted = cut(images, seeds, self.size), self.distort(images, seeds, self.size)
        queries, candidates = (F.normalize(self.encoder(x), dim=1) for x in (distorted, originals))
        nearest = originals[(queries @ candidates.T).argmax(1)]
        return {"image": images, "seed": originals, "distorted": distorted, "nearest seed": nearest}
