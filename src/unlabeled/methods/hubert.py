"""HuBERT: mask spans of a sound's frames and predict the cluster of sounds that each masked frame belongs to.

Withheld: most of the frames, in spans, each replaced by one learned vector. Predicted: the cluster of each masked
frame. First, MFCC are clustered, a hand-crafted description of the spectrum; then, in a second run with `teacher`, the
features that the first one has learned.

Source: Hsu, Bolte, Tsai, Lakhotia, Salakhutdinov, Mohamed, "HuBERT: Self-Supervised Speech Representation Learning by
Masked Prediction of Hidden Units", 2021, https://arxiv.org/abs/2106.07447
Differs: clusters are assigned in each step, not stored. MFCC are those of waveforms with mean 0 and variance 1, at the
centre of each frame, 100 clusters by default for the teacher's features too, the paper's 500. k-means runs on at most
100,000 frames of 1,000 sounds. A penalty on the size of the convolutions' output (10 in the authors' code) is left out.
Sounds of different lengths keep their own numbers of masked frames. The optimizer is AdamW with a second beta of 0.999
and a cosine by default; the authors' has 0.98 and a linear decay.
Shortcut: the cluster of a frame that is heard can be computed from the frame, and neighbours mostly share a cluster, so
that only masked frames count, in spans of a fifth of a second. If all frames had one cluster, the loss would be 0 at
once; that is refused, and the metric `codes` shows how many clusters are in use.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, Fraction, Positive, PositiveFraction, Several
from unlabeled.parts import masked_codes, ragged
from unlabeled.parts.kmeans import nearest
from unlabeled.parts.mfcc import MFCC
from unlabeled.parts.precision import full_precision
from unlabeled.parts.spans import spans

__all__ = ["HuBERT"]

SOUNDS, CHUNK, FRAMES = 1_000, 32, 100_000
"""Sounds whose frames are clustered, how many of them are read at a time, and their frames at most."""
WINDOW_SECONDS, RATIO = 0.025, 2
"""Windows of MFCC, and how many of them begin within the time from one frame to the next."""


@full_precision
def scores(vectors: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Logits of the clusters, float, shape (frames, clusters): cosines divided by the temperature.

    Args:
        vectors: Predictions, float, shape (frames, dim).
        codes: Learned vector of each cluster, float, shape (clusters, dim).
        temperature: Above 0.
    """
    return F.normalize(vectors, dim=1) @ F.normalize(codes, dim=1).T / temperature


def load_teacher(source: str, encoder: AudioEncoder) -> AudioEncoder:
    """Load the encoder whose features are clustered; its frames must be those of the student.

    Raises:
        ValueError: There is no such encoder, or it has other frames.
    """
    file = Path(source) / "encoder.safetensors" if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise UserError(f"teacher must be a run folder or an encoder file, got {source}")
    loaded: Any = encoders.load(file)
    name, rate, hop = loaded.config["name"], encoder.sample_rate, encoder.trunk.hop
    if not getattr(loaded, "masks", False) or (loaded.sample_rate, loaded.trunk.hop) != (rate, hop):
        raise UserError(f"teacher must be a wav2vec2 with frames of {hop} samples at {rate} Hz, got {name}")
    return loaded


