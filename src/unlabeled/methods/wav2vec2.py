"""wav2vec 2.0: hide spans of a sound's frames and tell the hidden ones apart from each other by what is around.

Withheld: about half of the frames, in spans, behind one learned vector. Predicted: which of a hundred hidden frames of
the same sound, each described by two learned codes, is the one at this place.

Source: Baevski, Zhou, Mohamed, Auli, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech
Representations", 2020, https://arxiv.org/abs/2006.11477
Differs: the diversity of the codes is their perplexity, as in the authors' code, where the paper writes an entropy;
the temperature of the codes falls by the progress of the training, so that it ends where the paper's does in any
number of steps; a penalty of the size of the convolutions' output (10 in the authors' code) is off. Waveforms have
mean 0 and variance 1 each. Sounds of different lengths keep their own numbers of hidden frames. The weights move by
the loop's AdamW with a second beta of 0.999, an eps of 1e-8 and a cosine by default; the authors' have 0.98, 1e-6 and
a linear decline.
Shortcut: with one code for everything all negatives equal the truth and nothing is left to tell apart; the diversity
works against it, and the metric `codes` near 2 shows it.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts import gather, ragged
from unlabeled.parts.precision import full, full_precision
from unlabeled.parts.quantizer import Quantizer, perplexity
from unlabeled.parts.spans import even, spans

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["Wav2Vec2"]

ANNEALED = 277_259 / 400_000
"""Part of the training after which the paper's temperature of the codes has reached its end."""
FEWEST = 3
"""Frames of a sound below which no two are hidden, so that there is nothing to tell apart."""


def negatives(count: Tensor, size: int, wanted: int) -> Tensor:
    """For each hidden frame of a sound some of its others, each as likely, perhaps the same more than once.

    Args:
        count: Hidden frames of each sound, int64, shape (batch,); where it is below 2 there is no other.
        size: Hidden frames in all.
        wanted: Number of negatives.

    Returns:
        Numbers of hidden frames of the same sound, int64, shape (batch, size, wanted).
    """
    others = (count - 1).clamp(min=1)[:, None, None]
    drawn = torch.rand(len(count), size, wanted, device=count.device).mul(others).long().minimum(others - 1)
    own = torch.arange(size, device=count.device)[:, None]
    return (drawn + (drawn >= own)).clamp(max=size - 1)


@full_precision
def cosines(context: Tensor, targets: Tensor) -> Tensor:
    """Cosine of each prediction and each truth, float, shape (batch, hidden, hidden), of (batch, hidden, dim)."""
    return F.normalize(context, dim=2) @ F.normalize(targets, dim=2).mT


def scores(context: Tensor, targets: Tensor, codes: Tensor, drawn: Tensor, temperature: float) -> Tensor:
    """How well each prediction fits the truth, which comes first, and the negatives.

    Args:
        context: Predictions, float, shape (batch, hidden, dim); only directions count.
        targets: The truth at the same places, float, same shape.
        codes: Numbers of the codes that the truth is made of, int64, shape (batch, hidden, groups).
        drawn: Numbers of the negatives, int64, shape (batch, hidden, negatives).
        temperature: Divides the cosines, above 0.

    Returns:
        Float, shape (batch, hidden, 1 + negatives); minus infinity for negatives that equal the truth.
    """
    similarity = cosines(context, targets) / temperature
    own = torch.arange(context.shape[1], device=context.device)
    candidates = torch.cat([repeat(own, "i -> b i 1", b=len(context)), drawn], dim=2)
    alike = (rearrange(codes, "b i g -> b i 1 g") == rearrange(codes, "b j g -> b 1 j g")).all(3)
    same = alike.gather(2, candidates)
    same[:, :, 0] = False
    return similarity.gather(2, candidates).masked_fill(same, -torch.inf)


def loss(logits: Tensor, count: Tensor) -> Tensor:
    """InfoNCE over the hidden frames of sounds that have at least two.

    Args:
        logits: The truth first, float, shape (batch, hidden, candidates).
        count: Hidden frames of each sound, int64, shape (batch,).

    Returns:
        Mean over the frames of all processes, scalar, in nats; ln(candidates) where all fit alike.
    """
    counted = ragged.real(count, logits.shape[1]) & (count > 1)[:, None]
    each = logits.logsumexp(2) - logits[:, :, 0]
    total = gather.mean_over_processes(counted.sum().to(each.dtype)).clamp(min=1)
    return each.masked_fill(~counted, 0).sum() / total


def diversity(probabilities: Tensor) -> Tensor:
    """Part of the codes that are not in use, scalar, in 0..1.

    Args:
        probabilities: Of each code at each place, float, shape (places, groups, codes).
    """
    total = probabilities.shape[1] * probabilities.shape[2]
    return (total - perplexity(probabilities)) / total


