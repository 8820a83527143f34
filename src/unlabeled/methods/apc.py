"""APC: hear a sound up to now and say what its spectrogram will be a few frames later.

Withheld: the frame n steps ahead of each frame. Predicted: its log-mel bands, from the recurrent states up to now.

Source: Chung, Hsu, Tang, Glass, "An Unsupervised Autoregressive Model for Speech Representation Learning", 2019,
https://arxiv.org/abs/1904.03240
Differs: frames behind the end of a sound are left out of the mean, where the authors' code counts them as frames of
zeros. Bands are normalised over the data, not over each speaker. The default network has 2 layers of 256 units, the
paper's (gru3) 3 of 512. Gradients are not clipped by default, where the authors' code clips them at 1, and the
weights move by the loop's AdamW with decay; the authors' Adam has none.
Shortcut: neighbouring frames are nearly equal, so one frame ahead is learned by copying the present one; the metric
`gain` says how much better than such a copy the prediction is.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders.audio import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Positive
from unlabeled.parts import gather, ragged

__all__ = ["APC"]


def loss(predicted: Tensor, bands: Tensor, frames: Tensor, ahead: int) -> Tensor:
    """Absolute error of the frames ahead.

    Args:
        predicted: What is said at each frame of the one `ahead` of it, float, shape (batch, frames, bins).
        bands: The true frames, float, same shape.
        frames: True frames of each sound, int64, shape (batch,).
        ahead: Frames from now to what is predicted, at least 1.

    Returns:
        Mean over all bands of all target frames of all processes, scalar, in units of the bands; 0 where none is.
    """
    size = max(0, bands.shape[1] - ahead)
    error = (predicted[:, :size] - bands[:, ahead:]).abs().mean(2)
    counted = ragged.real(frames - ahead, size)
    total = gather.mean_over_processes(counted.sum().to(error.dtype)).clamp(min=1)
    return error.masked_fill(~counted, 0).sum() / total


class APC(Method[AudioEncoder]):
    """Hear a sound up to now and say what its spectrogram will be a few frames later.

    The metric `gain` is the part of the error of repeating the present frame that the prediction avoids: 0 where it
    is no better, 1 where it is perfect.

    Args:
        encoder: Recurrent network whose features are kept, such as gru3.
        ahead: Frames of 10 ms between the present frame and the predicted one.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("causal", "hear forward in time only, such as gru3", True)
    held_out = "stop"
    defaults: ClassVar = {"encoder": "gru2-256", "batch_size": 64, "lr": 2e-3, "weight_decay": 0.0}
    smallest: ClassVar = {"encoder": "gru2-16"}
    baseline: Tensor

    def __init__(self, encoder: AudioEncoder, *, ahead: Count = 3, crop_seconds: Positive = 15.0) -> None:
        super().__init__(encoder)
        self.ahead, self.crop_seconds = ahead, crop_seconds
        self.head = nn.Linear(self.encoder.dim, self.encoder.map_dims["mel"])
        self.register_buffer("baseline", torch.tensor(0.0))

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    def chance(self, samples: int) -> float | None:
        """Error of one who always says the mean of each band."""
        return float(self.baseline) or None

    def prepare(self, data: Sounds) -> None:
        batch = {name: value.to(self.baseline.device) for name, value in data.sample(512).items()}
        bands, frames = self.encoder.adapt(self.encoder.inputs(batch))
        if not (frames > self.ahead).any():
            raise UserError(
                f"ahead must be below the frames of a sound, {int(frames.max())} at most, got {self.ahead}"
            )
        self.baseline.copy_(loss(torch.zeros_like(bands), bands, frames, self.ahead))

    def forward(self, batch: Batch) -> Tensor:
        bands, frames, predicted = self.predict(batch)
        error = loss(predicted, bands, frames, self.ahead)
        copied = loss(bands, bands, frames, self.ahead)
        self.metrics = {"gain": 1 - error.detach() / copied.clamp(min=1e-12)}
        return error

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """True bands, float, shape (batch, frames, bins), true frames of each, and what is said at each frame."""
        bands, frames = self.encoder.adapt(self.encoder.inputs(batch))
        layers, _ = self.encoder.trunk.layers(bands, frames)
        return bands, frames, self.head(list(layers.values())[-1]).float()

    def pictures(self, batch: Batch) -> Pictures:
        bands, frames, predicted = self.predict(batch)
        ahead = torch.cat([bands[:, : self.ahead], predicted], dim=1)[:, : bands.shape[1]]
        now = torch.cat([bands[:, :1].expand(-1, self.ahead, -1), bands], dim=1)[:, : bands.shape[1]]
        real = ragged.real(frames, bands.shape[1])[:, :, None]
        shown = {"heard by then": now, "predicted": ahead, "true": bands}
        return {name: _picture(values * real) for name, values in shown.items()}


def _picture(bands: Tensor) -> Tensor:
    """Spectrograms as grey images, low tones at the bottom, two deviations below the mean black, two above white."""
    return rearrange(bands.flip(2) / 4 + 0.5, "batch frames bins -> batch 1 bins frames").clamp(0, 1)
