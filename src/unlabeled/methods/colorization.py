"""Colorization: see the lightness of an image and name the colour of every place.

Withheld: the two colour axes of Lab. Predicted: at each place a distribution over bins, from lightness.

Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016, https://arxiv.org/abs/1603.08511
Differs: the encoder is any network, read at several of its maps at once; the prior of the colours is that of the data
at hand. The loss is divided by the sum of its weights, so that equal logits cost ln(bins). That prior is counted on
crops of 512 images of the training data, where the paper's is of all of ImageNet. The weights move by the loop's
AdamW with betas of 0.9 and 0.999, the paper's second one being 0.99.
Shortcut: grey images teach grey everywhere and are left out; most places are nearly grey, so rare colours
weigh more. The encoder is given grey images, whatever it reads, so that no trace of colour reaches it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views
from unlabeled.parts.color import lab_to_rgb, rgb_to_lab
from unlabeled.parts.decoder import Hypercolumn
from unlabeled.parts.gather import mean_over_processes

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Colorization"]

# fmt: off
PAPER_BINS = (  # lowest and highest b in the paper's gamut, for a = -90, -80 ... 100
    (50, 90), (20, 90), (0, 90), (-20, 90), (-30, 100), (-40, 100), (-50, 100),
    (-50, 100), (-60, 100), (-70, 100), (-80, 90), (-80, 90), (-90, 90), (-100, 90),
    (-100, 80), (-110, 80), (-110, 80), (-110, 70), (-110, 70), (-90, 0),
)
# fmt: on
COLORFUL = 5.0
"""Chroma that some place of an image must exceed, along a or b, for the image to count."""


def bins(grid: int) -> Tensor:
    """Centres of the bins of colour: the paper's 313 for a grid of 10, else all that sRGB reaches.

    Args:
        grid: Distance of neighbouring centres in Lab.

    Returns:
        a and b of each bin, float, shape (bins, 2).
    """
    if grid == 10:
        rows = zip(range(-90, 101, 10), PAPER_BINS, strict=True)
        return torch.tensor([(a, b) for a, (low, high) in rows for b in range(low, high + 1, 10)]).float()
    level = torch.linspace(0, 1, 256)
    first, second = torch.meshgrid(level, level, indexing="ij")
    # The six faces of the cube of colours cover all that its inside covers, seen along the lightness.
    sides = [(first, second, torch.full_like(first, end)) for end in (0.0, 1.0)]
    faces = torch.stack([torch.stack(side[turn:] + side[:turn]) for side in sides for turn in range(3)])
    colors = rearrange(rgb_to_lab(faces)[:, 1:], "n ab h w -> (n h w) ab")
    return (colors / grid).round().unique(dim=0) * grid


def soft_code(
    colors: Tensor, centers: Tensor, neighbours: int = 5, width: float = 5.0
) -> tuple[Tensor, Tensor]:
    """Spread each colour over its nearest bins, by a Gaussian of their distance.

    Args:
        colors: a and b of Lab, float, shape (batch, 2, height, width).
        centers: Bins, float, shape (bins, 2).
        neighbours: How many bins share a colour; 1 is the hard code.
        width: Standard deviation of the Gaussian, in Lab.

    Returns:
        Weights that sum to 1, float, and bins, int64, nearest first, both of
        shape (batch, neighbours, height, width).
    """
    rows = rearrange(colors, "b ab h w -> (b h w) ab")
    distance = torch.cdist(rows, centers, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distance.topk(min(neighbours, len(centers)), largest=False)
    weight = (-0.5 * (nearest / width).square()).softmax(1)
    batch, _, height, _ = colors.shape
    weight, index = (rearrange(x, "(b h w) k -> b k h w", b=batch, h=height) for x in (weight, index))
    return weight, index


def rarity(counts: Tensor, centers: Tensor, uniform: float = 0.5, width: float = 5.0) -> Tensor:
    """Weight of each bin: the rarer its colour, the higher, without end nowhere.

    Args:
        counts: Places of each colour in the data, shape (bins,).
        centers: Bins, float, shape (bins, 2).
        uniform: Share of the uniform distribution mixed into the prior, above 0; 1 weighs all bins alike.
        width: Standard deviation of the Gaussian that smooths the prior, in Lab.

    Returns:
        Float, shape (bins,), with mean 1 under the smoothed prior.
    """
    squared = (centers[:, None] - centers).square().sum(2)
    spread = (-0.5 * squared / width**2).softmax(0)
    prior = spread @ (counts / counts.sum())
    weight = 1 / ((1 - uniform) * prior + uniform / len(prior))
    return weight / (prior @ weight)


def annealed_mean(logits: Tensor, centers: Tensor, temperature: float = 0.38) -> Tensor:
    """Colour between the mean (temperature 1) and the mode (near 0) of a distribution over bins.

    Args:
        logits: Float, shape (batch, bins, height, width).
        centers: Bins, float, shape (bins, 2).
        temperature: Above 0; lower is more vivid.

    Returns:
        a and b of Lab, float, shape (batch, 2, height, width).
    """
    shares = (logits.float() / temperature).softmax(1)
    return einsum(shares, centers, "b bins h w, bins ab -> b ab h w")


def loss(logits: Tensor, weight: Tensor, index: Tensor, importance: Tensor) -> Tensor:
    """Cross-entropy against the soft code, each place with its importance.

    Args:
        logits: Float, shape (batch, bins, height, width).
        weight: Soft code, float, shape (batch, neighbours, height, width).
        index: Bins of the soft code, int64, same shape.
        importance: Float, shape (batch, height, width); 0 where a place does not count.

    Returns:
        Weighted mean over the places of all processes, scalar, in nats: ln(bins) for equal logits, 0 where no
        place counts.
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
        _need_colors(data.shape["channels"])
        counts = torch.zeros_like(self.importance)
        for images in self.views(data.sample(512)).to(counts.device).split(32):
            index, colorful = self.code(images)[1:]
            counts += index[:, 0][colorful].flatten().bincount(minlength=len(counts))
        if not counts.sum():
            raise UserError("images must have colours for colorization, got only grey ones")
        self.importance.copy_(rarity(counts, self.centers, self.uniform, self.width))

    def code(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft code of the colours at the predicted places; which images have any, bool, shape (batch,)."""
        # The mean colour of a cell stands at its centre, where the head's resampling predicts it.
        cell: Any = {"ceil_mode": True, "count_include_pad": False}
        colors = F.avg_pool2d(rgb_to_lab(images)[:, 1:], self.stride, **cell)
        weight, index = soft_code(colors, self.centers, self.neighbours, self.width)
        return weight, index, (colors.abs() > COLORFUL).flatten(1).any(1)

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        weight, index, colorful = self.code(images)
        importance = self.importance[index[:, 0]] * colorful[:, None, None]
        logits = self.predict(grey(images))
        right = (logits.argmax(1) == index[:, 0]).float().mean((1, 2))
        self.metrics = {"accuracy": (right * colorful).sum() / colorful.sum().clamp(min=1)}
        return loss(logits, weight, index, importance)

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the bins at every place, float, shape (batch, bins, height / stride, width / stride)."""
        maps: Sequence[Tensor] = list(self.encoder.maps(images).values())[-3:]
        return self.head(maps, -(-images.shape[-1] // self.stride))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        seen = grey(images)
        colors = annealed_mean(self.predict(seen), self.centers)
        colors = F.interpolate(colors, images.shape[2:], mode="bilinear")
        painted = lab_to_rgb(torch.cat([rgb_to_lab(images)[:, :1], colors], 1))
        return {"image": images, "lightness": seen, "predicted": painted}


def grey(images: Tensor) -> Tensor:
    """RGB images with the same lightness and no colour."""
    lightness = rgb_to_lab(images)[:, :1]
    return lab_to_rgb(F.pad(lightness, (0, 0, 0, 0, 0, 2)))


def _need_colors(channels: int) -> None:
    if channels != 3:
        raise UserError(f"channels must be 3 for colorization, which needs coloured images, got {channels}")
