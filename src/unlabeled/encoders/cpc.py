"""The network of contrastive predictive coding for sounds: convolutions over the waveform, then a recurrent unit."""

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.encoders.recurrent import by_length
from unlabeled.encoders.strided import Strided
from unlabeled.parts import ragged

__all__ = ["SIZES", "CPCNetwork"]

KERNELS, STRIDES = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2)
LOW_RATE = 8_000


class Size(NamedTuple):
    """Numbers that distinguish the sizes of the network."""

    channels: int
    width: int


SIZES = {"cpc-mini": Size(128, 256), "cpc-tiny": Size(32, 32), "cpc-base": Size(512, 256)}
"""By name; the base has the paper's numbers."""


class CPCNetwork(Strided):
    """Convolutions with a norm of each frame, and gated recurrent units that read their frames forward in time.

    From 8,000 Hz down there is one convolution of stride 2 less, so that a frame stays 10 ms.

    Args:
        size: One of `SIZES`.
        sample_rate: Samples per second of the waveforms, in hertz.
    """

    def __init__(self, size: Size, sample_rate: int) -> None:
        count = len(STRIDES) - (sample_rate <= LOW_RATE)
        super().__init__(KERNELS[:count], STRIDES[:count])
        widths = pairwise([1, *[size.channels] * count])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride)
            for (before, after), kernel, stride in zip(widths, self.kernels, self.strides, strict=True)
        )
        # Norms over time or over the batch would let a frame know of those that it is compared with.
        self.norms = nn.ModuleList(nn.LayerNorm(size.channels) for _ in range(count))
        self.unit = nn.GRU(size.channels, size.width, batch_first=True)
        self.dim = size.width
        self.map_dims = {"conv": size.channels, "context": size.width}

    def convolve(self, waveform: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Frames, float, shape (batch, frames, channels), and true frames of each sound, at least 1."""
        waveform, length = self.padded(waveform, length)
        rows, parts = ragged.alike(length, waveform.shape[1]), []
        for some in rows:
            maps = rearrange(waveform[some, : int(length[some].max())], "b t -> b 1 t")
            for convolution, norm in zip(self.convolutions, self.norms):
                maps = F.relu(norm(convolution(maps).mT)).mT
            parts.append(maps.mT)
        return ragged.join(rows, parts), self.frames(length)

    def layers(self, waveform: Tensor, length: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Frames and states after each frame, float, shape (batch, frames, width), and true frames of each sound."""
        maps, frames = self.convolve(waveform, length)
        return {"conv": maps, "context": by_length(self.unit, maps, frames)}, frames
