"""Task `alignment`: whether the frame that looks most alike to another camera is the one of the same moment.

For each frame of one camera its nearest neighbour among the frames of another camera of the same scene is looked up;
the error is how far in time that lies, as a share of the scene's length: 0 is perfect, 1/3 is guessing. Kendall's tau
tells whether these neighbours follow each other in time: 1 always, 0 by chance. Across scenes the same is done between
the two scenes of a pair seen by the same camera, where `progress`, if it is a factor of the data, tells how far a frame
is, else its share of the scene's length.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data, open_splits
from unlabeled.data.cameras import Scenes
from unlabeled.data.groups import joined
from unlabeled.evaluation.features import of_encoder
from unlabeled.evaluation.scores import Measurement, of_groups
from unlabeled.method import Batch, Method

if TYPE_CHECKING:
    from unlabeled.evaluation.tasks import Subject

__all__ = ["CHANCE", "alignment_error", "kendall_tau", "measure", "nearest"]

CHANCE = 1 / 3
"""Error of neighbours drawn uniformly, in long scenes."""
ACROSS = "error across scenes"
FRAMES = 256
"""Frames that are read at once."""

Reader = Callable[[Batch], Tensor]


def nearest(first: Tensor, second: Tensor) -> Tensor:
    """Nearest neighbours of each frame among the frames of another film.

    Args:
        first: Embeddings, float, shape (frames, dim).
        second: Embeddings, float, shape (other frames, dim).

    Returns:
        Share of each frame of the other film, which is 1 for the nearest one; equally near ones share it, so that a
        film in which nothing moves scores as guessing does. float64, shape (frames, other frames).
    """
    distances = torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")
    best = (distances <= distances.amin(1, keepdim=True) * (1 + 1e-6)).double()
    return best / best.sum(1, keepdim=True)


def alignment_error(
    first: Tensor, second: Tensor, here: Tensor | None = None, there: Tensor | None = None
) -> Tensor:
    """How far from the right one the nearest neighbours are.

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
    away = (here.double()[:, None] - there.double()).abs()
    return (nearest(first, second) * away).sum(1).mean()


def kendall_tau(order: Tensor) -> Tensor:
    """Share of the pairs that rise less the share of those that fall.

    Args:
        order: Numbers, shape (frames,), at least 2.

    Returns:
        Scalar in -1..1.
    """
    rises = (order[None] - order[:, None]).sign().triu(1)
    return rises.sum().double() * 2 / (len(order) * (len(order) - 1))


