"""Denoising autoencoder: destroy a part of an image and recover the clean one.

Withheld: the destroyed elements, drawn anew each time. Predicted: the clean image, all of it.

Source: Vincent, Larochelle, Bengio, Manzagol, "Extracting and Composing Robust Features with Denoising
Autoencoders", 2008, https://doi.org/10.1145/1390156.1390294; the emphasis and the other noises: "Stacked
Denoising Autoencoders", 2010, https://jmlr.org/papers/v11/vincent10a.html
Differs: all layers are trained at once instead of stacked one by one; the weights of the decoder are its own, and it
draws the departure from the mean image. The error is a mean over elements, not a sum, and squared by default, where the
paper's is the cross-entropy. The optimizer is AdamW, not plain SGD.
Shortcut: copying the input, which cannot recover what was destroyed, so the code may be wider than the image.
"""

from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import NonNegative, PositiveFraction, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import decoder as build_decoder
from unlabeled.parts.maps import map_shape
from unlabeled.parts.noise import Noise, corrupt

__all__ = ["Denoising"]

Error = Literal["squared", "cross_entropy"]

ERRORS = {
    "squared": F.mse_loss,
    "cross_entropy": F.binary_cross_entropy_with_logits,
}


def loss(
    predicted: Tensor,
    clean: Tensor,
    mask: Tensor | None = None,
    *,
    kind: Error = "squared",
    emphasis: float = 0.5,
) -> Tensor:
    """Error against the clean image, with more or less weight on the destroyed elements.

    Args:
        predicted: Values, or logits for the cross-entropy, float, shape (batch, ...).
        clean: Float, same shape; in 0..1 for the cross-entropy.
        mask: Which elements were destroyed, bool, broadcastable to that shape; None weighs all elements alike.
        kind: "squared" or "cross_entropy".
        emphasis: Weight of a destroyed element, in 0..1; an untouched one has the rest to 1.

    Returns:
        Mean over images of the weighted mean over elements, scalar, in squared units of the image or in nats.
    """
    error = ERRORS[kind](predicted.float(), clean, reduction="none")
    if mask is None:
        return error.mean()
    weight = torch.where(mask, emphasis, 1 - emphasis).expand_as(error).flatten(1)
    return ((error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-9)).mean()


class Denoising(Method[ImageEncoder]):
    """Destroy a part of an image and recover the clean one.

    Args:
        encoder: Network whose features are kept.
        noise: Corruption: "mask" sets random elements to 0, "salt_pepper" to 0 or 1; "gaussian" shifts all of them.
        amount: Fraction of the elements that is destroyed; for gaussian noise its standard deviation.
        exact: Destroy exactly that fraction of each image, rather than each element with that probability.
        whole_pixels: Destroy all channels of a pixel together.
        loss: Reconstruction error; the cross-entropy treats values as probabilities of white.
        emphasis: Weight of the destroyed elements; the untouched ones have the rest to 1, so 0.5 weighs all alike.
        decoder: Network that draws the image: convolutions step by step, or one linear layer.
        **views: How the images are cropped and mirrored.
    """

    held_out = "stop"
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    recipe: ClassVar = {"epochs": 18, "lr": 2e-3}
    mean: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        noise: Literal["mask", "salt_pepper", "gaussian"] = "mask",
        amount: NonNegative = 0.25,
        exact: bool = True,
        whole_pixels: bool = False,
        loss: Literal["squared", "cross_entropy"] = "squared",
        emphasis: PositiveFraction = 0.5,
        decoder: Literal["conv", "linear"] = "conv",
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        if emphasis == 1:  # nothing else counts
            check.positive(amount=amount)
        if noise != "gaussian":
            check.fraction(amount=amount)
        self.noise: Noise = noise
        self.amount, self.exact, self.whole_pixels = amount, exact, whole_pixels
        self.error: Error = loss
        self.emphasis = emphasis
        channels, size = encoder.in_channels, encoder.image_size
        self.views = Views(size, **self.view_options(views))
        self.decoder = build_decoder(decoder, map_shape(encoder), channels, size)
        self.register_buffer("mean", torch.full((channels, size, size), 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))  # of the mean image

    def prepare(self, data: Data) -> None:
        images = self.views(data.sample(512)).to(self.mean.device)
        self.mean.copy_(images.mean(0))
        self.baseline.copy_(loss(self.offset.expand_as(images), images, kind=self.error))

    @property
    def offset(self) -> Tensor:
        """Mean image, as logits if the error takes logits."""
        return self.mean if self.error == "squared" else self.mean.logit(1e-3)

    def forward(self, batch: Batch) -> Tensor:
        clean = self.views(batch)
        noisy, mask = self.corrupt(clean) if self.training else (clean, None)
        return loss(self.predict(noisy), clean, mask, kind=self.error, emphasis=self.emphasis)

    def corrupt(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images with a part destroyed, and which part."""
        return corrupt(images, self.noise, self.amount, exact=self.exact, whole_pixels=self.whole_pixels)

    def predict(self, noisy: Tensor) -> Tensor:
        """Clean images, or their logits if the error takes logits, same shape."""
        *_, last = self.encoder.maps(noisy).values()
        return self.offset + self.decoder(last)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        noisy, _ = self.corrupt(images)
        predicted = self.predict(noisy)
        if self.error == "cross_entropy":
            predicted = predicted.sigmoid()
        return {"image": images, "corrupted": noisy.clamp(0, 1), "predicted": predicted.clamp(0, 1)}
