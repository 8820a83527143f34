"""HOG and colours: histograms of edge directions and of the values of each channel; of videos also frame changes.

Source: Dalal, Triggs, "Histograms of Oriented Gradients for Human Detection", 2005: square roots of the pixels, 9
directions without sign, votes shared by neighbouring directions and cells, blocks of 2 x 2 cells, L2-Hys.

Differs: no Gaussian window over blocks; the number of cells and not their size is fixed, so that images of any size
give about as many numbers.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "changes", "colours", "hog", "layout", "make"]

DIRECTIONS, CELLS, LARGEST = 9, 8, 128
"""Directions of edges; largest number of cells and of pixels on a side."""
LEVELS, PARTS, COLOUR = 8, 4, 0.5
"""Bins of the values of a channel, parts on a side in which they are counted, and weight of these histograms."""
CLIP, FLOOR = 0.2, 0.1
CHANGES = 4
"""Parts on a side in which changes between frames are measured."""


def layout(size: int) -> tuple[int, int]:
    """Pixels on a side of a cell, at least 2, and cells on a side, 2 to 8, for images of some size in pixels."""
    size = min(size, LARGEST)
    cell = max(2, -(-size // CELLS))
    return cell, max(2, size // cell)


def hog(images: Tensor, cell: int) -> Tensor:
    """Histograms of oriented gradients.

    Args:
        images: Float, shape (batch, channels, height, width), multiples of `cell`, at least two.
        cell: Pixels on a side of a cell.

    Returns:
        Float, shape (batch, rows - 1, columns - 1, 36): blocks of 2 x 2 cells, row by row, of length at most 1.
    """
    down, across = _differences(images)
    strengths, channel = (down.square() + across.square()).max(1, keepdim=True)
    down, across = (part.gather(1, channel) for part in (down, across))
    place = torch.atan2(down, across).remainder(torch.pi) * (DIRECTIONS / torch.pi) - 0.5
    votes = _shared(place, DIRECTIONS, strengths.sqrt())
    rows, columns = (_tents(side // cell, cell).to(images) for side in images.shape[2:])
    cells = rows @ votes @ columns.T
    blocks = rearrange(cells.unfold(2, 2, 1).unfold(3, 2, 1), "b d r c y x -> b r c (y x d)")
    blocks = blocks / (blocks.square().sum(3, keepdim=True) + FLOOR**2).sqrt()
    return F.normalize(blocks.clamp_max(CLIP), dim=3)


def colours(images: Tensor) -> Tensor:
    """Square roots of the histograms of each channel in parts of an image.

    Args:
        images: Float, shape (batch, channels, height, width), in 0..1.

    Returns:
        Float, shape (batch, channels * 8 * 16); the squares of each channel in each part sum to 1.
    """
    flat = rearrange(images, "b c y x -> (b c) 1 y x")
    place = (flat * LEVELS - 0.5).clamp(0, LEVELS - 1)
    counts = F.adaptive_avg_pool2d(_shared(place, LEVELS, torch.ones_like(flat)), PARTS)
    return rearrange(counts.sqrt(), "(b c) l y x -> b (c l y x)", b=len(images))


def changes(video: Tensor) -> Tensor:
    """How much each part of the frames changes from one to the next: mean and standard deviation over time.

    Args:
        video: Float, shape (batch, frames, channels, height, width).

    Returns:
        Float, shape (batch, 32); zeros for a single frame.
    """
    if video.shape[1] == 1:
        return video.new_zeros(len(video), 2 * CHANGES**2)
    steps = reduce(video.diff(dim=1).abs(), "b t c y x -> b t y x", "mean")
    parts = F.adaptive_avg_pool2d(steps, CHANGES)
    return torch.stack([parts.mean(1), parts.std(1, correction=0)], 1).flatten(1)


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """HOG and colours at the size that the network sees; nothing is fitted and nothing is random."""
    cell, cells = layout(encoder.config["image_size"])

    def read(batch: Batch, layer: str | None) -> Tensor:
        x = encoder.inputs(batch)
        frames = rearrange(x, "b ... c y x -> (b ...) c y x")
        if frames.shape[-1] != cell * cells:
            frames = F.interpolate(frames, (cell * cells,) * 2, mode="bilinear", antialias=True)
        features = torch.cat([hog(frames.sqrt(), cell).flatten(1), COLOUR * colours(frames)], 1)
        if encoder.kind == "image":
            return features
        return torch.cat([features.view(len(x), -1, features.shape[1]).mean(1), changes(x)], 1)

    detail = f"{cells}x{cells} cells of {cell} pixels, {LEVELS} bins for each channel in {PARTS**2} parts"
    detail += ", mean over frames, and their differences" if encoder.kind == "video" else ""
    return Representation("hog", read, detail=detail)


def _differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Next minus previous pixel, downwards and to the right; pixels at the border are repeated."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1], padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]


def _shared(place: Tensor, bins: int, weight: Tensor) -> Tensor:
    """Votes of pixels, each shared by the two nearest bins; the last bin is next to the first.

    Args:
        place: Distance from the centre of the first bin, in bins, float, shape (batch, 1, height, width).
        bins: Number of bins.
        weight: Vote of each pixel, shape of `place`.

    Returns:
        Float, shape (batch, bins, height, width).
    """
    low = place.floor()
    share, low = (place - low) * weight, low.long()
    votes = place.new_zeros(len(place), bins, *place.shape[2:])
    votes.scatter_add_(1, low.remainder(bins), weight - share)
    return votes.scatter_add_(1, (low + 1).remainder(bins), share)


def _tents(cells: int, cell: int) -> Tensor:
    """Weight of each pixel in each cell, from 1 at its centre to 0 at that of the next, shape (cells, pixels)."""
    pixels, centres = torch.arange(cells * cell) + 0.5, (torch.arange(cells)[:, None] + 0.5) * cell
    return (1 - (pixels - centres).abs() / cell).clamp_min(0)


CONTROL = Control(make, ("image", "video"), row=2)
