"""wav2vec 2.0: mask spans of a sound's frames and identify each masked frame among the others by its context.

Withheld: about half of the frames, in spans, each replaced by one learned vector. Predicted: which of a hundred masked
frames of the same sound, each described by two learned codes, is the one at this position.

Source: Baevski, Zhou, Mohamed, Auli, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
Representations", 2020, https://arxiv.org/abs/2006.11477
Differs: the diversity of the codes is their perplexity, as in the authors' code, where the paper writes an entropy; the
temperature of the codes decays with the progress of the training, so that it ends where the paper's does after any
number of steps; a penalty on the size of the convolutions' output (10 in the authors' code) is off. Waveforms have mean
0 and variance 1 each. Sounds of different lengths keep their own numbers of masked frames. The optimizer is AdamW with
a second beta of 0.999, an eps of 1e-8 and a cosine by default; the authors' has 0.98, 1e-6 and a linear decay.
Shortcut: with one code for everything all negatives equal the target and nothing is left to distinguish; the diversity
counteracts it, and the metric `codes` near 2 shows it.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, NonNegative, Positive, PositiveFraction
from unlabeled.parts import gather, ragged
from unlabeled.parts.info_nce import cosines, first_of, negatives
from unlabeled.parts.pictures import spectrogram
from unlabeled.parts.precision import full
from unlabeled.parts.quantizer import Quantizer, perplexity
from unlabeled.parts.spans import even, spans

__all__ = ["Wav2Vec2"]

ANNEALED = 277_259 / 400_000
"""Fraction of the training after which the paper's temperature of the codes has reached its end."""
FEWEST = 3
"""Frames of a sound below which no two are masked, so that there is nothing to distinguish."""


def scores(context: Tensor, targets: Tensor, codes: Tensor, index: Tensor, temperature: float) -> Tensor:
    """Logits of the target, which comes first, and of the negatives.

    Args:
        context: Predictions, float, shape (batch, masked, dim); only directions count.
        targets: Targets at the same positions, float, same shape.
        codes: Codes that the targets consist of, int64, shape (batch, masked, groups).
        index: Indices of the negatives, int64, shape (batch, masked, negatives).
        temperature: Divides the cosines, above 0.

    Returns:
        Float, shape (batch, masked, 1 + negatives); minus infinity for negatives that equal the target.
    """
    similarity = cosines(context, targets) / temperature
    own = torch.arange(context.shape[1], device=context.device)
    candidates = torch.cat([repeat(own, "i -> b i 1", b=len(context)), index], dim=2)
    alike = (rearrange(codes, "b i g -> b i 1 g") == rearrange(codes, "b j g -> b 1 j g")).all(3)
    same = alike.gather(2, candidates)
    same[:, :, 0] = False
    return similarity.gather(2, candidates).masked_fill(same, -torch.inf)


def eligible(count: Tensor, size: int) -> Tensor:
    """Masked frames of sounds that have at least two, bool, shape (batch, size)."""
    return ragged.real(count, size) & (count > 1)[:, None]


def loss(logits: Tensor, count: Tensor) -> Tensor:
    """InfoNCE over the masked frames of sounds that have at least two.

    Args:
        logits: The target first, float, shape (batch, masked, candidates).
        count: Masked frames of each sound, int64, shape (batch,).

    Returns:
        Mean over the frames of all processes, scalar, in nats; ln(candidates) if all logits are equal.
    """
    return first_of(logits, eligible(count, logits.shape[1]))


def diversity(probabilities: Tensor) -> Tensor:
    """Fraction of the codes that are not in use, scalar, in 0..1.

    Args:
        probabilities: Of each code at each position, float, shape (positions, groups, codes).
    """
    total = probabilities.shape[1] * probabilities.shape[2]
    return (total - perplexity(probabilities)) / total


