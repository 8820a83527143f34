"""MFCC and log-mel statistics: mean, deviation, minimum and maximum over time of bands, cepstra and slopes."""

import math
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, read, standardization
from unlabeled.method import Batch
from unlabeled.parts import ragged

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["CONTROL", "cepstra", "make", "slopes", "statistics"]

SOUNDS, COEFFICIENTS, REACH = 10_000, 20, 2
"""Largest number of training sounds that set the scales, cepstral coefficients, and frames on each side of a slope."""


def cepstra(bands: Tensor, count: int = COEFFICIENTS) -> Tensor:
    """Mel-frequency cepstral coefficients: the first numbers of the orthonormal cosine transform (DCT-II) of log bands.

    Args:
        bands: Log-mel bands, float, shape (batch, frames, bins).
        count: Coefficients; at most as many as bands.

    Returns:
        Float, shape (batch, frames, coefficients).
    """
    bins = bands.shape[2]
    waves = torch.arange(min(count, bins), dtype=torch.float64)[:, None]
    matrix = torch.cos(math.pi / bins * waves * (torch.arange(bins) + 0.5)) * math.sqrt(2 / bins)
    matrix[0] /= math.sqrt(2)
    return bands @ matrix.T.to(bands)


def slopes(values: Tensor, frames: Tensor, reach: int = REACH) -> Tensor:
    """Slope over time of the line that fits each frame and its neighbours best ("deltas").

    Args:
        values: Float, shape (batch, frames, numbers).
        frames: Real frames of each, int64, shape (batch,); the first and the last one are repeated beyond the ends.
        reach: Frames on each side.

    Returns:
        Change per frame, float, shape (batch, frames, numbers); meaningless after the end.
    """
    index = torch.arange(-reach, values.shape[1] + reach, device=values.device).clamp_min(0)
    index = index.minimum(frames[:, None] - 1)[:, :, None].expand(-1, -1, values.shape[2])
    windows = values.gather(1, index).unfold(1, 2 * reach + 1, 1)
    steps = torch.arange(-reach, reach + 1).to(values)
    return windows @ (steps / steps.square().sum())


def statistics(values: Tensor, frames: Tensor) -> Tensor:
    """Mean, standard deviation, minimum and maximum over the real frames.

    Args:
        values: Float, shape (batch, frames, numbers).
        frames: Real frames of each, int64, shape (batch,).

    Returns:
        Float, shape (batch, 4 * numbers).
    """
    mean = ragged.mean(values, frames)
    spread = ragged.mean((values - mean[:, None]).square(), frames).sqrt()
    padding = ~ragged.real(frames, values.shape[1])[:, :, None]
    least = values.masked_fill(padding, torch.inf).amin(1)
    return torch.cat([mean, spread, least, values.masked_fill(padding, -torch.inf).amax(1)], 1)


def make(encoder: Any, data: "Data", seed: int = 0) -> Representation:
    """Statistics of the encoder's own spectrogram, each standardised over the training sounds."""

    def of(batch: Batch) -> Tensor:
        waveform, length = encoder.inputs(batch)
        bands = rearrange(encoder.spectrogram(waveform), "batch bins frames -> batch frames bins")
        frames = encoder.spectrogram.frames(length)
        first = slopes(coefficients := cepstra(bands), frames)
        parts = [bands, coefficients, first, slopes(first, frames)]
        return statistics(torch.cat(parts, 2), frames)

    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    mean, scale = standardization(read(of, data.subset(order[:SOUNDS].sort().values)))
    bins = encoder.spectrogram.bins
    detail = f"{bins} log-mel bands, {min(COEFFICIENTS, bins)} MFCC, their slopes and slopes of these"
    return Representation("mfcc", lambda batch, layer: (of(batch) - mean) / scale, detail=detail)


CONTROL = Control(make, ("audio",), row=2)
