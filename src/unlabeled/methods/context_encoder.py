"""Context encoder: cut a hole into the image and paint what was there.

Withheld: the pixels of the hole, filled with the mean colour. Predicted: those pixels.

Source: Pathak, Krähenbühl, Donahue, Darrell, Efros, "Context Encoders: Feature Learning by Inpainting", 2016,
https://arxiv.org/abs/1604.07379
Differs: one decoder draws the whole image for every kind of hole, as a departure from the mean image, and only the
hole is judged. Errors are means over the hole, of values in 0..1. Blobs come from smooth noise instead of outlines of
segmented objects. The discriminator sees the hole where it is central, else the image with the hole painted. Both
players move by the loop's AdamW with a first beta of 0.9, where the paper has 0.5.
Shortcut: copying, so the error outside the hole does not count; a central hole can be filled by continuing
its border, so regions are the default. The adversarial loss makes sharper paintings, not better features.
"""

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from unlabeled import check
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Losses, Method
from unlabeled.options import Fraction, ViewOptions
from unlabeled.parts import masks
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import Decoder, map_shape

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["ContextEncoder"]

MASKS = {"central": masks.central, "blocks": masks.blocks, "region": masks.region}
OVERLAP = 7 / 227
"""Border around a central hole that is painted as well, so that seams match, in sides of the image."""
OVERLAP_WEIGHT = 10.0


def reconstruction(predicted: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Squared error where it counts.

    Args:
        predicted: Float, shape (batch, channels, height, width).
        images: Float, same shape.
        weight: Weight of each pixel, float, shape (batch, 1, height, width); 0 where nothing was dropped.

    Returns:
        Mean over images of the weighted mean over elements, scalar, in squared units of the image.
    """
    error = (predicted.float() - images).square().mean(1, keepdim=True) * weight
    return (error.flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


def players(discriminator: nn.Module, real: Tensor, painted: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the painter and of the discriminator, whose gradients do not mix.

    The discriminator learns from detached paintings; the painter is judged by a discriminator with detached
    parameters. One backward of the sum therefore gives each player its own gradient and nothing else.

    Args:
        discriminator: Network from images to one logit each, high for real ones.
        real: True images, float, shape (batch, channels, height, width).
        painted: Paintings, float, same shape.

    Returns:
        Two scalars in nats, 0.693 and 1.386 where the discriminator tosses coins: -log D(painted), and
        -log D(real) - log(1 - D(painted)).
    """
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    fooled = torch.func.functional_call(discriminator, frozen, (painted,))
    on_real, on_painted = discriminator(real), discriminator(painted.detach())
    return F.softplus(-fooled).mean(), F.softplus(-on_real).mean() + F.softplus(on_painted).mean()


class ChannelwiseLinear(nn.Module):
    """Fully connected layer within each channel: every place sees every place, no channel sees another.

    Args:
        channels: Channels of the map.
        places: Height times width of the map.
    """

    def __init__(self, channels: int, places: int) -> None:
        super().__init__()
        bound = places**-0.5
        self.weight = nn.Parameter(torch.empty(channels, places, places).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels, places))

    def forward(self, features: Tensor) -> Tensor:
        mixed = einsum(features.flatten(2), self.weight, "b c before, c after before -> b c after")
        return (mixed + self.bias).view_as(features)


def build_discriminator(channels: int, size: int, width: int = 32) -> nn.Sequential:
    """Network from images, shape (batch, channels, size, size), to one logit each."""
    layers: list[nn.Module] = []
    while size > 4:
        layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
        if len(layers) > 1:  # no running statistics: real and painted images have their own
            layers.append(nn.BatchNorm2d(width, track_running_stats=False))
        layers.append(nn.LeakyReLU(0.2))
        channels, width, size = width, min(2 * width, 256), size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, 1))


