"""Frame prediction: remember the frames that were seen, backward, and foresee those that follow.

Withheld: the frames behind a clip. Predicted: these, and from the same summary the clip itself, last frame first.

Source: Srivastava, Mansimov, Salakhutdinov, "Unsupervised Learning of Video Representations using LSTMs", 2015,
https://arxiv.org/abs/1502.04681
Differs: LSTMs without peepholes. Predictions depart from the mean frame. The summary of an encoder that is no LSTM is
brought to the width of the decoders by a linear layer. Gradients are not clipped by default, and the weights move by
the loop's AdamW; the authors' code clips and has SGD with momentum.
Shortcut: remembering alone invites copying and foreseeing alone keeps the last frames only, so one summary has to serve
both. A decoder that is shown the frame before can copy it instead of using the summary: by default it sees nothing.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method
from unlabeled.parts.clips import strip
from unlabeled.parts.precision import full_precision

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import VideoEncoder

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


def squared_error(drawn: Tensor, frames: Tensor) -> Tensor:
    """Squared error of a frame summed over its pixels, mean over frames and batch, scalar.

    Args:
        drawn: Float, shape (batch, frames or 1, channels, height, width).
        frames: Float in 0..1, shape (batch, frames, channels, height, width).
    """
    return reduce((drawn - frames).square(), "b t c h w -> b t", "sum").mean()


class Decoder(nn.Module):
    """An LSTM that draws one frame after the other from a summary.

    Args:
        units: Cells of the LSTM; the summary is its output and its cell at the start.
        pixels: Numbers of a frame.
        conditional: Whether it reads the frame that it drew last; in training, the true one.
    """

    def __init__(self, units: int, pixels: int, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.recurrent = nn.LSTM(pixels if conditional else 1, units, batch_first=True)
        self.last = nn.Linear(units, pixels)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)

    def forward(self, summary: Tensor, count: int, truth: Tensor | None, drawing: Any) -> Tensor:
        """Departures from the mean frame, float, shape (batch, count, pixels).

        Args:
            summary: Float, shape (batch, 2 * units).
            count: Frames to draw.
            truth: True frames, float, shape (batch, count, pixels), which a conditional decoder is shown one step late;
                None shows it its own.
            drawing: Function from departures to frames, both of shape (batch, 1, pixels).
        """
        state = tuple(part.contiguous()[None] for part in summary.chunk(2, 1))
        if not self.conditional:
            return self.last(self.recurrent(summary.new_zeros(len(summary), count, 1), state)[0])
        if truth is not None:
            before = torch.cat([torch.zeros_like(truth[:, :1]), truth[:, :-1]], 1)
            return self.last(self.recurrent(before, state)[0])
        seen = summary.new_zeros(len(summary), 1, self.last.out_features)
        steps = []
        for _ in range(count):
            output, state = self.recurrent(seen, state)
            steps.append(self.last(output))
            seen = drawing(steps[-1])
        return torch.cat(steps, 1)


class FramePrediction(Method):
    """Remember the frames that were seen, backward, and foresee those that follow.

    The metrics are losses of one frame in nats, `reconstruction` and `future`, and squared errors of one future frame,
    of what is drawn (`future error`), of the last frame seen (`copy-last error`) and of the mean frame of the data
    (`mean-frame error`): the first has to fall below the other two.

    Args:
        encoder: Network whose features are kept; it reads a clip.
        past: Frames that the encoder sees.
        reconstructed: Of these, how many it has to remember, the last ones; 0 leaves foreseeing alone.
        future: Frames to foresee; 0 leaves remembering alone.
        stride: Steps from one frame to the next, in frames of the video.
        conditional: Whether the decoders read the frame before: sharper frames, but less in the features.
        units: Cells of each decoder; 0 takes half the width of the encoder's vector.
        pixels: Loss of a pixel: "bernoulli" for what is nearly black and white, "gaussian" for photographs.
        flip: Probability that a clip is mirrored.
    """

    kind = "video"
    held_out = "stop"
    defaults: ClassVar[dict[str, Any]] = {"encoder": "lstm-256", "batch_size": 64, "lr": 2e-3}

    mean: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        *,
        past: int = 10,
        reconstructed: int = 10,
        future: int = 10,
        stride: int = 1,
        conditional: bool = False,
        units: int = 0,
        pixels: Literal["bernoulli", "gaussian"] = "bernoulli",
        flip: float = 0.0,
    ) -> None:
        super().__init__(encoder)
        check.whole(past=past, reconstructed=reconstructed, future=future, stride=stride, units=units)
        check.at_least(1, past=past, stride=stride)
        check.at_least(0, reconstructed=reconstructed, future=future, units=units)
        if not reconstructed <= past:
            raise UserError(f"reconstructed must be at most past={past}, got {reconstructed}")
        if reconstructed + future == 0:
            raise UserError("reconstructed or future must be above 0, got 0 for both")
        check.choice(("bernoulli", "gaussian"), pixels=pixels)
        check.fraction(flip=flip)
        self.past, self.reconstructed, self.future, self.stride = past, reconstructed, future, stride
        self.pixels, self.flip = pixels, flip
        units = units or self.encoder.dim // 2
        self.summary = (
            nn.Linear(self.encoder.dim, 2 * units) if self.encoder.dim != 2 * units else nn.Identity()
        )
        video: VideoEncoder = self.encoder  # type: ignore[assignment]
        self.shape = video.in_channels, video.image_size, video.image_size
        numbers = math.prod(self.shape)
        self.remember = Decoder(units, numbers, conditional) if reconstructed else None
        self.foresee = Decoder(units, numbers, conditional) if future else None
        self.register_buffer("mean", torch.full(self.shape, 0.5))
        self.register_buffer("baseline", torch.tensor(0.0))

    def chance(self, samples: int) -> float | None:
        """Loss of one who always draws the mean frame."""
        return float(self.baseline) or None

    def training_view(self, data: "Data") -> "Data":
        return data.clips(frames=self.past + self.future, stride=self.stride)  # type: ignore[attr-defined]

    def prepare(self, data: "Data") -> None:
        frames = self.encoder.inputs(data.sample(SAMPLE)).to(self.mean.device)
        self.mean.copy_(frames.mean((0, 1)))
        back, ahead = self.wanted(frames)
        drawn = self.drawn(torch.zeros_like(frames), as_logits=True)
        losses = [
            frame_losses(drawn[:, : part.shape[1]], part, self.pixels).sum()
            for part in (back, ahead)
            if part.shape[1]
        ]
        self.baseline.copy_(torch.stack(losses).sum())

    def wanted(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames to be remembered, the last one first, and to be foreseen."""
        back, ahead = targets(frames, self.past)
        return back[:, : self.reconstructed], ahead

    def drawn(self, departures: Tensor, *, as_logits: bool = False) -> Tensor:
        """Frames, or their logits, from departures from the mean frame, all of shape (..., *shape)."""
        if self.pixels == "gaussian":
            return self.mean + departures
        logits = torch.logit(self.mean, eps=NEAR) + departures
        return logits if as_logits else logits.sigmoid()

    def predict(self, past: Tensor, truth: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Departures from the mean frame, for the past in reverse order and for the future.

        Args:
            past: Frames that are seen, float in 0..1, shape (batch, past, channels, height, width).
            truth: What `wanted` gives, for conditional decoders in training.

        Returns:
            Float, shapes (batch, reconstructed, channels, height, width) and (batch, future, ...).
        """
        summary = self.summary(self.encoder(past))

        def drawing(departures: Tensor) -> Tensor:
            return self.drawn(departures.unflatten(2, self.shape)).flatten(2)

        parts = []
        for number, (decoder, count) in enumerate(
            ((self.remember, self.reconstructed), (self.foresee, self.future))
        ):
            if decoder is None:
                parts.append(past.new_zeros(len(past), 0, *self.shape))
                continue
            known = None if truth is None else truth[number].flatten(2)
            parts.append(decoder(summary, count, known, drawing).unflatten(2, self.shape))
        return parts[0], parts[1]

    def forward(self, batch: Batch) -> Tensor:
        frames = self.encoder.inputs(batch)
        if frames.shape[1] != self.past + self.future:
            wanted = f"past + future = {self.past + self.future}"
            raise UserError(f"clips must have {wanted} frames, got {frames.shape[1]}")
        if self.flip:
            mirrored = torch.rand(len(frames), device=frames.device) < self.flip
            frames = torch.where(rearrange(mirrored, "b -> b 1 1 1 1"), frames.flip(4), frames)
        truth = self.wanted(frames)
        predicted = self.predict(frames[:, : self.past], truth if self.training else None)
        self.metrics = {}
        total = frames.new_zeros(())
        for name, found, wanted in zip(("reconstruction", "future"), predicted, truth):
            if wanted.shape[1]:
                departures = frame_losses(self.drawn(found, as_logits=True), wanted, self.pixels)
                self.metrics[name] = departures.detach().mean()
                total = total + departures.sum()
        if self.future:
            with torch.no_grad():
                ahead = truth[1]
                self.metrics["future error"] = squared_error(self.drawn(predicted[1]), ahead)
                self.metrics["copy-last error"] = squared_error(frames[:, self.past - 1 : self.past], ahead)
                self.metrics["mean-frame error"] = squared_error(self.mean[None, None], ahead)
        return total

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor | list[str]]:
        frames = self.encoder.inputs(batch)
        back, ahead = (self.drawn(part).clamp(0, 1) for part in self.predict(frames[:, : self.past]))
        shown: dict[str, Tensor | list[str]] = {"given": strip(frames[:, : self.past])}
        if self.reconstructed:
            shown["remembered"] = strip(back.flip(1))
        if self.future:
            shown |= {"what follows": strip(frames[:, self.past :]), "foreseen": strip(ahead)}
        return shown
