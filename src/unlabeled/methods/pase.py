"""PASE: answer several simple questions about a sound at once, from one code for each of its frames.

Withheld: nothing of the sound, but a frame of 10 ms has a code of few numbers. Predicted: by one small network each (a
worker), its samples, its log power spectrum, its MFCC and its prosody, and whether two frames (local information) and
whether two longer pieces (global information) are of one sound or of two.

Source: Pascual, Ravanelli, Serrà, Bonafonte, Bengio, "Learning Problem-agnostic Speech Representations from Multiple
Self-supervised Tasks", 2019, https://arxiv.org/abs/1904.03416; damage: Ravanelli et al., "Multi-task self-supervised
learning for Robust Speech Recognition" (PASE+), 2020, https://arxiv.org/abs/2001.09239
Differs: losses are not added as they are: each is divided by that of the best constant answer, measured before training
(ln 2 for the pairs), so that all begin at 1; dividing by the running loss would favour what is learned already.
Convolutions are not padded and have norms of single frames, not over the batch; waveforms have mean 0 and variance 1,
filters a gain of 1. By default there are a quarter of the channels and half of the filters. The worker for the waveform
predicts the samples of each frame alone, without transposed convolutions. Spectra and MFCC, with slopes, are Kaldi's.
Pitch is found by correlation, from 60 to 400 Hz, not by SWIPE; voicing is a degree. Pairs are within one excerpt, not
two random ones. The worker for the order of frames is left out, as in PASE+. The optimizer is AdamW with a cosine.
Shortcut: two frames that overlap are known to be of one sound by the samples that they share, so pairs have none in
common. Length and place are alike in both kinds of pairs, and no frame sees the padding: in noise, local and global
information stay at chance. What a recording has throughout, such as its channel or, with `damage`, its noise, remains.
"""

from collections.abc import Iterator
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures, Waveforms
from unlabeled.options import Count, Fraction, NonNegative, Positive
from unlabeled.parts import ragged
from unlabeled.parts.pictures import spectrogram
from unlabeled.parts.sound_damage import Damage
from unlabeled.parts.workers import Discrimination, Regression, Targets, chunks

__all__ = ["PASE"]

POOLED = {"local_info": False, "global_info": True}
"""The workers that compare sounds, and whether they compare means of frames."""
FITTED, PLAYED = 256, 0.3
"""Sounds that the targets are measured on; the deviation of sounds that are played."""


def another(count: int) -> Tensor:
    """Row of another sound of the batch for each, all equally likely, each taken once, int64, shape (count,)."""
    if count < 2:
        raise UserError(f"batch_size must be at least 2, for pairs of two sounds, got {count}")
    return (torch.arange(count) + torch.randint(1, count, ())) % count


