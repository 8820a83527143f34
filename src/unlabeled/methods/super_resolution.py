"""Super-resolution: predict the details that an image lost when it was downsampled.

Withheld: the details of an image that was downsampled and upsampled again. Predicted: these details, as a residual
added to the upsampled image.

Source: Dong, Loy, He, Tang, "Image Super-Resolution Using Deep Convolutional Networks", 2014,
https://arxiv.org/abs/1501.00092, which also upsamples the image before the network, but its goal is images, not
features.
Differs: the encoder is any network, and the head reads three of its maps at every pixel, where the paper has three
convolutions at full resolution. The optimizer is AdamW, not SGD. PSNR is measured on all channels of the whole image;
the paper measures it on the luma, without the border.
Shortcut: sharpening edges takes no deep features, so the head reads only the last three maps, and each image is blurred
by a random width before it is downsampled, which no fixed filter can undo.
"""

from typing import Annotated, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Range, Several, ViewOptions
from unlabeled.parts.augment import Views, blur
from unlabeled.parts.decoder import Hypercolumn
from unlabeled.parts.psnr import gain, psnr, squared_error

__all__ = ["SuperResolution", "enlarge", "shrink"]

ERRORS = {"l1": F.l1_loss, "l2": F.mse_loss}


def shrink(images: Tensor, scale: int, widths: Tensor) -> Tensor:
    """Blur images and downsample them with antialiasing, so that details finer than the new pixels are gone.

    Args:
        images: Float, shape (batch, channels, size, size), in 0..1.
        scale: Factor, at least 2.
        widths: Standard deviations of the blur in pixels of the downsampled images, float, shape (batch,), in 0..0.5;
            the Gaussian is truncated one such pixel from its centre.

    Returns:
        Float, shape (batch, channels, side, side), in 0..1; the side is size / scale, rounded up.
    """
    images = blur(images, (scale * widths).clamp(min=1e-3), 2 * scale + 1)
    side = -(-images.shape[-1] // scale)
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def enlarge(images: Tensor, size: int) -> Tensor:
    """Images upsampled to `size` pixels a side (bicubic), in 0..1: what super-resolution must beat."""
    return F.interpolate(images, (size, size), mode="bicubic").clamp(0, 1)


class SuperResolution(Method[ImageEncoder]):
    """Predict the details that an image lost when it was downsampled.

    The metric `gain_db` is the improvement in PSNR over the upsampled image, in decibels.

    Args:
        encoder: Network whose features are kept.
        scale: Factor by which images are downsampled.
        blur_width: Largest standard deviation of the blur before that, in pixels of the downsampled image; each image
            has its own.
        loss: Absolute or squared error.
        **views: How the images are cropped and mirrored.
    """

    held_out = "stop"
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        scale: Several = 4,
        blur_width: Annotated[float, Range(at_least=0, at_most=0.5)] = 0.5,
        loss: Literal["l1", "l2"] = "l2",
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        size = encoder.image_size
        if scale > size // 2:
            raise UserError(f"scale must be at most {size // 2} for images of {size} pixels, got {scale}")
        self.scale, self.blur_width, self.error = scale, blur_width, ERRORS[loss]
        self.views = Views(size, **self.view_options(views))
        self.head = Hypercolumn(list(encoder.map_dims.values())[-3:], encoder.in_channels)
        self.register_buffer("baseline", torch.tensor(0.0))  # error of the upsampled images

    def prepare(self, data: Data) -> None:
        images = self.views(data.sample(512)).to(self.baseline.device)
        self.baseline.copy_(self.error(self.coarse(images), images))

    def coarse(self, images: Tensor) -> Tensor:
        """Images without their details: downsampled and upsampled again, same shape."""
        widths = self.blur_width * torch.rand(len(images), device=images.device)
        return enlarge(shrink(images, self.scale, widths), images.shape[-1])

    def forward(self, batch: Batch) -> Tensor:
        images = self.views(batch)
        coarse = self.coarse(images)
        predicted = self.predict(coarse).float()
        quality = psnr(squared_error(predicted.detach(), images))
        self.metrics = {"psnr_db": quality, "gain_db": gain(predicted, coarse, images)}
        return self.error(predicted, images)

    def predict(self, coarse: Tensor) -> Tensor:
        """Images with predicted details, same shape."""
        maps = list(self.encoder.maps(coarse).values())[-3:]
        return coarse + self.head(maps, coarse.shape[-1])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        coarse = self.coarse(images)
        return {"image": images, "upsampled": coarse, "predicted": self.predict(coarse).clamp(0, 1)}
