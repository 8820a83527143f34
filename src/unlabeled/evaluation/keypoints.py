"""Key points carried through videos: heat maps in the first frame, positions in all others, and how many are right.

PCK@a is the fraction of key points that lie within a times 0.6 times the diagonal of the box around the true key points
of their frame; it is taken for each joint over all frames but the first of all videos, then over the joints.

Source: Jabri, Owens, Efros, "Space-Time Correspondence as a Contrastive Random Walk", 2020,
https://arxiv.org/abs/2006.14613, and its evaluation of JHMDB
Differs: frames keep their aspect; positions are in the middle of cells; of cells with equal weights all count; joints
that are lost on the way count as wrong, where the authors' code leaves them out. Joints outside the first frame are
left out there and here.
"""

import torch
from torch import Tensor

from unlabeled import check

__all__ = ["THRESHOLDS", "correct", "decode", "heat_maps", "pck", "visible"]

THRESHOLDS = (0.1, 0.2)
SIGMA = 0.5
"""Width of the heat maps, in cells."""
REACH = 3 * SIGMA
STRONGEST = 3
"""Cells whose weighted mean is the position of a key point."""
BOX = 0.6


def visible(points: Tensor, height: int, width: int) -> Tensor:
    """Whether points are known and in the frame.

    Args:
        points: x and y in pixels, 0 in the middle of the first one, float, shape (..., 2).
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.

    Returns:
        Bool, shape (...).
    """
    size = points.new_tensor([width, height])
    return ((points >= -0.5) & (points < size - 0.5)).all(-1)


def heat_maps(points: Tensor, height: int, width: int, rows: int, columns: int) -> Tensor:
    """A Gaussian around the cell in which each point lies, empty for a point that is not in the frame.

    Args:
        points: As in `visible`, shape (joints, 2).
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.
        rows: Rows of cells.
        columns: Columns of cells.

    Returns:
        Float in 0..1, shape (joints, rows, columns).
    """
    shown = visible(points, height, width)
    scale = points.new_tensor([columns / width, rows / height])
    cell = ((points.nan_to_num() + 0.5) * scale).floor()
    across = torch.arange(columns, device=points.device) - cell[:, :1]
    down = torch.arange(rows, device=points.device) - cell[:, 1:]
    squared = across.square()[:, None] + down.square()[:, :, None]
    near = (across.abs() <= REACH)[:, None] & (down.abs() <= REACH)[:, :, None]
    return (squared / (-2 * SIGMA**2)).exp() * near * shown[:, None, None]


def decode(maps: Tensor, height: int, width: int) -> Tensor:
    """Positions of key points: the mean of the strongest cells of each map by their weights.

    Args:
        maps: Float, at least 0, shape (frames, joints, rows, columns).
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.

    Returns:
        x and y in pixels, float, shape (frames, joints, 2); NaN where a map is empty.
    """
    rows, columns = maps.shape[2:]
    flat = maps.flatten(2)
    least = flat.topk(min(STRONGEST, rows * columns), dim=2).values[..., -1:]
    weights = flat.where(flat >= least, 0).unflatten(2, (rows, columns))
    x = (torch.arange(columns, device=maps.device) + 0.5) * (width / columns) - 0.5
    y = (torch.arange(rows, device=maps.device) + 0.5) * (height / rows) - 0.5
    both = torch.stack([(weights.sum(2) * x).sum(2), (weights.sum(3) * y).sum(2)], 2)
    return both / weights.sum((2, 3))[..., None]


def correct(predicted: Tensor, true: Tensor, counted: Tensor, threshold: float) -> Tensor:
    """Whether each key point is where it should be.

    Args:
        predicted: x and y, float, shape (frames, joints, 2); NaN for points that are lost.
        true: The true ones, same shape.
        counted: Which of these belong to the box, bool, shape (frames, joints).
        threshold: Fraction of 0.6 times the diagonal of the box within which a point is right, above 0.

    Returns:
        Bool, shape (frames, joints), False for what does not count.
    """
    check.positive(threshold=threshold)
    inside = counted[..., None]
    low = true.where(inside, torch.inf).amin(1)
    high = true.where(inside, -torch.inf).amax(1)
    reach = threshold * BOX * (high - low).norm(dim=-1)
    return ((predicted - true).norm(dim=-1) <= reach[:, None]) & counted


def pck(right: Tensor, counts: Tensor) -> float:
    """Mean over joints of the fraction of their key points that are right, all videos together.

    Args:
        right: How many of each joint are right in each video, shape (videos, joints).
        counts: How many there are, same shape.
    """
    totals = counts.double().sum(0)
    known = totals > 0
    return float((right.double().sum(0)[known] / totals[known]).mean())
