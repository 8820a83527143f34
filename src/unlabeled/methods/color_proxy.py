"""ColorProxy: predict hue and chroma at random pixels of a grey image from all layers of the encoder.

Withheld: the colours. Predicted: histograms of hue and of chroma at random positions, each from its hypercolumn: the
values of all maps of the encoder there.

Source: Larsson, Maire, Shakhnarovich, "Colorization as a Proxy Task for Visual Understanding", 2017,
https://arxiv.org/abs/1703.04044
Differs: the head is smaller by default and is trained at fewer positions, where it reads every map; norms of the
encoder are not folded into its weights. Positions keep a distance of an eighth of the side from the border, about what
32 pixels are in the paper's images. The optimizer is AdamW.
Shortcut: the mean of several plausible colours is grey, so distributions are predicted; the hue of a grey pixel is
meaningless, so each hue is weighted by its chroma. The encoder gets grey images, the mean of red, green and blue in all
three channels, so no trace of colour reaches it: it sees colours only after training, when its features are used.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, NonNegative, Range, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.color import from_hue_chroma, hue_chroma
from unlabeled.parts.color_bins import equal_bins
from unlabeled.parts.heads import near_zero
from unlabeled.parts.tokens import entropy

__all__ = ["ColorProxy"]

COLORFUL = 0.02
"""Chroma that at least one pixel of the data must exceed."""
MARGIN = 8
"""Side of the image divided by the width of the border in which no position is drawn."""
PICTURE = 32
"""Largest number of positions per side at which a picture shows the predicted colour."""


def hypercolumns(maps: Mapping[str, Tensor], positions: Tensor, size: int) -> Tensor:
    """Values of all maps at some pixels of the image, by bilinear interpolation.

    Args:
        maps: Maps by name, each float, shape (batch, channels, rows, columns).
        positions: Row and column of pixels, int64, shape (batch, positions, 2).
        size: Height and width of the images in pixels.

    Returns:
        Float, shape (batch, positions, channels of all maps).
    """
    values = []
    for map_ in maps.values():
        weights = []
        for side, pixel in zip(map_.shape[2:], positions.unbind(2)):
            # Pixels are squares around their centres, in maps as in the image.
            centre = ((pixel + 0.5) * side / size - 0.5).clamp(0, side - 1)
            cells = torch.arange(side, device=pixel.device)
            weights.append((1 - (centre[:, :, None] - cells).abs()).clamp(min=0).to(map_.dtype))
        rows, columns = weights
        # A product, unlike gathering, has the same gradient in every run on every device.
        bilinear = (rows[:, :, :, None] * columns[:, :, None]).flatten(2)
        values.append(bilinear @ map_.flatten(2).mT)
    return torch.cat(values, 2)


def loss(logits: Tensor, truth: Tensor, hue_weight: float) -> Tensor:
    """Cross-entropy of chroma plus that of hue, the latter weighted by chroma.

    Args:
        logits: Logits of the bins of hue, then of chroma, float, shape (batch, positions, 2 * bins).
        truth: Hue and chroma, float, shape (batch, positions, 2), in 0..1.
        hue_weight: Weight of the hue of a pixel whose chroma is 1.

    Returns:
        Mean over the positions, scalar, in nats.
    """
    hue, chroma = (half.float().flatten(0, 1) for half in logits.chunk(2, 2))
    labels = equal_bins(truth, hue.shape[1]).flatten(0, 1)
    nats = F.cross_entropy(hue, labels[:, 0], reduction="none")
    return F.cross_entropy(chroma, labels[:, 1]) + hue_weight * (truth[:, :, 1].flatten() * nats).mean()


class ColorProxy(Method[ImageEncoder]):
    """Predict hue and chroma at random pixels of a grey image from all layers of the encoder.

    The metrics `hue_accuracy` and `chroma_accuracy` are those of the predicted bins, the former weighted by chroma.

    Args:
        encoder: Network whose features are kept.
        bins: Number of bins of hue, and of chroma.
        positions: Pixels of each image whose colour is predicted; 256 in the paper, 128 in its code.
        hidden_dim: Width of the hidden layer; 1,024 in the paper.
        hue_weight: Weight of the hue relative to the chroma, for a pixel whose chroma is 1.
        dropout: Dropout probability in the hidden layer.
        **views: How the images are cropped and mirrored.
    """

    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 15, "lr": 2e-3}
    example = "photos"
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        bins: Several = 32,
        positions: Count = 64,
        hidden_dim: Count = 256,
        hue_weight: NonNegative = 5.0,
        dropout: Annotated[float, Range(at_least=0, below=1)] = 0.5,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        _require_rgb(encoder.in_channels)
        self.bins, self.positions, self.hue_weight = bins, positions, hue_weight
        self.views = Views(encoder.image_size, **self.view_options(views))
        last = near_zero(nn.Linear(hidden_dim, 2 * bins))
        width = sum(encoder.map_dims.values())
        self.head = nn.Sequential(nn.Linear(width, hidden_dim), nn.ReLU(), nn.Dropout(dropout), last)
        self.register_buffer("baseline", torch.tensor(0.0))  # loss of predicting the histograms of the data

    def prepare(self, data: Data) -> None:
        _require_rgb(data.shape["channels"])
        truth = hue_chroma(self.views(data.sample(512)).to(self.baseline.device)).flatten(2)
        truth = truth.cpu()  # an Apple GPU has no float64
        hue, chroma = truth.movedim(1, 0).flatten(1)
        if not chroma.max() > COLORFUL:
            raise UserError("images must have colours for color_proxy, got only grey ones")
        by_hue = equal_bins(hue, self.bins).bincount(chroma.double(), minlength=self.bins)
        by_chroma = equal_bins(chroma, self.bins).bincount(minlength=self.bins)
        self.baseline.copy_(entropy(by_chroma) + self.hue_weight * chroma.mean() * entropy(by_hue))

    def draw(self, images: Tensor) -> Tensor:
        """Random pixels away from the border, int64, shape (batch, positions, 2)."""
        size = images.shape[-1]
        margin = size // MARGIN
        shape = (len(images), self.positions, 2)
        return torch.randint(margin, size - margin, shape, device=images.device)

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        positions = self.draw(images)
        rows = torch.arange(len(images), device=images.device)[:, None]
        truth = hue_chroma(images).permute(0, 2, 3, 1)[rows, positions[:, :, 0], positions[:, :, 1]]
        logits = self.predict(images, positions)
        hue, chroma = (half.detach().argmax(2) for half in logits.chunk(2, 2))
        right = torch.stack([hue, chroma], 2) == equal_bins(truth, self.bins)
        weight = truth[:, :, 1]
        self.metrics = {
            "hue_accuracy": (right[:, :, 0] * weight).sum() / weight.sum().clamp(min=1e-6),
            "chroma_accuracy": right[:, :, 1].float().mean(),
        }
        return loss(logits, truth, self.hue_weight)

    def predict(self, images: Tensor, positions: Tensor) -> Tensor:
        """Logits of the bins of hue and chroma, float, shape (batch, positions, 2 * bins), from the grey images."""
        maps = self.encoder.maps(images.mean(1, keepdim=True).expand_as(images))
        return self.head(hypercolumns(maps, positions, images.shape[-1]))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        size = images.shape[-1]
        side = min(size, PICTURE)
        pixels = ((torch.arange(side, device=images.device) + 0.5) * size / side).long()
        grid = torch.cartesian_prod(pixels, pixels).expand(len(images), -1, -1)
        hue, chroma = (half.softmax(2) for half in self.predict(images, grid).chunk(2, 2))
        middle = (torch.arange(self.bins, device=images.device) + 0.5) / self.bins
        angle = 2 * math.pi * middle
        # Hues lie on a circle, so their mean is that of points in the plane.
        plane = torch.stack([hue @ angle.cos(), hue @ angle.sin(), chroma @ middle], 1)
        plane = F.interpolate(plane.unflatten(2, (side, side)), images.shape[2:], mode="bilinear")
        turns = torch.atan2(plane[:, 1], plane[:, 0]) / (2 * math.pi)
        grey = images.mean(1)
        predicted = from_hue_chroma(turns, plane[:, 2], grey)
        return {"image": images, "grey": grey[:, None].expand_as(images), "predicted": predicted}


def _require_rgb(channels: int) -> None:
    if channels != 3:
        raise UserError(f"channels must be 3 for color_proxy, which needs colour images, got {channels}")
