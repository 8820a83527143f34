"""The network of the problem-agnostic speech encoder: learned band-pass filters, then strided convolutions."""

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.encoders.sinc import Sinc
from unlabeled.encoders.strided import Strided
from unlabeled.parts import ragged

__all__ = ["SIZES", "PASENetwork"]

TAPS, KERNEL, STRIDE = (251, 125), (20, 10), (10, 5)
"""Of the filters and of the first convolution, above 8,000 Hz and from there down."""
KERNELS, STRIDES = (11, 11, 11, 11, 11, 11), (2, 1, 2, 1, 2, 2)
WIDTHS = (1, 2, 2, 4, 4, 8, 8)
"""Channels of each convolution in units of those of the first."""
LOW_RATE = 8_000


class Size(NamedTuple):
    """Numbers that distinguish the sizes of the network."""

    filters: int
    channels: int
    dim: int


SIZES = {"pase-mini": Size(32, 16, 100), "pase-tiny": Size(8, 4, 16), "pase-base": Size(64, 64, 100)}
"""By name; the base has the paper's numbers."""


class PASENetwork(Strided):
    """Band-pass filters, seven convolutions with a norm of each frame, and a linear map to the code of a frame.

    A frame is 160 samples, from 8,000 Hz down 80, and sees 148 ms of the usual 8,000 or 16,000 Hz.

    Args:
        size: One of `SIZES`.
        sample_rate: Samples per second of the waveforms, in hertz.
    """

    def __init__(self, size: Size, sample_rate: int) -> None:
        low = sample_rate <= LOW_RATE
        super().__init__((TAPS[low], KERNEL[low], *KERNELS), (1, STRIDE[low], *STRIDES))
        widths = [size.channels * width for width in WIDTHS]
        self.sinc, self.rectify = Sinc(size.filters, TAPS[low], sample_rate), nn.PReLU(size.filters)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel, stride)
            for (before, after), kernel, stride in zip(
                pairwise([size.filters, *widths]), self.kernels[1:], self.strides[1:], strict=True
            )
        )
        # Norms over time or over the batch would include the padding of a sound.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.rectifiers = nn.ModuleList(nn.PReLU(width) for width in widths)
        self.project = nn.Linear(widths[-1], size.dim)
        self.dim = size.dim
        self.map_dims = {"conv": widths[-1], "code": size.dim}
        self.rates = dict.fromkeys(self.map_dims, round(0.01 * sample_rate) / self.hop)

    @property
    def gap(self) -> int:
        """Frames from one to the first one after it with which it has no sample in common."""
        return -(-self.receptive // self.hop)

    def layers(self, waveform: Tensor, length: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Convolved frames and codes, float, shape (batch, frames, width), and true frames of each, at least 1."""
        waveform, length = self.padded(waveform, length)
        (maps,) = ragged.in_parts(self._convolve, waveform, length, self.frames(waveform.shape[1]))
        codes = self.project(maps)
        return {"conv": maps, "code": F.layer_norm(codes, codes.shape[2:])}, self.frames(length)

    def _convolve(self, waveform: Tensor, length: Tensor) -> list[Tensor]:
        maps = self.rectify(self.sinc(waveform))
        for convolution, norm, rectify in zip(self.convolutions, self.norms, self.rectifiers):
            maps = rectify(norm(convolution(maps).mT).mT)
        return [maps.mT]
