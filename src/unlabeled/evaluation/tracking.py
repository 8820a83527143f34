"""Label propagation: labels of a video's first frame, carried to all others by similarity of features.

No weight is learned.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.video.films import VOID
from unlabeled.parts.augment import to_float
from unlabeled.parts.maps import describe, survey

if TYPE_CHECKING:
    from unlabeled.data.video.films import Film
    from unlabeled.data.video.poses import Posed
    from unlabeled.encoders import ImageEncoder

__all__ = [
    "Reader",
    "Settings",
    "carry",
    "carry_labels",
    "frame",
    "of_maps",
    "of_pixels",
    "propagate",
    "side",
    "track",
]

SIMILARITIES = 2**22
"""Most similarities to the first frame held at once."""
TILE = 12
"""Positions on a side of the tiles that are compared with what is near them."""
MOST_POSITIONS = 2048
"""Positions of a frame where no size is set: the time grows with their square, and 4,000 take minutes a video."""
FRAMES_AT_ONCE = 16
PATCH = 3
"""Positions on a side of the patches of raw pixels: wider ones know where they are, narrower ones nothing."""
PIXEL_LENGTH = 8.0
PIXEL_TEMPERATURE = 0.001
"""In mean squared differences of pixels; a higher one tracks worse."""

Reader = Callable[[Tensor], Tensor]
"""From frames, float, shape (frames, channels, height, width), to features, shape (frames, dim, rows, columns)."""


@dataclass(frozen=True)
class Settings:
    """How labels are carried.

    Attributes:
        size: Shorter side of the frames in pixels, at most their own; None takes twice the encoder's image size, but
            no more than gives 2048 positions.
        previous: Frames just before that are sources beside the first one.
        top: Positions that each position takes its labels from, over all sources together.
        radius: Distance in positions within which they lie in all frames but the first; None takes a fifth of the
            rows, 5 at least.
        temperature: Softmax temperature of the weights among them.
    """

    size: int | None = None
    previous: int = 7
    top: int = 5
    radius: float | None = None
    temperature: float = 0.07


def propagate(
    features: Tensor,
    labels: Tensor,
    *,
    previous: int = 7,
    top: int = 5,
    radius: float = 12,
    temperature: float = 0.07,
    on_frame: Callable[[], object] = lambda: None,
) -> Tensor:
    """Carry the labels of the first frame through a video.

    Every position takes the labels of the most similar positions in the first frame and in those just before; what was
    carried to a frame is carried on from there as it is, without a decision.

    Args:
        features: Vectors all of one length, float, shape (frames, channels, rows, columns).
        labels: Weight of each label at the positions of the first frame, float, shape (labels, rows, columns).
        previous: Frames just before that are sources beside the first one, at least 0.
        top: Positions that each position takes its labels from, over all sources together, at least 1.
        radius: Distance, in positions, within which they must lie in all frames but the first; above 0.
        temperature: Softmax temperature of the weights among them, above 0.
        on_frame: Called before each frame but the first.

    Returns:
        Weights of the labels, float, shape (frames, labels, rows, columns), the first frame as given.
    """
    check.at_least(0, previous=previous)
    check.at_least(1, top=top)
    check.positive(radius=radius, temperature=temperature)
    frames, _, rows, columns = features.shape
    carried = labels.new_zeros(frames, *labels.shape)
    carried[0] = labels
    band = max(1, SIMILARITIES // (rows * columns))
    windows = _windows(rows, columns, radius, features.device)
    # Whole vectors are copied much faster than single numbers of many channels.
    vectors = rearrange(features, "t c h w -> t h w c").contiguous()
    first = vectors[0].flatten(0, 1).T
    for number in range(1, frames):
        on_frame()
        near = slice(max(1, number - previous), number)
        queries = vectors[number].flatten(0, 1)
        parts = [(part @ first).topk(min(top, first.shape[1]), dim=1) for part in queries.split(band)]
        best, index = (torch.cat(part) for part in zip(*parts))
        if near.start < near.stop:
            similar, later = _nearest(vectors[number], vectors[near], windows, top)
            best, index = torch.cat([best, similar], 1), torch.cat([index, rows * columns + later], 1)
            best, order = best.topk(min(top, best.shape[1]), dim=1)
            index = index.gather(1, order)
        sources = rearrange(torch.cat([carried[:1], carried[near]]), "t k h w -> (t h w) k")
        mixed = einsum((best / temperature).softmax(1), sources[index], "p n, p n k -> p k")
        carried[number] = rearrange(mixed, "(h w) k -> k h w", w=columns)
    return carried


class _Window(NamedTuple):
    """A tile of positions, and where its sources lie in the frames just before.

    Attributes:
        tile: Rows and columns of the tile.
        around: Rows and columns of the sources of any of its positions.
        far: Which of these are too far from which position, bool, shape (positions, sources).
        numbers: Position of each source in its frame, int64, shape (sources,).
    """

    tile: tuple[slice, slice]
    around: tuple[slice, slice]
    far: Tensor
    numbers: Tensor


def _windows(rows: int, columns: int, radius: float, device: torch.device) -> list[_Window]:
    """Tiles that cover a frame: only positions near a tile are compared with it, by one matrix product."""
    reach = math.ceil(min(radius, rows + columns)) - 1
    places = torch.arange(rows * columns, device=device).view(rows, columns)
    spans = [
        [(slice(low, high := min(low + TILE, size)), slice(max(0, low - reach), min(size, high + reach)))
         for low in range(0, size, TILE)]
        for size in (rows, columns)
    ]  # fmt: skip
    windows = []
    for (down, all_down), (across, all_across) in itertools.product(*spans):
        own, numbers = places[down, across].flatten(), places[all_down, all_across].flatten()
        vertical = (own // columns)[:, None] - numbers // columns
        horizontal = (own % columns)[:, None] - numbers % columns
        far = vertical.square() + horizontal.square() >= radius**2
        windows.append(_Window((down, across), (all_down, all_across), far, numbers))
    return windows


def _nearest(frame: Tensor, before: Tensor, windows: list[_Window], top: int) -> tuple[Tensor, Tensor]:
    """The most similar positions nearby in the frames before, for each position of a frame.

    Args:
        frame: Float, shape (rows, columns, channels).
        before: Float, shape (frames, rows, columns, channels).
        windows: What `_windows` gives.
        top: How many, at most.

    Returns:
        Similarities, float, and numbers of the positions, counted frame after frame, int64, shape (positions, top).
    """
    frames, rows, columns, _ = before.shape
    top = min(top, frames * min(len(window.numbers) for window in windows))
    best = frame.new_empty(rows, columns, top)
    index = torch.empty(rows, columns, top, dtype=torch.long, device=frame.device)
    offsets = rows * columns * torch.arange(frames, device=frame.device)[:, None]
    for (down, across), (all_down, all_across), far, numbers in windows:
        queries = frame[down, across].flatten(0, 1)
        sources = before[:, all_down, all_across].flatten(0, 2)
        similarity = (queries @ sources.T).unflatten(1, (frames, -1)).masked_fill_(far[:, None], -torch.inf)
        similar, order = similarity.flatten(1).topk(top, dim=1)
        size = best[down, across].shape[:2]
        best[down, across] = similar.unflatten(0, size)
        index[down, across] = (offsets + numbers).flatten()[order].unflatten(0, size)
    return best.flatten(0, 1), index.flatten(0, 1)


def carry_labels(
    frames: Tensor,
    labels: Callable[[int, int], Tensor],
    reader: Reader,
    settings: Settings,
    size: int,
    on_frame: Callable[[], object] = lambda: None,
) -> Tensor:
    """Labels of all frames from those of the first one, by features.

    Args:
        frames: uint8, shape (frames, channels, height, width).
        labels: From the numbers of rows and columns to the weights of the labels in the first frame, float, shape
            (labels, rows, columns).
        reader: Describes frames.
        settings: How labels are carried.
        size: Shorter side of the frames that the reader sees, in pixels.
        on_frame: Called before labels are carried to each frame.

    Returns:
        Float, shape (frames, labels, rows, columns).
    """
    features = torch.cat([reader(_resize(part, size)) for part in frames.split(FRAMES_AT_ONCE)])
    rows, columns = features.shape[2:]
    return propagate(
        features,
        labels(rows, columns).to(features.dtype),
        previous=settings.previous,
        top=settings.top,
        radius=max(5, round(rows / 5)) if settings.radius is None else settings.radius,
        temperature=settings.temperature,
        on_frame=on_frame,
    )


def track(
    film: "Film",
    reader: Reader,
    settings: Settings,
    size: int,
    on_frame: Callable[[], object] = lambda: None,
) -> Tensor:
    """Masks of all frames from that of the first one, by features.

    Args:
        film: The video, of which only the first mask is used.
        reader: Describes frames.
        settings: How labels are carried.
        size: Shorter side of the frames that the reader sees, in pixels.
        on_frame: Called before labels are carried to each frame.

    Returns:
        uint8, shape (frames, height, width).
    """
    labelled = film.masks[0] != VOID
    labels = F.one_hot(film.masks[0].where(labelled, 0).long()) * labelled[..., None]  # what is void has none
    first = rearrange(labels, "h w k -> k h w").float()
    carried = carry_labels(
        film.frames, lambda *size: F.adaptive_avg_pool2d(first, size), reader, settings, size, on_frame
    )
    height, width = film.masks.shape[1:]
    masks = [F.interpolate(part[None], (height, width), mode="bilinear")[0].argmax(0) for part in carried]
    return torch.stack([film.masks[0], *masks[1:]]).to(torch.uint8)


def carry(encoder: Any, film: "Film", settings: Settings | None = None, layer: str | None = None) -> Tensor:
    """Masks of all frames from that of the first one, by the features of an encoder.

    Args:
        encoder: It reads images, or videos frame by frame.
        film: The video, of which only the first mask is used.
        settings: How labels are carried; None for the defaults.
        layer: Name of the map that describes positions; None takes the deepest with enough of them.

    Returns:
        uint8, shape (frames, height, width).

    Raises:
        ValueError: The encoder has no maps of single frames.
    """
    settings, network = settings or Settings(), frame(encoder)
    layer, rows, _ = survey(network, layer)
    return track(film, of_maps(network, layer), settings, side(settings, network, rows, film))


def side(settings: Settings, encoder: "ImageEncoder", rows: int, film: "Film | Posed") -> int:
    """Shorter side of the frames in pixels.

    Args:
        settings: Its size, if it has one.
        encoder: What will see the frames.
        rows: Rows of positions at the encoder's image size.
        film: The video.
    """
    low, high = sorted(film.frames.shape[2:])
    if settings.size is not None:
        return min(settings.size, low)
    most = math.isqrt(MOST_POSITIONS * low // high) * encoder.image_size // rows
    return min(2 * encoder.image_size, low, most)


def frame(encoder: Any) -> "ImageEncoder":
    """The network of single frames: an encoder of images, or that within an encoder of videos.

    Raises:
        ValueError: The encoder has no maps of single frames.
    """
    network = getattr(encoder, "frame", encoder)
    if not hasattr(network, "maps"):
        raise UserError(
            f"encoder must have maps of single frames, as frames-conv4, got {encoder.config['name']}"
        )
    return network


def of_maps(encoder: "ImageEncoder", layer: str) -> Reader:
    """Positions described by a map and all deeper ones."""

    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        return describe(encoder.maps(images), layer)

    return read


def of_pixels(encoder: "ImageEncoder", stride: int) -> Reader:
    """Positions described by the pixels around them as the network sees them, compared by their distance."""
    width = PATCH * stride

    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        pixels = encoder.adapt(images)
        before, (rows, columns) = (width - stride) // 2, (-(-side // stride) for side in pixels.shape[2:])
        more = [count * stride - side for count, side in zip((rows, columns), pixels.shape[2:])]
        after = width - stride - before
        sides = before, after + more[1], before, after + more[0]
        patches = F.unfold(F.pad(pixels, sides, mode="replicate"), width, stride=stride)
        patches = rearrange(patches, "t c (h w) -> t c h w", h=rows) / patches.shape[1] ** 0.5
        # One more number brings all to one length, so that a higher dot product is a smaller distance.
        rest = PIXEL_LENGTH**2 - patches.square().sum(1, keepdim=True)
        return torch.cat([patches, rest.clamp(min=0).sqrt()], 1)

    return read


def _resize(frames: Tensor, size: int) -> Tensor:
    """Frames whose shorter side has a size, float, in 0..1."""
    images, sides = to_float(frames), frames.shape[2:]
    if min(sides) == size:
        return images
    height, width = (round(side * size / min(sides)) for side in sides)
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
