"""Denoising autoencoder: corrupt a part of an image and recover the clean one.

Withheld: the corrupted elements, which are drawn anew for every view. Predicted: the whole clean image.

Source: Vincent, Larochelle, Bengio, Manzagol, "Extracting and Composing Robust Features with Denoising
Autoencoders", 2008, https://doi.org/10.1145/1390156.1390294; the emphasis and the other noises: "Stacked
Denoising Autoencoders", 2010, https://jmlr.org/papers/v11/vincent10a.html
Differs: all layers are trained at once unless `stacked`, which trains them one by one as in the paper and then
fine-tunes them together on the images, without labels. The weights of the decoder are not tied to the encoder's, and it
predicts the residual from the mean image. The error is a mean over elements, not a sum, and squared by default, where
the paper's is the cross-entropy; that of hidden layers is always squared, as their values may exceed 1. The optimizer
is AdamW, not plain SGD.
Shortcut: copying the input, which does not recover corrupted elements, so the code may have more dimensions than the
image.
"""

from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.stages import Stages
from unlabeled.method import Batch, Method
from unlabeled.options import NonNegative, PositiveFraction, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import decoder as build_decoder
from unlabeled.parts.maps import blank_maps, map_shape
from unlabeled.parts.noise import Noise, corrupt
from unlabeled.parts.stack import Stack, frozen

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
    """Error against the clean image, with more or less weight on the corrupted elements.

    Args:
        predicted: Values, or logits for the cross-entropy, float, shape (batch, ...).
        clean: Float, same shape; in 0..1 for the cross-entropy.
        mask: Which elements were corrupted, bool, broadcastable to that shape; None weights all elements equally.
        kind: "squared" or "cross_entropy".
        emphasis: Weight of a corrupted element, in 0..1; that of an untouched one is 1 - emphasis.

    Returns:
        Mean over images of the weighted mean over elements, scalar, in squared units of the image or in nats.
    """
    error = ERRORS[kind](predicted.float(), clean, reduction="none")
    if mask is None:
        return error.mean()
    weight = torch.where(mask, emphasis, 1 - emphasis).expand_as(error).flatten(1)
    return ((error.flatten(1) * weight).sum(1) / weight.sum(1).clamp(min=1e-9)).mean()


class Denoising(Method[ImageEncoder]):
    """Corrupt a part of an image and recover the clean one.

    If `stacked`, the metric `layer` is the number of the layer that is being trained, from 1; one more than there are
    layers when all are trained together. Until then, no held-out loss is measured, as no layer restores the image
    through all others.

    Args:
        encoder: Network whose features are kept.
        noise: Corruption: "mask" sets random elements to 0, "salt_pepper" to 0 or 1; "gaussian" shifts all of them.
        amount: Fraction of the elements that is corrupted; for gaussian noise, its standard deviation.
        exact: Corrupt exactly that fraction of each image, rather than each element with that probability.
        whole_pixels: Corrupt all channels of a pixel together.
        loss: Reconstruction error; the cross-entropy treats values as probabilities of white.
        emphasis: Weight of the corrupted elements; that of the others is 1 - emphasis, so 0.5 weights all equally.
        decoder: Network that reconstructs the image: convolutions step by step, or one linear layer.
        stacked: Train the layers of the encoder one by one, each to restore its own corrupted input, then all together.
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
        stacked: bool = False,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        if emphasis == 1:  # without corrupted elements, no element would have a weight
            check.positive(amount=amount)
        if noise != "gaussian":
            check.fraction(amount=amount)
        self.noise: Noise = noise
        self.amount, self.exact, self.whole_pixels = amount, exact, whole_pixels
        self.error: Error = loss
        self.emphasis = emphasis
        channels, size = encoder.in_channels, encoder.image_size
        self.views = Views(size, **self.view_options(views))
        if stacked:
            _require_chain(encoder)
            shapes = [map_.shape[1:] for map_ in blank_maps(encoder).values()]
            self.decoder = Stack(decoder, [(channels, size, size), *shapes])
        else:
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

    def chance(self, samples: int) -> float | None:
        """Error of the mean image; unknown while a hidden layer is trained alone."""
        stack = self.decoder
        hidden = isinstance(stack, Stack) and 0 < stack.stage < len(stack.decoders)
        return None if hidden else super().chance(samples)

    @property
    def whole_task(self) -> bool:
        """Whether all layers are trained together, to restore the image."""
        return not isinstance(self.decoder, Stack) or self.decoder.stage == len(self.decoder.decoders)

    def forward(self, batch: Batch) -> Tensor:
        clean = self.views(batch)
        if isinstance(self.decoder, Stack):
            self.metrics = {"layer": clean.new_tensor(self.decoder.stage + 1)}
            if self.decoder.stage < len(self.decoder.decoders):
                return self.layer_loss(clean, self.decoder.stage, self.decoder.decoders[self.decoder.stage])
        noisy, mask = self.network_input(clean)
        return loss(self.predict(noisy), clean, mask, kind=self.error, emphasis=self.emphasis)

    def layer_loss(self, clean: Tensor, number: int, decoder: nn.Module) -> Tensor:
        """Loss of a single layer, which restores its own input: the clean output of the frozen layers before it."""
        stages = list(self.encoder.trunk.values())
        if number == 0:
            noisy, mask = self.network_input(clean)
            predicted = self.offset + decoder(stages[0](self.encoder.adapt(noisy)))
            return loss(predicted, clean, mask, kind=self.error, emphasis=self.emphasis)
        code = frozen(stages[:number], self.encoder.adapt(clean))
        peak = code.flatten(1).amax(1).clamp(min=1e-6)[:, None, None, None]
        noisy, mask = self.network_input(code / peak)  # with values in 0..1, like those of images
        return loss(decoder(stages[number](noisy * peak)), code, mask, emphasis=self.emphasis)

    def network_input(self, clean: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is to be restored, corrupted in training only, and which elements were corrupted."""
        return self.corrupt(clean) if self.training else (clean, None)

    def corrupt(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images with some elements corrupted, and which ones."""
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


def _require_chain(encoder: ImageEncoder) -> None:
    if not isinstance(encoder.trunk, Stages):
        raise UserError(
            f"encoder must be a chain of layers such as conv4 if stacked, got {encoder.config['name']}"
        )
