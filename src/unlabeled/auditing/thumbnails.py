"""Thumbnails of images, and what near-duplicates are recognised by: brightness, colour and fine detail."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.image.data import Images

__all__ = [
    "BLUR",
    "FINE",
    "SIDE",
    "averaging",
    "detail",
    "has_detail",
    "in_blocks",
    "normalise",
    "planes",
    "reduce",
    "thumbnails",
    "thumbnails_of",
    "transform",
]

SIDE = 32
"""Height and width in pixels of the thumbnails that are compared."""
FINE = 16
"""Side in pixels of the images that are aligned."""
BLOCK = 1024
"""Thumbnails of which something is computed at a time."""
_READ = 256
_LEAST_DETAIL = 0.008
"""Root mean square of fine detail, in 0..1, below which an image holds nothing that could be recognised."""


def thumbnails(images: Tensor) -> Tensor:
    """Reduce or stretch images to the size that is compared.

    Args:
        images: uint8, shape (images, channels, height, width).

    Returns:
        uint8, shape (images, channels, 32, 32), where the channels are 3 or, for any other number, their mean.
    """
    pixels = images.float()
    if pixels.shape[1] not in (1, 3):
        pixels = pixels.mean(1, keepdim=True)
    if pixels.shape[-2:] != (SIDE, SIDE):
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8)


def thumbnails_of(parts: Sequence[tuple[Images, Tensor]]) -> Tensor:
    """Thumbnails of some rows of images, one part after the other, in colour if any part is.

    Args:
        parts: Images and their rows, int64, shape (rows,), of each part.
    """
    channels = 3 if any(data.channels == 3 for data, _ in parts) else 1
    small = torch.empty(sum(len(rows) for _, rows in parts), channels, SIDE, SIDE, dtype=torch.uint8)
    done = 0
    for data, rows in parts:
        alike = bool((data.sizes == data.sizes[:1]).all())
        for block in rows.split(_READ if alike else 1):
            small[done : done + len(block)] = thumbnails(data.batch(block)["image"].cpu())
            done += len(block)
    return small


def has_detail(small: Tensor) -> Tensor:
    """Which thumbnails hold enough detail to be compared; flat ones would all match one another.

    Args:
        small: As `thumbnails` returns them.

    Returns:
        bool, shape (images,).
    """

    def strength(planes: Tensor) -> tuple[Tensor]:
        inner = detail(reduce(planes[:, :1]))[..., 2:-2, 2:-2]  # a blur bends even slopes at the edges
        return (inner.square().mean((1, 2, 3)),)

    (energy,) = in_blocks(strength, small)
    return energy.sqrt() >= _LEAST_DETAIL


def planes(small: Tensor) -> Tensor:
    """Brightness, in 0..1, and of colour images how much red and blue differ from it."""
    pixels = small.float() / 255
    if pixels.shape[1] == 1:
        return pixels
    brightness = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
    return torch.cat([brightness, pixels[:, :1] - brightness, pixels[:, 2:] - brightness], 1)


def in_blocks(function: Callable[[Tensor], Sequence[Tensor]], small: Tensor) -> list[Tensor]:
    """Results of a function of planes, computed for a block of thumbnails at a time."""
    parts = [function(planes(block)) for block in small.split(BLOCK)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def averaging(low: Tensor, high: Tensor, side: int) -> Tensor:
    """Matrices that average a stretch of a line of pixels to fewer.

    Args:
        low: Where the stretches start, in 0..1, shape (stretches,).
        high: Where they end.
        side: Pixels of the result.

    Returns:
        Float, shape (stretches, side, 32).
    """
    ends = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, side + 1)
    covered = (ends[..., None] * SIDE - torch.arange(SIDE)).clamp(0, 1)
    weights = covered[:, 1:] - covered[:, :-1]
    return weights / weights.sum(-1, keepdim=True)


def blur_matrix(side: int) -> Tensor:
    """Matrix that blurs a line of pixels by (1, 2, 1) / 4, its ends repeated, shape (side, side)."""
    lines = torch.eye(side)
    lines = torch.cat([lines[:1], lines, lines[-1:]])
    return (lines[:-2] + 2 * lines[1:-1] + lines[2:]) / 4


def transform(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Matrices applied to the rows and to the columns of images."""
    return rows @ images @ columns.mT


BLUR = [torch.linalg.matrix_power(blur_matrix(SIDE), times) for times in (1, 2, 3)]
SMOOTH = torch.linalg.matrix_power(blur_matrix(FINE), 2)
REDUCE = averaging(torch.zeros(1), torch.ones(1), FINE)[0] @ BLUR[0]


def reduce(planes: Tensor) -> Tensor:
    """Whole images as they are aligned, shape (images, channels, 16, 16)."""
    return transform(REDUCE, planes, REDUCE)


def detail(images: Tensor) -> Tensor:
    """What a blur takes from images of 16 x 16 pixels."""
    return images - transform(SMOOTH, images, SMOOTH)


def normalise(images: Tensor) -> Tensor:
    """Images less the mean of each channel, scaled to length 1 over the last three axes."""
    images = images - images.mean((-2, -1), keepdim=True)
    return images / images.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp(min=1e-6)
