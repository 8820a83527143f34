"""Damaged copies of sounds: noise, a narrower band, clipped peaks and dropped spans."""

from typing import Literal, NamedTuple

import torch
from einops import repeat
from torch import Tensor

from unlabeled.parts import ragged
from unlabeled.parts.precision import full
from unlabeled.parts.spans import spans

__all__ = ["Damage", "add_noise", "babble", "clip_peaks", "low_pass"]

WHITE = {"white": 1.0, "babble": 0.0, "either": 0.5}
"""Probability that noise is white."""
SNR_RANGE = 15.0
"""Decibels from the lowest to the highest signal-to-noise ratio."""
FRAME_SECONDS = 0.01
DITHER = 2.0**-15
"""Deviation of the noise in all sounds, damaged or not: one step of 16 bits, so that no logarithm is of zero."""


def add_noise(waveform: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Add noise at signal-to-noise ratios; silence, whose ratio is undefined, gets none.

    Args:
        waveform: Float, shape (batch, samples), 0 after the end of each sound.
        noise: Float, same shape, 0 after the end of each sound.
        snr: Energy of each sound over that of its noise, in decibels, float, shape (batch,).
    """
    energy, noise_energy = (one.square().sum(1) for one in (waveform, noise))
    factor = (energy / noise_energy.clamp(min=1e-12) * 10 ** (-snr / 10)).sqrt()
    return waveform + factor[:, None] * noise


def babble(waveform: Tensor, length: Tensor) -> Tensor:
    """For each sound another one of the batch, repeated from a random place on; a single sound gets itself.

    Args:
        waveform: Float, shape (batch, samples).
        length: True samples of each, int64, shape (batch,), at least 1.
    """
    count, device = len(waveform), length.device
    turn = torch.randint(1, max(2, count), (count,), device=device)
    other = (torch.arange(count, device=device) + turn) % count
    start = (torch.rand(count, device=device) * length[other]).long()
    place = start[:, None] + torch.arange(waveform.shape[1], device=device)
    return waveform[other].gather(1, place % length[other, None])


def low_pass(waveform: Tensor, cutoff: Tensor) -> Tensor:
    """Remove all frequencies above a cut-off, a fraction of half the sample rate, float, shape (batch,), in 0..1."""
    spectrum = torch.fft.rfft(waveform)
    frequency = torch.linspace(0, 1, spectrum.shape[1], device=waveform.device)
    return torch.fft.irfft(spectrum * (frequency <= cutoff[:, None]), waveform.shape[1])


def clip_peaks(waveform: Tensor, level: Tensor) -> Tensor:
    """Limit each sound to a fraction of its peak, float, shape (batch,), in 0..1."""
    peak = level[:, None] * waveform.abs().amax(1, keepdim=True)
    return waveform.clamp(-peak, peak)


class Damage(NamedTuple):
    """What can happen to a sound on its way, each with the same probability and independently, in this order.

    Attributes:
        probability: Of each kind of damage.
        noise: White noise, another sound of the batch, either of them with equal probability, or none.
        snr: Lowest signal-to-noise ratio in decibels; drawn from there to 15 dB above.
        band: Smallest fraction of the frequencies, from the lowest, that remains; drawn from there to 1. 1 is off.
        peak: Smallest fraction of its peak to which a sound is clipped; drawn from there to 1. 1 is off.
        drop: Fraction of a sound that dropped spans cover if none overlap, but at least one span. 0 is off.
        span: Frames of 10 ms of a dropped span.
    """

    probability: float
    noise: Literal["white", "babble", "either", "none"] = "either"
    snr: float = 0.0
    band: float = 0.4
    peak: float = 0.1
    drop: float = 0.15
    span: int = 7

    def __call__(self, waveform: Tensor, length: Tensor, sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
        """The sounds with dither, the same ones damaged, and which samples were dropped.

        Args:
            waveform: Float, shape (batch, samples).
            length: True samples of each, int64, shape (batch,).
            sample_rate: In hertz.

        Returns:
            Float, float and bool, shape (batch, samples); 0 after the end of each sound.
        """
        real = ragged.real(length, waveform.shape[1])
        clean = full(waveform) * real

        def uniform(low: float, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(len(clean), device=clean.device)

        def some(damaged: Tensor, sound: Tensor) -> Tensor:
            return torch.where(uniform(0)[:, None] < self.probability, damaged * real, sound)

        sound = clean
        if self.noise != "none":
            is_white = (uniform(0) < WHITE[self.noise])[:, None]
            noise = torch.where(is_white, torch.randn_like(clean), babble(clean, length)) * real
            sound = some(add_noise(sound, noise, uniform(self.snr, self.snr + SNR_RANGE)), sound)
        if self.band < 1:
            sound = some(low_pass(sound, uniform(self.band)), sound)
        if self.peak < 1:
            sound = some(clip_peaks(sound, uniform(self.peak)), sound)
        dropped = self._dropped(length, clean.shape[1], sample_rate) & real
        dropped = dropped & (uniform(0) < self.probability)[:, None]
        dither = DITHER * torch.randn_like(clean) * real
        return clean + dither, sound.masked_fill(dropped, 0) + dither, dropped

    def _dropped(self, length: Tensor, size: int, sample_rate: int) -> Tensor:
        """Samples of dropped spans, which start at whole frames, bool, shape (batch, size)."""
        hop = max(1, round(FRAME_SECONDS * sample_rate))
        frames = -(-size // hop)
        if not self.drop:
            return torch.zeros(len(length), size, dtype=torch.bool, device=length.device)
        rows = spans(length // hop, frames, self.drop, self.span, fewest=1)
        return repeat(rows, "b frames -> b (frames hop)", hop=hop)[:, :size]
