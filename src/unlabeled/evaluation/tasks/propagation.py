"""Masks and key points carried through videos: from the first frame to all others, by similarity of features.

Every position of a frame takes the labels of the most similar positions in the first frame and in a few frames before;
no weight is learned. Scores are those of DAVIS (https://davischallenge.org): region similarity J, contour accuracy F
and their mean, for each object over all frames but the first and the last, then over the objects of all videos. The
size of the frames alone moves them by several points, so it stands beside every number.

Key points in the layout of JHMDB (see `data.video.poses`) are scored by PCK, as `keypoints` has it.

Controls: the first mask or the first points copied unmoved, the same network with random weights, and the pixels that
the network sees.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data.video.films import VOID, Film, films, find_videos, frame_counts, listed
from unlabeled.data.video.official import recordings
from unlabeled.data.video.poses import Posed, PosedFile, find_poses, posed_films
from unlabeled.evaluation import keypoints, tracking
from unlabeled.evaluation.intervals import leave_one_out
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.evaluation.tracking import Reader, Settings
from unlabeled.evaluation.twins import calibrate_
from unlabeled.parts.maps import survey
from unlabeled.progress import watched

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import ImageEncoder

__all__ = ["TASK", "Settings", "boundary", "contour", "iou", "measure", "statistics"]

TOLERANCE = 0.008
"""How far apart boundaries may lie and still agree, as a fraction of the frame's diagonal."""
STILLS = 128
"""Frames that calibrate the batch norms of random weights."""


def iou(predicted: Tensor, true: Tensor) -> Tensor:
    """Region similarity J: intersection over union of two masks, 1 where both are empty.

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
        Mean; fraction of the frames above one half; mean of the first quarter less that of the last quarter; each
        float, shape (objects,).
    """
    inner = scores[:, 1:-1]
    # Quarters share their border frames, as in the official code.
    edges = torch.linspace(1, inner.shape[1], 5, dtype=torch.double).add(1e-10).round().long() - 1
    first, last = inner[:, : edges[1] + 1], inner[:, edges[3] : edges[4] + 1]
    return inner.mean(1), (inner > 0.5).float().mean(1), first.mean(1) - last.mean(1)


@dataclass
class Trackers:
    """What labels are carried by: our features and those of the controls.

    Attributes:
        settings: How labels are carried.
        encoder: The network of single frames.
        twin: The same with random weights.
        layer: Map that describes positions, with all deeper ones.
        rows: Rows of positions at the encoder's image size.
        readers: Reader and settings by features.
        sizes: Shorter side in pixels of the frames of each video so far.
    """

    settings: Settings
    encoder: "ImageEncoder"
    twin: "ImageEncoder"
    layer: str
    rows: int
    readers: dict[str, tuple[Reader, Settings]]
    sizes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, model: EvaluatedModel, settings: Settings) -> "Trackers":
        encoder, twin = tracking.frame(model.encoder), tracking.frame(model.untrained())
        if settings.size is not None and not encoder.takes(settings.size):
            name = encoder.config["name"]
            raise UserError(f"size must be a number of pixels that {name} takes, got {settings.size}")
        layer, rows, _ = survey(encoder, getattr(model.method, "layer", None))
        pixels = tracking.of_pixels(encoder, max(1, round(encoder.image_size / rows)))
        readers = {
            "unlabeled": (tracking.of_maps(encoder, layer), settings),
            "random": (tracking.of_maps(twin, layer), settings),
            "raw": (pixels, replace(settings, temperature=tracking.PIXEL_TEMPERATURE)),
        }
        return cls(settings, encoder, twin, layer, rows, readers)

    def size(self, film: Film | Posed) -> int:
        """Shorter side of the frames of the next video; the first one calibrates the norms of random weights."""
        if not self.sizes:
            _calibrate_(self.twin, film.frames)
        self.sizes.append(tracking.side(self.settings, self.encoder, self.rows, film))
        return self.sizes[-1]

    def steps(self, counts: Sequence[int]) -> Callable[[], object]:
        """What to call before each frame of videos with so many frames, so that the progress is told."""
        frames = len(self.readers) * sum(count - 1 for count in counts)
        steps = watched(
            range(frames), frames, "propagation", f"frames of {len(self.readers)} kinds of features"
        )
        return lambda: next(steps, None)

    @property
    def detail(self) -> str:
        settings = self.settings
        return (
            f"{'-'.join(str(size) for size in sorted({min(self.sizes), max(self.sizes)}))} pixels, "
            f"{self.layer} and deeper, previous {settings.previous}, top {settings.top}, "
            f"radius {'a fifth of the rows' if settings.radius is None else settings.radius}, "
            f"temperature {settings.temperature:g}"
        )


