"""Audio-visual correspondence: predict whether a picture and a sound belong together.

Withheld: whether picture and sound are of one moment. Predicted: that, from their distance in a space where both are
unit vectors, or from how well the best position of the picture fits the sound.

Source: Arandjelović, Zisserman, "Objects that Sound", 2018, https://arxiv.org/abs/1712.06651; the task is from
Arandjelović, Zisserman, "Look, Listen and Learn", 2017, https://arxiv.org/abs/1705.08168
Differs: spectrograms are in mel bands. With pool "location" both networks of the paper are one: the whole picture, from
all maps, and its positions, from a map of stride 4, are compared with the same sounds, and their losses are averaged.
Positions are unit vectors too, and their product with a sound is scaled by 8, less 4, at the start, where the paper's
plain product of small vectors is a saddle that many runs never leave. By default each picture is compared with 8 sounds
of other clips, where the paper has one; positives and negatives weigh alike. A batch norm without scale precedes the
normalisation to unit length, else all vectors start out alike. The networks are small and pool by the maximum over
positions. The optimizer is AdamW.
Shortcut: the sounds of negatives must start on the same grid of frame times as those of positives, else compression
artefacts identify them; here each is the sound of another clip of the batch around its own frame. Fades that darken
picture and sound together remain, and objects that always make the same noise.
"""

import math
from typing import Any, ClassVar, Literal, Unpack

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import AudioVisualEncoder
from unlabeled.method import Batch, Method, Pictures
from unlabeled.options import Count, Fraction, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import BestPosition, Distance
from unlabeled.parts.pictures import overlay, spectrogram
from unlabeled.parts.precision import full_precision

__all__ = ["AudioVisualCorrespondence", "others"]

METRICS = {"whole": "accuracy", "places": "places"}


