"""Log-mel spectrograms in Kaldi's form: the energy in each band of pitch, one hundred times per second."""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts.precision import full

__all__ = ["FLOOR", "LogMel", "hertz_to_mel", "mel_filters", "scale_bands"]

FULL_SCALE = 2.0**15
FLOOR = 1.1920928955078125e-07
Window = Literal["povey", "hann", "hamming"]


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Pitch in mel, float, of frequencies in hertz: 1127 ln(1 + hertz / 700)."""
    return 1127 * torch.log1p(hertz / 700)


def mel_filters(sample_rate: int, bins: int, fft_size: int, low_hz: float = 20.0) -> Tensor:
    """Triangular filters in mel, without normalisation, from `low_hz` to half the sample rate.

    Args:
        sample_rate: Samples per second, in hertz.
        bins: Number of triangles.
        fft_size: Length of the Fourier transform, in samples.
        low_hz: Start of the first triangle, in hertz, from 0 to below half the sample rate.

    Returns:
        Weight of each frequency in each triangle, float, shape (bins, fft_size / 2 + 1), in 0..1.
    """
    frequencies = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * sample_rate / fft_size
    low, high = hertz_to_mel(torch.tensor([low_hz, sample_rate / 2], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bins + 2, dtype=torch.float64)[:, None]
    mels, step = hertz_to_mel(frequencies), (high - low) / (bins + 1)
    return torch.minimum((mels - edges[:-2]) / step, (edges[2:] - mels) / step).clamp(min=0).float()


class LogMel(nn.Module):
    """From waveforms to the logarithm of their energy in bands of pitch.

    Each window is centred, pre-emphasised (every sample less a fraction of the one before) and shaped; the power of its
    Fourier transform is summed in triangles. Only whole windows count; a sound shorter than one window is padded with
    silence.

    Args:
        sample_rate: Samples per second of the waveforms, in hertz.
        bins: Bands of pitch.
        window_seconds: Length of a window.
        hop_seconds: From one window to the next.
        low_hz: Lower end of the first band, in hertz.
        preemphasis: Fraction of the previous sample to subtract, in 0..1.
        window: Shape of a window; povey is hann to the power 0.85.

    Raises:
        UserError: A number is out of range, or there are so many bands that one of them holds no frequency.
    """

    shape: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int = 16_000,
        bins: int = 80,
        *,
        window_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        low_hz: float = 20.0,
        preemphasis: float = 0.97,
        window: Window = "povey",
    ) -> None:
        super().__init__()
        check.whole(sample_rate=sample_rate, bins=bins)
        check.at_least(1, sample_rate=sample_rate, bins=bins)
        check.positive(window_seconds=window_seconds, hop_seconds=hop_seconds)
        check.fraction(preemphasis=preemphasis)
        check.choice(("povey", "hann", "hamming"), window=window)
        if not 0 <= low_hz < sample_rate / 2:
            raise UserError(f"low_hz must be from 0 to below {sample_rate / 2:g}, got {low_hz}")
        self.sample_rate, self.bins, self.preemphasis = sample_rate, bins, preemphasis
        self.window, self.hop = round(sample_rate * window_seconds), round(sample_rate * hop_seconds)
        for name, samples in {"window_seconds": self.window - 1, "hop_seconds": self.hop}.items():
            if samples < 1:
                raise UserError(f"{name} must be longer than a sample of {sample_rate} Hz")
        self.fft_size = 1 << (self.window - 1).bit_length()
        self.register_buffer("shape", _shape(window, self.window), persistent=False)
        self.register_buffer("filters", self._filters(bins, low_hz), persistent=False)

    @overload
    def frames(self, samples: int) -> int: ...
    @overload
    def frames(self, samples: Tensor) -> Tensor: ...
    def frames(self, samples: int | Tensor) -> int | Tensor:
        """Number of frames of waveforms of so many samples, at least 1."""
        if isinstance(samples, Tensor):
            return 1 + ((samples - self.window) // self.hop).clamp(min=0)
        return 1 + max(0, (samples - self.window) // self.hop)

    def forward(self, waveform: Tensor) -> Tensor:
        """Natural logarithm of the energy on the scale of 16-bit samples, at least ln(2^-23).

        Args:
            waveform: Float, shape (batch, samples), in -1..1.

        Returns:
            Float32 (float64 where the waveform is), shape (batch, bins, frames).
        """
        with torch.autocast(waveform.device.type, enabled=False):
            power = self.power(waveform)
            return einsum(power, self.filters, "b frames hz, bins hz -> b bins frames").clamp(min=FLOOR).log()

    def power(self, waveform: Tensor) -> Tensor:
        """Power at each frequency, from 0 to half the sample rate, of the same windows.

        Args:
            waveform: Float, shape (batch, samples), in -1..1.

        Returns:
            Float32 (float64 where the waveform is), shape (batch, frames, fft_size / 2 + 1), at least 0.
        """
        waveform = full(waveform) * FULL_SCALE
        waveform = F.pad(waveform, (0, max(0, self.window - waveform.shape[1])))
        windows = waveform.unfold(1, self.window, self.hop)
        windows = windows - windows.mean(2, keepdim=True)
        before = torch.cat([windows[..., :1], windows[..., :-1]], dim=2)
        windows = (windows - self.preemphasis * before) * self.shape
        spectrum = torch.fft.rfft(windows, self.fft_size)
        return spectrum.real.square() + spectrum.imag.square()

    def touched(self, samples: Tensor) -> Tensor:
        """Frames with one of some samples in their window, bool, shape (batch, frames), of (batch, samples)."""
        padded = F.pad(samples, (0, max(0, self.window - samples.shape[1])))
        return padded.unfold(1, self.window, self.hop).any(2)

    def _filters(self, bins: int, low_hz: float) -> Tensor:
        filters = mel_filters(self.sample_rate, bins, self.fft_size, low_hz)
        if not (filters.sum(1) > 0).all():
            fitting = range(bins, 0, -1)
            full = (
                mel_filters(self.sample_rate, count, self.fft_size, low_hz).sum(1) > 0 for count in fitting
            )
            most = next((count for count, fits in zip(fitting, (f.all() for f in full)) if fits), 0)
            kind = f"windows of {self.window} samples at {self.sample_rate} Hz"
            raise UserError(f"bins must be at most {most} with {kind}, else bands are empty, got {bins}")
        return filters


def scale_bands(waveform: Tensor, change: Tensor, spectrogram: LogMel) -> Tensor:
    """Amplify and attenuate the bands of sounds over time; phases stay, and bands without energy stay empty.

    Args:
        waveform: Float, shape (batch, samples).
        change: What is added to the logarithm of the energy in each band, float, shape (batch, bins, frames).
        spectrogram: Defines bands and frames.

    Returns:
        Float, shape (batch, samples); `waveform` itself, up to rounding, where nothing changes.
    """
    size, hop, window = spectrogram.fft_size, spectrogram.hop, spectrogram.window
    options = {"window": torch.hann_window(window, device=waveform.device), "win_length": window}
    length = max(waveform.shape[1], size)
    sound = F.pad(full(waveform), (0, length - waveform.shape[1]))
    spectrum = torch.stft(sound, size, hop, **options, return_complex=True)
    # Windows of the transform are centred on multiples of the hop, frames start there.
    centre = torch.arange(spectrum.shape[2], device=waveform.device) - window / (2 * hop)
    centre = centre.clamp(0, change.shape[2] - 1)
    first, weight = centre.long(), centre % 1
    second = (first + 1).clamp(max=change.shape[2] - 1)
    change = (1 - weight) * change[:, :, first] + weight * change[:, :, second]
    filters = spectrogram.filters / spectrogram.filters.sum(0).clamp(min=1e-6)
    factor = (einsum(change, filters, "b bins frames, bins hz -> b hz frames") / 2).exp()
    return torch.istft(spectrum * factor, size, hop, **options, length=length)[:, : waveform.shape[1]]


def _shape(name: Window, size: int) -> Tensor:
    if name == "hamming":
        return torch.hamming_window(size, periodic=False)
    hann = torch.hann_window(size, periodic=False, dtype=torch.float64)
    return (hann**0.85 if name == "povey" else hann).float()
