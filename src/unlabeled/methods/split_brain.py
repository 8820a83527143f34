"""Split-brain autoencoder: let each half of a network predict the channels that the other half sees.

Withheld: from each half of the network, the channels that the other half sees. One half sees the lightness and the
other the colour (L and ab of Lab); in images of more than three bands, one half sees the first three, as colours, and
the other the extra ones, such as depth. Predicted: the bins of the withheld channels at every position. Features: those
of both halves concatenated, which together see all channels.

Source: Zhang, Isola, Efros, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction", 2017,
https://arxiv.org/abs/1611.09842
Differs: both directions are classification, the best of the paper's losses, with hard labels and equal weights of all
bins. The channels are predicted from the last three maps of each half at once. Extra bands are classified one by one,
where the paper encodes depth as images of three channels; the losses of several targets of one half are averaged.
Shortcut: neither half can copy, as it does not see what it predicts, and no layer or norm connects the two. Data
without any colour are rejected; single grey images count as having ab = 0.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import Count, Range, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
from unlabeled.parts.color_bins import annealed_mean, equal_bins, soft_code
from unlabeled.parts.color_bins import bins as color_bins
from unlabeled.parts.decoder import Hypercolumn

__all__ = ["SplitBrain"]

COLORFUL = 5.0
"""Absolute value of a or b that at least one pixel of the data must exceed."""


def loss(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of one half.

    Args:
        logits: For each target, float, shape (batch, bins, height, width).
        labels: For each target, the true bins, int64, shape (batch, height, width).

    Returns:
        Mean over the targets, the images and their positions, scalar, in nats: the mean of ln(bins) for equal logits.
    """
    return torch.stack([F.cross_entropy(x.float(), y) for x, y in zip(logits, labels, strict=True)]).mean()


class SplitBrain(Method[ImageEncoder]):
    """Let each half of a network predict the channels that the other half sees.

    The metrics `first_half_accuracy` and `second_half_accuracy` are averaged over the targets of each half.

    Args:
        encoder: Network in two halves whose features are kept.
        grid: Spacing of the colour bins in Lab; 10 gives the paper's 313 bins.
        bins: Number of bins of lightness, and of each band beyond the third.
        stride: Spacing in pixels of the positions that are predicted.
        **views: How the images are cropped and mirrored.
    """

    encoder_needs = EncoderNeeds("is_split", "be a network in two halves such as split-conv4", True)
    encoder_input = "lab"
    defaults: ClassVar = {"encoder": "split-conv4"}
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 13, "lr": 2e-3, "grid": 20, "bins": 50}
    smallest: ClassVar = {"encoder": "split-conv4"}
    example = "photos"
    centers: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        grid: Annotated[int, Range(at_least=5)] = 10,
        bins: Several = 100,
        stride: Count = 2,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        channels = encoder.in_channels
        if encoder.adapt.input != "lab":
            raise UserError(
                f"input of the encoder must be lab for split_brain, whose images need 3 channels or more, "
                f"got {encoder.adapt.input} with {channels} channels"
            )
        self.bins, self.stride = bins, stride
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.register_buffer("centers", color_bins(grid))
        light, color, extra = [bins], [len(self.centers)], [bins] * (channels - 3)
        self.classes = [extra, light + color] if extra else [color, light]
        """Bins of each target, first of the half that sees lightness or the first three bands, then of the other."""
        halves = (encoder.trunk.first, encoder.trunk.second)
        self.heads = nn.ModuleList(
            Hypercolumn(list(half.map_dims.values())[-3:], sum(classes))
            for half, classes in zip(halves, self.classes)
        )

    def chance(self, samples: int) -> float:
        return sum(sum(map(math.log, classes)) / len(classes) for classes in self.classes)

    def prepare(self, data: Data) -> None:
        images = self.views(data.sample(512))[:, :3]
        if not rgb_to_lab(images)[:, 1:].abs().max() > COLORFUL:
            raise UserError("images must have colours for split_brain, got only grey ones")

    def code(self, images: Tensor) -> list[list[Tensor]]:
        """Bins of the targets of each half, int64, shape (batch, height / stride, width / stride) each."""
        partial: Any = {"ceil_mode": True, "count_include_pad": False}  # cells at the border may be smaller
        lab, bands = rgb_to_lab(images[:, :3]), images[:, 3:]
        lab, bands = (
            F.avg_pool2d(part, self.stride, **partial) if part.shape[1] else part for part in (lab, bands)
        )
        light = [equal_bins(lab[:, 0], self.bins, 100)]
        color = [soft_code(lab[:, 1:], self.centers, neighbours=1)[1][:, 0]]
        extra = [equal_bins(band, self.bins) for band in bands.unbind(1)]
        return [extra, light + color] if extra else [color, light]

    def predict(self, images: Tensor) -> list[list[Tensor]]:
        """Logits of the targets of each half, float, shape (batch, bins, height / stride, width / stride) each."""
        size, logits = -(-images.shape[-1] // self.stride), []
        halves = self.encoder.trunk.halves(self.encoder.adapt(images))
        for head, maps, classes in zip(self.heads, halves, self.classes):
            logits.append(list(head(list(maps.values())[-3:], size).split(classes, 1)))
        return logits

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        labels, logits = self.code(images), self.predict(images)
        for name, half, truth in zip(("first_half_accuracy", "second_half_accuracy"), logits, labels):
            right = [(x.detach().argmax(1) == y).float().mean() for x, y in zip(half, truth)]
            self.metrics[name] = torch.stack(right).mean()
        return loss(logits[0], labels[0]) + loss(logits[1], labels[1])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The image, what each half predicts, and the first of the extra bands if there are any."""
        images = self.encoder.inputs(batch)
        first, second = self.predict(images)
        *extra, light, color = [*first, *second] if images.shape[1] > 3 else [*second, *first]
        middles = (torch.arange(self.bins, device=images.device) + 0.5) / self.bins

        def upsample(values: Tensor) -> Tensor:
            return F.interpolate(values, images.shape[2:], mode="bilinear")

        def mean(logits: Tensor) -> Tensor:
            return upsample(torch.einsum("bkhw,k->bhw", logits.softmax(1), middles)[:, None])

        lab = rgb_to_lab(images[:, :3])
        lightness, colors = 100 * mean(light), upsample(annealed_mean(color, self.centers))
        if extra:
            return {
                "image": images[:, :3],
                "predicted from the extra bands": lab_to_rgb(torch.cat([lightness, colors], 1)),
                "first extra band": images[:, 3:4],
                "first extra band predicted from colours": mean(extra[0]),
            }
        return {
            "image": images,
            "colours predicted from lightness": lab_to_rgb(torch.cat([lab[:, :1], colors], 1)),
            "lightness predicted from colours": lab_to_rgb(torch.cat([lightness, 0 * colors], 1)),
        }
