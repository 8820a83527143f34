"""Colorization: see the lightness of an image and predict the colour at every position.

Withheld: the two colour axes of Lab. Predicted: at each position a distribution over colour bins, from lightness.

Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016, https://arxiv.org/abs/1603.08511
Differs: the encoder is any network, read at several of its maps at once; the prior over colours is that of the data at
hand, counted on crops of 512 images, where the paper's is of all of ImageNet. The loss is divided by the sum of its
weights, so that equal logits cost ln(bins). The weights are updated by the loop's AdamW with betas of 0.9 and 0.999;
the paper's second one is 0.99.
Shortcut: grey images teach grey everywhere, so they do not count; most positions are nearly grey, so rare colours weigh
more. The encoder gets grey images, whatever it reads, so that no trace of colour reaches it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views
from unlabeled.parts.color import desaturate, lab_to_rgb, lightness, rgb_to_lab
from unlabeled.parts.color_bins import annealed_mean, bins, rarity, soft_code
from unlabeled.parts.decoder import Hypercolumn
from unlabeled.parts.gather import mean_over_processes

if TYPE_CHECKING:
    from unlabeled.data import Data

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


class Colorization(Method):
    """See the lightness of an image and name the colour of every place.

    Args:
        encoder: Network whose features are kept.
        grid: Distance of neighbouring bins of colour in Lab; 10 gives the paper's 313 bins.
        neighbours: Bins among which a true colour is shared; 1 for a hard choice.
        uniform: Uniform share of the prior; 1 weighs all colours alike, near 0 favours rare ones most.
        stride: Pixels of the image, along a side, for each place whose colour is predicted.
        crop: Smallest share of the image's area that is shown.
        flip: Probability that an image is mirrored.
    """

    encoder_input = "lightness"
    example = "photos"
    centers: Tensor
    importance: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        grid: int = 10,
        neighbours: int = 5,
        uniform: float = 0.5,
        stride: int = 2,
        crop: float = 0.5,
        flip: float = 0.5,
    ) -> None:
        super().__init__(encoder)
        check.at_least(5, grid=grid)
        check.at_least(1, neighbours=neighbours, stride=stride)
        check.positive(uniform=uniform)
        check.fraction(uniform=uniform)
        _need_colors(self.encoder.in_channels)
        self.neighbours, self.uniform, self.stride = neighbours, uniform, stride
        self.width = grid / 2
        centers = bins(grid)
        self.views = Views(self.encoder.image_size, crop=crop, jitter=0, gray=0, flip=flip)
        self.head = Hypercolumn(list(self.encoder.map_dims.values())[-3:], len(centers))
        self.register_buffer("centers", centers)
        self.register_buffer("importance", torch.ones(len(centers)))

    def chance(self, samples: int) -> float:
        return math.log(len(self.centers))

    def prepare(self, data: "Data") -> None:
        super().prepare(data)
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
