"""Samples that are sequences of frames, of one camera or several, in one block of memory."""

from typing import Unpack

import torch
from torch import Tensor

from unlabeled.data.image.data import Images
from unlabeled.data.samples import Data, Samples

__all__ = ["Sequences"]


class Sequences(Data):
    """Frames sample by sample, camera by camera, in the order of time.

    Args:
        pixels: All frames, uint8, shape (rows, channels, height, width).
        lengths: Frames that each camera has of each sample, int64, shape (samples,).
        cameras: Cameras of every sample.
        **about: Name, paths, labels and so on, as in `Data`.
    """

    per_sample = ("lengths", "starts")

    def __init__(
        self,
        pixels: Tensor,
        lengths: Tensor,
        *,
        cameras: int = 1,
        **about: Unpack[Samples],
    ) -> None:
        super().__init__(**about)
        assert len(lengths) == len(self) and int(lengths.sum()) * cameras == len(pixels)
        self.pixels, self.lengths, self.cameras = pixels, lengths, cameras
        self.starts = cameras * (lengths.cumsum(0) - lengths)
        """Row of `pixels` at which each sample begins, int64, shape (samples,)."""

    @property
    def shortest(self) -> int:
        """Frames of the shortest sample."""
        return int(self.lengths.min()) if len(self) else 0

    @property
    def shape(self) -> dict[str, int]:
        channels, height, width = self.pixels.shape[1:]
        return {"channels": channels, "image_size": min(height, width), "frames": self.shortest}

    def _times(self, index: Tensor) -> Tensor:
        """Numbers of all frames of samples, the last one again for shorter samples, int64, shape (batch, frames)."""
        lengths = self.lengths[index.cpu()]
        return torch.arange(int(lengths.max())).minimum(lengths[:, None] - 1)

    def _places(self) -> Tensor:
        """Sample (its row), camera and number of every frame, int64, shape (images, 3)."""
        counts = self.cameras * self.lengths
        sample = torch.arange(len(self)).repeat_interleave(counts)
        number = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
        lengths = self.lengths[sample]
        return torch.stack([sample, number // lengths, number % lengths], 1)

    def _images(
        self,
        sample: Tensor,
        rows: Tensor,
        paths: list[str],
        factors: dict[str, Tensor],
        labels: Tensor | None = None,
        classes: list[str] | None = None,
    ) -> Images:
        """Frames as images.

        Args:
            sample: Sample that each comes from, int64, shape (images,).
            rows: Row of `pixels` of each, int64, shape (images,).
            paths: Where each came from.
            factors: As in `Data`.
            labels: As in `Data`.
            classes: As in `Data`.
        """
        whole = len(rows) == len(self.pixels) and bool((rows == torch.arange(len(rows))).all())
        pixels = self.pixels if whole else self.pixels[rows]
        return Images(
            pixels.flatten(),
            torch.tensor(pixels.shape[2:]).repeat(len(rows), 1),
            channels=pixels.shape[1],
            name=self.name,
            paths=paths,
            labels=labels,
            classes=classes,
            factors=factors,
            groups=self.groups_of(sample),
            skipped=self.skipped,
        )