def others(index: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Draw for each sample other samples of the batch as negatives.

    Args:
        index: Clip of each sample, int64, shape (batch,).
        negatives: Negatives of each sample, fewer than the batch has samples.

    Returns:
        Rows of the batch, int64, shape (batch, negatives), each column a permutation of all rows; and which of them
        are of another clip, bool, same shape.
    """
    batch = len(index)
    shifts = 1 + torch.randperm(batch - 1)[:negatives].to(index.device)
    order = torch.randperm(batch).to(index.device)
    rank = order.argsort()
    rows = order[(rank[:, None] + shifts) % batch]
    return rows, index[rows] != index[:, None]


@full_precision
def loss(logits: Tensor, together: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy in which positives and negatives weigh the same.

    Args:
        logits: Of belonging together, float, any shape.
        together: Whether they do, bool, same shape.
        valid: Which pairs count, bool, same shape.

    Returns:
        Mean of the mean over positives and the mean over negatives, scalar, in nats; ln 2 if all logits are 0.
    """
    errors = F.binary_cross_entropy_with_logits(logits, together.to(logits.dtype), reduction="none")
    halves = [(errors * part).sum() / part.sum().clamp(min=1) for part in (together, ~together & valid)]
    return torch.stack(halves).mean()


def similarity(positions: Tensor, sounds: Tensor) -> Tensor:
    """Cosine of each position of a picture and its sound, float, shape (batch, rows, columns).

    Args:
        positions: Unit vectors, float, shape (batch, dim, rows, columns).
        sounds: Unit vectors, float, shape (batch, dim).
    """
    return einsum(positions, sounds, "batch dim rows columns, batch dim -> batch rows columns")


class AudioVisualCorrespondence(Method[AudioVisualEncoder]):
    """Predict whether a picture and a sound belong together.

    The metric `accuracy` is that of the answers from the whole picture, `places` that of the answers from its best
    position, with as many pairs of each kind. Of data with C equally common classes that nothing else distinguishes no
    more than 1 - 1 / (2 C) can be right, since others are of the same class.

    Args:
        encoder: Networks whose features are kept, and the space in which they meet.
        pool: What is compared with the sound: "max", the picture as a whole (AVE-Net); "location", that and its
            best fitting position (AVOL-Net), which says where the sound comes from.
        negatives: Sounds of other clips of the batch that each picture is compared with, at most.
        volume: Largest relative change of the loudness.
        **views: How the pictures are cropped and mirrored, and how far brightness and saturation change.
    """

    kind = "audio-visual"
    defaults: ClassVar = {"encoder": "av-resnet10", "batch_size": 32, "lr": 2e-3, "weight_decay": 1e-5}
    view_defaults = ViewOptions(crop=0.7, jitter=0.3, flip=0.5)
    smallest: ClassVar = {"encoder": "av-conv4", "image_size": 32}

    def __init__(
        self,
        encoder: AudioVisualEncoder,
        *,
        pool: Literal["max", "location"] = "location",
        negatives: Count = 8,
        volume: Fraction = 0.1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.pool, self.negatives, self.volume = pool, negatives, volume
        self.views = Views(encoder.image_size, contrast=0, hue=0, **self.view_options(views))
        self.head = nn.ModuleDict({"whole": Distance()})
        if pool == "location":
            self.head["places"] = BestPosition()
        else:  # no loss reaches these weights, and several processes wait for the gradient of every trainable one
            encoder.trunk.meeting.place.requires_grad_(False)

    def chance(self, samples: int) -> float:
        return math.log(2)

    def training_view(self, data: Data) -> Data:
        pairs: Any = self.encoder.evaluation_view(data)
        return pairs.moments(self.encoder.seconds, random=True)

    def forward(self, batch: Batch) -> Tensor:
        samples = len(batch["index"])
        if samples < 2:
            raise UserError(f"batch_size must be at least 2, for sounds of other clips, got {samples}")
        change = torch.empty(samples, 1, device=batch["waveform"].device).uniform_(-self.volume, self.volume)
        sounds = self.encoder.sound(batch["waveform"] * (1 + change))
        rows, differ = others(batch["index"], min(self.negatives, samples - 1))
        own = torch.arange(samples, device=rows.device)[:, None]
        logits = self.logits(self.views(batch), sounds[torch.cat([own, rows], 1)])
        valid = torch.cat([own >= 0, differ], 1)
        together = torch.zeros_like(valid)
        together[:, 0] = True
        self.metrics = {}
        for name, values in logits.items():
            right = ((values > 0) == together).float()
            self.metrics[METRICS[name]] = (right[:, 0].mean() + right[:, 1:].mean()).detach() / 2
        return torch.stack([loss(values, together, valid) for values in logits.values()]).mean()

    def logits(self, images: Tensor, sounds: Tensor) -> dict[str, Tensor]:
        """Logits of belonging together, by head, float, shape (batch, candidates) each.

        Args:
            images: Float in 0..1, shape (batch, channels, height, width).
            sounds: Unit vectors, float, shape (batch, candidates, dim).
        """
        picture, positions = self.encoder.directions(images)
        vectors: dict[str, Tensor] = {"whole": picture, "places": positions}
        with torch.autocast(images.device.type, enabled=False):  # small differences of distances matter
            return {name: head(vectors[name], sounds) for name, head in self.head.items()}

    def embedding(self, batch: Batch) -> Tensor:
        return self.encoder.picture(self.encoder.inputs(batch).image)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Pictures and spectrograms, and the prediction for the picture's own sound and for that of the next sample."""
        image, waveform = self.encoder.inputs(batch)
        sounds = self.encoder.sound(waveform)
        following = sounds.roll(-1, 0)
        probabilities = self.logits(image, torch.stack([sounds, following], 1))["whole"].sigmoid()
        bands = spectrogram(self.encoder.audio.adapt(waveform)[:, 0], -3, 3)
        pictures: Pictures = {
            "image": image,
            "sound": F.interpolate(bands, size=image.shape[2:], mode="bilinear"),
            "predicted": [
                f"own sound: {own:.0%} confidence; that of the next sample: {other:.0%}"
                for own, other in probabilities.tolist()
            ],
        }
        if "places" in self.head:
            positions = self.encoder.positions(image)
            gray = 0.6 * repeat(image.mean(1), "batch height width -> batch rgb height width", rgb=3)
            pictures["where its own sound is"] = overlay(gray, similarity(positions, sounds))
            pictures["where that of the next is"] = overlay(gray, similarity(positions, following))
        return pictures