class ContextEncoder(Method[ImageEncoder]):
    """Cut a hole into the image and paint what was there.

    Args:
        encoder: Network whose features are kept.
        mask: Shape of the hole: a central square, random blocks, or a region of arbitrary shape.
        loss: Squared error, the verdict of a discriminator, or both; the first gives the best features.
        adversarial_weight: Weight of the discriminator in the joint loss.
        **views: How the images are cropped and mirrored.
    """

    learning_rates: ClassVar[dict[str, float]] = {"discriminator": 0.1}
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 15, "lr": 2e-3}
    mean: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        mask: Literal["central", "blocks", "region"] = "region",
        loss: Literal["l2", "adversarial", "joint"] = "l2",
        adversarial_weight: Fraction = 0.001,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        channels, size = encoder.in_channels, encoder.image_size
        check.at_least(8, image_size=size)
        self.mask = mask
        self.adversarial_weight = {"l2": 0.0, "adversarial": 1.0, "joint": adversarial_weight}[loss]
        self.views = Views(size, **self.view_options(views))
        shape = map_shape(encoder)
        dim, height, width = shape
        self.bridge = nn.Sequential(ChannelwiseLinear(dim, height * width), nn.Conv2d(dim, dim, 1), nn.ReLU())
        self.decoder = Decoder(shape, channels, size)
        if self.adversarial_weight:
            self.discriminator = build_discriminator(channels, size // 2 if mask == "central" else size)
        self.register_buffer("mean", torch.full((channels, size, size), 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))

    def chance(self, samples: int) -> float | None:
        """Error of one who paints the mean image; none exists where a discriminator plays."""
        return None if self.adversarial_weight else float(self.baseline) or None

    def prepare(self, data: "Data") -> None:
        images = self.views(data.sample(512)).to(self.mean.device)
        self.mean.copy_(images.mean(0))
        self.baseline.copy_(reconstruction(self.mean, images, self.weight(self.drop(images))))

    def drop(self, images: Tensor) -> Tensor:
        """Random holes, True where dropped, bool, shape (batch, 1, height, width)."""
        return MASKS[self.mask](len(images), images.shape[-1], images.device)

    def weight(self, drop: Tensor) -> Tensor:
        """What counts in the error: the hole, and a border around it where it is central; shape of `drop`."""
        if self.mask != "central":
            return drop.float()
        return drop + OVERLAP_WEIGHT * masks.ring(drop, max(1, round(OVERLAP * drop.shape[-1])))

    def forward(self, batch: Batch) -> Losses:
        images = self.views(batch)
        drop = self.drop(images)
        predicted = self.predict(images, drop)
        hole = reconstruction(predicted.detach(), images, drop.float())
        self.metrics = {"psnr": -10 / math.log(10) * hole.log()}
        error = reconstruction(predicted, images, self.weight(drop))
        if not self.adversarial_weight:
            return error
        if self.mask == "central":
            start, side = images.shape[-1] // 4, images.shape[-1] // 2
            middle = (..., slice(start, start + side), slice(start, start + side))
            fooling, telling = players(self.discriminator, images[middle], predicted[middle])
        else:
            fooling, telling = players(self.discriminator, images, torch.where(drop, predicted, images))
        share = self.adversarial_weight
        return {"generator": (1 - share) * error + share * fooling, "discriminator": telling}

    def fill(self, images: Tensor, drop: Tensor) -> Tensor:
        """Images whose holes have the mean colour."""
        return torch.where(drop, self.mean.mean((1, 2), keepdim=True), images)

    def predict(self, images: Tensor, drop: Tensor) -> Tensor:
        """Whole images painted from what is outside the holes, same shape."""
        *_, last = self.encoder.maps(self.fill(images, drop)).values()
        return self.mean + self.decoder(self.bridge(last))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        drop = self.drop(images)
        predicted = torch.where(drop, self.predict(images, drop).clamp(0, 1), images)
        return {"image": images, "hole": self.fill(images, drop), "predicted": predicted}