class Wav2Vec2(Method[AudioEncoder]):
    """Mask spans of a sound's frames and identify each masked frame among the others by its context.

    The metric `accuracy` is how often the true frame fits best, `codes` how many codes are in use, from `groups` to
    groups times codes.

    Args:
        encoder: Network of wav2vec 2.0 whose features are kept, such as wav2vec2-mini.
        mask: Fraction of the frames that the hidden spans would cover if none overlapped.
        span: Frames of a hidden span.
        negatives: Hidden frames of the same sound from which the true one is distinguished.
        groups: Codebooks, whose codes describe a frame together.
        codes: Codes of each codebook.
        code_dim: Width of a description, and of the compared vectors; a multiple of the groups.
        temperature: Softmax temperature; lower penalises hard negatives more.
        diversity: Weight of the diversity loss, the fraction of the codes that is not in use.
        penalty: Weight of the mean square of the convolutions' output.
        softness: Initial temperature of the choice of codes; it falls to a quarter.
        convolution_gradient: Factor on the gradient that reaches the convolutions.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("masks", "be a wav2vec2 such as wav2vec2-mini", True)
    defaults: ClassVar = {"encoder": "wav2vec2-mini", "batch_size": 32, "lr": 5e-4, "weight_decay": 0.01}
    smallest: ClassVar = {"encoder": "wav2vec2-tiny", "codes": 16, "negatives": 20}
    softened: Tensor

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        mask: PositiveFraction = 0.65,
        span: Count = 10,
        negatives: Count = 100,
        groups: Count = 2,
        codes: Count = 320,
        code_dim: Count = 256,
        temperature: Positive = 0.1,
        diversity: NonNegative = 0.1,
        penalty: NonNegative = 0.0,
        softness: Positive = 2.0,
        convolution_gradient: Fraction = 0.1,
        crop_seconds: Positive = 15.6,
    ) -> None:
        super().__init__(encoder)
        if code_dim % groups:
            raise UserError(f"code_dim must be a multiple of the {groups} groups, got {code_dim}")
        self.mask, self.span, self.negatives = mask, span, negatives
        self.temperature, self.diversity, self.penalty = temperature, diversity, penalty
        self.softness, self.convolution_gradient = softness, convolution_gradient
        self.crop_seconds = crop_seconds
        self.dropout = nn.Dropout(0.1)
        self.quantizer = Quantizer(encoder.trunk.channels, groups, codes, code_dim)
        self.target_head = nn.Linear(code_dim, code_dim)
        self.context_head = nn.Linear(encoder.dim, code_dim)
        self.register_buffer("softened", torch.tensor(float(softness)))

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    def chance(self, samples: int) -> float:
        return math.log(1 + self.negatives)

    def prepare(self, data: Data) -> None:
        trunk, (_, length) = self.encoder.trunk, self.encoder.inputs(data.sample(128))
        most = trunk.frames(max(trunk.receptive, int(length.max())))
        if most < FEWEST:
            raise UserError(
                f"sounds of {data.name}, in pieces of crop_seconds={self.crop_seconds:g}, must have at least "
                f"{FEWEST} frames, of which 2 are hidden, got {most} at most"
            )

    def after_step(self, progress: float) -> None:
        self.softened.fill_(self.softness * max(0.25, 0.25 ** (progress / ANNEALED)))

    def forward(self, batch: Batch) -> Tensor:
        trunk = self.encoder.trunk
        maps, frames = trunk.convolve(*self.encoder.adapt(self.encoder.inputs(batch)))
        # The value is that of the maps; only the gradient is smaller.
        maps = self.convolution_gradient * maps + (1 - self.convolution_gradient) * maps.detach()
        masked = self.hide(frames, maps.shape[1])
        count, context, targets, codes, probabilities = self.compare(maps, frames, masked)
        index = negatives(count, codes.shape[1], self.negatives)
        logits = scores(context, targets, codes.argmax(3), index, self.temperature)
        real, mask = ragged.real(count, codes.shape[1]), eligible(count, codes.shape[1])
        right = (logits.argmax(2) == 0)[mask].sum() / mask.sum().clamp(min=1)
        self.metrics = {"accuracy": right, "codes": perplexity(codes[real].detach())}
        size = gather.mean(full(maps).square().mean(2), ragged.real(frames, maps.shape[1]))
        unused = diversity(probabilities[real])
        return loss(logits, count) + self.diversity * unused + self.penalty * size

    def hide(self, frames: Tensor, size: int) -> Tensor:
        """Frames to mask, bool, shape (batch, size): equally many in all sounds if these have one length."""
        masked = spans(frames, size, self.mask, self.span)
        return even(masked) if bool((frames == frames[0]).all()) else masked

    def compare(
        self, maps: Tensor, frames: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Predictions and targets at the masked frames of each sound, in order, padded at the end.

        Args:
            maps: Output of the convolutions, float, shape (batch, frames, channels).
            frames: Real frames of each sound, int64, shape (batch,).
            masked: Frames to mask, bool, shape (batch, frames).

        Returns:
            Masked frames of each sound, int64, shape (batch,); predictions and targets, float, shape (batch, masked,
            code_dim); the chosen codes, 0 or 1, and their probabilities, float, shape (batch, masked, groups, codes).
        """
        trunk, count = self.encoder.trunk, masked.sum(1)
        hidden, normed = trunk.project(maps)
        context = trunk.context(hidden, frames, masked)[-1]
        positions = torch.argsort(~masked, dim=1, stable=True)[:, : int(count.max())]
        context, normed = (
            values.gather(1, repeat(positions, "b i -> b i d", d=values.shape[2]))
            for values in (context, normed)
        )
        words, codes, probabilities = self.quantizer(self.dropout(normed), self.softened)
        return count, self.context_head(context), self.target_head(words), codes, probabilities

    def pictures(self, batch: Batch) -> Pictures:
        x = self.encoder.inputs(batch)
        maps, frames = self.encoder.trunk.convolve(*self.encoder.adapt(x))
        masked = self.hide(frames, maps.shape[1])
        count, context, targets, _, _ = self.compare(maps, frames, masked)
        real = ragged.real(count, context.shape[1])
        alike = torch.where(real[:, :, None] & real[:, None], cosines(context, targets) / 2 + 0.5, 0)
        audio: Any = self.encoder.spectrogram
        sound = spectrogram(audio(x[0]))
        columns = F.interpolate(masked[:, None].float(), sound.shape[3])[:, :, None] > 0
        return {
            "sound": sound,
            "hidden": torch.where(columns, 0.5, sound),
            "predicted (down) like true (across)": alike[:, None],
        }
