"""Which features of an encoder are read: those that the user names, or those that training labels choose.

Test samples play no part: scalings are fitted to training samples without their labels, and a choice is made by
cross-validation on training labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check, methods
from unlabeled.check import UserError
from unlabeled.encoders.image import MAP_NUMBERS
from unlabeled.encoders.readout import (
    OUTPUT,
    REDUCED,
    Readout,
    Spec,
    bare,
    fit_readout,
    fit_scaling,
    pooled,
)
from unlabeled.encoders.readout import SAMPLES as FITTED
from unlabeled.evaluation import logistic
from unlabeled.evaluation.features import Reader, Representation, of_encoder, require_finite, standardization
from unlabeled.evaluation.model import frozen, pick_device
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import knn, layers
from unlabeled.evaluation.sources import Source
from unlabeled.method import Batch, Method
from unlabeled.parts.directions import LARGEST
from unlabeled.parts.maps import blank_maps
from unlabeled.run import Run
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = [
    "CHOOSE",
    "Chooser",
    "candidates",
    "features_reader",
    "named",
    "readout",
    "represented",
    "unscaled",
    "view_size",
]

CHOOSE = "choose"
"""The word that lets training labels choose."""
LAYERS, GRIDS = 6, (1, 2, 4)
"""Most named maps that are tried, evenly from the first to the last, and the grids to which they are averaged."""
LABELS, SAMPLES = 1000, 2000
"""Most labels that one choice looks at, and how many samples beside them say how features vary."""
BATCH = 256


def named(run: Any, features: str | None, directions: str | None = None) -> str | None:
    """The features that are asked for, in one word; None for those that the run or encoder gives.

    Args:
        run: A run, whose method may declare the features that are best for it; a method, or an encoder.
        features: As in `Spec.parse`, or "choose"; None for what the method declares.
        directions: views or contrast, as a scaling in `features`; None as `features` says.

    Raises:
        ValueError: There are no such features or directions, or two scalings.
    """
    own = OUTPUT if features is None else _own(run)
    if features is None:
        features = _declared(run)
        if features is not None and directions is not None:  # what the user says takes precedence
            features = str(Spec.parse(features)._replace(scaling="none", dimensions=None))
    if directions is not None:
        check.choice(("views", "contrast"), directions=directions)
        if features == CHOOSE:
            raise UserError(f"directions must be left out with features choose, got {directions}")
        features = f"{features or OUTPUT}:{directions}"
    if features is None or features == CHOOSE:
        return features
    spec = str(Spec.parse(features))
    return None if spec == OUTPUT == own else spec


def _own(run: Any) -> str:
    """The features that the encoder of a run or method gives, or an encoder itself."""
    encoder = run if isinstance(run, Readout) else getattr(run, "encoder", run)
    return str(encoder.spec) if isinstance(encoder, Readout) else OUTPUT


def _declared(run: Any) -> str | None:
    """What the method of a run declares."""
    if isinstance(run, Run):
        name = run.config.get("method")
        return methods.load(name).readout if name in methods.names() else None
    return run.readout if isinstance(run, Method) else None


def features_reader(
    run: Any,
    features: str | None,
    data: Any,
    *,
    device: str = "auto",
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> "tuple[Encoder, Reader]":
    """A frozen encoder with the features that are asked for, and what reads them from a batch.

    Args:
        run: A run, a method or an encoder.
        features: As in `named`.
        data: As in `readout`.
        device: As in `readout`.
        reading: As in `readout`.
        progress: As in `readout`.

    Raises:
        ValueError: As in `readout`.
    """
    if text := named(run, features):
        encoder = readout(run, text, data, device=device, reading=reading, progress=progress)
        return encoder, of_encoder(encoder)
    return frozen(run, pick_device(device))


def readout(
    run: Any,
    features: str,
    data: Any = None,
    *,
    seed: int = 0,
    device: str = "auto",
    reading: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> "Encoder":
    """An encoder that gives the features that are asked for: `save`, `encoders.load` and `export` take it as any other.

    Args:
        run: A run or its folder, a method or an encoder; it is not changed.
        features: A map or output, a grid, a scaling and a number of dimensions, all but one of which may be omitted, as
            in layer2:2x2:whiten:128 or output:views; or choose, for those by which nearest neighbours predict held-out
            labels best.
        data: What `open_splits` takes; its training part is looked at. None takes what the run was trained on.
        seed: Seed of the samples that are looked at, and of views.
        device: auto, cpu, cuda or mps.
        reading: Further options of `open_data`.
        progress: Called with a line on what was fitted to what.

    Returns:
        The encoder in evaluation mode.

    Raises:
        ValueError: There are no such features, no data, or, to choose, no labels.
    """
    hardware, run = pick_device(device), opened_run(run)
    encoder = bare(frozen(run, hardware)[0])
    text = named(run, features) or OUTPUT
    if text == OUTPUT:
        return encoder
    if data is None:
        data = run.config.get("data", {}).get("source") if isinstance(run, Run) else None
        if not data:
            raise UserError(
                f"data must be named for the features {text}, as its source is not known, got none"
            )
    source = Source.of(run, encoder, data, reading=dict(reading or {}))
    train, _ = source.open().views(encoder, hardware)
    if text == CHOOSE:
        return _chosen(encoder, train, seed, progress)
    spec = Spec.parse(text)
    fitted = fit_readout(encoder, spec, train, seed)
    if progress is not None:
        progress(account(fitted, train))
    return fitted


def account(fitted: Readout, train: "Data") -> str:
    """What features are read and what their scaling was fitted to, in words."""
    spec, numbers = fitted.spec, fitted.config["numbers"][0]
    if spec.scaling == "none":
        return f"the features are {spec}"
    first = f"the first {REDUCED:,} principal components of " if spec.one_unit and numbers > REDUCED else ""
    samples = f"the {len(train):,}" if len(train) <= FITTED else f"{FITTED:,} of the {len(train):,}"
    mirrors = f"; {fitted.notes[-1]}" if spec.scaling in ("views", "contrast") else ""
    return f"the features are {first}{spec}, scaled by {samples} training {train.unit} without their labels{mirrors}"


def _chosen(
    encoder: "Encoder", train: "Data", seed: int, progress: Callable[[str], None] | None
) -> "Encoder":
    """The readout by which neighbours predict held-out labels of a training part best."""
    if train.labels is None or not bool((train.labels >= 0).any()):
        raise UserError(f"data must have labels for features {CHOOSE}, got {train.name} without any")
    train = train.subset(train.labels >= 0)
    assert train.labels is not None
    representation = Representation(OUTPUT, of_encoder(encoder), encoder)
    labels = train.labels.long().unique(return_inverse=True)[1]
    rows, size = torch.arange(len(labels)), view_size(encoder)
    chooser = Chooser(representation, train, labels, int(labels.max()) + 1, [rows], Settings(seed), size)
    picked, words = chooser.pick(rows, "votes")
    assert picked.encoder is not None
    if progress is not None:
        progress(
            f"the {words}, by which neighbours predict held-out labels of {len(labels):,} training {train.unit} best"
        )
    return picked.encoder


@dataclass(frozen=True)
class _Scaled:
    """Reads an input and scales it."""

    reader: Reader
    scale: nn.Module

    def __call__(self, batch: Batch, layer: str | None) -> Tensor:
        return self.scale(self.reader(batch, layer))


def view_size(encoder: "Encoder") -> int | None:
    """Side in pixels of random views; None for encoders of other data than images, which has none."""
    return encoder.config["image_size"] if encoder.kind == "image" else None


def represented(
    representation: Representation, spec: Spec, data: "Data", seed: int, image_size: int | None = None
) -> Representation:
    """A representation whose features are scaled, and, where there is an encoder, those of another map.

    Args:
        representation: Ours or a control; without an encoder, only its scaling changes.
        spec: Which features.
        data: Training samples, to which the scaling is fitted.
        seed: Seed of these and of views.
        image_size: Side in pixels of views for an input without an encoder.
    """
    detail = "; ".join(filter(None, (representation.detail, f"features {spec}")))
    if representation.encoder is not None:
        network = fit_readout(representation.encoder, spec, data, seed)
        fitted = replace(representation, reader=of_encoder(network), encoder=network, one_unit=spec.one_unit)
    elif spec.scaling == "none" or (spec.one_unit and _width(representation, data) > LARGEST):
        return representation
    else:
        read = representation.reader
        scaling, _ = fit_scaling(spec, lambda batch: read(batch, None).float(), data, seed, image_size)
        fitted = replace(representation, reader=_Scaled(read, scaling), one_unit=spec.one_unit)
        detail = "; ".join(filter(None, (representation.detail, f"features {spec.scaling}")))
    return replace(fitted, detail=detail, cache={})


def _width(representation: Representation, data: "Data") -> int:
    return representation.reader(data.batch(torch.arange(1)), None).flatten(1).shape[1]


def candidates(encoder: "Encoder | None") -> list[Spec]:
    """Maps and grids that a choice tries, without scalings, the output last; of an input, the input alone."""
    if encoder is None:
        return [Spec()]
    names = list(encoder.map_dims)
    if len(names) > LAYERS:
        names = [names[round(step * (len(names) - 1) / (LAYERS - 1))] for step in range(LAYERS)]
    if encoder.kind != "image":
        return [*(Spec(name) for name in names), Spec()]
    maps = blank_maps(encoder)  # type: ignore[arg-type]
    return [
        Spec(name, grid)
        for name in names
        for grid in GRIDS
        if grid <= min(maps[name].shape[2:]) and (grid == 1 or maps[name].shape[1] * grid**2 <= MAP_NUMBERS)
    ] + [Spec()]


@torch.no_grad()
def unscaled(representation: Representation, specs: Sequence[Spec], data: "Data") -> dict[Spec, Tensor]:
    """Features of several maps and grids, in one pass over the data, float, shape (samples, numbers) each."""
    encoder, rows = representation.encoder, {spec: [] for spec in specs}
    for batch in data.batches(BATCH):
        if encoder is None:
            rows[specs[0]].append(representation.reader(batch, None).float())
            continue
        network: Any = encoder
        x = network.inputs(batch)
        maps = network.maps(x) if any(spec.grid for spec in specs) else {}
        for spec in specs:
            if spec.grid:
                features = F.adaptive_avg_pool2d(maps[spec.layer], spec.grid).flatten(1)
            else:
                features = pooled(network, x, spec)
            rows[spec].append(features.float())
    features = {spec: torch.cat(parts) for spec, parts in rows.items()}
    for values in features.values():
        require_finite(values, data.unit)
    return features


@dataclass
class Chooser:
    """Chooses features of a representation by training labels: first the map and its grid, then the scaling.

    Attributes:
        representation: Ours or a control.
        train: Training samples.
        labels: Their classes, int64, shape (samples,).
        classes: Number of classes.
        draws: All rows of labels that there will be a choice for.
        settings: Settings of the probes.
        image_size: Side in pixels of views of images; None for other data, which has none.
    """

    representation: Representation
    train: "Data"
    labels: Tensor
    classes: int
    draws: Sequence[Tensor]
    settings: Settings
    image_size: int | None = None
    fitted: dict[Spec, Representation] = field(default_factory=dict, repr=False)
    read: dict[Spec, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.settings.seed)
        order = torch.randperm(len(self.labels), generator=generator)
        self.rank = order.argsort()
        """Samples of a choice are those of the lowest numbers here."""
        rows = torch.cat([order[:SAMPLES], *map(self.limited, self.draws)])
        self.pool = rows.unique()
        """Rows of the training samples whose features are read for choices, in order."""

    def limited(self, rows: Tensor) -> Tensor:
        """At most 1,000 of some rows."""
        rows = rows.cpu()
        return rows[self.rank[rows].argsort()[:LABELS]] if len(rows) > LABELS else rows

    def pick(self, rows: Tensor, by: Literal["votes", "loss"]) -> tuple[Representation, str]:
        """The representation of the features that the labels of some rows choose.

        Args:
            rows: Training samples whose labels may be used, int64, shape (labels,).
            by: What is best on held-out labels: the votes of neighbours, or the loss of a linear classifier.

        Returns:
            The representation, and its features in words.
        """
        rows = self.limited(rows)
        specs = candidates(self.representation.encoder)
        if not self.read:
            self.read = unscaled(self.representation, specs, self.train.subset(self.pool))
        spec, reason = self._best(specs, rows, by)
        if reason != layers.CHOSEN_BY_LABELS:
            return (
                self.representation,
                f"features {spec}, as with one label per class nothing can be held out to choose by",
            )
        # A linear probe standardises what has no unit by itself.
        scalings = ["standardize"] if by == "votes" else []
        if self.read[spec].shape[1] <= LARGEST:
            scalings += ["whiten"] if self.image_size is None else ["whiten", "views"]
        spec, _ = self._best([spec, *(spec._replace(scaling=name) for name in scalings)], rows, by)
        one = self.representation if spec == Spec() else self._scaled(spec)
        return replace(one, detail=self.representation.detail), f"features {spec}"

    def _best(self, specs: list[Spec], rows: Tensor, by: Literal["votes", "loss"]) -> tuple[Spec, str]:
        by_name = {str(spec): spec for spec in specs}
        name, reason = layers.choose(list(by_name), lambda name: self._loss(by_name[name], rows, by))
        return by_name[name], reason

    def _scaled(self, spec: Spec) -> Representation:
        if spec not in self.fitted:
            self.fitted[spec] = represented(
                self.representation, spec, self.train, self.settings.seed, self.image_size
            )
        return self.fitted[spec]

    def _loss(self, spec: Spec, rows: Tensor, by: Literal["votes", "loss"]) -> float:
        """Loss on labels that were held out, NaN where too few leave nothing to hold out."""
        points, one_unit = self.read[spec._replace(scaling="none")], spec.one_unit
        if spec.scaling != "none":
            one = self._scaled(spec)
            fitted: Any = one.reader if one.encoder is None else one.encoder
            points = fitted.scale(points)
        elif self.representation.encoder is None:
            one_unit = self.representation.one_unit
        index = torch.searchsorted(self.pool, rows).to(points.device)
        labels = self.labels[rows.to(self.labels.device)]
        groups = None if self.train.groups is None else self.train.groups[rows]
        mean, scale = standardization(points)
        if one_unit:
            scale = (points - mean).square().mean().sqrt().expand_as(scale)
        kwargs: dict[str, Any] = {"groups": groups, "seed": self.settings.seed}
        if by == "loss":
            return logistic.held_out_loss(
                points[index], labels, self.classes, statistics=(mean, scale), **kwargs
            )
        k, temperature = self.settings.k, self.settings.temperature
        return knn.held_out_errors(
            points[index] - mean, labels, self.classes, k=k, temperature=temperature, **kwargs
        )
