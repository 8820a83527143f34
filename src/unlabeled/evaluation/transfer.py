"""Transfer to labelled images: what the tasks share that train a network on some of them.

A cell is a number of labelled images and a part of the network that is trained. In each, ours starts beside the same
network with random weights, with these rescaled, and where that is asked for pre-trained with labels, and beside the
network of public weights, all with the same images, heads, order and steps. The statistics of batch norms are those of
the target's training images, without their labels, and stay fixed while weights are trained.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image.annotated import AnnotatedImages, AnnotationKind, NoAnnotations
from unlabeled.encoders import ImageEncoder
from unlabeled.evaluation import subsets, verdict
from unlabeled.evaluation.controls import rescaled
from unlabeled.evaluation.intervals import LeftOut, leave_out_each
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.probes import finetune
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.parts.augment import to_float
from unlabeled.progress import report, watched

__all__ = [
    "PICTURES",
    "Learn",
    "Predictions",
    "annotated",
    "choose_maps",
    "draw",
    "fit",
    "limit_training_",
    "measure",
    "open_annotated",
    "side_by_side",
    "start",
]

FINEST = 4
"""Least stride in pixels of the maps that heads see."""
LEARNING_RATE = 1e-3
LARGEST_GRADIENT = 1.0
"""Norm to which gradients are clipped: of few images in a batch, some are all hard."""
PICTURES = 4
"""Test images whose predictions are shown."""
MOST_LEFT_OUT = 200
"""Test images that are left out one by one for intervals; more of them are left out in bundles."""


class Predictions(NamedTuple):
    """What a trained network predicts for the test images.

    Attributes:
        statistics: Scores of some of these images, one for each unit, from rows, int64, shape (rows,).
        by_class: Scores of single classes on all of them by name, one for each unit.
        pictures: Predictions for the first few, float, shape (pictures, 3, height, width); None for none.
    """

    statistics: Callable[[Tensor], list[float]]
    by_class: list[dict[str, float]]
    pictures: Tensor | None = None


Learn = Callable[[ImageEncoder, str, Tensor, int], Predictions]
"""Trains from an encoder, which it may change: a part of it, on some training images, with a seed."""


def open_annotated(source: Source, *kinds: AnnotationKind) -> Parts:
    """Open images with annotations of the first kind that is there.

    Raises:
        ValueError: There are none in one of the parts, or none of a known class.
    """
    for kind in kinds:
        try:
            parts = replace(source, options=source.options | {"annotations": kind}).open()
        except NoAnnotations:
            if kind == kinds[-1]:
                raise
            continue
        for part, data in (("training", parts.train), ("test", parts.test)):
            if not isinstance(data, AnnotatedImages):
                raise UserError(f"data must be images with {' or '.join(kinds)}, got {data}")
            if not (data.present() == 1).any():
                raise UserError(
                    f"data must have {kind} of a known class in its {part} part, got {data.name} with none in "
                    f"{len(data)} images"
                )
        return parts
    raise AssertionError


def draw(images: int, count: int | str, seed: int) -> Tensor:
    """Rows of labelled images; a draw of fewer lies inside that of more with the same seed.

    Args:
        images: Labelled images that there are.
        count: A number, a fraction of them such as "10%", or "all".
        seed: Seed of the draw.

    Raises:
        ValueError: There are fewer.
    """
    quota = images if count == "all" else count
    if isinstance(quota, str):
        quota = max(1, round(float(quota.rstrip("%")) / 100 * images))
    if quota > images:
        raise UserError(f"labels must be at most the {images} labelled training images, got {quota}")
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed))[:quota].msort()


def choose_maps(encoder: ImageEncoder, size: int, names: Sequence[str] = ()) -> dict[str, int]:
    """Maps that heads see, from fine to coarse, each with its stride in pixels.

    Args:
        encoder: An encoder of images.
        size: Height and width in pixels of an image.
        names: Maps to take; empty for the deepest of each stride, from 4 pixels upward where there are such.

    Raises:
        ValueError: There is no such map, or none with several positions.
    """
    check.choice(("image",), encoder=encoder.kind)
    for name in names:
        check.choice(encoder.map_dims, maps=name)
    device = next(encoder.parameters()).device
    with torch.no_grad():
        maps = encoder.maps(torch.zeros(1, encoder.in_channels, size, size, device=device))
    strides = {name: round(size / map_.shape[2]) for name, map_ in maps.items() if min(map_.shape[2:]) > 1}
    if not strides:
        raise UserError(f"encoder must have maps with several positions, got {encoder.config['name']}")
    if names:
        return {name: strides[name] for name in strides if name in names}
    deepest = {stride: name for name, stride in strides.items()}
    coarse = {stride: name for stride, name in deepest.items() if stride >= FINEST}
    return {
        name: stride for stride, name in sorted((coarse or {max(deepest): deepest[max(deepest)]}).items())
    }


def limit_training_(encoder: ImageEncoder, part: str) -> None:
    """Let a part of an encoder learn, in place; all of it stays in evaluation mode, so that norms are fixed.

    Args:
        encoder: The encoder.
        part: "all"; "head" for its fully connected layers, where it has some; or the name of a map, which learns with
            all that comes after it.
    """
    encoder.requires_grad_(True).eval()
    if part == "head":
        encoder.requires_grad_(False)
        encoder.neck.requires_grad_(True)
    elif part != "all":
        names = list(encoder.map_dims)
        for weight in _weights_before(encoder, names[: names.index(part)]):
            weight.requires_grad_(False)


def _weights_before(encoder: ImageEncoder, names: Sequence[str]) -> list[nn.Parameter]:
    """Weights on which a map depends, the last one named."""
    if not names:
        return []
    weights, device = list(encoder.parameters()), next(encoder.parameters()).device
    side = encoder.image_size
    with torch.enable_grad():
        map_ = encoder.maps(torch.zeros(1, encoder.in_channels, side, side, device=device))[names[-1]]
        gradients = torch.autograd.grad(map_.sum(), weights, allow_unused=True)
    return [weight for weight, gradient in zip(weights, gradients) if gradient is not None]


def fit(
    modules: Iterable[nn.Module],
    loss: Callable[[Tensor], Tensor],
    rows: Tensor,
    steps: int,
    batch: int,
    what: str,
) -> None:
    """Train those weights of modules that have gradients, by AdamW, with warm-up and a rate that falls to 0.

    Args:
        modules: What is trained, in place.
        loss: From training images, int64, shape (batch,), to a scalar.
        rows: Training images that may be used, int64, shape (images,).
        steps: Optimizer steps.
        batch: Images in each.
        what: What lines on the progress call it.
    """
    parameters = [group for module in modules for group in finetune.groups(module, LEARNING_RATE)]
    weights = [weight for group in parameters for weight in group["params"]]
    optimizer = torch.optim.AdamW(parameters)
    device = weights[0].device.type
    order = finetune.batches(rows, steps, batch)
    for step, index in enumerate(watched(order, steps, what, "steps")):
        for group in optimizer.param_groups:
            group["lr"] = finetune.rate(step / steps) * group["peak"]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss(index)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
        optimizer.step()


def measure(
    model: EvaluatedModel,
    parts: Parts,
    task: str,
    units: Sequence[str],
    learn: Learn,
    *,
    train: Sequence[str] = ("all",),
    frozen: bool = False,
    detail: str = "",
    controls: Mapping[str, Predictions] | None = None,
    truth: Tensor | None = None,
) -> Iterator[Measurement]:
    """Measure all cells of a task, the fewest labels first, each network as soon as it is trained.

    Args:
        model: What is measured.
        parts: Annotated images.
        task: Name of the task.
        units: What its scores are called, the main one first.
        learn: Trains and predicts.
        train: Parts that are trained where none is named.
        frozen: Whether frozen is one of them.
        detail: Settings that all scores depend on.
        controls: Predictions that need no training, by name.
        truth: Pictures of the answers, as `Predictions` has them.

    Raises:
        ValueError: A part or a number of labels is not there.
    """
    images, test = annotated(parts)
    names = [*model.transfer.train] or [*train]
    for name in names:
        check.choice((*(["frozen"] if frozen else []), "head", "all", *model.encoder.map_dims), train=name)
    counts = subsets.counts(model.transfer.labels, "labels")
    for count in counts:
        draw(len(images), count, 0)
    for count in counts:
        for part in names:
            column = {"layer": layer_name(part), "labels_per_class": count, "detail": detail}
            column |= {"labels": len(draw(len(images), count, 0))}
            untrained = {name: [one] for name, one in (controls or {}).items()}
            for features, predictions in _by_network(model, images, task, count, part, learn, untrained):
                measurements = _measurements(task, features, units, predictions, test, column)
                _report(model, features, measurements[0])
                if truth is not None and (shown := predictions[0].pictures) is not None:
                    pictures = {"true": truth, features: shown}
                    measurements[0] = replace(measurements[0], pictures=pictures)
                yield from measurements


def annotated(parts: Parts) -> tuple[AnnotatedImages, AnnotatedImages]:
    """Training and test images."""
    train, test = parts.train, parts.test
    assert isinstance(train, AnnotatedImages) and isinstance(test, AnnotatedImages)
    return train, test


def layer_name(part: str) -> str:
    """What tables call a part that is trained."""
    return {"all": "all layers", "head": "head only"}.get(
        part, part if part == "frozen" else f"{part} and up"
    )


def _by_network(
    model: EvaluatedModel,
    images: AnnotatedImages,
    task: str,
    count: int | str,
    part: str,
    learn: Learn,
    untrained: Mapping[str, list[Predictions]],
) -> Iterator[tuple[str, list[Predictions]]]:
    """Predictions of each network by all seeds, ours first, so that the first line answers the question."""
    yield from untrained.items()
    untrained_twins = ("random", "rescaled") if model.controlled else ()
    for features in (verdict.OURS, *untrained_twins, *model.others):
        other = model.others.get(features)
        if other is not None and part not in ("frozen", "head", "all", *other.map_dims):
            report(f"the control {features} is skipped: its network has no map {part}")
            continue
        predictions = []
        for seed in range(model.seed, model.seed + model.transfer.seeds):
            encoder = start(model, features, images, seed)
            if encoder is None:
                break
            report(f"{_place(model, features, task, count)}, {layer_name(part)}, seed {seed}")
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    predictions.append(learn(encoder, part, draw(len(images), count, seed), seed))
            except UserError as error:
                if other is None:
                    raise
                report(f"the control {features} is skipped: {error}")  # such as maps that its network lacks
                break
        if predictions:
            yield features, predictions


def start(model: EvaluatedModel, features: str, images: AnnotatedImages, seed: int) -> ImageEncoder | None:
    """A network to start from: a copy of ours, or the same with random weights; None where it has none of a kind."""
    encoder: Any = copy.deepcopy(model.encoder).to(model.device)
    data = images.to(model.device)
    if features in model.others:
        return copy.deepcopy(model.others[features]).to(model.device)  # type: ignore[return-value]
    if features == "random":
        return EvaluatedModel(encoder, seed=seed, device=model.device).untrained(data)  # type: ignore[return-value]
    if features == "rescaled":
        control = rescaled.make(encoder, data, seed)
        return None if control is None else control.encoder  # type: ignore[return-value]
    return encoder


def _measurements(
    task: str,
    features: str,
    units: Sequence[str],
    predictions: Sequence[Predictions],
    test: AnnotatedImages,
    column: Mapping[str, Any],
) -> list[Measurement]:
    """Scores of one network, with intervals over the test images and the seeds."""
    by_seed = [
        leave_out_each(one.statistics, len(test), test.groups, most=MOST_LEFT_OUT) for one in predictions
    ]
    measurements = []
    for number, unit in enumerate(units):
        values = torch.tensor([[whole[number]] for whole, _ in by_seed], dtype=torch.double)
        first = by_seed[0][1][number]
        without = torch.stack([left[number].values for _, left in by_seed]).mean(0)
        classes = {
            name: sum(one.by_class[number][name] for one in predictions) / len(predictions)
            for name in predictions[0].by_class[number]
        }
        measurements.append(
            Measurement(
                task, features, values, unit=unit, bounds=(0.0, 1.0), samples=len(test), by_class=classes,
                left_out=LeftOut(without, first.fractions, first.units), counted=_counted(test),
                **column,
            )
        )  # fmt: skip
    return measurements


def _place(model: EvaluatedModel, features: str, task: str, count: int | str) -> str:
    """What lines on the progress are about."""
    called = model.name if features == verdict.OURS else verdict.name(features)
    return f"{task}, {count} labelled images, {called}"


def _report(model: EvaluatedModel, features: str, main: Measurement) -> None:
    place = _place(model, features, main.probe, main.labels_per_class)
    report(f"{place}: {main.unit} {float(main.values.mean()):.3f}")


def side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of several sizes as one tensor, white where one ends, float, shape (pictures, 3, height, width).

    Args:
        pictures: uint8, shape (3, height, width) each.
    """
    height, width = (max(picture.shape[side] for picture in pictures) for side in (1, 2))
    padded = [
        nn.functional.pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1]), value=255)
        for picture in pictures
    ]
    return to_float(torch.stack(padded))


def _counted(test: AnnotatedImages) -> str:
    return "test images" if test.groups is None else group_unit(test)