class HuBERT(Method[AudioEncoder]):
    """Mask spans of a sound's frames and predict the cluster of sounds that each masked frame belongs to.

    The metric `accuracy` is how often the most likely cluster is the true one, `codes` how many clusters are in use, as
    the exponential of their entropy.

    Args:
        encoder: Network of wav2vec 2.0 whose features are kept, such as wav2vec2-mini.
        teacher: Run folder or encoder file of an earlier run, whose features are clustered instead of MFCC.
            [default: none, so that MFCC are clustered]
        layer: Number of the teacher's layer whose output is clustered, from 1. [default: half of the layers]
        clusters: Number of clusters; 100 in the paper for MFCC, 500 for features.
        mask: Fraction of the frames that the hidden spans would cover if none overlapped.
        span: Frames of a hidden span.
        code_dim: Width of the compared vectors.
        temperature: Softmax temperature; lower penalises similar clusters more.
        convolution_gradient: Factor on the gradient that reaches the convolutions.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("masks", "be a wav2vec2 such as wav2vec2-mini", True)
    defaults: ClassVar = {"encoder": "wav2vec2-mini", "batch_size": 32, "lr": 5e-4, "weight_decay": 0.01}
    smallest: ClassVar = {"encoder": "wav2vec2-tiny", "clusters": 12}
    centres: Tensor
    baseline: Tensor

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        teacher: str | None = None,
        layer: Count | None = None,
        clusters: Several = 100,
        mask: PositiveFraction = 0.8,
        span: Count = 10,
        code_dim: Count = 256,
        temperature: Positive = 0.1,
        convolution_gradient: Fraction = 0.1,
        crop_seconds: Positive = 15.6,
    ) -> None:
        super().__init__(encoder)
        self.mask, self.span, self.temperature = mask, span, temperature
        self.convolution_gradient, self.crop_seconds = convolution_gradient, crop_seconds
        network, rate = encoder.trunk, encoder.sample_rate
        window = min(WINDOW_SECONDS, network.receptive / rate)
        self.mfcc = MFCC(rate, window_seconds=window, hop_seconds=network.hop / RATIO / rate)
        self.teacher: Any = None
        dim = self.mfcc.dim
        if teacher is not None:
            self.teacher = load_teacher(teacher, encoder).requires_grad_(False)
            count = len(self.teacher.map_dims) - 1
            if layer is not None and layer > count:
                raise UserError(f"layer must be at most {count}, that of the teacher's last, got {layer}")
            self.layer = f"layer{layer or max(1, count // 2)}"
            dim = self.teacher.map_dims[self.layer]
        elif layer is not None:
            raise UserError(f"layer must be left out without a teacher, got {layer}")
        self.head = nn.Linear(encoder.dim, code_dim)
        self.codes = nn.Parameter(torch.rand(clusters, code_dim))
        self.register_buffer("centres", torch.zeros(clusters, dim))
        self.register_buffer("baseline", torch.tensor(0.0))  # the entropy of the clusters

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    @torch.no_grad()
    def prepare(self, data: Sounds) -> None:
        rows, parts = torch.randperm(len(data))[:SOUNDS], []
        for batch in data.subset(rows).batches(CHUNK):
            vectors, frames = self.describe(self.encoder.adapt(self.encoder.inputs(batch)))
            parts.append(vectors[ragged.real(frames, vectors.shape[1])])
        points = torch.cat(parts)
        points = points[torch.randperm(len(points))[:FRAMES].to(points.device)]
        masked_codes.find(points, self.centres, self.baseline)
        if not self.baseline > 0:
            raise UserError(f"sounds of {data.name} must have frames that differ, got one cluster for all")

    @torch.no_grad()
    def describe(self, sound: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What is clustered of each frame, float, shape (batch, frames, numbers), and true frames of each sound."""
        if self.teacher is not None:
            layers, frames = self.teacher.eval().trunk.layers(*sound)
            return layers[self.layer], frames
        network = self.encoder.trunk
        waveform, length = network.padded(*sound)
        vectors, _ = self.mfcc(waveform, length)
        return vectors[:, ::RATIO][:, : network.frames(waveform.shape[1])], network.frames(length)

    def targets(self, sound: tuple[Tensor, Tensor]) -> Tensor:
        """Cluster of each frame, int64, shape (batch, frames)."""
        vectors, _ = self.describe(sound)
        return nearest(vectors.flatten(0, 1), self.centres).view(vectors.shape[:2])

    def predict(self, sound: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Frames that were masked, bool, shape (batch, frames), true frames of each sound, and logits at the masked."""
        network = self.encoder.trunk
        maps, frames = network.convolve(*sound)
        # The value is that of the maps; only the gradient is smaller.
        maps = maps.detach() + self.convolution_gradient * (maps - maps.detach())
        masked = spans(frames, maps.shape[1], self.mask, self.span)
        context = network.context(network.project(maps)[0], frames, masked)[-1]
        return masked, frames, scores(self.head(context[masked]), self.codes, self.temperature)

    def forward(self, batch: Batch) -> Tensor:
        sound = self.encoder.adapt(self.encoder.inputs(batch))
        masked, _, logits = self.predict(sound)
        clusters = self.targets(sound)[masked]
        used = masked_codes.entropy(clusters, len(self.codes)).exp()
        self.metrics = {"accuracy": masked_codes.accuracy(logits, clusters), "codes": used}
        return masked_codes.loss(logits, clusters)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        sound = self.encoder.adapt(self.encoder.inputs(batch))
        masked, frames, logits = self.predict(sound)
        clusters, real = self.targets(sound), ragged.real(frames, masked.shape[1])
        predicted = clusters.masked_scatter(masked, logits.argmax(1))
        bands = self.encoder.spectrogram(sound[0])
        return masked_codes.code_pictures(bands, real, masked, clusters, predicted)
