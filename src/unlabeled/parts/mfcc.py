"""Mel-frequency cepstral coefficients in Kaldi's form, with their slopes over time."""

import math

import torch
from einops import einsum
from torch import Tensor, nn

from unlabeled.parts.spectrogram import LogMel

__all__ = ["MFCC", "deltas"]

BINS, COEFFICIENTS, LIFTER = 23, 13, 22
REACH = 2
"""Frames on each side of a frame from which its slope is computed."""


class MFCC(nn.Module):
    """The cosine transform of log-mel bands, and its first and second differences over time.

    Args:
        sample_rate: Samples per second of the waveforms, in hertz.
        window_seconds: Length of a window.
        hop_seconds: From one window to the next.
    """

    transform: Tensor

    def __init__(
        self, sample_rate: int, *, window_seconds: float = 0.025, hop_seconds: float = 0.010
    ) -> None:
        super().__init__()
        self.spectrogram = LogMel(sample_rate, BINS, window_seconds=window_seconds, hop_seconds=hop_seconds)
        number, bin = torch.arange(COEFFICIENTS).double()[:, None], torch.arange(BINS).double()
        transform = math.sqrt(2 / BINS) * torch.cos(math.pi / BINS * number * (bin + 0.5))
        transform[0] /= math.sqrt(2)
        transform *= 1 + LIFTER / 2 * torch.sin(math.pi * number / LIFTER)
        self.register_buffer("transform", transform.float(), persistent=False)
        self.dim = 3 * COEFFICIENTS

    def forward(self, waveform: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of each frame, followed by their first and second differences.

        Args:
            waveform: Float, shape (batch, samples), in -1..1; another scale shifts the first coefficient alone.
            length: True samples of each sound, int64, shape (batch,).

        Returns:
            Float32, shape (batch, frames, dim); true frames of each sound, int64, shape (batch,), at least 1.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            bands, frames = self.spectrogram(waveform), self.spectrogram.frames(length)
            values = einsum(bands, self.transform, "b bins frames, numbers bins -> b frames numbers")
            first = deltas(values, frames)
            return torch.cat([values, first, deltas(first, frames)], 2), frames


def deltas(values: Tensor, frames: Tensor) -> Tensor:
    """Slope over time of the line that fits five frames best; the first and last frame continue beyond the ends.

    Args:
        values: Float, shape (batch, frames, numbers).
        frames: True frames of each sequence, int64, shape (batch,), at least 1.

    Returns:
        Change per frame, float, same shape; arbitrary after the end of a sequence.
    """
    position, last = torch.arange(values.shape[1], device=values.device), frames[:, None] - 1

    def shifted(by: int) -> Tensor:
        index = (position + by).clamp(min=0).minimum(last)
        return values.gather(1, index[:, :, None].expand_as(values))

    steps = range(1, REACH + 1)
    rise = torch.stack([step * (shifted(step) - shifted(-step)) for step in steps]).sum(0)
    return rise / (2 * sum(step**2 for step in steps))
