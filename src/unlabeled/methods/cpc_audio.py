"""CPC for sounds: tell the frames that follow from other frames, by the states of a recurrent unit up to now.

Withheld: the next dozen frames, 10 ms each, of a network of convolutions over the waveform. Predicted: which of many
frames each of them is, by one linear map for each distance.

Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
https://arxiv.org/abs/1807.03748; norms of single frames: Rivière, Joulin, Mazaré, Dupoux, "Unsupervised Pretraining
Transfers Well Across Languages", 2020, https://arxiv.org/abs/2002.02848
Differs: convolutions are not padded, so that 20,480 samples have 126 frames, not 128, and by default they have 128
channels, not 512. Waveforms have mean 0 and variance 1. All predictions in a sound share their negatives, which are
those of one process; a negative that is the true frame does not count. The optimizer is AdamW with a cosine, not Adam.
Shortcut: frames of other sounds differ in speaker and channel, which takes no prediction, so negatives are frames of
the same sound by default. The next two frames overlap with what was heard (the paper predicts them too); the metric
`farthest` is the accuracy at the largest distance. Norms over time or over the batch would tell the frames apart.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Positive
from unlabeled.parts import ragged
from unlabeled.parts.info_nce import first_of
from unlabeled.parts.pictures import spectrogram
from unlabeled.parts.precision import full_precision

__all__ = ["CPCAudio"]


def draw(frames: Tensor, size: int, allowed: Tensor, count: int) -> Tensor:
    """Random frames of allowed sounds, all equally likely, drawn with replacement.

    Args:
        frames: True frames of each sound, int64, shape (batch,), at least 1.
        size: Frames of the padded sounds.
        allowed: Of which sounds (columns) the negatives of each sound (rows) are, bool, shape (batch, batch).
        count: Negatives of each sound.

    Returns:
        Numbers of frames, counted through the whole padded batch, int64, shape (batch, count).
    """
    real = ragged.real(frames, size).flatten()
    return torch.multinomial(allowed.repeat_interleave(size, 1) * real.float(), count, replacement=True)


@full_precision
def scores(predictions: Tensor, targets: Tensor, index: Tensor, distance: int) -> Tensor:
    """Logits of the true frame, which comes first, and of the negatives: inner products with the prediction.

    Args:
        predictions: Prediction at each frame, float, shape (batch, frames, dim); the last `distance` are ignored.
        targets: Float, same shape.
        index: Numbers of the negatives among all frames of the batch, int64, shape (batch, negatives).
        distance: Frames from a prediction to its target, at least 1.

    Returns:
        Float, shape (batch, frames - distance, 1 + negatives); minus infinity for negatives that are the true frame.
    """
    size = targets.shape[1]
    predicted = predictions[:, : max(0, size - distance)]
    own = (predicted * targets[:, distance:]).sum(2, keepdim=True)
    others = predicted @ targets.flatten(0, 1)[index].mT
    true = torch.arange(targets.shape[:2].numel(), device=index.device).view(-1, size)[:, distance:]
    same = rearrange(true, "b t -> b t 1") == rearrange(index, "b n -> b 1 n")
    return torch.cat([own, others.masked_fill(same, -torch.inf)], 2)


def accuracy(logits: Tensor, counted: Tensor) -> Tensor:
    """How often the first candidate has the highest score, scalar; 0 if no position counts.

    Args:
        logits: Float, shape (batch, positions, candidates).
        counted: Which positions count, bool, shape (batch, positions).
    """
    right = logits[:, :, 0] > logits[:, :, 1:].amax(2)
    return (right & counted).sum() / counted.sum().clamp(min=1)


class CPCAudio(Method[AudioEncoder]):
    """Tell the frames that follow from other frames, by the states of a recurrent unit up to now.

    The metric `accuracy` is how often the true frame has the highest score, `farthest` the same for the largest
    distance alone.

    Args:
        encoder: Network of convolutions and a recurrent unit whose states are kept, such as cpc-mini.
        ahead: Number of frames after the present one that are predicted, of 10 ms each.
        negatives: Number of other frames from which the true one is distinguished.
        among: Where they are from: the same sound, all sounds of its group in the batch (such as a speaker), or all
            sounds of the batch.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("is_cpc", "be a network of CPC such as cpc-mini", True)
    defaults: ClassVar = {"encoder": "cpc-mini", "batch_size": 64, "lr": 1e-3}
    smallest: ClassVar = {"encoder": "cpc-tiny", "negatives": 20}

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        ahead: Count = 12,
        negatives: Count = 128,
        among: Literal["sound", "group", "all"] = "sound",
        crop_seconds: Positive = 1.28,
    ) -> None:
        super().__init__(encoder)
        self.ahead, self.negatives, self.among, self.crop_seconds = ahead, negatives, among, crop_seconds
        channels = encoder.map_dims["conv"]
        self.maps = nn.ModuleList(nn.Linear(encoder.dim, channels, bias=False) for _ in range(ahead))

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    def chance(self, samples: int) -> float:
        return math.log(1 + self.negatives)

    def prepare(self, data: Sounds) -> None:
        if self.among == "group" and data.groups is None:
            raise UserError(f"among must be sound or all for {data.name}, which has no groups, got group")
        length = data.lengths.clamp(max=data.longest).max()
        frames = int(self.encoder.trunk.frames(length))
        if frames <= self.ahead:
            raise UserError(f"ahead must be below the frames of a sound, {max(1, frames)}, got {self.ahead}")

    def compare(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Logits by distance, each as `scores` gives them, and which of the predictions have a target, bool."""
        layers, frames = self.encoder.layers(self.encoder.inputs(batch))
        size, group = layers["conv"].shape[1], torch.arange(len(frames), device=frames.device)
        if self.among != "sound":
            group = batch["group"] if self.among == "group" else torch.zeros_like(group)
        index, logits, real = draw(frames, size, group[:, None] == group, self.negatives), [], []
        for distance, predict in enumerate(self.maps, 1):
            logits.append(scores(predict(layers["context"]), layers["conv"], index, distance))
            real.append(ragged.real(frames - distance, max(0, size - distance)))
        return logits, real

    def forward(self, batch: Batch) -> Tensor:
        logits, real = self.compare(batch)
        every, counted = torch.cat(logits, 1), torch.cat(real, 1)
        self.metrics = {"accuracy": accuracy(every, counted), "farthest": accuracy(logits[-1], real[-1])}
        return first_of(every, counted)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Sounds, the frames of each that fit the farthest predictions best, and the probabilities of the true ones."""
        x = self.encoder.inputs(batch)
        layers, frames = self.encoder.layers(x)
        targets, size = layers["conv"], layers["conv"].shape[1]
        bands, real = self.encoder.spectrogram(x[0]), ragged.real(frames, size)
        sound = spectrogram(bands[:, :, torch.arange(size) * bands.shape[2] // size])
        late = max(0, size - self.ahead)
        fits = self.maps[-1](layers["context"][:, :late]) @ targets.mT
        best = fits.masked_fill(~real[:, None], -torch.inf).argmax(2)
        predicted = sound.gather(3, repeat(best, "b t -> b 1 bands t", bands=sound.shape[2]))
        predicted = F.pad(predicted, (size - late, 0), value=0.5)
        chosen = [
            F.pad(scores.softmax(2)[:, :, 0] * counted, (size - scores.shape[1], 0))
            for scores, counted in zip(*self.compare(batch), strict=True)
        ]
        return {
            "sound": sound,
            f"predicted {self.ahead} frames before": torch.where(real[:, None, None], predicted, 0),
            "probability of the true frame (farther down)": torch.stack(chosen, 1)[:, None],
        }