def measure(model: EvaluatedModel, parts: Parts, settings: Settings | None = None) -> list[Measurement]:
    """Track things or key points in all videos by our features and by those of the controls.

    Args:
        model: Its encoder reads images, or videos frame by frame.
        parts: Its source is what `find_poses` or `films` takes.
        settings: How labels are carried; None for the defaults, with the size of the model.

    Returns:
        Of ours and of each control, J&F, J and F with one number for each thing, or PCK of all key points; videos are
        the independent units.

    Raises:
        ValueError: The encoder has no maps of single frames or does not take the size, or the data has neither masks
            nor key points.
    """
    trackers = Trackers.of(model, settings or Settings(size=model.size))
    source = parts.source.data
    posed = find_poses(source, parts.source.options.get("fold"))
    if posed is not None:
        return _of_poses(trackers, posed, model.device)
    return _of_masks(trackers, source, model.device)


def _of_masks(trackers: Trackers, source: Any, device: torch.device) -> list[Measurement]:
    scores: dict[str, list[Tensor]] = defaultdict(list)
    videos: list[int] = []
    masked = find_videos(source)
    on_frame = trackers.steps(frame_counts(masked))
    for number, film in enumerate(films(masked)):
        shown = things(film.masks)
        if not shown:
            raise UserError(
                f"masks must show at least one thing, got none in {film.name}, where only the first frame counts"
            )
        film = Film(film.name, film.frames.to(device), film.masks.to(device))
        size = trackers.size(film)
        for features, (reader, carrying) in trackers.readers.items():
            masks = tracking.track(film, reader, carrying, size, on_frame)
            scores[features].append(_scores(masks, film.masks))
        still = film.masks[:1].expand_as(film.masks)
        scores["copy first mask"].append(_scores(still, film.masks))
        videos += [number] * len(shown)
    units = _units(source, torch.tensor(videos))
    return [
        measurement
        for features, by_film in scores.items()
        for measurement in _measurements(features, torch.cat(by_film, 1).cpu(), units, trackers.detail)
    ]


def _of_poses(trackers: Trackers, files: list[PosedFile], device: torch.device) -> list[Measurement]:
    right: dict[str, list[Tensor]] = defaultdict(list)
    counts, names = [], []
    on_frame = trackers.steps([len(file.points) for file in files])
    for film in posed_films(files):
        film = Posed(film.name, film.frames.to(device), film.points.to(device))
        size, (height, width) = trackers.size(film), film.frames.shape[2:]
        counted = keypoints.visible(film.points[0], height, width) & film.points.isfinite().all(-1)
        first = partial(keypoints.heat_maps, film.points[0], height, width)
        tracks = {}
        for features, (reader, carrying) in trackers.readers.items():
            maps = tracking.carry_labels(film.frames, first, reader, carrying, size, on_frame)
            tracks[features] = keypoints.decode(maps, height, width)
        tracks["copy first frame"] = film.points[:1].expand_as(film.points)
        for features, points in tracks.items():
            hits = [keypoints.correct(points, film.points, counted, limit) for limit in keypoints.THRESHOLDS]
            right[features].append(torch.stack(hits)[:, 1:].sum(1).cpu())
        counts.append(counted[1:].sum(0).cpu())
        names.append(film.name)
    if not sum(int(count.sum()) for count in counts):
        raise UserError("key points must be in the first frame, got none there")
    return [
        _pck(features, torch.stack(hits)[:, place], torch.stack(counts), names, limit, trackers.detail)
        for features, hits in right.items()
        for place, limit in enumerate(keypoints.THRESHOLDS)
    ]


