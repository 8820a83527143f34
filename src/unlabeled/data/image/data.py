"""Images in one flat block of memory, own out in batches."""

from collections.abc import Iterator, Sequence
from typing import Self, Unpack

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image.levels import Levels
from unlabeled.data.samples import About, Batch, Data

__all__ = ["Images", "fits_on", "from_images", "with_channels"]


class Images(Data):
    """Images ready for training: a batch is an index operation.

    Args:
        pixels: All images one after the other, each as (channels, height, width), uint8, shape (bytes,).
        sizes: Height and width of each image in pixels, int64, shape (samples, 2).
        channels: Channels of every image.
        name: What the data is called in reports.
        paths: Where each sample came from.
        **about: As in `Data`.
    """

    kind = "image"
    unit = "images"

    def __init__(
        self,
        pixels: Tensor,
        sizes: Tensor,
        *,
        channels: int,
        name: str,
        paths: Sequence[str],
        **about: Unpack[About],
    ) -> None:
        super().__init__(name=name, paths=paths, **about)
        lengths = channels * sizes.prod(1)
        assert len(sizes) == len(paths) and int(lengths.sum()) == len(pixels)
        self.pixels, self.sizes, self.channels = pixels, sizes, channels
        self.image_size = int(sizes.amin(1).median())
        """Suggested side of training images in pixels: the common size, or the usual shorter side."""
        self.levels: Levels | None = None
        """Values that became 0 and 255 where the pixels had more than 8 bits."""
        self.device = pixels.device
        self.offsets = lengths.cumsum(0) - lengths
        """Where each image starts in `pixels`, int64, shape (samples,)."""
        self._lay_out()

    @property
    def shape(self) -> dict[str, int]:
        return {"channels": self.channels, "image_size": self.image_size}

    def batch(self, index: Tensor) -> Batch:
        """Give out samples.

        Args:
            index: Rows, int64, shape (batch,).

        Returns:
            `image` uint8 (batch, channels, height, width) and `index` int64 (batch,) on the device of the
            data. Where the images of the data differ in size they are padded with zeros at the bottom and
            right to the largest of the batch; `size` int64 (batch, 2) gives the true heights and widths.
        """
        batch: Batch = {"index": index.to(self.device)}
        if self._table is not None:
            batch["image"] = self._table[self._rows[index.to(self._rows.device)]].to(self.device)
            return batch
        index = index.cpu()
        sizes, offsets = self.sizes[index], self.offsets[index].tolist()
        height, width = sizes.amax(0).tolist()
        image = self.pixels.new_zeros(len(index), self.channels, height, width)
        for row, (start, (height, width)) in enumerate(zip(offsets, sizes.tolist())):
            pixels = self.pixels[start : start + self.channels * height * width]
            image[row, :, :height, :width] = pixels.view(self.channels, height, width)
        batch["image"] = image.to(self.device)
        if not self._one_size:
            batch["size"] = sizes.to(self.device)
        return batch

    def _contents(self) -> Iterator[int]:
        pixels = self.pixels.cpu().numpy()
        for start, (height, width) in zip(self.offsets.tolist(), self.sizes.tolist()):
            image = pixels[start : start + self.channels * height * width]
            yield digest(in_one_channel(image.reshape(self.channels, height, width)))

    def to(self, device: torch.device | str) -> Self:
        """The same data giving its batches on a device, and kept there if half its free memory is enough."""
        moved = super().to(device)
        if fits_on(len(self.pixels), moved.device):
            moved.pixels = self.pixels.to(device)
            moved._lay_out()
        return moved

    def _keep(self, rows: Tensor) -> None:
        self.sizes, self.offsets = self.sizes[rows], self.offsets[rows]
        self._lay_out()

    def _lay_out(self) -> None:
        """View the images as rows of one table where they have one size and lie at regular distances."""
        self._one_size = bool((self.sizes == self.sizes[:1]).all())
        self._table = None
        if self._one_size and len(self):
            height, width = self.sizes[0].tolist()
            step = self.channels * height * width
            if len(self.pixels) % step == 0 and not (self.offsets % step).any():
                self._table = self.pixels.view(-1, self.channels, height, width)
                self._rows = (self.offsets // step).to(self.pixels.device)


def fits_on(size: int, device: torch.device) -> bool:
    """Whether so many bytes take at most half of a device's free memory; always in the machine's own."""
    return device.type != "cuda" or size <= torch.cuda.mem_get_info(device)[0] // 2


def from_images(
    images: Tensor, labels: Tensor | None = None, *, name: str = "array", classes: list[str] | None = None
) -> Images:
    """Data of images that are all there.

    Args:
        images: uint8, shape (samples, channels, height, width).
        labels: int64, shape (samples,).
        name: What the data is called in reports.
        classes: Names of the classes by label.
    """
    samples, channels, height, width = images.shape
    return Images(
        rearrange(images, "samples channels height width -> (samples channels height width)"),
        torch.tensor([height, width]).repeat(samples, 1),
        channels=channels,
        name=name,
        paths=[f"{name}[{row}]" for row in range(samples)],
        labels=labels,
        classes=classes,
    )


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey as colour and colour as grey, as Pillow weighs it.

    Args:
        pixels: uint8, shape (..., channels, height, width).
        channels: 1 or 3, or as many as there are.
    """
    own = pixels.shape[-3]
    if own == channels:
        return pixels
    if (own, channels) == (1, 3):
        return repeat(pixels, "... 1 height width -> ... channels height width", channels=3)
    if (own, channels) != (3, 1):
        raise UserError(f"channels must be {own}, as the images have, got {channels}")
    grey = np.full(pixels[..., 0, :, :].shape, 2**15, np.uint32)
    for band, weight in enumerate((19595, 38470, 7471)):
        grey += pixels[..., band, :, :] * np.uint32(weight)
    return (grey >> 16).astype(np.uint8)[..., None, :, :]
