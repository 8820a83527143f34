"""Frame prediction: reconstruct a clip in reverse, and predict the frames that follow.

Withheld: the frames after a clip. Predicted: these, and from the same summary the clip itself, last frame first.

Source: Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs", 2015,
https://arxiv.org/abs/1502.04681
Differs: LSTMs without peepholes. Predictions are departures from the mean frame. The summary of an encoder that is no
LSTM is brought to the width of the decoders by a linear layer. The optimizer is AdamW without clipping by default; the
authors' code has SGD with momentum and clips.
Shortcut: reconstruction alone encourages copying and prediction alone keeps the last frames only, so one summary has to
serve both. A decoder that sees the previous frame can copy it instead of using the summary: by default it sees nothing.
"""

import math
from typing import ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.data.video.data import Videos
from unlabeled.encoders import VideoEncoder
from unlabeled.method import Batch, Method
from unlabeled.options import Count, ViewOptions, WholeNumber
from unlabeled.parts.decoder import FrameDecoder
from unlabeled.parts.pictures import strip
from unlabeled.parts.precision import full_precision

__all__ = ["FramePrediction"]

NEAR = 0.01
"""How near the mean frame may come to black and white, so that its logarithms stay finite."""
SAMPLE = 256
"""Clips whose mean is the mean frame."""


def targets(video: Tensor, past: int) -> tuple[Tensor, Tensor]:
    """What is to be drawn: the past with its last frame first, and the future.

    Args:
        video: Shape (batch, past + future, channels, height, width).
        past: Frames that the encoder sees.

    Returns:
        Shapes (batch, past, ...) and (batch, future, ...).
    """
    return video[:, :past].flip(1), video[:, past:]


@full_precision
def frame_losses(predicted: Tensor, frames: Tensor, pixels: str) -> Tensor:
    """Loss of each predicted frame, summed over its pixels as in the paper.

    Args:
        predicted: Logits ("bernoulli") or values ("gaussian"), float, shape (batch, frames, channels, height, width).
        frames: Float in 0..1, same shape.
        pixels: "bernoulli" is the cross-entropy of each pixel, "gaussian" half its squared error.

    Returns:
        Mean over the batch, float, shape (frames,), in nats.
    """
    if pixels == "bernoulli":
        each = F.binary_cross_entropy_with_logits(predicted, frames, reduction="none")
    else:
        each = (predicted - frames).square() / 2
    return reduce(each, "b t c h w -> t", "sum") / len(frames)


def squared_error(predicted: Tensor, frames: Tensor) -> Tensor:
    """Squared error of a frame summed over its pixels, mean over frames and batch, scalar.

    Args:
        predicted: Float, shape (batch, frames or 1, channels, height, width).
        frames: Float in 0..1, shape (batch, frames, channels, height, width).
    """
    return reduce((predicted - frames).square(), "b t c h w -> b t", "sum").mean()


