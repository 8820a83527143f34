"""Task `propagation`: the masks of a video's first frame are carried to all others by likeness of features.

Every place of a frame takes the labels of the places most like it in the first frame and in a few frames before; no
weight is learned. Scores are those of DAVIS (https://davischallenge.org): region similarity J, contour accuracy F and
their mean, for each object over all frames but the first and the last, then over the objects of all videos. The size of
the frames alone moves them by several points, so it stands beside every number.

Controls: the first mask copied unmoved, the same network with random weights, and the pixels that the network sees.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.data.files import davis_frames, is_davis
from unlabeled.evaluate import controls
from unlabeled.evaluate.scores import Measurement
from unlabeled.parts.augment import to_float
from unlabeled.parts.places import describe, survey

if TYPE_CHECKING:
    from unlabeled.encoders import ImageEncoder
    from unlabeled.evaluate.tasks import Subject

__all__ = [
    "Film",
    "Settings",
    "boundary",
    "carry",
    "contour",
    "films",
    "iou",
    "measure",
    "propagate",
    "statistics",
    "track",
]

TOLERANCE = 0.008
"""How far apart boundaries may lie and still agree, as a share of the frame's diagonal."""
LIKENESSES = 2**22
"""Most likenesses held at once."""
FRAMES_AT_ONCE = 16
PATCH = 3
"""Places on a side of the patches of raw pixels: wider ones know more of where they are, narrower ones nothing."""
PIXEL_LENGTH = 8.0
PIXEL_TEMPERATURE = 0.001
"""In mean squared differences of pixels; a higher one tracks worse."""
STILLS = 128
"""Frames that calibrate the batch norms of random weights."""

Reader = Callable[[Tensor], Tensor]
"""From frames, float, shape (frames, channels, height, width), to features, shape (frames, dim, rows, columns)."""


@dataclass(frozen=True)
class Settings:
    """How labels are carried.

    Args:
        size: Shorter side of the frames in pixels; None takes twice the encoder's image size, but at most their own.
        previous: Frames just before that are sources beside the first one.
        top: Places that each place takes its labels from, over all sources together.
        radius: Distance in places within which they lie in all frames but the first; None takes a fifth of the
            rows, 5 at least.
        temperature: Of the weights among them.
    """

    size: int | None = None
    previous: int = 7
    top: int = 5
    radius: float | None = None
    temperature: float = 0.07


class Film(NamedTuple):
    """A video with the mask of every frame.

    Args:
        name: What it is called.
        frames: uint8, shape (frames, channels, height, width).
        masks: Number of the thing at each pixel, 0 for none, uint8, shape (frames, height, width).
    """

    name: str
    frames: Tensor
    masks: Tensor


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
    radius = math.ceil(0.008 * math.hypot(height, width))
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


