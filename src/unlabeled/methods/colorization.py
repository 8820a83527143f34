"""Colorization: predict the colour at every position of an image from its lightness.

Withheld: the two colour axes of Lab. Predicted: at each position a distribution over colour bins, from lightness.

Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016, https://arxiv.org/abs/1603.08511
Differs: the encoder is any network, and the head reads several of its maps at once; the prior over colours is estimated
on crops of 512 images of the data at hand, where the paper's comes from all of ImageNet. The loss is divided by the sum
of its weights, so that equal logits cost ln(bins). The second beta of the optimizer is 0.999, not 0.99. Regression,
which the paper compares with, predicts standardised colours.
Shortcut: grey images teach the network to predict grey everywhere, so they are ignored; most positions are nearly grey,
so rare colours get higher weights. The encoder gets grey images, whatever its input, so that no trace of colour reaches
it.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Unpack

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
"""Absolute value of a or b that at least one position of an image must exceed for the image to count."""


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


def regression(predicted: Tensor, colors: Tensor, counts: Tensor) -> Tensor:
    """Half the squared distance between colours.

    Args:
        predicted: Float, shape (batch, 2, height, width).
        colors: Float, same shape.
        counts: Which images count, bool, shape (batch,).

    Returns:
        Mean over the positions of the images of all processes that count, scalar, in squared units of the colours; 0 if
        none counts.
    """
    distance = (predicted.float() - colors).square().sum(1).mean((1, 2)) / 2
    return (distance * counts).sum() / mean_over_processes(counts.float().sum()).clamp(min=1e-9)


class Colorization(Method[ImageEncoder]):
    """Predict the colour at every position of an image from its lightness.

    The metric `accuracy` is the fraction of positions whose bin is predicted correctly. Regression has `explained`, the
    fraction of the variance of the colours that is explained.

    Args:
        encoder: Network whose features are kept.
        loss: What is predicted: classes, which are bins of colours, or, by regression, one colour, which is duller, as
            it is the mean of the likely ones. `grid`, `neighbours` and `uniform_weight` have no effect on regression.
        grid: Spacing of the colour bins in Lab; 10 gives the paper's 313 bins.
        neighbours: Number of bins over which a true colour is spread; 1 for a hard label.
        uniform_weight: Weight of the uniform distribution in the prior; 1 weights all colours equally, near 0
            favours rare ones.
        stride: Spacing in pixels of the positions whose colour is predicted.
        **views: How the images are cropped and mirrored.
    """

    encoder_input = "lightness"
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 13, "lr": 2e-3, "grid": 20}
    example = "photos"
    centers: Tensor
    importance: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        loss: Literal["classes", "regression"] = "classes",
        grid: Annotated[int, Range(at_least=5)] = 10,
        neighbours: Count = 5,
        uniform_weight: PositiveFraction = 0.5,
        stride: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        _require_rgb(encoder.in_channels)
        self.neighbours, self.uniform_weight, self.stride = neighbours, uniform_weight, stride
        self.width, self.regresses = grid / 2, loss == "regression"
        centers = bins(grid)
        self.views = Views(encoder.image_size, **self.view_options(views))
        outputs = 2 if self.regresses else len(centers)
        self.head = Hypercolumn(list(encoder.map_dims.values())[-3:], outputs)
        if self.regresses:
            self.register_buffer("mean", torch.zeros(2, 1, 1))
            self.register_buffer("deviation", torch.ones(2, 1, 1))
        else:
            self.register_buffer("centers", centers)
            self.register_buffer("importance", torch.ones(len(centers)))

    def chance(self, samples: int) -> float:
        """Loss of the mean colour, or of equally likely bins."""
        return 1.0 if self.regresses else math.log(len(self.centers))

    def prepare(self, data: Data) -> None:
        _require_rgb(data.shape["channels"])
        images = self.views(data.sample(512)).to(self.head.last.weight.device)
        pairs = [self.colors(part) for part in images.split(32)]
        colors = torch.cat([colors[colorful] for colors, colorful in pairs])
        if not len(colors):
            raise UserError("images must have colours for colorization, got only grey ones")
        if self.regresses:
            deviation, mean = torch.std_mean(colors, (0, 2, 3), correction=0)
            self.mean.copy_(mean[:, None, None])
            self.deviation.copy_(deviation[:, None, None].clamp(min=1))
            return
        counts = torch.zeros_like(self.importance)
        for part in colors.split(32):
            index = soft_code(part, self.centers, self.neighbours, self.width)[1][:, 0]
            counts += index.flatten().bincount(minlength=len(counts))
        self.importance.copy_(rarity(counts, self.centers, self.uniform_weight, self.width))

    def colors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Colours at the predicted positions; which images are colourful, bool, shape (batch,)."""
        # The mean colour of a cell lies at its centre, where the resampling of the head predicts it.
        partial: Any = {"ceil_mode": True, "count_include_pad": False}  # cells at the border may be smaller
        colors = F.avg_pool2d(rgb_to_lab(images)[:, 1:], self.stride, **partial)
        return colors, (colors.abs() > COLORFUL).flatten(1).any(1)

    def code(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft code of the colours at the predicted positions; which images are colourful, bool, shape (batch,)."""
        colors, colorful = self.colors(images)
        return *soft_code(colors, self.centers, self.neighbours, self.width), colorful

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        if self.regresses:
            colors, colorful = self.colors(images)
            standard = (colors - self.mean) / self.deviation
            error = regression(self.predict(desaturate(images)), standard, colorful)
            self.metrics = {"explained": 1 - error.detach()}
            return error
        weight, index, colorful = self.code(images)
        importance = self.importance[index[:, 0]] * colorful[:, None, None]
        logits = self.predict(desaturate(images))
        right = (logits.argmax(1) == index[:, 0]).float().mean((1, 2))
        self.metrics = {"accuracy": (right * colorful).sum() / colorful.sum().clamp(min=1)}
        return loss(logits, weight, index, importance)

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the bins, or the colour in standard deviations, at every position.

        Returns:
            Float, shape (batch, bins or 2, height / stride, width / stride).
        """
        maps: Sequence[Tensor] = list(self.encoder.maps(images).values())[-3:]
        return self.head(maps, -(-images.shape[-1] // self.stride))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        gray = desaturate(images)
        outputs = self.predict(gray)
        regresses = self.regresses
        colors = self.mean + self.deviation * outputs if regresses else annealed_mean(outputs, self.centers)
        colors = F.interpolate(colors, images.shape[2:], mode="bilinear")
        predicted = lab_to_rgb(torch.cat([lightness(images), colors], 1))
        return {"image": images, "lightness": gray, "predicted": predicted}


def _require_rgb(channels: int) -> None:
    if channels != 3:
        raise UserError(f"channels must be 3 for colorization, which needs colour images, got {channels}")
