"""APC: predict the spectrogram of a sound a few frames ahead from all frames up to now.

Withheld: the frame n steps ahead of each frame. Predicted: its log-mel bands, from the recurrent states up to now.

Source: Chung, Hsu, Tang, Glass, "An Unsupervised Autoregressive Model for Speech Representation Learning", 2019,
https://arxiv.org/abs/1904.03240
Differs: frames after the end of a sound are excluded from the mean, where the authors' code counts them as frames of
zeros. Bands are normalised over the data, not per speaker. The default network has 2 layers of 256 units, the paper's
(gru3) 3 of 512. Gradients are not clipped by default, where the authors' code clips them at 1; the optimizer is AdamW
with decay, the authors' Adam without.
Shortcut: neighbouring frames are nearly equal, so one frame ahead is predicted by copying the present one; the metric
`gain` measures how much better than such a copy the prediction is.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Positive
from unlabeled.parts import gather, ragged
from unlabeled.parts.pictures import spectrogram

__all__ = ["APC"]


def loss(predicted: Tensor, bands: Tensor, frames: Tensor, ahead: int) -> Tensor:
    """Absolute error of the frames ahead.

    Args:
        predicted: Prediction, at each frame, of the frame `ahead` of it, float, shape (batch, frames, bins).
        bands: The true frames, float, same shape.
        frames: Real frames of each sound, int64, shape (batch,).
        ahead: Frames from now to the target, at least 1.

    Returns:
        Mean over all bands of all target frames of all processes, scalar, in units of the bands; 0 if there is none.
    """
    size = max(0, bands.shape[1] - ahead)
    error = (predicted[:, :size] - bands[:, ahead:]).abs().mean(2)
    return gather.mean(error, ragged.real(frames - ahead, size))


class APC(Method[AudioEncoder]):
    """Predict the spectrogram of a sound a few frames ahead from all frames up to now.

    The metric `gain` is the fraction of the error of repeating the present frame that the prediction avoids: 0 if it is
    no better, 1 if it is perfect.

    Args:
        encoder: Recurrent network whose features are kept, such as gru3.
        ahead: Frames of 10 ms between the present frame and the predicted one.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("causal", "be causal, such as gru3", True)
    held_out = "stop"
    defaults: ClassVar = {"encoder": "gru2-256", "batch_size": 64, "lr": 2e-3, "weight_decay": 0.0}
    smallest: ClassVar = {"encoder": "gru2-16"}
    baseline: Tensor

    def __init__(self, encoder: AudioEncoder, *, ahead: Count = 3, crop_seconds: Positive = 15.0) -> None:
        super().__init__(encoder)
        self.ahead, self.crop_seconds = ahead, crop_seconds
        self.head = nn.Linear(self.encoder.dim, self.encoder.map_dims["mel"])
        self.register_buffer("baseline", torch.tensor(0.0))  # of always predicting the mean of each band

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

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
        copying = loss(bands, bands, frames, self.ahead)
        self.metrics = {"gain": 1 - error.detach() / copying.clamp(min=1e-12)}
        return error

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """True bands, float, shape (batch, frames, bins), real frames of each sound, and predictions, as the bands."""
        bands, frames = self.encoder.adapt(self.encoder.inputs(batch))
        layers, _ = self.encoder.trunk.layers(bands, frames)
        return bands, frames, self.head(list(layers.values())[-1]).float()

    def pictures(self, batch: Batch) -> Pictures:
        bands, frames, predicted = self.predict(batch)
        size, early = bands.shape[1], bands[:, :1].expand(-1, self.ahead, -1)
        present = torch.cat([early, bands], dim=1)[:, :size]
        future = torch.cat([bands[:, : self.ahead], predicted], dim=1)[:, :size]
        real = ragged.real(frames, size)[:, :, None]
        rows = {"heard so far": present, "predicted": future, "true": bands}
        return {name: spectrogram((values * real).mT, -2, 2) for name, values in rows.items()}
