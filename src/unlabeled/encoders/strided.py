"""What convolutions without padding that shorten a waveform step by step have in common."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Strided"]


class Strided(nn.Module):
    """Base of networks whose frames are the output of such convolutions.

    Args:
        kernels: Width of each convolution, first to last.
        strides: Step of each.
    """

    def __init__(self, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.kernels, self.strides = tuple(kernels), tuple(strides)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def receptive(self) -> int:
        """Samples that one frame sees."""
        samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides)):
            samples = (samples - 1) * stride + kernel
        return samples

    def frames(self, samples: Any) -> Any:
        """Frames of waveforms of so many samples, int or int64, shape (batch,)."""
        for kernel, stride in zip(self.kernels, self.strides):
            samples = (samples - kernel) // stride + 1
        return samples

    def padded(self, waveform: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms followed by silence up to the samples that one frame needs, and their lengths then."""
        short = max(0, self.receptive - waveform.shape[1])
        return nn.functional.pad(waveform, (0, short)), length.clamp(min=self.receptive)
