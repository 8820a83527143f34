"""Task `propagation`: the masks of a video's first frame are carried to all others by likeness of features.

Every place of a frame takes the labels of the places most like it in the first frame and in a few frames before; no
weight is learned. Scores are those of DAVIS (https://davischallenge.org): region similarity J, contour accuracy F and
their mean, for each object over all frames but the first and the last, then over the objects of all videos. The size of
the frames alone moves them by several points, so it stands beside every number.

Controls: the first mask copied unmoved, the same network with random weights, and the pixels that the network sees.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.video.films import VOID, Film, films
from unlabeled.evaluation import controls, tracking
from unlabeled.evaluation.scores import Measurement, of_groups
from unlabeled.evaluation.tracking import Settings
from unlabeled.parts.places import survey

if TYPE_CHECKING:
    from unlabeled.encoders import ImageEncoder
    from unlabeled.evaluation.tasks import Subject

__all__ = ["Settings", "boundary", "contour", "iou", "measure", "statistics"]

TOLERANCE = 0.008
"""How far apart boundaries may lie and still agree, as a share of the frame's diagonal."""
STILLS = 128
"""Frames that calibrate the batch norms of random weights."""


def iou(predicted: Tensor, true: Tensor) -> Tensor:
    """Region similarity J: what two masks share over what they cover together, 1 where both are empty.

    Args:
        predicted: Bool, shape (..., height, width).
        true: Bool, same shape.

    Returns:
        Float, shape (...), in 0..1.
    """
    shared, covered = ((x).sum((-2, -1)).float() for x in (predicted & true, predicted | true))
    return torch.where(covered > 0, shared / covered.clamp(min=1), 1.0)


