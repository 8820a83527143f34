"""Colorization: see the lightness of an image and predict the colour at every position.

Withheld: the two colour axes of Lab. Predicted: at each position a distribution over colour bins, from lightness.

Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016, https://arxiv.org/abs/1603.08511
Differs: the encoder is any network, read at several of its maps at once; the prior over colours is that of the data at
hand, counted on crops of 512 images, where the paper's is of all of ImageNet. The loss is divided by the sum of its
weights, so that equal logits cost ln(bins). The second beta of the optimizer is 0.999, not 0.99.
Shortcut: grey images teach grey everywhere, so they do not count; most positions are nearly grey, so rare colours weigh
more. The encoder gets grey images, whatever it reads, so that no trace of colour reaches it.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, PositiveFraction, Range, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.color import desaturate, lab_to_rgb, lightness, rgb_to_lab
from unlabeled.parts.color_bins import annealed_mean, bins, rarity, soft_code
from unlabeled.parts.decoder import Hypercolumn
from unlabeled.parts.gather import mean_over_processes

__all__ = ["Colorization"]

COLORFUL = 5.0
"""Value of a or b that some position of an image must exceed for the image to count."""


def loss(logits: Tensor, weight: Tensor, index: Tensor, importance: Tensor) -> Tensor:
    """Cross-entropy against the soft code, weighted by the importance of each position.

    Args:
        logits: Float, shape (batch, bins, height, width).
        weight: Soft code, float, shape (batch, neighbours, height, width).
        index: Bins of the soft code, int64, same shape.
        importance: Float, shape (batch, height, width); 0 where a position does not count.

    Returns:
        Weighted mean over the positions of all processes, scalar, in nats: ln(bins) for equal logits, 0 if no position
        counts.
    """
    cross_entropy = -(weight * logits.float().log_softmax(1).gather(1, index)).sum(1)
    return (importance * cross_entropy).sum() / mean_over_processes(importance.sum()).clamp(min=1e-9)


class Colorization(Method[ImageEncoder]):
    """See the lightness of an image and predict the colour at every position.

    Args:
        encoder: Network whose features are kept.
        grid: Spacing of the colour bins in Lab; 10 gives the paper's 313 bins.
        neighbours: Bins that a true colour is spread over; 1 for a hard label.
        uniform: Weight of the uniform distribution in the prior; 1 weighs all colours alike, near 0 favours rare ones.
        stride: Spacing in pixels of the positions whose colour is predicted.
        **views: How the images are cropped and mirrored.
    """

    encoder_input = "lightness"
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 13, "lr": 2e-3, "grid": 20}
    example = "photos"
    centers: Tensor
    importance: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        grid: Annotated[int, Range(at_least=5)] = 10,
        neighbours: Count = 5,
        uniform: PositiveFraction = 0.5,
        stride: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        _need_colors(encoder.in_channels)
        self.neighbours, self.uniform, self.stride = neighbours, uniform, stride
        self.width = grid / 2
        centers = bins(grid)
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = Hypercolumn(list(encoder.map_dims.values())[-3:], len(centers))
        self.register_buffer("centers", centers)
        self.register_buffer("importance", torch.ones(len(centers)))

    def chance(self, samples: int) -> float:
        return math.log(len(self.centers))

    def prepare(self, data: Data) -> None:
        _need_colors(data.shape["channels"])
        counts = torch.zeros_like(self.importance)
        for images in self.views(data.sample(512)).to(counts.device).split(32):
            index, colorful = self.code(images)[1:]
            counts += index[:, 0][colorful].flatten().bincount(minlength=len(counts))
        if not counts.sum():
            raise UserError("images must have colours for colorization, got only grey ones")
        self.importance.copy_(rarity(counts, self.centers, self.uniform, self.width))

    def code(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft code of the colours at the predicted positions; which images are colourful, bool, shape (batch,)."""
        # The mean colour of a cell lies at its centre, where the resampling of the head predicts it.
        cell: Any = {"ceil_mode": True, "count_include_pad": False}
        colors = F.avg_pool2d(rgb_to_lab(images)[:, 1:], self.stride, **cell)
        weight, index = soft_code(colors, self.centers, self.neighbours, self.width)
        return weight, index, (colors.abs() > COLORFUL).flatten(1).any(1)

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        weight, index, colorful = self.code(images)
        importance = self.importance[index[:, 0]] * colorful[:, None, None]
        logits = self.predict(desaturate(images))
        right = (logits.argmax(1) == index[:, 0]).float().mean((1, 2))
        self.metrics = {"accuracy": (right * colorful).sum() / colorful.sum().clamp(min=1)}
        return loss(logits, weight, index, importance)

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the bins at every position, float, shape (batch, bins, height / stride, width / stride)."""
        maps: Sequence[Tensor] = list(self.encoder.maps(images).values())[-3:]
        return self.head(maps, -(-images.shape[-1] // self.stride))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        gray = desaturate(images)
        colors = annealed_mean(self.predict(gray), self.centers)
        colors = F.interpolate(colors, images.shape[2:], mode="bilinear")
        predicted = lab_to_rgb(torch.cat([lightness(images), colors], 1))
        return {"image": images, "lightness": gray, "predicted": predicted}


def _need_colors(channels: int) -> None:
    if channels != 3:
        raise UserError(f"channels must be 3 for colorization, which needs coloured images, got {channels}")
