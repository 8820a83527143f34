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
from unlabeled.encoders.readout import Readout, bare, fit_readout, one_unit
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.model import frozen
from unlabeled.evaluation.sources import Parts
from unlabeled.evaluation.twins import untrained
from unlabeled.method import VIEWS_OFF, Batch, Method
from unlabeled.options import ViewOptions
from unlabeled.parts import gather
from unlabeled.parts.augment import Views
from unlabeled.progress import report
from unlabeled.run import CHECKPOINT, Run, load, read_position
from unlabeled.training.train import pretrain

__all__ = [
    "WITH_LABELS",
    "NoLabels",
    "NoTwin",
    "Supervised",
    "account",
    "beside",
    "classes_of",
    "is_finished",
    "of_run",
    "representation",
]

WITH_LABELS = "supervised_pretraining"
"""Name of the control, and of the folder inside that of a run in which it is trained."""
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


class NoTwin(UserError):
    """There is nothing to pre-train with labels as a run was pre-trained without."""


class NoLabels(NoTwin):
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
        return load(out, run.network)
    encoder = untrained(bare(run.encoder), settings["seed"])
    if not isinstance(encoder, ImageEncoder):
        raise UserError(f"method must be for images to pre-train with labels too, got {run.config['method']}")
    return pretrain(
        Supervised(encoder, **views), data, out=out, resume=(out / CHECKPOINT).exists(), **settings
    )


def of_run(run: Any) -> Run:
    """The twin of a run, in a folder inside that of the run: trained there once, and continued after an interruption.

    Raises:
        NoTwin: What is evaluated is no run for images, or its images are not known by a name or have no labels.
    """
    if not isinstance(run, Run) or run.at is not None or run.step is None:
        raise NoTwin("it needs a run of pretrain, whose steps and images are known")
    source = run.config.get("data", {}).get("source")
    if run.kind != "image" or not isinstance(bare(run.encoder), ImageEncoder):
        raise NoTwin(f"it is for images, and the run was trained on data of kind {run.kind}")
    if not source:
        raise NoTwin("the run was trained on data that was opened before, which its folder does not name")
    out = run.results_folder / WITH_LABELS
    if not is_finished(out, run.step):
        report(f"supervised pre-training for {run.step:,} steps on {source}, once for this run, in {out}")
    return beside(run, source, out, quiet=True)


def representation(
    twin: Run, encoder: Any, data: Data, seed: int, device: torch.device | None = None
) -> Representation:
    """The features of a twin, read as those of the encoder that it stands beside.

    Args:
        twin: As `of_run` gives it.
        encoder: The encoder, perhaps with features that are fitted without labels.
        data: Training samples as it reads them.
        seed: Seed of that fit.
        device: Where to compute; None for that of the data.
    """
    network, _ = frozen(bare(twin.encoder), data.device if device is None else device)
    detail = f"{twin.step:,} steps with labels"
    if isinstance(encoder, Readout):
        network = fit_readout(network, encoder.spec, data, seed)
        detail += f", features {encoder.spec}"
    return Representation(
        WITH_LABELS, of_encoder(network), network, one_unit=one_unit(network), detail=detail
    )


def account(run: Run, twin: Run, parts: Parts) -> dict[str, str]:
    """What a reader must know of a twin: a `note` without full stop, or nothing.

    Args:
        run: The run without labels.
        twin: Its twin.
        parts: What both are evaluated on.
    """
    own, theirs, notes = run.digests, twin.digests, []
    if own is not None and theirs is not None and not torch.equal(own, theirs):
        notes.append("supervised pre-training saw other images than the run, whose data has changed since")
    for part, data in (("training", parts.train), ("test", parts.test)):
        if theirs is None or data is None:
            continue
        if count := int(torch.isin(data.digests(), theirs).sum()):
            number = "all" if count == len(data) else f"{count:,} of the {len(data):,}"
            notes.append(f"supervised pre-training saw the labels of {number} {part} {data.unit}")
    return {"note": "; ".join(notes)} if notes else {}
