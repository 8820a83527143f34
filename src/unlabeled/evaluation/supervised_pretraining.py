"""Pre-training with labels: what pre-training without them is measured against.

The same network learns the classes of the same images for as many steps of as many images, under the same random views,
from other random weights; the learning rate is the default for the batch size.
"""

from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.encoders.readout import bare
from unlabeled.evaluation.twins import untrained
from unlabeled.method import VIEWS_OFF, Batch, Method
from unlabeled.options import ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.run import CHECKPOINT, Run, load, read_position
from unlabeled.training.train import pretrain

__all__ = ["NoLabels", "Supervised", "beside", "classes_of", "is_finished"]

SHARED = (
    "batch_size",
    "accumulate",
    "holdout",
    "seed",
    "device",
    "precision",
    "group",
    "label",
    "store_size",
    "levels",
)
"""Run settings that both trainings have in common, besides the steps."""


class NoLabels(UserError):
    """The data has no labels to pre-train with."""


class Supervised(Method[ImageEncoder]):
    """Learn the classes of images: no method of the library, as it sees labels, but trained by the same loop.

    Args:
        encoder: Network whose features are kept.
        **views: How the views are drawn.
    """

    defaults: ClassVar[dict[str, Any]] = {"batch_size": 64}
    held_out = "undefined"  # labels are known by the rows of the training samples
    view_defaults = ViewOptions(crop=0.5, jitter=0.0, gray=0.0, blur=0.0, solarize=0.0, flip=0.5, degrees=0.0)
    labels: Tensor

    def __init__(self, encoder: ImageEncoder, **views: Unpack[ViewOptions]) -> None:
        super().__init__(encoder)
        self.views = Views(encoder.image_size, **self.view_options(views))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64), persistent=False)

    def prepare(self, data: Data) -> None:
        classes = classes_of(data)
        assert data.labels is not None
        self.labels = torch.searchsorted(classes, data.labels).where(data.labels >= 0, -1)
        self.classifier = nn.Linear(self.encoder.dim, len(classes))

    def forward(self, batch: Batch) -> Tensor:
        labels = self.labels[batch["index"]]
        logits = self.classifier(self.encoder(self.views(batch)))
        known = labels >= 0
        right = (logits.argmax(1) == labels).sum()
        self.metrics = {"accuracy": right / known.sum().clamp(min=1)}
        return gather.mean(F.cross_entropy(logits, labels, ignore_index=-1, reduction="none"), known)

    def chance(self, samples: int) -> float:
        fractions = self.labels[self.labels >= 0].bincount() / (self.labels >= 0).sum()
        return float(torch.special.entr(fractions).sum())


def classes_of(data: Data) -> Tensor:
    """Numbers of the classes that data has labels of, int64, rising.

    Raises:
        NoLabels: There are fewer than two.
    """
    classes = torch.zeros(0) if data.labels is None else data.labels[data.labels >= 0].unique()
    if len(classes) < 2:
        raise NoLabels(
            f"data must have labels of at least 2 classes to pre-train with labels, got {data.name} with {len(classes)}"
        )
    return classes


def is_finished(folder: Path, steps: int) -> bool:
    """Whether a folder holds a run that was trained for so many steps."""
    file = folder / CHECKPOINT
    return file.is_file() and read_position(file)["step"] >= steps


def beside(run: Run, data: Any, out: Path, **settings: Any) -> Run:
    """Pre-train the network of a run with labels, or continue to: on the same images, with the same budget and views.

    Args:
        run: A finished run of a method for images.
        data: What it was trained on, with labels.
        out: Folder of the new run.
        **settings: Run settings that differ.

    Raises:
        NoLabels: The data has no labels of two classes.
        ValueError: The method is not for images.
    """
    known = run.config["settings"]
    options = {
        name: value for name, value in run.config["options"].items() if name in ViewOptions.__annotations__
    }
    views = {**VIEWS_OFF, **options} if options else {}
    settings = {name: known[name] for name in SHARED if name in known} | {"steps": run.step} | settings
    if is_finished(out, settings["steps"]):
        return load(out)
    encoder = untrained(bare(run.encoder), settings["seed"])
    if not isinstance(encoder, ImageEncoder):
        raise UserError(f"method must be for images to pre-train with labels too, got {run.config['method']}")
    return pretrain(
        Supervised(encoder, **views), data, out=out, resume=(out / CHECKPOINT).exists(), **settings
    )