class PASE(Method[AudioEncoder]):
    """Answer several simple questions about a sound at once, from one code for each of its frames.

    The metrics are the loss of each worker, 1 for the best constant answer, and for both kinds of pairs the accuracy,
    0.5 at chance.

    Args:
        encoder: Network of filters and convolutions whose codes are kept, such as pase-mini.
        waveform: Weight of the samples of each frame; 0 leaves a worker out.
        spectrum: Weight of the log power spectrum.
        mfcc: Weight of the mel-frequency cepstral coefficients with their slopes over time.
        prosody: Weight of pitch, voicing, energy and zero crossings.
        local_info: Weight of whether two frames are of one sound.
        global_info: Weight of whether the means of two pieces are of one sound.
        hidden: Units of the hidden layer of each worker.
        damage: Probability of each kind of damage to what the encoder hears: noise, a narrower band, clipped peaks and
            dropped spans. Targets are always those of the undamaged sound.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("is_pase", "be a network of PASE such as pase-mini", True)
    held_out = "stop"
    compares_samples = True
    defaults: ClassVar = {"encoder": "pase-mini", "batch_size": 32, "lr": 1e-3}
    smallest: ClassVar = {"encoder": "pase-tiny", "hidden": 16}

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        waveform: NonNegative = 1.0,
        spectrum: NonNegative = 1.0,
        mfcc: NonNegative = 1.0,
        prosody: NonNegative = 1.0,
        local_info: NonNegative = 1.0,
        global_info: NonNegative = 1.0,
        hidden: Count = 256,
        damage: Fraction = 0.0,
        crop_seconds: Positive = 2.0,
    ) -> None:
        super().__init__(encoder)
        weights = {"waveform": waveform, "spectrum": spectrum, "mfcc": mfcc, "prosody": prosody}
        weights |= {"local_info": local_info, "global_info": global_info}
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        if not self.weights:
            raise UserError(f"one of {', '.join(weights)} must be above 0, got 0 for all")
        self.damage, self.crop_seconds = damage, crop_seconds
        self.targets = Targets(encoder.sample_rate, encoder.trunk.hop, encoder.trunk.receptive)
        self.regressions, self.pairs = nn.ModuleDict(), nn.ModuleDict()
        for name in self.weights:
            if name in POOLED:
                self.pairs[name] = Discrimination(encoder.dim, hidden, POOLED[name])
            else:
                outputs, absolute = self.targets.dims[name], name == "waveform"
                self.regressions[name] = Regression(encoder.dim, outputs, hidden, absolute)

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    def chance(self, samples: int) -> float:
        return 1.0

    def prepare(self, data: Sounds) -> None:
        network, lengths = self.encoder.trunk, data.lengths.clamp(max=data.longest)
        if self.pairs and (network.frames(lengths) > network.gap).sum() < 2:
            rate = self.encoder.sample_rate
            least = (network.receptive + network.gap * network.hop) / rate
            raise UserError(
                f"local_info and global_info must be 0, or two sounds of {data.name} and crop_seconds at least "
                f"{least:.2f} seconds, got {int(lengths.max()) / rate:.3g} at most"
            )
        described, real = self.describe(*self.encoder.inputs(data.sample(FITTED)))
        varies = [worker.fit(described[name], real) for name, worker in self.regression_workers()]
        if varies and not any(varies):  # its loss would fall below that of the best constant answer
            raise UserError(f"sounds must not all be silent for pase, got {data.name}")

    def regression_workers(self) -> Iterator[tuple[str, Regression]]:
        """The workers that predict descriptions, by name."""
        return cast("Iterator[tuple[str, Regression]]", iter(self.regressions.items()))

    def describe(self, waveform: Tensor, length: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Targets as `Targets` gives them, and which frames are real, bool, shape (batch, frames)."""
        network = self.encoder.trunk
        sound, length = network.padded(*self.encoder.adapt((waveform, length)))
        frames = network.frames(length)
        return self.targets(sound, frames), ragged.real(frames, network.frames(sound.shape[1]))

    def forward(self, batch: Batch) -> Tensor:
        waveform, length = self.encoder.inputs(batch)
        heard = waveform
        if self.damage:
            waveform, heard, _ = Damage(self.damage)(waveform, length, self.encoder.sample_rate)
        layers, frames = self.encoder.layers((heard, length))
        codes, losses, accuracies = layers["code"], {}, {}
        if self.regressions:
            described, real = self.describe(waveform, length)
            losses = {n: worker(codes, described[n], real) for n, worker in self.regression_workers()}
        if self.pairs:
            compared = chunks(codes, frames, another(len(codes)).to(frames.device), self.encoder.trunk.gap)
            for name, worker in self.pairs.items():
                losses[name], accuracies[f"{name}_accuracy"] = worker(*compared)
        self.metrics = {name: loss.detach() for name, loss in losses.items()} | accuracies
        total = sum(self.weights.values())
        return torch.stack([weight / total * losses[name] for name, weight in self.weights.items()]).sum()

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """True and predicted descriptions, one number in a row, the first at the bottom; samples as sounds."""
        waveform, length = self.encoder.inputs(batch)
        codes = self.encoder.layers((waveform, length))[0]["code"]
        described, real = self.describe(waveform, length)
        pictures: dict[str, Tensor | Waveforms] = {}
        for name, worker in self.regression_workers():
            rows = {name: worker.standard(described[name]), f"{name}, predicted": worker.head(codes)}
            for title, values in rows.items():
                values = values * real[:, :, None]
                if name == "waveform":
                    samples, played = PLAYED * values.flatten(1), real.sum(1) * self.encoder.trunk.hop
                    pictures[title] = Waveforms(samples, played, self.encoder.sample_rate)
                else:
                    pictures[title] = spectrogram(values.mT, -2, 2)
        return pictures