def boundary(masks: Tensor) -> Tensor:
    """Pixels that differ from their neighbour to the right, below, or right below.

    Args:
        masks: Bool, shape (..., height, width).

    Returns:
        Bool, same shape.
    """
    padded = F.pad(masks.flatten(0, -3)[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0] > 0
    padded = padded.view(*masks.shape[:-2], *padded.shape[-2:])
    here, right = padded[..., :-1, :-1], padded[..., :-1, 1:]
    below, across = padded[..., 1:, :-1], padded[..., 1:, 1:]
    return (here != right) | (here != below) | (here != across)


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Pixels within a distance of a mask.

    Args:
        masks: Bool, shape (masks, height, width).
        radius: Distance in pixels.

    Returns:
        Bool, same shape.
    """
    offset = torch.arange(-radius, radius + 1, device=masks.device)
    disc = (offset.square() + offset[:, None].square() <= radius**2).float()
    # Counts below 2**24 are exact in float32.
    return F.conv2d(masks[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5


def contour(predicted: Tensor, true: Tensor) -> Tensor:
    """Contour accuracy F: harmonic mean of precision and recall of the boundaries, near misses forgiven.

    Args:
        predicted: Bool, shape (masks, height, width).
        true: Bool, same shape.

    Returns:
        Float, shape (masks,), in 0..1; 1 where neither mask has a boundary, 0 where only one has.
    """
    height, width = true.shape[-2:]
    radius = math.ceil(TOLERANCE * math.hypot(height, width))
    ours, theirs = boundary(predicted), boundary(true)
    precision, recall = (
        torch.where(
            edge.any(-1).any(-1),
            (edge & dilate(other, radius)).sum((-2, -1)) / edge.sum((-2, -1)).clamp(min=1),
            1.0,
        )
        for edge, other in ((ours, theirs), (theirs, ours))
    )
    return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def statistics(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, recall and decay of the scores of objects, over the frames without the first and the last.

    Args:
        scores: J or F, float, shape (objects, frames), of at least 3 frames.

    Returns:
        Mean; share of the frames above one half; mean of the first quarter less that of the last quarter; each
        float, shape (objects,).
    """
    inner = scores[:, 1:-1]
    # Quarters share their border frames, as in the official code.
    edges = torch.linspace(1, inner.shape[1], 5, dtype=torch.double).add(1e-10).round().long() - 1
    first, last = inner[:, : edges[1] + 1], inner[:, edges[3] : edges[4] + 1]
    return inner.mean(1), (inner > 0.5).float().mean(1), first.mean(1) - last.mean(1)


def measure(
    subject: "Subject", data: Any, *, seed: int = 0, device: torch.device, settings: Settings | None = None
) -> list[Measurement]:
    """Track the objects of all videos by our features and by those of the controls.

    Args:
        subject: Its encoder reads images, or videos frame by frame.
        data: What `films` takes.
        seed: Not used: nothing is drawn, the weights of the control aside, whose seed the subject knows.
        device: Where to compute.
        settings: How labels are carried; None for the defaults.

    Returns:
        J&F, J and F of ours and of each control, one number for each object; videos are the independent units.

    Raises:
        ValueError: The encoder has no maps of single frames, or the data has no masks.
    """
    settings = settings or Settings()
    encoder, twin = tracking.frame(subject.encoder), tracking.frame(subject.untrained())
    layer, rows, _ = survey(encoder, getattr(subject.method, "layer", None))
    measured: dict[str, list[Tensor]] = {}
    videos: list[int] = []
    sizes: set[int] = set()
    for number, film in enumerate(films(data)):
        if not things(film.masks):
            raise UserError(
                f"masks must show at least one thing, got none in {film.name}, where only the first frame counts"
            )
        film = Film(film.name, film.frames.to(device), film.masks.to(device))
        if not number:
            _calibrate(twin, film)
        size = tracking.side(settings, encoder, film)
        sizes.add(size)
        readers = {
            "unlabeled": tracking.of_maps(encoder, layer),
            "random": tracking.of_maps(twin, layer),
            "raw": tracking.of_pixels(encoder, max(1, round(encoder.image_size / rows))),
        }
        for features, reader in readers.items():
            how = replace(settings, temperature=tracking.PIXEL_TEMPERATURE) if features == "raw" else settings
            measured.setdefault(features, []).append(
                _scores(tracking.track(film, reader, how, size), film.masks)
            )
        still = film.masks[:1].expand_as(film.masks)
        measured.setdefault("copy first mask", []).append(_scores(still, film.masks))
        videos += [number] * int(film.masks.max())
    about = (
        f"{'-'.join(str(size) for size in sorted({min(sizes), max(sizes)}))} pixels, {layer} and deeper, "
        f"previous {settings.previous}, top {settings.top}, "
        f"radius {'a fifth of the rows' if settings.radius is None else settings.radius}, "
        f"temperature {settings.temperature:g}"
    )
    units, counted = torch.tensor(videos), "videos"
    source: Any = data[-1] if isinstance(data, tuple) else data
    if getattr(source, "groups", None) is not None:
        units, counted = source.groups[units], of_groups(source)
    return [
        measurement
        for features, scores in measured.items()
        for measurement in _measurements(features, torch.cat(scores, 1).cpu(), units, counted, about)
    ]


def _measurements(
    features: str, scores: Tensor, units: Tensor, counted: str, about: str
) -> list[Measurement]:
    """J&F, J and F from their mean, recall and decay by object, shape (2, objects, 3), and the video of each."""
    both = torch.cat([scores.mean(0, keepdim=True), scores])
    made = []
    for unit, values in zip(("J&F", "J", "F"), both):
        recall, decay = values[:, 1].mean(), values[:, 2].mean()
        detail = about if unit == "J&F" else f"recall {recall:.3f}, decay {decay:.3f}"
        made.append(
            Measurement(
                "propagation",
                None,
                "all",
                features,
                values[None, :, 0],
                detail,
                unit,
                groups=units,
                counted=counted,
                bounds=(0.0, 1.0),
            )
        )
    return made


def things(masks: Tensor) -> list[int]:
    """Numbers of the things in the first mask, the only ones that can be carried to the others."""
    return [number for number in masks[0].unique().tolist() if number not in (0, VOID)]


def _scores(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean, recall and decay of J and F of every object of a video, float, shape (2, objects, 3); void is left out."""
    judged = true != VOID
    j, f = (
        torch.stack([score((predicted == thing) & judged, true == thing) for thing in things(true)])
        for score in (iou, contour)
    )
    return torch.stack([torch.stack(statistics(scores), 1) for scores in (j, f)])


@torch.no_grad()
def _calibrate(twin: "ImageEncoder", film: Film) -> None:
    from unlabeled.data.image.arrays import from_array

    controls.calibrate_(twin, from_array(film.frames[:STILLS].cpu()).to(film.frames.device))