def measure(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Alignment on the test scenes: ours, the method's embedding, raw pixels and random twins.

    Args:
        subject: What is measured; the embedding that the method compares is judged where it has one.
        data: What the user named, or opened scenes.
        seed: Not used: nothing is drawn.
        device: Where to compute.

    Returns:
        Errors and Kendall's tau, one number for each scene.

    Raises:
        ValueError: The data is not of several cameras, or there is but one camera and one scene.
    """
    train, test = _scenes(data)
    encoder, method = subject.encoder.to(device), subject.method
    # Where no other scenes are known the norms of the control see those that are measured, without any answer.
    known = (test if train is None else train).to(device)
    readers: list[tuple[str, str | None, str, Reader]] = [
        ("unlabeled", None, "vector of the encoder", _of(encoder)),
        ("raw", None, encoder.raw_detail, encoder.raw),
        ("random", None, "vector of the encoder", _of(subject.untrained(encoder.evaluation_view(known)))),
    ]
    if method is not None and type(method).embedding is not Method.embedding:
        twin = subject.untrained_method(known)
        assert twin is not None
        readers += [
            ("unlabeled", "embedding", "what the loss compares", method.to(device).embedding),
            ("raw", "embedding", encoder.raw_detail, encoder.raw),
            ("random", "embedding", "what the loss compares", twin.to(device).embedding),
        ]
    measured = []
    for features, layer, detail, reader in readers:
        films = _films(test, reader, device)
        found = _between_cameras(films) if test.cameras > 1 else {}
        found |= _across_scenes(films, test) if len(test) > 1 else {}
        for unit, values in found.items():
            better = "higher" if unit.startswith("Kendall") else "lower"
            groups, counted = test.groups, "scenes" if test.groups is None else of_groups(test)
            if unit == ACROSS:
                groups, counted = _pairs(len(test)), "scene pairs"
                if test.groups is not None:  # pairs that share a group are no more independent than it is
                    groups = joined(groups, test.groups)
            measured.append(
                Measurement(
                    "alignment",
                    layer,
                    "all",
                    features,
                    values[None],
                    detail,
                    unit,
                    better,
                    groups=groups,
                    counted=counted,
                    bounds=(-1.0 if better == "higher" else 0.0, 1.0),
                )
            )
    if not measured:
        raise UserError(f"data must have two cameras or two scenes, got one of each in {test.name}")
    return measured


def _of(encoder: Any) -> Reader:
    read = of_encoder(encoder)
    return lambda batch: read(batch, None)


def _scenes(data: Any) -> tuple[Scenes | None, Scenes]:
    """Training scenes, where there are any beside those to be measured, and the scenes to be measured."""
    if isinstance(data, Data):
        data = (None, data)
    train, test = data if isinstance(data, tuple) else open_splits(data, kind="cameras")
    if not isinstance(test, Scenes):
        raise UserError(f"data must be of kind cameras for alignment, got {test.kind}")
    return train, test  # type: ignore[return-value]


@torch.no_grad()
def _films(scenes: Scenes, reader: Reader, device: torch.device) -> list[list[Tensor]]:
    """Embeddings of every film, float, shape (frames, dim), by scene and camera."""
    films = []
    for row, length in enumerate(scenes.lengths.tolist()):
        views = scenes.batch(torch.tensor([row]))["views"][0]
        parts = [reader({"image": part.to(device)}).flatten(1) for part in views.flatten(0, 1).split(FRAMES)]
        films.append(list(torch.cat(parts).float().cpu().split(length)))
    return films


def _pairs(scenes: int) -> Tensor:
    """Pair of each scene, int64, shape (scenes,); a last one that is left over joins the pair before it."""
    return (torch.arange(scenes) // 2).clamp_max(max(0, scenes // 2 - 1))


def _between_cameras(films: list[list[Tensor]]) -> dict[str, Tensor]:
    """Means over all ordered pairs of cameras, by unit, float, shape (scenes,)."""
    errors, taus = [], []
    for cameras in films:
        pairs = [(one, other) for one in cameras for other in cameras if one is not other]
        errors.append(torch.stack([alignment_error(*pair) for pair in pairs]).mean())
        orders = [
            share @ torch.arange(share.shape[1]).double() for share in (nearest(*pair) for pair in pairs)
        ]
        taus.append(torch.stack([kendall_tau(order) for order in orders]).mean())
    return {"error between cameras": torch.stack(errors), "Kendall's tau between cameras": torch.stack(taus)}


def _across_scenes(films: list[list[Tensor]], scenes: Scenes) -> dict[str, Tensor]:
    """Mean over the cameras of each scene against the same camera of another, float, shape (scenes,).

    Scenes are compared within pairs, three where one is left over, so that pairs are independent of each other.
    """
    progress = scenes.factors.get("progress")
    if progress is not None and progress.ndim == 1:  # of the whole scene: nothing about its frames
        progress = None
    if progress is not None and not progress.isfinite().all():
        raise UserError(f"progress of {scenes.name} must be finite, got NaN or infinity")

    def far(row: int) -> Tensor:
        length = int(scenes.lengths[row])
        return torch.arange(length) / length if progress is None else progress[row, :length]

    errors, groups = [], _pairs(len(films)).tolist()
    for row, group in enumerate(groups):
        after = row + 1 if groups[row + 1 : row + 2] == [group] else groups.index(group)
        pairs = zip(films[row], films[after])
        errors.append(torch.stack([alignment_error(*pair, far(row), far(after)) for pair in pairs]).mean())
    return {ACROSS: torch.stack(errors)}
