"""Restoration: look through a dirty or wet window and restore the clean image.

Withheld: what dirt specks and raindrops hide, drawn anew each time. Predicted: the clean image, as its departure from
the given one.

Source: Eigen, Krishnan, Fergus, "Restoring an Image Taken through a Window Covered with Dirt or Rain", 2013,
https://doi.org/10.1109/ICCV.2013.84
Differs: the paper photographs its pairs, or composites photographed dirt with other images; here dirt and rain are
drawn at random. The encoder is any network, of which three maps are read at every pixel, where the paper has three
convolutions that cut off the border. The optimizer is AdamW, not SGD.
Shortcut: copying is nearly right, as most pixels are clean; so the copy is free, only the departure from it is
predicted, and `gain` counts what is better than doing nothing. Specks are seen best by the first layers; so the head
reads the last three maps only.
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
"""Opacity from which a pixel counts as covered in the metrics."""


class Restoration(Method[ImageEncoder]):
    """Look through a dirty or wet window and restore the clean image.

    The metric `psnr` compares restored with clean images, and `gain` tells by how many decibels that is better than
    doing nothing: of all pixels, and of the covered ones. `psnr_clean` is of pixels that nothing covered.

    Args:
        encoder: Network whose features are kept.
        cover: What is on the window: dirt specks, raindrops, or one of them by a fair coin for each image.
        coverage: Fraction of an image that is covered: of dirt the most, of rain the mean.
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
        self.register_buffer("baseline", torch.tensor(0.0))  # of doing nothing

    def prepare(self, data: Data) -> None:
        clean = self.views(data.sample(512)).to(self.baseline.device)
        self.baseline.copy_(squared_error(self.corrupt(clean)[0], clean))

    def corrupt(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Images through the window, and where it is covered, bool, shape (batch, 1, size, size)."""
        if self.cover != "either":
            given, alpha = COVERS[self.cover](clean, self.coverage)
        else:
            coin = torch.rand(len(clean), 1, 1, 1, device=clean.device) < 0.5
            both = zip(dirt(clean, self.coverage), rain(clean, self.coverage), strict=True)
            given, alpha = (torch.where(coin, dirty, wet) for dirty, wet in both)
        return given, alpha > VISIBLE

    def forward(self, batch: Batch) -> Tensor:
        clean = self.views(batch)
        given, covered = self.corrupt(clean)
        restored = self.restore(given)
        error, seen = squared_error(restored, clean), restored.detach()
        self.metrics = {
            "psnr": psnr(error.detach()),
            "gain": gain(seen, given, clean),
            "gain_covered": gain(seen, given, clean, covered),
            "psnr_clean": psnr(squared_error(seen, clean, ~covered)),
        }
        return error

    def restore(self, given: Tensor) -> Tensor:
        """Clean images, same shape."""
        maps = list(self.encoder.maps(given).values())[-3:]
        return given + self.head(maps, given.shape[-1])

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        given, _ = self.corrupt(images)
        return {"image": images, "through the window": given, "restored": self.restore(given).clamp(0, 1)}