class Wav2Vec2(Method):
    """Hide spans of a sound's frames and tell the hidden ones apart from each other by what is around.

    The metric `accuracy` is how often the true frame fits best, `codes` how many codes are in use, from `groups` to
    groups times codes.

    Args:
        encoder: Network of wav2vec 2.0 whose features are kept, such as wav2vec2-mini.
        mask: Part of the frames that the hidden spans would cover if none overlapped.
        span: Frames of a hidden span.
        negatives: Hidden frames of the same sound from which the true one is told.
        groups: Codes that describe a frame together.
        codes: Codes to choose from in each group.
        code_dim: Numbers of a description, and of the vectors that are compared; a multiple of the groups.
        temperature: Sharpness of the softmax over similarities.
        diversity: Weight of the part of the codes that are not in use.
        penalty: Weight of the mean square of what the convolutions give.
        softness: Temperature of the choice of codes at the start; it falls to a quarter.
        convolution_gradient: Factor on the gradient that reaches the convolutions.
        crop_seconds: Longest piece of a sound that is heard at once.
    """

    kind = "audio"
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": "wav2vec2-mini",
        "batch_size": 32,
        "lr": 5e-4,
        "weight_decay": 0.01,
    }

    smallest: ClassVar = {"encoder": "wav2vec2-tiny", "codes": 16, "negatives": 20}
    softened: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mask: float = 0.65,
        span: int = 10,
        negatives: int = 100,
        groups: int = 2,
        codes: int = 320,
        code_dim: int = 256,
        temperature: float = 0.1,
        diversity: float = 0.1,
        penalty: float = 0.0,
        softness: float = 2.0,
        convolution_gradient: float = 0.1,
        crop_seconds: float = 15.6,
    ) -> None:
        super().__init__(encoder)
        counts = dict(span=span, negatives=negatives, groups=groups, codes=codes, code_dim=code_dim)
        check.whole(**counts)
        check.at_least(1, **counts)
        check.fraction(mask=mask, convolution_gradient=convolution_gradient)
        check.positive(mask=mask, temperature=temperature, softness=softness, crop_seconds=crop_seconds)
        check.at_least(0, diversity=diversity, penalty=penalty)
        if code_dim % groups:
            raise UserError(f"code_dim must be a multiple of the {groups} groups, got {code_dim}")
        if not getattr(encoder, "masks", False):
            name = getattr(encoder, "config", {}).get("name", type(encoder).__name__)
            raise UserError(f"encoder must be a wav2vec2 such as wav2vec2-mini, got {name}")
        self.mask, self.span, self.negatives = mask, span, negatives
        self.temperature, self.diversity, self.penalty = temperature, diversity, penalty
        self.softness, self.convolution_gradient, self.crop_seconds = (
            softness,
            convolution_gradient,
            crop_seconds,
        )
        self.dropout = nn.Dropout(0.1)
        self.quantizer = Quantizer(self.encoder.trunk.channels, groups, codes, code_dim)
        self.target_head = nn.Linear(code_dim, code_dim)
        self.context_head = nn.Linear(self.encoder.dim, code_dim)
        self.register_buffer("softened", torch.tensor(float(softness)))

    def training_view(self, data: "Data") -> "Data":
        return super().training_view(data).crops(self.crop_seconds)  # type: ignore[attr-defined]

    def chance(self, samples: int) -> float:
        return math.log(1 + self.negatives)

    def prepare(self, data: "Data") -> None:
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
        count, context, targets, chosen, probable = self.compare(
            maps, frames, self.hide(frames, maps.shape[1])
        )
        drawn = negatives(count, chosen.shape[1], self.negatives)
        logits = scores(context, targets, chosen.argmax(3), drawn, self.temperature)
        real = ragged.real(count, chosen.shape[1])
        asked = real & (count > 1)[:, None]
        right = (logits.argmax(2) == 0)[asked].sum() / asked.sum().clamp(min=1)
        self.metrics = {"accuracy": right, "codes": perplexity(chosen[real].detach())}
        squares = full(maps).square().mean(2).masked_fill(~ragged.real(frames, maps.shape[1]), 0)
        size = squares.sum() / gather.mean_over_processes(frames.sum().to(squares.dtype))
        unused = diversity(probable[real])
        return loss(logits, count) + self.diversity * unused + self.penalty * size

    def hide(self, frames: Tensor, size: int) -> Tensor:
        """Frames to hide, bool, shape (batch, size): equally many in all sounds where these have one length."""
        masked = spans(frames, size, self.mask, self.span)
        return even(masked) if bool((frames == frames[0]).all()) else masked

    def compare(
        self, maps: Tensor, frames: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What is predicted and what is true at the hidden frames of each sound, which stand first, in order.

        Args:
            maps: What the convolutions gave, float, shape (batch, frames, channels).
            frames: True frames of each sound, int64, shape (batch,).
            masked: Frames to hide, bool, shape (batch, frames).

        Returns:
            Hidden frames of each sound, int64, shape (batch,); predictions and truth, float, shape (batch, hidden,
            code_dim); the codes that were chosen and their probabilities, float, shape (batch, hidden, groups,
            codes).
        """
        trunk, count = self.encoder.trunk, masked.sum(1)
        hidden, normed = trunk.project(maps)
        context = trunk.context(hidden, frames, masked)[-1]
        places = torch.argsort(~masked, dim=1, stable=True)[:, : int(count.max())]
        context, normed = (
            values.gather(1, repeat(places, "b i -> b i d", d=values.shape[2]))
            for values in (context, normed)
        )
        words, chosen, probable = self.quantizer(self.dropout(normed), self.softened)
        return count, self.context_head(context), self.target_head(words), chosen, probable

    def pictures(self, batch: Batch) -> Pictures:
        x = self.encoder.inputs(batch)
        maps, frames = self.encoder.trunk.convolve(*self.encoder.adapt(x))
        masked = self.hide(frames, maps.shape[1])
        count, context, targets, _, _ = self.compare(maps, frames, masked)
        real = ragged.real(count, context.shape[1])
        alike = cosines(context, targets) / 2 + 0.5
        spectrogram: Any = self.encoder.spectrogram
        bands = spectrogram(x[0]).flip(1)
        low, high = bands.amin((1, 2), keepdim=True), bands.amax((1, 2), keepdim=True)
        shown = ((bands - low) / (high - low).clamp(min=1e-6))[:, None]
        hidden = F.interpolate(masked[:, None].float(), bands.shape[2])[:, :, None] > 0
        return {
            "sound": shown,
            "hidden": torch.where(hidden, 0.5, shown),
            "predicted (down) like true (across)": torch.where(real[:, :, None] & real[:, None], alike, 0)[
                :, None
            ],
        }