def propagate(
    features: Tensor,
    labels: Tensor,
    *,
    previous: int = 7,
    top: int = 5,
    radius: float = 12,
    temperature: float = 0.07,
) -> Tensor:
    """Carry the labels of the first frame through a video.

    Every place takes the labels of the places most like it in the first frame and in those just before; what was
    carried to a frame is carried on from there as it is, without a decision.

    Args:
        features: Vectors all of one length, float, shape (frames, channels, rows, columns).
        labels: Share of each label at the places of the first frame, float, shape (labels, rows, columns).
        previous: Frames just before that are sources beside the first one, at least 0.
        top: Places that each place takes its labels from, over all sources together, at least 1.
        radius: Distance, in places, within which they must lie in all frames but the first; above 0.
        temperature: Of the weights among them, above 0.

    Returns:
        Shares of the labels, float, shape (frames, labels, rows, columns), the first frame as given.
    """
    check.at_least(0, previous=previous)
    check.at_least(1, top=top)
    check.positive(radius=radius, temperature=temperature)
    frames, _, rows, columns = features.shape
    carried = labels.new_zeros(frames, *labels.shape)
    carried[0] = labels
    reach = math.ceil(radius) - 1
    across = torch.arange(columns, device=features.device)
    band = max(1, LIKENESSES // (columns * rows * columns * (1 + previous)))
    for number in range(1, frames):
        recent = range(max(1, number - previous), number)
        for start in range(0, rows, band):
            stop = min(rows, start + band)
            low, high = max(0, start - reach), min(rows, stop + reach)
            near = slice(recent.start, recent.stop), slice(None), slice(low, high)
            places = rearrange(features[number, :, start:stop], "c h w -> (h w) c")
            first = places @ rearrange(features[0], "c h w -> c (h w)")
            later = einsum(places, features[near], "p c, t c h w -> p t h w")
            down = torch.arange(start, stop, device=features.device)[:, None] - torch.arange(
                low, high, device=features.device
            )
            apart = down.square()[:, None, :, None] + (across[:, None] - across).square()[:, None]
            far = rearrange(apart >= radius**2, "a b h w -> (a b) 1 h w")
            later = later.masked_fill(far, -torch.inf)
            likeness = torch.cat([first, later.flatten(1)], 1)
            sources = torch.cat(
                [rearrange(labels, "k h w -> (h w) k"), rearrange(carried[near], "t k h w -> (t h w) k")]
            )
            best, index = likeness.topk(min(top, likeness.shape[1]), dim=1)
            mixed = einsum((best / temperature).softmax(1), sources[index], "p n, p n k -> p k")
            carried[number, :, start:stop] = rearrange(mixed, "(h w) k -> k h w", w=columns)
    return carried


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


def films(data: Any) -> Iterator[Film]:
    """Videos with masks, one after the other.

    Args:
        data: Opened videos with masks, the name of a built-in set, of which the test part is taken, or a folder in
            the layout of DAVIS, opened or not: JPEGImages/SIZE/NAME/*.jpg, Annotations/SIZE/NAME/*.png and, where
            only some are meant, ImageSets/YEAR/val.txt.

    Raises:
        ValueError: It is none of these, or a frame has no mask.
    """
    data = data[-1] if isinstance(data, tuple) else data
    if isinstance(data, str | Path) and Path(data).is_dir():
        yield from _davis(Path(data))
        return
    if isinstance(data, str | Path):
        from unlabeled.data.video import built_in

        data = built_in(str(data), "test")
    if getattr(data, "masks", None) is None:
        known = getattr(data, "name", data)
        if is_davis(Path(str(known))):
            yield from _davis(Path(known))
            return
        raise ValueError(f"data must have masks, as blobs or a folder in the layout of DAVIS do, got {known}")
    for row, (path, masks) in enumerate(zip(data.paths, data.masks)):
        video = data.batch(torch.tensor([row]))["video"][0]
        yield Film(path, video, masks[: len(video)])


def track(film: Film, reader: Reader, settings: Settings, size: int) -> Tensor:
    """Masks of all frames from that of the first one, by features.

    Args:
        film: Only its first mask is looked at.
        reader: Describes frames.
        settings: How labels are carried.
        size: Shorter side of the frames that the reader sees, in pixels.

    Returns:
        uint8, shape (frames, height, width).
    """
    features = torch.cat([reader(_resized(part, size)) for part in film.frames.split(FRAMES_AT_ONCE)])
    rows, columns = features.shape[2:]
    first = rearrange(F.one_hot(film.masks[0].long()), "h w k -> k h w").to(features.dtype)
    carried = propagate(
        features,
        F.adaptive_avg_pool2d(first, (rows, columns)),
        previous=settings.previous,
        top=settings.top,
        radius=max(5, round(rows / 5)) if settings.radius is None else settings.radius,
        temperature=settings.temperature,
    )
    height, width = film.masks.shape[1:]
    found = [F.interpolate(part[None], (height, width), mode="bilinear")[0].argmax(0) for part in carried]
    return torch.cat([film.masks[:1], torch.stack(found[1:]).to(torch.uint8)])


def carry(encoder: Any, film: Film, settings: Settings | None = None, layer: str | None = None) -> Tensor:
    """Masks of all frames from that of the first one, by the features of an encoder.

    Args:
        encoder: It reads images, or videos frame by frame.
        film: Only its first mask is looked at.
        settings: How labels are carried; None for the defaults.
        layer: Name of the layer that describes places; None takes the deepest with enough of them.

    Returns:
        uint8, shape (frames, height, width).

    Raises:
        ValueError: The encoder has no maps of single frames.
    """
    settings, frame = settings or Settings(), _frame(encoder)
    return track(film, _of_maps(frame, survey(frame, layer)[0]), settings, _side(settings, frame, film))


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
        J&F, J and F of ours and of each control; the test units are objects.

    Raises:
        ValueError: The encoder has no maps of single frames, or the data has no masks.
    """
    settings = settings or Settings()
    encoder, twin = _frame(subject.encoder), _frame(subject.untrained())
    layer, rows, _ = survey(encoder, getattr(subject.method, "layer", None))
    measured: dict[str, list[Tensor]] = {}
    sizes: set[int] = set()
    for number, film in enumerate(films(data)):
        if not film.masks.any():
            raise ValueError(f"masks must show at least one thing, got none in {film.name}")
        film = Film(film.name, film.frames.to(device), film.masks.to(device))
        if not number:
            _calibrate(twin, film)
        size = _side(settings, encoder, film)
        sizes.add(size)
        readers = {
            "unlabeled": _of_maps(encoder, layer),
            "random": _of_maps(twin, layer),
            "raw": _of_pixels(encoder, max(1, round(encoder.image_size / rows))),
        }
        for features, reader in readers.items():
            how = replace(settings, temperature=PIXEL_TEMPERATURE) if features == "raw" else settings
            measured.setdefault(features, []).append(_scores(track(film, reader, how, size), film.masks))
        still = film.masks[:1].expand_as(film.masks)
        measured.setdefault("copy first mask", []).append(_scores(still, film.masks))
    about = (
        f"{'-'.join(str(size) for size in sorted({min(sizes), max(sizes)}))} pixels, {layer} and deeper, "
        f"previous {settings.previous}, top {settings.top}, "
        f"radius {'a fifth of the rows' if settings.radius is None else settings.radius}, "
        f"temperature {settings.temperature:g}"
    )
    return [
        measurement
        for features, scores in measured.items()
        for measurement in _measurements(features, torch.cat(scores, 1).cpu(), about)
    ]


def _measurements(features: str, scores: Tensor, about: str) -> list[Measurement]:
    """J&F, J and F from their mean, recall and decay by object, shape (2, objects, 3)."""
    both = torch.cat([scores.mean(0, keepdim=True), scores])
    made = []
    for unit, values in zip(("J&F", "J", "F"), both):
        recall, decay = values[:, 1].mean(), values[:, 2].mean()
        detail = about if unit == "J&F" else f"recall {recall:.3f}, decay {decay:.3f}"
        made.append(
            Measurement("propagation", None, "all", features, values[None, :, 0], detail=detail, unit=unit)
        )
    return made


def _scores(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean, recall and decay of J and F of every object of a video, float, shape (2, objects, 3)."""
    things = range(1, int(true.max()) + 1)
    j, f = (
        torch.stack([score(predicted == thing, true == thing) for thing in things])
        for score in (iou, contour)
    )
    return torch.stack([torch.stack(statistics(scores), 1) for scores in (j, f)])


def _side(settings: Settings, encoder: "ImageEncoder", film: Film) -> int:
    """Shorter side of the frames in pixels."""
    return min(settings.size or 2 * encoder.image_size, *film.frames.shape[2:])


def _frame(encoder: Any) -> "ImageEncoder":
    frame = getattr(encoder, "frame", encoder)
    if not hasattr(frame, "maps"):
        raise ValueError(
            f"encoder must have maps of single frames, as frames-conv4, got {encoder.config['name']}"
        )
    return frame


@torch.no_grad()
def _calibrate(twin: "ImageEncoder", film: Film) -> None:
    from unlabeled.data.arrays import from_array

    controls.calibrate_(twin, from_array(film.frames[:STILLS].cpu()).to(film.frames.device))


def _of_maps(encoder: "ImageEncoder", layer: str) -> Reader:
    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        return describe(encoder.maps(images), layer)

    return read


def _of_pixels(encoder: "ImageEncoder", stride: int) -> Reader:
    """Pixels as the network sees them, around each place, compared by their distance."""
    width = PATCH * stride

    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        seen = encoder.adapt(images)
        around, (rows, columns) = (width - stride) // 2, (-(-side // stride) for side in seen.shape[2:])
        more = [count * stride - side for count, side in zip((rows, columns), seen.shape[2:])]
        sides = (around, width - stride - around + more[1], around, width - stride - around + more[0])
        patches = F.unfold(F.pad(seen, sides, mode="replicate"), width, stride=stride)
        patches = rearrange(patches, "t c (h w) -> t c h w", h=rows) / patches.shape[1] ** 0.5
        # One more number brings all to one length, so that a higher dot product is a smaller distance.
        rest = PIXEL_LENGTH**2 - patches.square().sum(1, keepdim=True)
        return torch.cat([patches, rest.clamp(min=0).sqrt()], 1)

    return read


def _resized(frames: Tensor, size: int) -> Tensor:
    """Frames whose shorter side has a size, float, in 0..1."""
    images, sides = to_float(frames), frames.shape[2:]
    if min(sides) == size:
        return images
    height, width = (round(side * size / min(sides)) for side in sides)
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def _davis(root: Path) -> Iterator[Film]:
    if not is_davis(root):
        lacking = next(name for name in ("JPEGImages", "Annotations") if not (root / name).is_dir())
        raise ValueError(
            f"data must hold the folders JPEGImages and Annotations, got {root} without {lacking}"
        )
    frames = davis_frames(root)
    for sequence in _listed(root) or sorted(folder.name for folder in frames.iterdir()):
        yield _film(frames / sequence, root / "Annotations" / frames.name / sequence)


def _listed(root: Path) -> list[str]:
    """Names of the validation videos, those of 2017 where there are several lists."""
    lists = sorted(root.glob("ImageSets/*/val.txt"), key=lambda path: (path.parent.name != "2017", str(path)))
    lines = lists[0].read_text().split("\n") if lists else []
    # The list of 2016 names every frame and mask instead: /JPEGImages/480p/NAME/00000.jpg ...
    names = [line.split()[0] for line in lines if line.strip()]
    return list(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in names))


def _film(frames: Path, masks: Path) -> Film:
    images = sorted(path for path in frames.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    known = {path.stem: path for path in masks.glob("*.png")}
    missing = [path.stem for path in images if path.stem not in known]
    if missing or len(images) < 3:
        lacking = f"no mask of {', '.join(missing[:3])}" if missing else f"{len(images)} frames"
        raise ValueError(
            f"videos must have 3 frames at least and a mask for each, got {frames.name} with {lacking}"
        )
    video = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in images])
    annotated = np.stack([_mask(known[path.stem]) for path in images])
    return Film(
        frames.name, rearrange(torch.from_numpy(video), "t h w c -> t c h w"), torch.from_numpy(annotated)
    )


def _mask(path: Path) -> np.ndarray:
    """Number of the object at each pixel, uint8: the colour's place in the palette, or 1 where grey is white."""
    with Image.open(path) as opened:
        if opened.mode not in ("P", "L", "1"):
            raise ValueError(f"masks must have a palette or be grey, got {path} in mode {opened.mode}")
        numbers = np.array(opened if opened.mode == "P" else opened.convert("L"))
    return numbers if numbers.max() < 255 else (numbers > 127).astype(np.uint8)
