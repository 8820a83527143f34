"""The sample of the data that the page shows: its pictures, its features and its raw input."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.method import Batch

__all__ = ["SAMPLES", "Samples", "embed", "pixels", "raw"]

SAMPLES = 1000
STEP = 128
"""Samples that are embedded at a time."""


class Samples:
    """A random sample of one data set, the same for every run on it.

    Args:
        data: The data as an encoder reads it.
        source: The same samples as they were opened, perhaps as texts.
    """

    def __init__(self, data: Any, source: Any) -> None:
        self.unit: str = data.unit
        self.batch: Batch = {name: value.cpu() for name, value in data.sample(SAMPLES, seed=0).items()}
        texts = getattr(source, "texts", None) if len(source) == len(data) else None
        rows = self.batch["index"].tolist()
        self.captions = None if texts is None else [" ".join(texts[row][:400].split())[:110] for row in rows]
        """Beginnings of the texts; None of what can be seen."""
        labels = None if data.labels is None else data.labels.cpu()[self.batch["index"]]
        self.labels: Tensor | None = labels if labels is not None and bool((labels >= 0).any()) else None
        """Class of each sample, int64, shape (samples,), -1 where unknown; None where no sample has one."""
        count = 0 if self.labels is None else int(self.labels.max()) + 1
        self.classes = [str(name) for name in data.classes or range(count)]

    def __len__(self) -> int:
        return len(self.batch["index"])


@torch.no_grad()
def embed(method: Any, encoder: Any, batch: Batch, device: str) -> Tensor:
    """Features of a batch in evaluation mode, float, shape (samples, dim), on the CPU.

    Args:
        method: Method whose `features` are read, or None to read the encoder's.
        encoder: Network with `inputs` and `features`.
        batch: The samples.
        device: Where to compute.
    """
    model = method if method is not None else encoder
    trains = model.training
    model.to(device).eval()
    read = model.features if method is not None else lambda part: encoder.features(encoder.inputs(part))
    features = _in_steps(read, batch, device)
    model.train(trains)
    return features


@torch.no_grad()
def raw(encoder: Any, batch: Batch, device: str) -> Tensor:
    """The input as the controls use it, float, shape (samples, numbers), on the CPU."""
    encoder.to(device)
    return _in_steps(lambda part: encoder.raw(part).flatten(1), batch, device)


def _in_steps(read: Callable[[Batch], Tensor], batch: Batch, device: str) -> Tensor:
    """What is read of a batch, a few samples at a time, float, on the CPU."""
    rows = []
    for first in range(0, len(batch["index"]), STEP):
        part = {name: value[first : first + STEP].to(device) for name, value in batch.items()}
        rows.append(read(part).float().cpu())
    return torch.cat(rows)


def pixels(encoder: Any, batch: Batch) -> Tensor:
    """A picture of each sample, float, shape (samples, channels, height, width), in 0..1; none of texts.

    Images are shown as the encoder receives them, videos by their middle frame, scenes by that of their first
    camera, sounds by their spectrograms.
    """
    if "image" in batch and encoder.kind == "image":
        return encoder.inputs(batch).float().cpu()
    if "image" in batch:
        return batch["image"].float() / 255
    if "video" in batch:
        return batch["video"][:, batch["video"].shape[1] // 2].float() / 255
    if "views" in batch:
        return batch["views"][:, 0, batch["views"].shape[2] // 2].float() / 255
    if "waveform" in batch:
        return _spectrograms(batch["waveform"])
    return torch.empty(0)


def _spectrograms(waveform: Tensor) -> Tensor:
    """Spectrograms with 50 dB between black and white, low tones at the bottom; (samples, 1, 64, frames)."""
    window = torch.hann_window(256, device=waveform.device)
    power = torch.stft(waveform, 256, 128, window=window, return_complex=True).abs().square()[:, :128]
    decibels = 10 * power.clamp_min(1e-10).log10()
    level = 1 + (decibels - decibels.amax((1, 2), keepdim=True)) / 50
    pictures = level.clamp(0, 1).flip(1)[:, None]
    return F.interpolate(pictures, (64, min(96, pictures.shape[-1])), mode="area")