class FramePrediction(Method[VideoEncoder]):
    """Reconstruct a clip in reverse, and predict the frames that follow.

    The metrics are losses of one frame in nats, `reconstruction` and `future`, and squared errors of one future frame,
    of the prediction (`future error`), of the last frame seen (`copy-last error`) and of the mean frame of the data
    (`mean-frame error`): the first has to fall below the other two.

    Args:
        encoder: Network whose features are kept; it reads a clip.
        past: Frames that the encoder sees.
        reconstructed: How many of these, the last ones, are to be reconstructed; 0 for prediction alone.
        future: Frames to predict; 0 for reconstruction alone.
        stride: Frames of the video from one frame of a clip to the next.
        conditional: Let the decoders read the previous frame: sharper frames, but less in the features.
        units: Units of each decoder; 0 for half the width of the encoder's vector.
        pixels: Loss of a pixel: "bernoulli" for nearly black and white images, "gaussian" for photographs.
        **views: How the clips are mirrored.
    """

    kind = "video"
    held_out = "stop"
    defaults: ClassVar = {"encoder": "lstm-256", "batch_size": 64, "lr": 2e-3}
    view_defaults = ViewOptions(flip=0.0)
    mean: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: VideoEncoder,
        *,
        past: Count = 10,
        reconstructed: WholeNumber = 10,
        future: WholeNumber = 10,
        stride: Count = 1,
        conditional: bool = False,
        units: WholeNumber = 0,
        pixels: Literal["bernoulli", "gaussian"] = "bernoulli",
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        if not reconstructed <= past:
            raise UserError(f"reconstructed must be at most past={past}, got {reconstructed}")
        if reconstructed + future == 0:
            raise UserError("reconstructed or future must be above 0, got 0 for both")
        self.past, self.reconstructed, self.future, self.stride = past, reconstructed, future, stride
        self.pixels, self.flip = pixels, self.view_options(views)["flip"]
        units = units or encoder.dim // 2
        self.summary = nn.Linear(encoder.dim, 2 * units) if encoder.dim != 2 * units else nn.Identity()
        self.shape = encoder.in_channels, encoder.image_size, encoder.image_size
        numbers = math.prod(self.shape)
        self.remember = FrameDecoder(units, numbers, conditional) if reconstructed else None
        self.foresee = FrameDecoder(units, numbers, conditional) if future else None
        self.register_buffer("mean", torch.full(self.shape, 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))  # of the mean frame

    def training_view(self, data: Videos) -> Videos:
        return data.clips(frames=self.past + self.future, stride=self.stride)

    def prepare(self, data: Data) -> None:
        frames = self.encoder.inputs(data.sample(SAMPLE)).to(self.mean.device)
        self.mean.copy_(frames.mean((0, 1)))
        mean = self.loss_inputs(torch.zeros_like(frames))
        losses = [
            frame_losses(mean[:, : part.shape[1]], part, self.pixels).sum()
            for part in self.targets(frames)
            if part.shape[1]
        ]
        self.baseline.copy_(torch.stack(losses).sum())

    def targets(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames to reconstruct, the last one first, and to predict."""
        back, ahead = targets(frames, self.past)
        return back[:, : self.reconstructed], ahead

    def loss_inputs(self, departures: Tensor) -> Tensor:
        """What the loss takes: logits ("bernoulli") or values ("gaussian"), from departures, shape (..., *shape)."""
        mean = torch.logit(self.mean, eps=NEAR) if self.pixels == "bernoulli" else self.mean
        return mean + departures

    def frames(self, departures: Tensor) -> Tensor:
        """Frames from departures from the mean frame, both of shape (..., *shape)."""
        values = self.loss_inputs(departures)
        return values.sigmoid() if self.pixels == "bernoulli" else values

    def predict(self, past: Tensor, truth: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Departures from the mean frame, for the past in reverse order and for the future.

        Args:
            past: The frames that the encoder sees, float in 0..1, shape (batch, past, channels, height, width).
            truth: The `targets`, for conditional decoders in training.

        Returns:
            Float, shapes (batch, reconstructed, channels, height, width) and (batch, future, ...).
        """
        summary = self.summary(self.encoder(past))

        def draw(departures: Tensor) -> Tensor:
            return self.frames(departures.unflatten(2, self.shape)).flatten(2)

        parts = []
        for number, (decoder, count) in enumerate(
            ((self.remember, self.reconstructed), (self.foresee, self.future))
        ):
            if decoder is None:
                parts.append(past.new_zeros(len(past), 0, *self.shape))
                continue
            true = None if truth is None else truth[number].flatten(2)
            parts.append(decoder(summary, count, true, draw).unflatten(2, self.shape))
        return parts[0], parts[1]

    def forward(self, batch: Batch) -> Tensor:
        frames = self.encoder.inputs(batch)
        if frames.shape[1] != self.past + self.future:
            length = f"past + future = {self.past + self.future}"
            raise UserError(f"clips must have {length} frames, got {frames.shape[1]}")
        if self.flip:
            mirrored = torch.rand(len(frames), device=frames.device) < self.flip
            frames = torch.where(rearrange(mirrored, "b -> b 1 1 1 1"), frames.flip(4), frames)
        truth = self.targets(frames)
        predicted = self.predict(frames[:, : self.past], truth if self.training else None)
        self.metrics = {}
        total = frames.new_zeros(())
        for name, departures, true in zip(("reconstruction", "future"), predicted, truth):
            if true.shape[1]:
                losses = frame_losses(self.loss_inputs(departures), true, self.pixels)
                self.metrics[name] = losses.detach().mean()
                total = total + losses.sum()
        if self.future:
            with torch.no_grad():
                last, ahead = frames[:, self.past - 1 : self.past], truth[1]
                self.metrics["future error"] = squared_error(self.frames(predicted[1]), ahead)
                self.metrics["copy-last error"] = squared_error(last, ahead)
                self.metrics["mean-frame error"] = squared_error(self.mean[None, None], ahead)
        return total

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor | list[str]]:
        frames = self.encoder.inputs(batch)
        back, ahead = (self.frames(part).clamp(0, 1) for part in self.predict(frames[:, : self.past]))
        pictures: dict[str, Tensor | list[str]] = {"given": strip(frames[:, : self.past])}
        if self.reconstructed:
            pictures["remembered"] = strip(back.flip(1))
        if self.future:
            pictures |= {"what follows": strip(frames[:, self.past :]), "foreseen": strip(ahead)}
        return pictures
