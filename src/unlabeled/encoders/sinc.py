"""Band-pass filters over a waveform of which only the two cut-off frequencies are learned (SincNet)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.parts.spectrogram import hertz_to_mel

__all__ = ["Sinc"]

LEAST_KHZ = 0.05
"""Smallest lower cut-off and smallest width of a band, in kilohertz."""
FIRST_HZ, MARGIN_HZ = 30.0, 100.0
"""Of the first band, and from the last one to half the sample rate, before training."""


class Sinc(nn.Module):
    """Differences of two windowed sincs, whose gain is about 1 between their cut-offs and 0 elsewhere.

    Before training the bands are of about equal width in mel; each overlaps the next by 50 hertz. Source: Ravanelli,
    Bengio, "Speaker Recognition from Raw Waveform with SincNet", 2018, https://arxiv.org/abs/1808.00158

    Args:
        filters: Number of bands.
        taps: Samples that a filter spans, odd.
        sample_rate: Samples per second, in hertz.
    """

    position: Tensor
    window: Tensor

    def __init__(self, filters: int, taps: int, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        first, last = hertz_to_mel(torch.tensor([FIRST_HZ, sample_rate / 2 - MARGIN_HZ])).tolist()
        khz = 0.7 * torch.expm1(torch.linspace(first, last, filters + 1) / 1127)
        # In kilohertz, so that a step of an optimizer is a few hertz.
        self.low, self.width = nn.Parameter(khz[:-1].clone()), nn.Parameter(khz.diff())
        self.register_buffer("position", torch.arange(taps) - (taps - 1) / 2, persistent=False)
        self.register_buffer("window", torch.hamming_window(taps, periodic=False), persistent=False)

    def cutoffs(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of the bands, in cycles per sample, up to 0.5, float, shape (filters,) each."""
        low = LEAST_KHZ + self.low.abs()
        high = low + LEAST_KHZ + self.width.abs()
        return tuple((1000 / self.sample_rate * end).clamp(max=0.5) for end in (low, high))  # type: ignore[return-value]

    def filters(self) -> Tensor:
        """Impulse responses, symmetric, float, shape (filters, taps)."""
        low, high = (2 * end[:, None] for end in self.cutoffs())
        ideal = high * torch.sinc(high * self.position) - low * torch.sinc(low * self.position)
        return ideal * self.window

    def forward(self, waveform: Tensor) -> Tensor:
        """Bands of waveforms, without padding, float, shape (batch, filters, samples - taps + 1)."""
        return F.conv1d(rearrange(waveform, "b t -> b 1 t"), rearrange(self.filters(), "f t -> f 1 t"))
