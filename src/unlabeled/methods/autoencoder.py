"""Autoencoder: describe an image by a few numbers from which it can be redrawn.

Withheld: nothing but what the few numbers cannot carry. Predicted: the image itself.

Source: Hinton, Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006,
https://doi.org/10.1126/science.1127647
Differs: trained as a whole, without layer-wise pretraining; the weights of the decoder are its own, and it draws the
departure from the mean image. The features are those of the encoder, before the bottleneck. Images are cropped and
mirrored at random. The optimizer is AdamW, not conjugate gradients.
Shortcut: with as many numbers as pixels the copy is perfect and nothing is learned, so the code is narrow; a warning is
given if it is not.
"""

import warnings
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import decoder as build_decoder

__all__ = ["Autoencoder"]


def loss(predicted: Tensor, images: Tensor) -> Tensor:
    """Squared error of a reconstruction.

    Args:
        predicted: Float, shape (batch, ...).
        images: Float, same shape.

    Returns:
        Mean over all elements, scalar, in squared units of the image.
    """
    return (predicted.float() - images).square().mean()


class Autoencoder(Method[ImageEncoder]):
    """Describe an image by a few numbers from which it can be redrawn.

    The metric `explained` is the fraction of the variance around the mean image that is reconstructed: 1 for a perfect
    copy, 0 for the mean image.

    Args:
        encoder: Network whose features are kept.
        code_dim: Width of the bottleneck; choose it below the number of pixels.
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
        code_dim: Count = 32,
        decoder: Literal["conv", "linear"] = "conv",
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        channels, size = encoder.in_channels, encoder.image_size
        pixels = channels * size**2
        if min(code_dim, encoder.dim) >= pixels:
            ability = f"a code_dim of {code_dim} can copy {pixels} pixels"
            warnings.warn(f"no bottleneck, no corruption: {ability}", stacklevel=2)
        self.views = Views(size, **self.view_options(views))
        self.code = nn.Linear(encoder.dim, code_dim)
        self.decoder = build_decoder(decoder, (code_dim, 1, 1), channels, size)
        self.register_buffer("mean", torch.full((channels, size, size), 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))  # of the mean image: the variance around it

    def prepare(self, data: Data) -> None:
        images = self.views(data.sample(512)).to(self.mean.device)
        self.mean.copy_(images.mean(0))
        self.baseline.copy_(loss(self.mean, images))

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        error = loss(self.predict(images), images)
        if self.baseline:
            self.metrics = {"explained": 1 - error.detach() / self.baseline}
        return error

    def predict(self, images: Tensor) -> Tensor:
        """Images redrawn from their codes, same shape."""
        return self.mean + self.decoder(self.code(self.encoder(images))[:, :, None, None])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        return {"image": images, "predicted": self.predict(images).clamp(0, 1)}
