"""Small networks that ask questions of the frames of a sound, and what they are asked: the workers of PASE.

The loss of each is divided by that of the best answer that does not listen, so that all of them begin at 1 whatever the
unit of their target, and none outweighs the others.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts import gather, ragged
from unlabeled.parts.heads import classifier
from unlabeled.parts.mfcc import MFCC
from unlabeled.parts.precision import full
from unlabeled.parts.prosody import Prosody
from unlabeled.parts.spectrogram import FLOOR

__all__ = ["Discrimination", "Regression", "Targets", "chunks"]


class Regression(nn.Module):
    """Predict the description of each frame, whose numbers have mean 0 and deviation 1 over the data.

    Args:
        dim: Width of a frame's code.
        outputs: Numbers of its description.
        hidden: Units of the hidden layer.
        absolute: Whether errors are absolute, not squared.
    """

    mean: Tensor
    std: Tensor
    constant: Tensor
    """Loss of predicting the mean, once `fit` has measured it."""

    def __init__(self, dim: int, outputs: int, hidden: int, absolute: bool = False) -> None:
        super().__init__()
        self.head, self.absolute = classifier(dim, hidden, outputs, norm=False), absolute
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("std", torch.ones(outputs))
        self.register_buffer("constant", torch.tensor(1.0))

    def standard(self, target: Tensor) -> Tensor:
        """Descriptions as they are predicted, float, same shape, (batch, frames, outputs)."""
        return (full(target) - self.mean) / self.std

    @torch.no_grad()
    def fit(self, target: Tensor, real: Tensor) -> bool:
        """Measure mean and deviation of descriptions, and the loss of predicting the mean.

        Args:
            target: Float, shape (batch, frames, outputs).
            real: Which frames count, bool, shape (batch, frames), at least one.

        Returns:
            Whether the descriptions vary, so that there is something to predict.
        """
        values = target[real].double()
        spread = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.std.copy_(torch.where(spread < 1e-4, 1.0, spread))
        errors = self.errors(torch.zeros_like(target), target)[real].mean()
        self.constant.copy_(torch.where(errors < 1e-6, 1.0, errors))
        return bool(errors >= 1e-6)

    def errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Error of each frame, float, shape (batch, frames)."""
        difference = full(predicted) - self.standard(target)
        return (difference.abs() if self.absolute else difference.square()).mean(2)

    def forward(self, codes: Tensor, target: Tensor, real: Tensor) -> Tensor:
        """Mean error over the real frames of all processes, scalar, in units of that of predicting the mean."""
        return gather.mean(self.errors(self.head(codes), target), real) / self.constant


class Discrimination(nn.Module):
    """Tell pairs of pieces of one sound from pairs of two sounds.

    Args:
        dim: Width of a frame's code.
        hidden: Units of the hidden layer.
        pooled: Whether the means of whole chunks are compared, not their frames one by one.
    """

    def __init__(self, dim: int, hidden: int, pooled: bool) -> None:
        super().__init__()
        self.head, self.pooled = classifier(2 * dim, hidden, 1, norm=False), pooled

    def forward(self, anchors: Tensor, same: Tensor, other: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy in units of ln 2, and the accuracy, each over as many pairs of one sound as of two, scalars.

        Args:
            anchors: Chunks, float, shape (batch, frames, dim).
            same: Chunks of the sounds of the anchors, float, same shape.
            other: Chunks of other sounds, float, same shape.
            count: True frames of the chunks, int64, shape (batch,); if all are 0, so are the loss and the accuracy.
        """
        parts = anchors, same, other
        if self.pooled:
            parts = tuple(ragged.mean(part, count.clamp(min=1))[:, None] for part in parts)
            count = count.clamp(max=1)
        counted = ragged.real(count, parts[0].shape[1])
        one, two = (full(self.head(torch.cat([parts[0], part], 2))[..., 0]) for part in parts[1:])
        errors = (F.softplus(-one) + F.softplus(two)) / (2 * math.log(2))
        right = ((one > 0) & counted).sum() + ((two < 0) & counted).sum()
        return gather.mean(errors, counted), right / (2 * counted.sum()).clamp(min=1)


def chunks(codes: Tensor, frames: Tensor, other: Tensor, gap: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A chunk of each sound, a later one, and that at the same place of another sound, all equally long.

    They are as long as both sounds allow: if length or place differed, a pair of two sounds could be told by them.

    Args:
        codes: Float, shape (batch, frames, dim).
        frames: True frames of each sound, int64, shape (batch,).
        other: Row of the other sound of each, int64, shape (batch,).
        gap: Frames from the last one of the first chunk to the first one of the later chunk, at least 1.

    Returns:
        Float, shape (batch, longest chunk, dim) each, arbitrary after the end of a chunk; frames of the chunks, int64,
        shape (batch,), 0 where one of the sounds is too short for two.
    """
    common = torch.minimum(frames, frames[other])
    count = ((common + 1 - gap) // 2).clamp(min=0)
    place = torch.arange(max(1, int(count.max())), device=codes.device)
    later = (place + count[:, None] - 1 + gap).clamp(max=codes.shape[1] - 1)
    own = torch.arange(len(codes), device=codes.device)[:, None]
    return codes[:, : len(place)], codes[own, later], codes[other[:, None], later], count


class Targets(nn.Module):
    """Hand-crafted descriptions of the frames of a network, each of a window around the middle of a frame.

    Args:
        sample_rate: Samples per second of the waveforms, in hertz.
        hop: Samples from one frame to the next.
        receptive: Samples that a frame sees.
    """

    def __init__(self, sample_rate: int, hop: int, receptive: int) -> None:
        super().__init__()
        self.hop, self.receptive = hop, receptive
        self.mfcc = MFCC(sample_rate, hop_seconds=hop / sample_rate)
        self.prosody = Prosody(sample_rate, hop)
        bins = self.mfcc.spectrogram.fft_size // 2 + 1
        self.dims = {"waveform": hop, "spectrum": bins, "mfcc": self.mfcc.dim, "prosody": self.prosody.dim}

    @torch.no_grad()
    def forward(self, waveform: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """The samples in the middle of each frame, their log power spectrum, their MFCC with slopes, and their prosody.

        Args:
            waveform: Float, shape (batch, samples), samples at least `receptive`.
            frames: True frames of each sound, int64, shape (batch,).

        Returns:
            By name, float, shape (batch, frames, `dims` of the name); arbitrary after the end of a sound.
        """
        most = (waveform.shape[1] - self.receptive) // self.hop

        def centred(window: int) -> tuple[Tensor, Tensor]:
            before = (window - self.receptive) // 2
            size = most * self.hop + window
            return F.pad(waveform, (before, size - before - waveform.shape[1])), (
                frames - 1
            ) * self.hop + window

        spectrogram = self.mfcc.spectrogram
        near, length = centred(spectrogram.window)
        with torch.autocast(waveform.device.type, enabled=False):
            return {
                "waveform": centred(self.hop)[0].unfold(1, self.hop, self.hop),
                "spectrum": spectrogram.power(near).clamp(min=FLOOR).log(),
                "mfcc": self.mfcc(near, length)[0],
                "prosody": self.prosody(*centred(self.prosody.window)),
            }
