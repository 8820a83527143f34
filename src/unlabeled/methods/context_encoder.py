"""Context encoder: cut a hole into an image and fill it in.

Withheld: the pixels of the hole, replaced by the mean colour. Predicted: those pixels.

Source: Pathak, Krähenbühl, Donahue, Darrell, Efros, "Context Encoders: Feature Learning by Inpainting", 2016,
https://arxiv.org/abs/1604.07379
Differs: one decoder draws the whole image for every kind of hole, as a departure from the mean image, and only the hole
counts. Errors are means over the hole, of values in 0..1. Regions come from smooth noise instead of outlines of
segmented objects. The discriminator sees the hole if it is central, else the image with the hole filled in. The
optimizer of both players is AdamW with a first beta of 0.9, not 0.5.
Shortcut: copying, so the error outside the hole does not count; a central hole can be filled by continuing its border,
so regions are the default. The adversarial loss makes sharper pictures, not better features.
"""

from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Losses, Method
from unlabeled.options import Fraction, ViewOptions
from unlabeled.parts import masks
from unlabeled.parts.adversarial import build_discriminator, players
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import ChannelwiseLinear, Decoder
from unlabeled.parts.maps import map_shape
from unlabeled.parts.psnr import psnr

__all__ = ["ContextEncoder"]

MASKS = {"central": masks.central, "blocks": masks.blocks, "region": masks.region}
OVERLAP = 7 / 227
"""Border around a central hole that is filled in as well, so that seams match, in sides of the image."""
OVERLAP_WEIGHT = 10.0


def reconstruction(predicted: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error.

    Args:
        predicted: Float, shape (batch, channels, height, width).
        images: Float, same shape.
        weight: Weight of each pixel, float, shape (batch, 1, height, width); 0 outside the hole.

    Returns:
        Mean over images of the weighted mean over elements, scalar, in squared units of the image.
    """
    error = (predicted.float() - images).square().mean(1, keepdim=True) * weight
    return (error.flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()


class ContextEncoder(Method[ImageEncoder]):
    """Cut a hole into an image and fill it in.

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
        self.register_buffer("baseline", torch.tensor(0.0))  # of the mean image

    def chance(self, samples: int) -> float | None:
        """Error of the mean image; there is no chance level of two players."""
        return None if self.adversarial_weight else super().chance(samples)

    def prepare(self, data: Data) -> None:
        images = self.views(data.sample(512)).to(self.mean.device)
        self.mean.copy_(images.mean(0))
        self.baseline.copy_(reconstruction(self.mean, images, self.weight(self.drop(images))))

    def drop(self, images: Tensor) -> Tensor:
        """Random holes, True where dropped, bool, shape (batch, 1, height, width)."""
        return MASKS[self.mask](len(images), images.shape[-1], images.device)

    def weight(self, drop: Tensor) -> Tensor:
        """Weight of each pixel in the error: the hole, and a border around it if it is central; shape of `drop`."""
        if self.mask != "central":
            return drop.float()
        return drop + OVERLAP_WEIGHT * masks.ring(drop, max(1, round(OVERLAP * drop.shape[-1])))

    def forward(self, batch: Batch) -> Losses:
        images = self.views(batch)
        drop = self.drop(images)
        predicted = self.predict(images, drop)
        hole = reconstruction(predicted.detach(), images, drop.float())
        self.metrics = {"psnr_db": psnr(hole)}
        error = reconstruction(predicted, images, self.weight(drop))
        if not self.adversarial_weight:
            return error
        if self.mask == "central":
            start, side = images.shape[-1] // 4, images.shape[-1] // 2
            middle = (..., slice(start, start + side), slice(start, start + side))
            fool, judge = players(self.discriminator, images[middle], predicted[middle])
        else:
            fool, judge = players(self.discriminator, images, torch.where(drop, predicted, images))
        weight = self.adversarial_weight
        return {"generator": (1 - weight) * error + weight * fool, "discriminator": judge}

    def fill(self, images: Tensor, drop: Tensor) -> Tensor:
        """Images whose holes have the mean colour."""
        return torch.where(drop, self.mean.mean((1, 2), keepdim=True), images)

    def predict(self, images: Tensor, drop: Tensor) -> Tensor:
        """Whole images drawn from what is outside the holes, same shape."""
        *_, last = self.encoder.maps(self.fill(images, drop)).values()
        return self.mean + self.decoder(self.bridge(last))

    def nearest(self, images: Tensor, drop: Tensor) -> Tensor:
        """The other image that looks most alike around the same hole, for each image, shape of `images`.

        As in the paper, likeness is that of the encoder's features of what is outside the hole, so what is in it has no
        say. Mid-grey if there is no other image.
        """
        features = torch.stack([self.encoder(self.fill(images, hole)) for hole in drop])
        own = features.diagonal(dim1=0, dim2=1).mT[:, None]
        distances = (features - own).norm(dim=2).fill_diagonal_(torch.inf)
        return images[distances.argmin(1)] if len(images) > 1 else torch.full_like(images, 0.5)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Images, with a hole, and the hole as predicted and as it is in the nearest image of the batch."""
        images = self.encoder.inputs(batch)
        drop = self.drop(images)
        predicted = torch.where(drop, self.predict(images, drop).clamp(0, 1), images)
        nearest = torch.where(drop, self.nearest(images, drop), images)
        return {"image": images, "hole": self.fill(images, drop), "predicted": predicted, "nearest": nearest}
