"""Distillation: learn from a trained encoder which of many images an image resembles, without labels.

Withheld: how similar the teacher finds an image to each of many anchor images. Predicted: these similarities, as a
distribution over the anchors, from the same view.

Source: Chen, Kornblith, Swersky, Norouzi, Hinton, "Big Self-Supervised Models are Strong Semi-Supervised Learners",
2020, https://arxiv.org/abs/2006.10029; anchors instead of classes: Fang, Wang, Wang, Zhang, Yang, Liu, "SEED:
Self-supervised Distillation for Visual Representation", 2021, https://arxiv.org/abs/2101.04731
Differs: no labels are used, so the teacher's classes are replaced by random images of the data, the anchors, with which
an image is compared by the cosine similarity of features; they stay the same, where those of SEED are a queue. Features
are centred on the mean of the anchors, and both distributions have the same temperature. The optimizer is AdamW, not
LARS.
Shortcut: the same answer for all images would fit a teacher whose features all point in one direction, so they are
centred; the teacher is frozen and sees what the student sees, so nothing but its features can be predicted.
"""

import copy
import math
import re
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.adapt import LUMA
from unlabeled.encoders.readout import bare
from unlabeled.method import Batch, Method
from unlabeled.options import Positive, Several, ViewOptions
from unlabeled.parts.augment import Views
from unlabeled.parts.heads import mlp
from unlabeled.parts.precision import full_precision

__all__ = ["Distillation"]

START = "start"
FILES = ("features.safetensors", "encoder.safetensors")
"""Encoders in a run folder, in order of preference: with the features of the run, or with its plain output."""
PUBLIC = re.compile(r"(timm|torchvision|hf|hub):.")
"""Names of public weights, as `encoders.pretrained` takes them."""
FORMS = (
    "a run folder, an encoder file, public weights as timm:NAME, torchvision:NAME, hf:OWNER/NAME, hub:OWNER/NAME or a "
    "folder with config.json"
)
CHUNK = 256
"""Images in a forward pass of the teacher when the anchors are computed."""


@full_precision
def loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's distribution under the teacher's.

    Args:
        student: Similarities to the anchors, float, shape (batch, anchors).
        teacher: The same for the teacher; receives no gradient.
        temperature: Temperature of both softmaxes.

    Returns:
        Mean over the batch, scalar, in nats; at least the entropy of the teacher's distribution.
    """
    targets = (teacher.detach() / temperature).softmax(1)
    return -(targets * (student / temperature).log_softmax(1)).sum(1).mean()


@full_precision
def similarities(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Cosine similarities, shape (batch, anchors), of unit vectors, shape (batch, dim) and (anchors, dim)."""
    return vectors @ anchors.T


def load_teacher(source: str | None, encoder: ImageEncoder) -> encoders.Encoder:
    """Load the teacher, which must read the same images as the student, or these as grey or as colours.

    Args:
        source: Value of the option `teacher`.
        encoder: The student.

    Raises:
        Unreachable: Public weights are neither in the cache nor can they be downloaded.
        ValueError: There is no such encoder, or it reads other data.
    """
    if source == START:
        return copy.deepcopy(encoder)
    folder = Path(source or "")
    file = next((folder / name for name in FILES if (folder / name).is_file()), folder)
    if source and file.is_file():
        teacher = encoders.load(file)
    elif source and (PUBLIC.match(str(source)) or (folder / "config.json").is_file()):
        channels = 3 if encoder.in_channels == 1 else encoder.in_channels  # most are of colours
        teacher = encoders.pretrained(source, in_channels=channels)
    else:
        raise UserError(f"teacher must be {FORMS}, or {START}, got {source or 'none'}")
    channels, student_channels = getattr(teacher, "in_channels", None), encoder.in_channels
    if teacher.kind != encoder.kind or (
        channels != student_channels and {channels, student_channels} != {1, 3}
    ):
        kind = f"one of {teacher.kind}" if teacher.kind != encoder.kind else f"one with {channels}"
        raise UserError(f"teacher must be an encoder of images with {student_channels} channels, got {kind}")
    return teacher


