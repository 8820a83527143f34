"""Prosody of sounds: pitch, voicing, loudness and zero crossings, a hundred times per second."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts import ragged
from unlabeled.parts.precision import full

__all__ = ["NAMES", "Prosody", "pitch"]

NAMES = ("pitch", "voicing", "energy", "zero crossings")
LOWEST, HIGHEST = 60.0, 400.0
"""Pitch that is looked for, in hertz."""
VOICED = 0.5
"""Voicing from which on the pitch of a frame is known."""
NEARLY = 0.85
"""Fraction of the highest peak that a peak at a shorter lag needs: multiples of the period are no less similar."""
LEAST = 1e-4
"""Fraction of the energy of a window up to which a piece of it counts as silence."""
FLOOR = 1e-8
"""Mean square, relative to that of full scale, up to which a window counts as silence: -80 decibels."""


def lags(sample_rate: int) -> tuple[int, int]:
    """Shortest and longest period that is looked for, in samples."""
    return max(2, math.floor(sample_rate / HIGHEST)), math.ceil(sample_rate / LOWEST)


def _moving(values: Tensor, terms: int) -> Tensor:
    """Sums of so many values from each place on, as many as there are, over the last axis."""
    total = F.pad(values.cumsum(-1), (1, 0))
    return total[..., terms:] - total[..., :-terms]


def pitch(windows: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Frequency and voicing, by the correlation coefficients of the first half of windows with later pieces.

    Source: Talkin, "A Robust Algorithm for Pitch Tracking (RAPT)", 1995, with pieces of mean 0, and without its path
    through the candidates.

    Args:
        windows: Float, shape (..., samples), samples being two longest periods and one, as `Prosody` has them.
        sample_rate: In hertz.

    Returns:
        Hertz, float, shape (...), arbitrary where nothing repeats; voicing in 0..1, the correlation at the highest
        peak, same shape, 0 for silence.
    """
    shortest, longest = lags(sample_rate)
    samples = windows.shape[-1]
    terms = samples - longest - 1
    size = 1 << (samples - 1).bit_length()
    head, whole = (torch.fft.rfft(part, size) for part in (windows[..., :terms], windows))
    product = torch.fft.irfft(head.conj() * whole, size)[..., : longest + 2]
    sums, energy = (_moving(power, terms) for power in (windows, windows.square()))
    spread = (energy - sums.square() / terms).clamp(min=0)
    covariance = product - sums[..., :1] * sums / terms
    least = LEAST * windows.square().sum(-1, keepdim=True) + terms * FLOOR
    values = covariance / ((spread[..., :1] * spread).sqrt() + least)
    before, here, after = (values[..., shortest + step : longest + 1 + step] for step in (-1, 0, 1))
    peaks = here.masked_fill((here < before) | (here < after), 0)
    highest = peaks.amax(-1).clamp(0, 1)
    first = (peaks >= NEARLY * highest[..., None]).int().argmax(-1, keepdim=True)
    left, middle, right = (part.gather(-1, first)[..., 0] for part in (before, here, after))
    bend = (2 * middle - left - right).clamp(min=1e-12)  # of the parabola through the three
    offset = ((right - left) / (2 * bend)).clamp(-0.5, 0.5)
    return sample_rate / (shortest + first[..., 0] + offset), highest


class Prosody(nn.Module):
    """Pitch, voicing, loudness and zero crossings of windows of 34 ms, two periods of the lowest pitch.

    Args:
        sample_rate: Samples per second of the waveforms, in hertz.
        hop: Samples from one window to the next.
    """

    dim = len(NAMES)

    def __init__(self, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.window = sample_rate, hop, 2 * lags(sample_rate)[1] + 1

    def forward(self, waveform: Tensor, length: Tensor) -> Tensor:
        """The four numbers of each window that starts within a waveform and fits into it.

        Args:
            waveform: Float, shape (batch, samples), with samples at least `window`.
            length: True samples of each sound, at least `window`, int64, shape (batch,).

        Returns:
            Float, shape (batch, frames, 4): pitch in octaves above 155 Hz, on lines between voiced windows, 0 in sounds
            without any; voicing in 0..1; logarithm of the mean square, at least ln(1e-8); fraction of neighbouring
            samples of different sign.
        """
        windows = full(waveform).unfold(1, self.window, self.hop)
        windows = windows - windows.mean(2, keepdim=True)
        hertz, voicing = pitch(windows, self.sample_rate)
        real = ragged.real(1 + (length - self.window) // self.hop, windows.shape[1])
        octaves = (hertz / math.sqrt(LOWEST * HIGHEST)).log2()[:, :, None]
        octaves = ragged.interpolate(octaves, real & (voicing >= VOICED))
        energy = (windows.square().mean(2) + FLOOR).log()
        positive = windows >= 0
        crossings = (positive[:, :, 1:] != positive[:, :, :-1]).to(windows.dtype).mean(2)
        return torch.cat([octaves, torch.stack([voicing, energy, crossings], 2)], 2)