def _pck(
    features: str, right: Tensor, counts: Tensor, names: list[str], limit: float, detail: str
) -> Measurement:
    """PCK from the right key points of each joint and their number in each video, shape (videos, joints)."""
    groups = recordings(names)
    value, left_out = leave_one_out(
        lambda rows: keypoints.pck(right[rows], counts[rows]), len(names), groups, sizes=counts.sum(1)
    )
    return Measurement(
        "propagation", features, torch.tensor([[value]]), unit=f"PCK@{limit:g}", detail=detail, left_out=left_out,
        samples=int(counts.sum()), counted="videos" if groups is None else "recordings", bounds=(0.0, 1.0),
    )  # fmt: skip


def _units(source: Any, videos: Tensor) -> tuple[Tensor, str]:
    """Independent unit of each object, its video or the group of that, and what these are called."""
    data = source[-1] if isinstance(source, tuple) else source
    groups = getattr(data, "groups", None)
    return (videos, "videos") if groups is None else (groups[videos], group_unit(data))


def _measurements(features: str, scores: Tensor, units: tuple[Tensor, str], detail: str) -> list[Measurement]:
    """J&F, J and F from their mean, recall and decay by object, shape (2, objects, 3)."""
    groups, counted = units
    measurements = []
    for unit, values in zip(("J&F", "J", "F"), (scores.mean(0), *scores)):
        recall, decay = values[:, 1].mean(), values[:, 2].mean()
        measurements.append(
            Measurement(
                "propagation", features, values[None, :, 0], unit=unit,
                detail=detail if unit == "J&F" else f"recall {recall:.3f}, decay {decay:.3f}",
                groups=groups, counted=counted, bounds=(0.0, 1.0),
            )
        )  # fmt: skip
    return measurements


def things(masks: Tensor) -> list[int]:
    """Numbers of the things in the first mask, the only ones that can be carried to the others."""
    return [number for number in masks[0].unique().tolist() if number not in (0, VOID)]


def _scores(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean, recall and decay of J and F of every object of a video, float, shape (2, objects, 3), without void."""
    labelled = true != VOID
    j, f = (
        torch.stack([score((predicted == thing) & labelled, true == thing) for thing in things(true)])
        for score in (iou, contour)
    )
    return torch.stack([torch.stack(statistics(scores), 1) for scores in (j, f)])


@torch.no_grad()
def _calibrate_(twin: "ImageEncoder", frames: Tensor) -> None:
    from unlabeled.data import from_images

    calibrate_(twin, from_images(frames[:STILLS].cpu()).to(frames.device))


def _open(source: Source) -> Parts:
    """Videos, or their frames for a run of images; no test part where the run was trained on something else."""
    return Parts(source, None, _with_masks(source))


def _with_masks(source: Source) -> "Data | None":
    from unlabeled.data import BUILT_IN, Data, open_data
    from unlabeled.data.files import davis_frames, is_davis

    data, kind = source.data[-1] if isinstance(source.data, tuple) else source.data, source.options["kind"]
    if isinstance(data, Data):
        return data
    if str(data).partition(":")[0] in BUILT_IN:
        return open_data(data, split="test", **source.options) if kind == "video" else None
    root = Path(data).expanduser()
    if kind not in ("image", "video") or not is_davis(root):
        return None
    frames, names = open_data(davis_frames(root), **source.options), {*listed(root)}
    inside = [bool(names & {*Path(path).parts}) for path in frames.paths]
    return frames.subset(torch.tensor(inside)) if names and any(inside) else frames


TASK = Task(measure, _open)
