"""data2vec for sounds: predict at masked frames what a slowly moving copy computes from the whole sound.

Withheld: spans of a sound's frames after the convolutions, each frame replaced by one learned vector. Predicted: for
each of them what the feed-forward layers of the copy give there, averaged over its last layers and normalised over
time, by one linear layer.

Source: Baevski, Hsu, Xu, Babu, Gu, Auli, "data2vec: A General Framework for Self-supervised Learning in Speech, Vision
and Language", 2022, https://arxiv.org/abs/2202.03555
Differs: the networks are smaller, with 3 of 4 layers averaged instead of 8 of 12, and one convolution for positions
instead of five. The average is normalised over time once more, so that predicting 0 always costs 1, and the loss is the
mean over the dimensions. The momentum rises along a cosine from 0.99 to 1; in the paper from 0.999 to 0.9999. Sounds of
different lengths keep their own numbers of masked frames. The optimizer is AdamW with a cosine.
Shortcut: features that are the same at all times would be easy to predict. Targets receive no gradient, come from the
slowly moving copy, which has only layers of its own and hears through the student's convolutions, and are normalised;
the loss cannot show a collapse, the metric `target std` does.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, Positive, PositiveFraction
from unlabeled.parts import gather, ragged
from unlabeled.parts.heads import near_zero
from unlabeled.parts.masked_codes import fit_pictures
from unlabeled.parts.precision import full
from unlabeled.parts.spans import spans
from unlabeled.parts.teacher import Teacher

__all__ = ["Data2VecAudio", "targets"]


def targets(outputs: list[Tensor], frames: Tensor) -> Tensor:
    """Mean over layers, each of which, and the mean itself, is brought to mean 0 and variance 1 over a sound.

    Args:
        outputs: Of some layers, float, shape (batch, frames, dim) each.
        frames: True frames of each sound, int64, shape (batch,).

    Returns:
        Float, shape (batch, frames, dim), 0 after the end of a sound.
    """
    layers = [ragged.standardize(full(output), frames) for output in outputs]
    return ragged.standardize(torch.stack(layers).mean(0), frames)


class Data2VecAudio(Method[AudioEncoder]):
    """Predict at masked frames of a sound what a slowly moving copy computes from the whole sound.

    The metric `target std` is the standard deviation of the targets over the frames of all sounds of a batch, before
    they are normalised: near 0 all are the same.

    Args:
        encoder: Network of wav2vec 2.0 whose features are kept, such as wav2vec2-mini.
        layers: Last layers of the copy that are averaged; 8 of 12 in the paper.
        mask: Fraction of the frames that the masked spans would cover if none overlapped.
        span: Frames of a masked span.
        momentum: Initial momentum of the copy, 0.999 in the paper; rises to 1 along a cosine.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("masks", "be a wav2vec2 such as wav2vec2-mini", True)
    defaults: ClassVar = {"encoder": "wav2vec2-mini", "batch_size": 32, "lr": 5e-4, "weight_decay": 0.01}
    smallest: ClassVar = {"encoder": "wav2vec2-tiny", "layers": 2}

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        layers: Count = 3,
        mask: PositiveFraction = 0.65,
        span: Count = 10,
        momentum: Fraction = 0.99,
        crop_seconds: Positive = 15.6,
    ) -> None:
        super().__init__(encoder)
        transformer = encoder.trunk.model.encoder.layers
        if layers > len(transformer):
            raise UserError(f"layers must be at most the {len(transformer)} of the encoder, got {layers}")
        self.layers, self.hidden, self.crop_seconds = layers, (mask, span), crop_seconds
        self.head = near_zero(nn.Linear(encoder.dim, encoder.dim))
        self.teacher = Teacher(transformer, momentum=momentum, rising=True)

    def chance(self, samples: int) -> float:
        return 1.0  # of predicting 0; a collapsed encoder goes below it

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    @torch.no_grad()
    def targets(self, maps: Tensor, frames: Tensor) -> Tensor:
        """The copy's targets of all frames, float, shape (batch, frames, dim), from what the convolutions give."""
        network, training = self.encoder.trunk, self.encoder.trunk.training
        network.eval()
        hidden, copied = network.project(maps)[0], self.teacher.network.eval()
        outputs = network.feed_forward(hidden, frames, copied)[-self.layers :]
        network.train(training)
        real = ragged.real(frames, maps.shape[1])
        self.metrics = {"target std": full(torch.stack(outputs).mean(0))[real].std(0).mean()}
        return targets(outputs, frames)

    def predict(self, maps: Tensor, frames: Tensor, masked: Tensor) -> Tensor:
        """Predictions of masked frames in order, float, shape (masked, dim)."""
        trunk = self.encoder.trunk
        return full(self.head(trunk.context(trunk.project(maps)[0], frames, masked)[-1][masked]))

    def task(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the convolutions give, true frames of each sound, and which frames are masked."""
        maps, frames = self.encoder.trunk.convolve(*self.encoder.adapt(self.encoder.inputs(batch)))
        return maps, frames, spans(frames, maps.shape[1], *self.hidden)

    def forward(self, batch: Batch) -> Tensor:
        maps, frames, masked = self.task(batch)
        true = self.targets(maps, frames)[masked]
        return gather.mean((self.predict(maps, frames, masked) - true).square().mean(1))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Masked frames are replaced by the frame of any sound that fits the prediction best."""
        maps, frames, masked = self.task(batch)
        bands, real = (
            self.encoder.spectrogram(self.encoder.inputs(batch)[0]),
            ragged.real(frames, maps.shape[1]),
        )
        return fit_pictures(
            bands, real, masked, self.predict(maps, frames, masked), self.targets(maps, frames)
        )
