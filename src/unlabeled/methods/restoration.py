"""Restoration: restore an image taken through a window covered with dirt or raindrops.

Withheld: the pixels hidden by dirt specks or raindrops, which are drawn anew for every view. Predicted: the clean
image, as a residual added to the corrupted one.

Source: Eigen, Krishnan, Fergus, "Restoring an Image Taken through a Window Covered with Dirt or Rain", 2013,
https://doi.org/10.1109/ICCV.2013.84
Differs: the paper photographs its pairs, or composites photographed dirt onto other images; here dirt and rain are
synthesised at random. The encoder is any network, and the head reads three of its maps at every pixel, where the paper
has three convolutions without padding. The head predicts the residual, where the paper predicts the clean patch, and
whole images are restored at once, where the paper averages the outputs of overlapping patches. The optimizer is AdamW,
not SGD.
Shortcut: copying the input is nearly right, as most pixels are clean. So the copy is free, only the residual is
predicted, and `gain_db` measures the improvement over the copy. The first layers see specks best, so the head reads
only the last three maps.
"""

from typing import Annotated, Literal, Unpack

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Range, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import Hypercolumn
from unlabeled.parts.psnr import gain, psnr, squared_error
from unlabeled.parts.window import dirt, rain

__all__ = ["Restoration"]

COVERS = {"dirt": dirt, "rain": rain}
VISIBLE = 0.1
"""Opacity above which a pixel counts as covered in the metrics."""


class Restoration(Method[ImageEncoder]):
    """Restore an image taken through a window covered with dirt or raindrops.

    The metric `psnr_db` compares restored with clean images. `gain_db` is its improvement over the corrupted images in
    decibels, `gain_covered_db` the same for covered pixels only; `psnr_clean_db` is the PSNR of the pixels that nothing
    covers.

    Args:
        encoder: Network whose features are kept.
        cover: What covers the window: dirt specks, raindrops, or either with equal probability for each image.
        coverage: Fraction of an image that is covered: the maximum for dirt, the mean for rain.
        **views: How the images are cropped and mirrored.
    """

    held_out = "stop"
    view_defaults = ViewOptions(crop=0.5, flip=0.5)
    baseline: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        cover: Literal["dirt", "rain", "either"] = "either",
        coverage: Annotated[float, Range(above=0, below=1)] = 0.15,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        size = encoder.image_size
        check.at_least(8, image_size=size)
        self.cover, self.coverage = cover, coverage
        self.views = Views(size, **self.view_options(views))
        self.head = Hypercolumn(list(encoder.map_dims.values())[-3:], encoder.in_channels)
        self.register_buffer("baseline", torch.tensor(0.0))  # error of the corrupted images

    def prepare(self, data: Data) -> None:
        clean = self.views(data.sample(512)).to(self.baseline.device)
        self.baseline.copy_(squared_error(self.corrupt(clean)[0], clean))

    def corrupt(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Images seen through the window, and where it is covered, bool, shape (batch, 1, size, size)."""
        if self.cover != "either":
            corrupted, alpha = COVERS[self.cover](clean, self.coverage)
        else:
            is_dirty = torch.rand(len(clean), 1, 1, 1, device=clean.device) < 0.5
            both = zip(dirt(clean, self.coverage), rain(clean, self.coverage), strict=True)
            corrupted, alpha = (torch.where(is_dirty, dirty, wet) for dirty, wet in both)
        return corrupted, alpha > VISIBLE

    def forward(self, batch: Batch) -> Tensor:
        clean = self.views(batch)
        corrupted, covered = self.corrupt(clean)
        restored = self.restore(corrupted)
        error, result = squared_error(restored, clean), restored.detach()
        self.metrics = {
            "psnr_db": psnr(error.detach()),
            "gain_db": gain(result, corrupted, clean),
            "gain_covered_db": gain(result, corrupted, clean, covered),
            "psnr_clean_db": psnr(squared_error(result, clean, ~covered)),
        }
        return error

    def restore(self, corrupted: Tensor) -> Tensor:
        """Predicted clean images, same shape."""
        maps = list(self.encoder.maps(corrupted).values())[-3:]
        return corrupted + self.head(maps, corrupted.shape[-1])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        corrupted, _ = self.corrupt(images)
        return {"image": images, "corrupted": corrupted, "restored": self.restore(corrupted).clamp(0, 1)}
