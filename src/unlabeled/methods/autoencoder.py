"""Autoencoder: describe an image by a few numbers from which it can be redrawn.

Withheld: nothing but what the few numbers cannot carry. Predicted: the image itself.

Source: Hinton, Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006,
https://doi.org/10.1126/science.1127647
Differs: trained as a whole, without layer-wise pretraining; the weights of the decoder are its own, and it draws the
departure from the mean image. The features are those of the encoder, before the bottleneck. Images are cropped and
mirrored at random. The weights are updated by the loop's AdamW, not by conjugate gradients.
Shortcut: with as many numbers as pixels the copy is perfect and nothing is learned, so the code is narrow; a
warning is given if it is not.
"""

import warnings
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.method import Batch, Method
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import decoder as build_decoder

if TYPE_CHECKING:
    from unlabeled.data import Data

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


class Autoencoder(Method):
    """Describe the image by few numbers from which it can be redrawn.

    The metric `explained` is the share of the variance around the mean image that is redrawn: 1 for a perfect
    copy, 0 for the mean image.

    Args:
        encoder: Network whose features are kept.
        code_dim: Numbers that describe an image, the bottleneck; fewer than its pixels.
        decoder: How the image is drawn: step by step by convolutions, or by one linear layer.
        crop: Smallest share of the image's area that is shown.
        flip: Probability that an image is mirrored.
    """

    held_out = "stop"
    mean: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        code_dim: int = 32,
        decoder: Literal["conv", "linear"] = "conv",
        crop: float = 0.5,
        flip: float = 0.5,
    ) -> None:
        super().__init__(encoder)
        check.at_least(1, code_dim=code_dim)
        check.choice(("conv", "linear"), decoder=decoder)
        channels, size = self.encoder.in_channels, self.encoder.image_size
        pixels = channels * size**2
        if min(code_dim, self.encoder.dim) >= pixels:
            ability = f"a code_dim of {code_dim} can copy {pixels} pixels"
            warnings.warn(f"no bottleneck, no corruption: {ability}", stacklevel=2)
        self.views = Views(size, crop=crop, jitter=0, gray=0, flip=flip)
        self.code = nn.Linear(self.encoder.dim, code_dim)
        self.decoder = build_decoder(decoder, (code_dim, 1, 1), channels, size)
        self.register_buffer("mean", torch.full((channels, size, size), 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))  # of the mean image: the variance around it

    def prepare(self, data: "Data") -> None:
        super().prepare(data)
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
