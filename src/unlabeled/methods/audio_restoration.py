"""Audio restoration: restore the spectrogram of a sound that was damaged by noise, filters, clipping or gaps.

Withheld: the sound below noise, its higher frequencies, its peaks, or short spans of time. Predicted: the log-mel bands
of the undamaged sound, as a residual added to those of the damaged one.

Source: Liu, Li, Lee, "TERA: Self-Supervised Learning of Transformer Encoder Representation for Speech", 2021,
https://arxiv.org/abs/2007.06028; damage as in Ravanelli et al., "Multi-task self-supervised learning for Robust Speech
Recognition", 2020, https://arxiv.org/abs/2001.09239, without reverberation.
Differs: TERA alters the spectrogram, here the waveform is damaged, so that it can be heard; all frames count, not the
altered ones alone. The encoder is any network. Phases are not restored: reports play the damaged sound with its bands
amplified or attenuated, so gaps are filled with shaped noise.
Shortcut: most of a sound is often clean, so the copy is free, only the residual is predicted, and `gain_db` measures
the improvement over the copy. All sounds have dither of one step of 16 bits, else a dropped span would be minus
infinity, and any constant a large gain; `gain_dropped_db` compares with a line across the span.
"""

from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from unlabeled.data.audio.data import Sounds
from unlabeled.encoders.audio import AudioEncoder, Spectra
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures, Waveforms
from unlabeled.options import Count, Fraction, Positive, PositiveFraction, Range
from unlabeled.parts import gather, ragged
from unlabeled.parts.decoder import LayerHead
from unlabeled.parts.pictures import spectrogram
from unlabeled.parts.psnr import gain
from unlabeled.parts.sound_damage import Damage
from unlabeled.parts.spectrogram import scale_bands

__all__ = ["AudioRestoration"]


def loss(restored: Tensor, clean: Tensor, frames: Tensor) -> Tensor:
    """Mean absolute error over the real frames of all processes, scalar, in units of the bands.

    Args:
        restored: Float, shape (batch, frames, bins), as `clean`.
        clean: What it should be.
        frames: Real frames of each sound, int64, shape (batch,).
    """
    return gather.mean((restored - clean).abs().mean(2), ragged.real(frames, clean.shape[1]))


class AudioRestoration(Method[AudioEncoder]):
    """Restore the spectrogram of a sound that was damaged by noise, filters, clipping or gaps.

    The metric `gain_db` is how far the squared error of the restored bands is below that of the damaged ones, in
    decibels; `gain_dropped_db` compares, in frames that dropped spans touch, with bands interpolated over them.

    Args:
        encoder: Network whose features are kept, such as audio-conv.
        probability: Probability that a sound has a kind of damage, for each kind alone.
        noise: White noise, another sound of the batch, either of them with equal probability, or none.
        snr: Lowest signal-to-noise ratio in decibels; it is drawn from there to 15 dB above.
        band: Smallest fraction of the frequencies that remains, from the lowest; it is drawn from there to 1 (off).
        peak: Smallest fraction of its peak to which a sound is clipped; it is drawn from there to 1 (off).
        drop: Fraction of a sound that dropped spans would cover if none overlapped, at least one span; 0 is off.
        span: Frames of 10 ms of a dropped span.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("is_dictionary", "be a network such as audio-conv", False)
    held_out = "stop"
    defaults: ClassVar = {"encoder": "audio-conv", "batch_size": 64}
    smallest: ClassVar = {"encoder": "gru1-16"}
    baseline: Tensor

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        probability: PositiveFraction = 0.5,
        noise: Literal["white", "babble", "either", "none"] = "either",
        snr: Annotated[float, Range(at_least=-30, at_most=60)] = 0.0,
        band: PositiveFraction = 0.4,
        peak: PositiveFraction = 0.1,
        drop: Fraction = 0.15,
        span: Count = 7,
        crop_seconds: Positive = 4.0,
    ) -> None:
        super().__init__(encoder)
        self.damage, self.seconds = Damage(probability, noise, snr, band, peak, drop, span), crop_seconds
        self.spectra = Spectra(encoder.spectrogram)
        self.head = LayerHead(encoder.map_dims, encoder.rates, encoder.spectrogram.bins)
        self.register_buffer("baseline", torch.tensor(0.0))  # error of the damaged sounds

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.seconds)

    def prepare(self, data: Sounds) -> None:
        sound, length = self.encoder.inputs(data.sample(512))
        clean, damaged, _ = self.damage(sound, length, self.encoder.sample_rate)
        self.spectra.fit((clean, length))
        (bands, frames), (given, _) = self.spectra((clean, length)), self.spectra((damaged, length))
        self.baseline.copy_(loss(given, bands, frames))

    def forward(self, batch: Batch) -> Tensor:
        sound, length = self.encoder.inputs(batch)
        clean, damaged, dropped = self.damage(sound, length, self.encoder.sample_rate)
        bands, frames = self.spectra((clean, length))
        real, (given, restored) = ragged.real(frames, bands.shape[1]), self.restore(damaged, length)
        touched = real & self.encoder.spectrogram.touched(dropped)
        line = ragged.interpolate(given, real & ~touched).mT
        self.metrics = {
            "gain_db": gain(restored.mT, given.mT, bands.mT, real[:, None]),
            "gain_dropped_db": gain(restored.mT, line, bands.mT, touched[:, None]),
        }
        return loss(restored, bands, frames)

    def restore(self, damaged: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Bands of damaged sounds, and predicted bands of the undamaged ones, float, shape (batch, frames, bins)."""
        given, _ = self.spectra((damaged, length))
        layers, frames = self.encoder.layers((damaged, length))
        return given, given + self.head(layers, frames, given.shape[1])

    def pictures(self, batch: Batch) -> Pictures:
        sound, length = self.encoder.inputs(batch)
        clean, damaged, _ = self.damage(sound, length, self.encoder.sample_rate)
        bands, frames = self.spectra((clean, length))
        real, (given, restored) = ragged.real(frames, bands.shape[1]), self.restore(damaged, length)
        change = (restored - given) * self.spectra.std * real[:, :, None]
        repaired = scale_bands(damaged, change.mT, self.encoder.spectrogram)
        rows = {"undamaged": (bands, clean), "damaged": (given, damaged), "restored": (restored, repaired)}
        images = {name: spectrogram(one.mT * real[:, None], -2, 2) for name, (one, _) in rows.items()}
        rate = self.encoder.sample_rate
        return images | {f"{name}, sound": Waveforms(one, length, rate) for name, (_, one) in rows.items()}
