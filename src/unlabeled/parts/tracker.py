"""What moves in a video, and where it goes: moving points, the box that contains most of them, and its track.

All functions work on a whole batch at once, on any device; all but `shrink` take grey frames, float in 0..1.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from unlabeled.parts.augment import to_float
from unlabeled.parts.patches import crop
from unlabeled.parts.precision import full_precision

__all__ = ["busiest", "displacements", "follow", "moving_points", "shrink"]

LARGEST = 64
"""Shorter side in pixels above which frames are shrunk."""
CELL = 4
"""Distance of the points whose motion is measured; each is the middle of a square of twice this side."""
REACH = 4
"""Largest displacement of a point in pixels."""
TEXTURE = 0.02
"""Standard deviation of the pixels around a point below which its motion cannot be measured."""
RATE = 0.1
"""Fraction of the template that is replaced by the match in each frame."""
NEAR = 1e-4
"""Preference for small displacements if others match equally well."""


def shrink(video: Tensor) -> tuple[Tensor, int]:
    """Grey frames, no larger than needed.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).

    Returns:
        Float in 0..1, shape (batch, frames, height / factor, width / factor), and the factor.
    """
    gray = to_float(video).mean(2)
    factor = math.ceil(min(gray.shape[2:]) / LARGEST)
    return F.avg_pool2d(gray, factor) if factor > 1 else gray, factor


def moving_points(first: Tensor, second: Tensor) -> Tensor:
    """Points that move relative to most of the image, and so not by the motion of the camera.

    The displacement of a point minimises the squared difference of the square around it. Points within a pixel of the
    most common displacement do not count as moving, as displacements are whole pixels; nor do points without texture.

    Args:
        first: Float, shape (batch, height, width), at least 8 pixels on a side.
        second: A later frame, the same shape.

    Returns:
        Which points move, bool, shape (batch, rows, columns).
    """
    own, common = displacements(first, second, REACH)
    texture = (square_means(first.square()) - square_means(first).square()).clamp(min=0).sqrt() > TEXTURE
    return texture & ((own - common[:, None, None]).abs().amax(3) > 1)


def displacements(first: Tensor, second: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """By how much each point moves, and most of them; points without texture stay.

    Args:
        first: Float, shape (batch, height, width), at least 8 pixels on a side.
        second: A later frame, the same shape.
        reach: Largest displacement in pixels.

    Returns:
        Downward and rightward in pixels, int64, shapes (batch, rows, columns, 2) and (batch, 2).
    """
    padded = F.pad(second[:, None], [reach] * 4, mode="replicate")[:, 0]
    height, width = first.shape[1:]
    offsets = range(2 * reach + 1)
    shifts = torch.tensor(
        [(row - reach, column - reach) for row in offsets for column in offsets], device=first.device
    )
    costs = [
        square_means((first - padded[:, row : row + height, column : column + width]).square())
        for row in offsets
        for column in offsets
    ]
    small = NEAR * TEXTURE * shifts.to(first).square().sum(1)
    best = (torch.stack(costs, 1) + small[:, None, None]).argmin(1)
    votes = F.one_hot(best.flatten(1), len(shifts)).sum(1)
    return shifts[best], shifts[votes.argmax(1)]


def square_means(values: Tensor) -> Tensor:
    """Mean of the square around each point, float, shape (batch, rows, columns), of (batch, height, width)."""
    return F.avg_pool2d(values, 2 * CELL, CELL)


def window(side: int, like: Tensor) -> Tensor:
    """Weights that fall to zero outside a square, of sum 1, float, shape (1, 1, side, side)."""
    line = torch.hann_window(side + 2, periodic=False, dtype=like.dtype, device=like.device)[1:-1]
    weights = line[:, None] * line
    return (weights / weights.sum())[None, None]


@full_precision
def busiest(points: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """The box with the most points, those in its middle weighing more.

    Args:
        points: As from `moving_points`, shape (batch, rows, columns).
        side: Side of the box in pixels.
        size: Height and width of the image in pixels.

    Returns:
        Top and left in pixels, int64, shape (batch, 2).
    """
    image = torch.zeros(len(points), 1, *size, device=points.device)
    rows, columns = (CELL * (1 + torch.arange(count, device=points.device)) for count in points.shape[1:])
    image[:, 0, rows[:, None], columns] = points.to(image)
    score = F.conv2d(image, window(side, image))[:, 0]
    best = score.flatten(1).argmax(1)
    return torch.stack([best // score.shape[2], best % score.shape[2]], 1)


def follow(video: Tensor, corner: Tensor, side: int, radius: int) -> Tensor:
    """Follow a box through a video by normalised cross-correlation, weighted towards its middle.

    In each frame the best match near the last position is taken, and the template changes slowly.

    Args:
        video: Float, shape (batch, frames, height, width).
        corner: Top and left of the box in the first frame in pixels, int64, shape (batch, 2).
        side: Side of the box in pixels.
        radius: Largest displacement from one frame to the next in pixels.

    Returns:
        Corners in all frames, int64, shape (batch, frames, 2); all boxes are within the frames.
    """
    weights = window(side, video)
    limit = torch.tensor(video.shape[2:], device=video.device) - side
    template = crop(video[:, :1], corner, side)[:, 0]
    offsets = torch.arange(-radius, radius + 1, device=video.device)
    steps = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1).flatten(0, 1)
    corners = [corner]
    for frame in video.unbind(1)[1:]:
        scores = similarity(frame, template, corner, weights, radius)
        candidates = corner[:, None] + steps
        inside = ((candidates >= 0) & (candidates <= limit)).all(2)
        scores = (scores - NEAR * steps.square().sum(1)).masked_fill(~inside, -torch.inf)
        corner = candidates[torch.arange(len(candidates), device=candidates.device), scores.argmax(1)]
        template = template.lerp(crop(frame[:, None], corner, side)[:, 0], RATE)
        corners.append(corner)
    return torch.stack(corners, 1)


@full_precision
def similarity(frame: Tensor, template: Tensor, corner: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Weighted normalised cross-correlation of templates with the squares around some corners.

    Args:
        frame: Float, shape (batch, height, width).
        template: Float, shape (batch, side, side).
        corner: Top and left in pixels, int64, shape (batch, 2).
        weights: As from `window`.
        radius: Largest displacement in pixels.

    Returns:
        In -1..1, 0 for uniform squares, float, shape (batch, (2 * radius + 1) ** 2), row by row.
    """
    padded = F.pad(frame[:, None], [radius] * 4, mode="replicate")
    region = crop(padded, corner, template.shape[1] + 2 * radius)
    # The variance is a difference of squares, which is exact only where the mean is small.
    region = region - region.mean((2, 3), keepdim=True)
    mean = F.conv2d(region, weights)
    variance = (F.conv2d(region.square(), weights) - mean.square()).clamp(min=0)
    centred = template[:, None] - (weights * template[:, None]).sum((2, 3), keepdim=True)
    own = (weights * centred.square()).sum((2, 3))
    both = F.conv2d(rearrange(region, "b 1 h w -> 1 b h w"), weights * centred, groups=len(frame))[0]
    product = own * variance.flatten(1)
    return torch.where(product > 1e-9, both.flatten(1) / product.clamp(min=1e-9).sqrt(), 0)