def described(teacher: Any, source: str, size: int, channels: int) -> str:
    """What a teacher sees of the views of a student, in one line.

    Args:
        teacher: The teacher.
        source: What it is called.
        size: Height and width of the views in pixels.
        channels: Channels of the images.
    """
    theirs = teacher.image_size
    resized = f", resized from {size}" if theirs != size else ""
    parts = [f"the teacher {source} sees views of {theirs} pixels{resized}"]
    if channels != teacher.in_channels:
        parts.append("grey repeated in 3 channels" if channels == 1 else "colours converted to grey")
    adapt = getattr(bare(teacher), "adapt", None)
    if adapt is not None and adapt.input == "color":
        mean, std = (
            ", ".join(f"{number:.3g}" for number in values.tolist()) for values in (adapt.mean, adapt.std)
        )
        parts.append(f"normalised by mean {mean} and deviation {std}")
    return "; ".join(parts)


class Distillation(Method[ImageEncoder]):
    """Learn from a trained encoder which of many images an image resembles, without labels.

    Args:
        encoder: Network whose features are kept, the student: smaller than the teacher, or of the same size for
            self-distillation.
        teacher: Run folder, encoder file, folder with config.json, or public weights such as
            timm:vit_small_patch16_dinov3.lvd1689m, all of which see the student's views at their own size and
            normalisation, as colours or grey as they need; start takes the encoder itself as it is before training,
            which makes sense if it starts from trained weights. [default: none, so it must be given]
        anchors: Number of images with which all others are compared; at most as many as there are.
        temperature: Softmax temperature over the anchors, of teacher and student; higher gives less similar anchors
            more weight.
        **views: How the images are cropped and mirrored, for teacher and student alike.
    """

    view_defaults = ViewOptions(crop=0.2, flip=0.5)
    smallest: ClassVar = {"teacher": "start"}
    mean: Tensor
    anchors: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        *,
        teacher: str | None = None,
        anchors: Several = 2000,
        temperature: Positive = 0.1,
        **views: Unpack[ViewOptions],
    ) -> None:
        super().__init__(encoder)
        self.teacher: Any = load_teacher(teacher, encoder).requires_grad_(False).eval()
        self.most, self.temperature = anchors, temperature
        if teacher != START:
            seen = encoder.image_size, encoder.in_channels
            self.notes.append(described(self.teacher, str(teacher), *seen))
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.head = mlp(encoder.dim, encoder.dim, self.teacher.dim)
        self.register_buffer("mean", torch.zeros(self.teacher.dim))
        self.register_buffer("anchors", torch.zeros(0, self.teacher.dim))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def chance(self, samples: int) -> float:
        return math.log(max(1, len(self.anchors)))

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        batch = data.sample(self.most)
        parts = [
            dict(zip(batch, values)) for values in zip(*(value.split(CHUNK) for value in batch.values()))
        ]
        inputs = (self.encoder.inputs(part).to(self.mean.device) for part in parts)
        features = torch.cat([self.teacher_features(images) for images in inputs])
        self.mean.copy_(features.mean(0))
        self.anchors = F.normalize(features - self.mean, dim=1)

    def teacher_features(self, images: Tensor) -> Tensor:
        """Features of the teacher, float, shape (batch, its dim), for images at the student's size."""
        size, channels = self.teacher.image_size, self.teacher.in_channels
        if images.shape[1] != channels:
            grey = images.new_tensor(LUMA)[:, None, None]
            images = images.expand(-1, 3, -1, -1) if channels == 3 else (images * grey).sum(1, keepdim=True)
        if images.shape[3] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return self.teacher(images).float()

    @torch.no_grad()
    def teacher_vectors(self, images: Tensor) -> Tensor:
        """Centred features of the teacher, unit vectors, float, shape (batch, its dim)."""
        return F.normalize(self.teacher_features(images) - self.mean, dim=1)

    def embed_features(self, features: Tensor) -> Tensor:
        return F.normalize(self.head(features).float(), dim=1)

    def forward(self, batch: Batch) -> Tensor:
        if not len(self.anchors):
            raise UserError("anchors must be chosen first: call prepare(data)")
        images = self.views(batch)
        teacher = similarities(self.teacher_vectors(images), self.anchors)
        student = similarities(self.embed_features(self.encoder(images)), self.anchors)
        accuracy = (teacher.argmax(dim=1) == student.argmax(dim=1)).float().mean()
        self.metrics = {"accuracy": accuracy, "entropy": loss(teacher, teacher, self.temperature)}
        return loss(student, teacher, self.temperature)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        teacher = self.teacher_vectors(images)
        vectors = {"teacher": teacher, "student": self.embed_features(self.encoder(images))}
        nearest = {
            f"most similar to the {name}": images[(own @ teacher.T).fill_diagonal_(-torch.inf).argmax(1)]
            for name, own in vectors.items()
        }
        return {"image": images} | nearest
