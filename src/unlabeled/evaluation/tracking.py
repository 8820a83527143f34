"""Labels of a video's first frame, carried to all others by likeness of features; no weight is learned."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    from unlabeled.encoders import ImageEncoder

__all__ = [
    "Reader",
    "Settings",
    "carry",
    "frame",
    "of_maps",
    "of_pixels",
    "propagate",
    "side",
    "track",
]

LIKENESSES = 2**22
"""Most likenesses held at once."""
FRAMES_AT_ONCE = 16
PATCH = 3
"""Places on a side of the patches of raw pixels: wider ones know more of where they are, narrower ones nothing."""
PIXEL_LENGTH = 8.0
PIXEL_TEMPERATURE = 0.001
"""In mean squared differences of pixels; a higher one tracks worse."""

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


def track(film: "Film", reader: Reader, settings: Settings, size: int) -> Tensor:
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
    known = film.masks[0] != VOID
    labels = F.one_hot(film.masks[0].where(known, 0).long()) * known[..., None]  # what is void has none
    first = rearrange(labels, "h w k -> k h w").to(features.dtype)
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
    return torch.stack([film.masks[0], *found[1:]]).to(torch.uint8)


def carry(encoder: Any, film: "Film", settings: Settings | None = None, layer: str | None = None) -> Tensor:
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
    settings, network = settings or Settings(), frame(encoder)
    return track(film, of_maps(network, survey(network, layer)[0]), settings, side(settings, network, film))


def side(settings: Settings, encoder: "ImageEncoder", film: "Film") -> int:
    """Shorter side of the frames in pixels."""
    return min(settings.size or 2 * encoder.image_size, *film.frames.shape[2:])


def frame(encoder: Any) -> "ImageEncoder":
    frame = getattr(encoder, "frame", encoder)
    if not hasattr(frame, "maps"):
        raise UserError(
            f"encoder must have maps of single frames, as frames-conv4, got {encoder.config['name']}"
        )
    return frame


def of_maps(encoder: "ImageEncoder", layer: str) -> Reader:
    @torch.no_grad()
    def read(images: Tensor) -> Tensor:
        return describe(encoder.maps(images), layer)

    return read


def of_pixels(encoder: "ImageEncoder", stride: int) -> Reader:
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
