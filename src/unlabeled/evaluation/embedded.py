"""Data with the features of all its samples: what curation and the page of `explore` work on."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data import opening
from unlabeled.data.labels import in_order
from unlabeled.data.samples import unread
from unlabeled.evaluation import readouts
from unlabeled.evaluation.features import read
from unlabeled.evaluation.model import pick_device
from unlabeled.evaluation.sources import Source
from unlabeled.run import load

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["AUTO", "Embedded", "Part", "embedded", "model"]

AUTO = "auto"
"""Trains what `pretrain auto` chooses on the data itself."""


@dataclass(frozen=True)
class Part:
    """One split of the data.

    Attributes:
        split: Its name; "all" where there are no splits.
        data: Its samples as they were opened.
        view: The same samples as the encoder reads them.
    """

    split: str
    data: "Data"
    view: "Data"


@dataclass(frozen=True)
class Embedded:
    """Samples and their features.

    Attributes:
        name: What the data is called.
        parts: The splits that were read, one after the other.
        features: Float32, shape (samples, dim), on the CPU.
        other_splits: Splits of the source that were not read.
    """

    name: str
    parts: list[Part]
    features: Tensor
    other_splits: tuple[str, ...] = ()

    @property
    def data(self) -> "Data":
        """The samples of the only part."""
        (part,) = self.parts
        return part.data

    @property
    def kind(self) -> str:
        """Kind of the data as it was opened."""
        return self.parts[0].data.kind

    @property
    def paths(self) -> list[str]:
        """Where each sample came from."""
        return [path for part in self.parts for path in part.data.paths]

    @property
    def labels(self) -> list[str | None]:
        """Class of each sample by name, else number; None where it has none."""
        return [label for part in self.parts for label in part.data.class_names()]

    @property
    def classes(self) -> list[str]:
        """Names of the classes that occur, in their order."""
        return in_order({label for label in self.labels if label is not None})

    @property
    def splits(self) -> list[str]:
        """Split of each sample."""
        return [part.split for part in self.parts for _ in range(len(part.data))]


def model(
    run: Any,
    data: Any,
    *,
    out: Path,
    seed: int = 0,
    device: str = "auto",
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Any:
    """What computes features: a run, an encoder, weights by name, or a run that is trained for the purpose.

    Args:
        run: A run or its folder, a method, an encoder; hub:OWNER/NAME; weights as timm:NAME, torchvision:NAME,
            hf:OWNER/NAME or a file; or "auto", which trains what `pretrain auto` chooses on the data.
        data: What `open_data` takes.
        out: Folder of the run that "auto" trains, or resumes.
        seed: Its seed.
        device: auto, cpu or cuda.
        reading: Further options of `open_data`.
        progress: Called with a line on what is trained or loaded.

    Raises:
        ValueError: There is no such run, and there are no such weights.
    """
    opening.refuse_missing(data)
    if not isinstance(run, str | os.PathLike):
        return run
    name = os.fspath(run)
    if name == AUTO:
        from unlabeled.training.train import pretrain

        if progress is not None:
            progress(f"training on the data without labels, in {out}")
        words = {key: value for key, value in (reading or {}).items() if value is not None}
        # Devices that evaluation does not take, such as mps, are not chosen either.
        place = str(pick_device(device))
        return pretrain(
            AUTO, data, out=out, resume=out.exists(), seed=seed, device=place, quiet=True, **words
        )
    if name.startswith("hub:") or Path(name).is_dir():
        return load(name)
    if ":" in name or Path(name).is_file():
        from unlabeled.encoders import pretrained

        return pretrained(name, opening.kind_of(data))
    forms = "a run, auto, or weights such as timm:NAME, torchvision:NAME or hf:OWNER/NAME"
    siblings = os.listdir(Path(name).parent) if Path(name).parent.is_dir() else []
    near = check.near(name, [AUTO, *(str(Path(name).parent / sibling) for sibling in siblings)])
    raise UserError(f"run must be {forms}, got {name}{near}")


def embedded(
    run: Any,
    data: Any,
    *,
    features: str | None = None,
    whole: bool = True,
    device: str = "auto",
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Embedded:
    """Open data and compute the features of its samples.

    Args:
        run: A run, a method or an encoder.
        data: What `open_data` takes.
        features: As in `evaluate`.
        whole: Whether all splits are read, one after the other; else what `pretrain` would read: the training part.
        device: auto, cpu or cuda.
        reading: Further options of `open_data`; None takes those of the run.
        progress: Called with a line on features that are fitted, and on files that cannot be read.

    Raises:
        ValueError: There is no such data, or the encoder reads other samples of it, such as clips.
    """
    hardware = pick_device(device)
    encoder, reader = readouts.features_reader(
        run, features, data, device=device, reading=reading, progress=progress
    )
    source = Source.of(run, encoder, data, reading=reading)
    openers = opening.parts(data, **source.options)
    names = list(openers) if whole else ["train" if "train" in openers else next(iter(openers))]
    parts, rows = [], []
    for name in names:
        samples = openers[name]()
        if progress is not None and (line := unread(samples.skipped)):
            progress(line)
        view = encoder.evaluation_view(samples)
        if len(view) != len(samples):
            raise UserError(
                f"data must be read a sample at a time, got {len(view):,} {view.unit} of {len(samples):,} "
                f"{samples.unit} for {type(encoder).__name__}"
            )
        parts.append(Part(name, samples, view))
        rows.append(read(lambda batch: reader(batch, None), view.to(hardware)).cpu())
    others = tuple(name for name in openers if name not in names)
    return Embedded(opening.called(data), parts, torch.cat(rows), others)
