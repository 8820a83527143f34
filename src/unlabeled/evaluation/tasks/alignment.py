"""The same moment in another camera: whether the most similar frame of that camera shows it.

For each frame of one camera its nearest neighbour among the frames of another camera of the same scene is looked up;
the error is how far in time that lies, as a fraction of the scene's length: 0 is perfect, 1/3 is chance. Kendall's tau
says whether these neighbours follow each other in time: 1 always, 0 by chance. Across scenes the same is done between
the two scenes of a pair seen by the same camera, where `progress`, if it is a factor of the data, says how far a frame
is, else its fraction of the scene's length.
"""

from typing import Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.cameras import Scenes
from unlabeled.data.groups import joined
from unlabeled.evaluation.frame_readers import FrameReader, frame_readers
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.progress import watched

__all__ = ["CHANCE", "TASK", "alignment_error", "kendall_tau", "measure", "nearest"]

CHANCE = 1 / 3
"""Error of neighbours drawn uniformly, in long scenes."""
ACROSS = "error across scenes"


def nearest(first: Tensor, second: Tensor) -> Tensor:
    """Nearest neighbours of each frame among the frames of another film.

    Args:
        first: Embeddings, float, shape (frames, dim).
        second: Embeddings, float, shape (other frames, dim).

    Returns:
        Weight of each frame of the other film: 1 for the nearest one, which equally near ones share, so that a film in
        which nothing moves scores at chance. float64, shape (frames, other frames).
    """
    distances = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
    best = (distances <= distances.amin(1, keepdim=True) * (1 + 1e-6)).double()
    return best / best.sum(1, keepdim=True)


def alignment_error(
    first: Tensor, second: Tensor, here: Tensor | None = None, there: Tensor | None = None
) -> Tensor:
    """How far the nearest neighbours are from the right frames.

    Args:
        first: Embeddings of a film, float, shape (frames, dim).
        second: Embeddings of another film, float, shape (other frames, dim).
        here: How far the first film is at each frame, in 0..1, shape (frames,); None counts frames.
        there: The same of the second film.

    Returns:
        Mean distance, in 0..1, scalar.
    """
    here = torch.arange(len(first)) / len(first) if here is None else here
    there = torch.arange(len(second)) / len(second) if there is None else there
    distance = (here.double()[:, None] - there.double()).abs()
    return (nearest(first, second) * distance).sum(1).mean()


def kendall_tau(order: Tensor) -> Tensor:
    """Fraction of the pairs that rise minus the fraction of those that fall.

    Args:
        order: Numbers, shape (frames,), at least 2.

    Returns:
        Scalar in -1..1.
    """
    rises = (order[None] - order[:, None]).sign().triu(1)
    return rises.sum().double() * 2 / (len(order) * (len(order) - 1))


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Alignment on the test scenes: ours, the method's embedding, raw pixels and random twins.

    Args:
        model: What is measured; the embedding that the method compares is measured where it has one.
        parts: Scenes.

    Returns:
        Errors and Kendall's tau, one number for each scene.

    Raises:
        ValueError: The data is not of several cameras, or there is only one camera and one scene.
    """
    scenes: Any = parts.require_test("cameras", "alignment")
    measurements = []
    for reader in frame_readers(model, parts):
        films = _films(scenes, reader)
        values = _between_cameras(films) if scenes.cameras > 1 else {}
        values |= _across_scenes(films, scenes) if len(scenes) > 1 else {}
        measurements += [_measurement(reader, unit, scores, scenes) for unit, scores in values.items()]
    if not measurements:
        raise UserError(f"data must have two cameras or two scenes, got one of each in {scenes.name}")
    return measurements


def _measurement(reader: FrameReader, unit: str, values: Tensor, scenes: Scenes) -> Measurement:
    tau = unit.startswith("Kendall")
    groups, counted = scenes.groups, "scenes" if scenes.groups is None else group_unit(scenes)
    if unit == ACROSS:
        groups, counted = _pairs(len(scenes)), "scene pairs"
        if scenes.groups is not None:  # pairs that share a group are no more independent than it is
            groups = joined(groups, scenes.groups)
    return Measurement(
        "alignment", reader.features, values[None], layer=reader.layer, detail=reader.detail, unit=unit,
        better="higher" if tau else "lower", groups=groups, counted=counted, bounds=(-1.0 if tau else 0.0, 1.0),
    )  # fmt: skip


def _films(scenes: Scenes, reader: FrameReader) -> list[list[Tensor]]:
    """Embeddings of every film, float, shape (frames, dim), by scene and camera."""
    films = []
    lengths = watched(scenes.lengths.tolist(), len(scenes), "alignment", "scenes")
    for row, length in enumerate(lengths):
        views = scenes.batch(torch.tensor([row]))["views"][0]
        films.append(list(reader.embed(views.flatten(0, 1)).split(length)))
    return films


def _between_cameras(films: list[list[Tensor]]) -> dict[str, Tensor]:
    """Means over all ordered pairs of cameras, by unit, float, shape (scenes,)."""
    errors, taus = [], []
    for cameras in films:
        pairs = [(one, other) for one in cameras for other in cameras if one is not other]
        errors.append(torch.stack([alignment_error(*pair) for pair in pairs]).mean())
        weights = [nearest(*pair) for pair in pairs]
        orders = [weight @ torch.arange(weight.shape[1]).double() for weight in weights]
        taus.append(torch.stack([kendall_tau(order) for order in orders]).mean())
    return {"error between cameras": torch.stack(errors), "Kendall's tau between cameras": torch.stack(taus)}


def _across_scenes(films: list[list[Tensor]], scenes: Scenes) -> dict[str, Tensor]:
    """Mean over the cameras of each scene against the same camera of another, float, shape (scenes,).

    Scenes are compared within pairs, the last three with each other where their number is odd, so that pairs are
    independent.
    """
    progress = scenes.factors.get("progress")
    if progress is not None and progress.ndim == 1:  # of the whole scene: nothing about its frames
        progress = None
    if progress is not None and not progress.isfinite().all():
        raise UserError(f"progress of {scenes.name} must be finite, got NaN or infinity")

    def time(row: int) -> Tensor:
        length = int(scenes.lengths[row])
        return torch.arange(length) / length if progress is None else progress[row, :length]

    errors, groups = [], _pairs(len(films)).tolist()
    for row, group in enumerate(groups):
        other = row + 1 if groups[row + 1 : row + 2] == [group] else groups.index(group)
        pairs = zip(films[row], films[other])
        errors.append(torch.stack([alignment_error(*pair, time(row), time(other)) for pair in pairs]).mean())
    return {ACROSS: torch.stack(errors)}


def _pairs(scenes: int) -> Tensor:
    """Pair of each scene, int64, shape (scenes,); the last of an odd number joins the pair before it."""
    return (torch.arange(scenes) // 2).clamp_max(max(0, scenes // 2 - 1))


def _open(source: Source) -> Parts:
    return source.of_kind("cameras").open(whole=True)


TASK = Task(measure, _open)
