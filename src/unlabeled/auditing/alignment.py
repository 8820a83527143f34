"""Candidates for near-duplicates are tested: a window of one image is fitted to the whole of the other.

Of 36 windows of one image, mirrored or not, that which correlates best with the whole of the other is kept. It is then
fitted to fractions of a pixel (Gauss-Newton steps), where fine detail must correlate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.auditing.thumbnails import (
    BLOCK,
    BLUR,
    FINE,
    averaging,
    detail,
    in_blocks,
    normalise,
    planes,
    reduce,
    transform,
)

__all__ = ["align", "match_windows"]

_COARSE = 8
"""Side in pixels to which windows are reduced before they are compared."""
_CHUNK = 1024
_LOW = torch.tensor([0.0, 0.0, 0.1, 0.0, 0.1, 0.2])
_HIGH = torch.tensor([1.0, 0.9, 1.0, 0.8, 0.9, 1.0])
"""Ends of the windows along one axis, in 0..1."""
_WINDOWS = len(_LOW) ** 2
_LEAST_FIT, _LEAST_START, _LEAST_CORRELATION = 0.8, 0.85, 0.92


def match_windows(small: Tensor, pairs: Tensor, partners: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of which a window of one correlates with the other.

    Returns:
        The pairs, (pairs, 2); the best window of the first to the whole of the second and of the second to the
        whole of the first, numbered as in `_fits`, (pairs, 2); and the better of both correlations, (pairs,).
    """
    forth, back = _fits(small, pairs), _fits(small, pairs.flip(1))
    fit = torch.maximum(forth[0], back[0])
    order = fit.argsort(descending=True)
    order = order[fit[order] >= _LEAST_FIT]
    order = order[_among_best(pairs[order], len(small), partners)]
    return pairs[order], torch.stack([forth[1], back[1]], 1)[order], fit[order]


def _among_best(pairs: Tensor, count: int, partners: int) -> Tensor:
    """Which of sorted pairs are among the first few of one of their two images."""
    keep = torch.zeros(len(pairs), dtype=torch.bool)
    for side in (0, 1):
        order = pairs[:, side].argsort(stable=True)
        lengths = pairs[:, side].bincount(minlength=count)
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        keep[order] |= torch.arange(len(pairs)) - starts < partners
    return keep


def _fits(small: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """How well windows of the first image of each pair fit the whole of the second.

    Returns:
        The best correlation, (pairs,), and its window, (pairs,): its row of 6 times 6 plus its column, and 36
        more where the second image was mirrored.
    """
    stretches = averaging(_LOW, _HIGH, _COARSE)
    (whole,) = in_blocks(lambda planes: (normalise(transform(stretches[0], planes, stretches[0])),), small)
    whole = torch.stack([whole, whole.flip(-1)], 1).flatten(2)
    order = pairs[:, 0].argsort(stable=True)
    partners = pairs[order, 1]
    ends = pairs[:, 0].bincount(minlength=len(small)).cumsum(0).tolist()
    fit, window = torch.empty(len(pairs)), torch.empty(len(pairs), dtype=torch.int64)
    row = done = 0
    for block in small.split(BLOCK // 4):
        blocks = planes(block)[:, None, None]
        parts = transform(stretches[:, None, None], blocks, stretches[:, None]).flatten(1, 2)
        for part in normalise(parts).flatten(2):
            members = order[done : ends[row]]
            best = (whole[partners[done : ends[row]]] @ part.T).flatten(1).max(1)
            fit[members], window[members] = best.values, best.indices
            row, done = row + 1, ends[row]
    return fit, window


def align(small: Tensor, pairs: Tensor, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with their scores and whether they are mirrored, without those that do not correlate at all."""
    (whole,) = in_blocks(lambda planes: (reduce(planes[:, :1]),), small)
    (brightness,) = in_blocks(lambda planes: (transform(BLUR[0], planes[:, :1], BLUR[0]),), small)
    score = torch.zeros(len(pairs))
    mirrored = torch.zeros(len(pairs), dtype=torch.bool)
    for side in (0, 1):
        for index in torch.arange(len(pairs)).split(_CHUNK):
            source, target = pairs[index, side], pairs[index, 1 - side]
            flipped, window = windows[index, side] >= _WINDOWS, windows[index, side] % _WINDOWS
            goal = torch.where(flipped[:, None, None, None], whole[target].flip(-1), whole[target])
            box = torch.stack([ends[at] for at in (window % 6, window // 6) for ends in (_LOW, _HIGH)], 1)
            box = _fit_box(brightness[source], goal, box, 3)
            fit = (normalise(_window(brightness[source], box)) * normalise(goal)).sum((1, 2, 3))
            rows = (fit >= _LEAST_START).nonzero().flatten()
            if not len(rows):
                continue
            box = _fit_box(brightness[source[rows]], goal[rows], box[rows], 6)
            value = _agreement(small[source[rows]], small[target[rows]], flipped[rows], box)
            rows, better = index[rows], value > score[index[rows]]
            score[rows[better]], mirrored[rows[better]] = value[better], flipped[rows - index[0]][better]
    rows = (score > 0).nonzero().flatten()
    return pairs[rows], score[rows], mirrored[rows]


def _window(images: Tensor, box: Tensor) -> Tensor:
    """Windows of images, between the ends left, right, top, bottom in 0..1, shape (images, channels, 16, 16)."""
    middles = (torch.arange(FINE) + 0.5) / FINE
    left, right, top, bottom = (box[:, side, None] for side in range(4))
    across, down = left + (right - left) * middles, top + (bottom - top) * middles
    grid = torch.stack([across[:, None].expand(-1, FINE, -1), down[..., None].expand(-1, -1, FINE)], -1)
    return F.grid_sample(images, 2 * grid - 1, padding_mode="border", align_corners=False)


def _fit_box(images: Tensor, goal: Tensor, box: Tensor, steps: int) -> Tensor:
    """Move the ends of windows so that what they show of images fits the goal (Gauss-Newton, slopes of the goal)."""
    goal = normalise(goal)
    wide = F.pad(goal, (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) * (FINE / 2)
    down = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) * (FINE / 2)
    middles = (torch.arange(FINE) + 0.5) / FINE
    slopes = [
        across * (1 - middles),
        across * middles,
        down * (1 - middles)[:, None],
        down * middles[:, None],
    ]
    slopes = torch.stack(slopes, 1).flatten(2)
    square = slopes @ slopes.mT
    damping = 1e-2 * square.diagonal(dim1=1, dim2=2).mean(1) + 1e-5
    inverse = torch.linalg.solve(square + damping[:, None, None] * torch.eye(4), slopes)
    for _ in range(steps):
        error = (goal - normalise(_window(images, box))).flatten(1)
        sizes = (box[:, 1::2] - box[:, ::2]).repeat_interleave(2, 1)
        box = box + ((inverse @ error[..., None])[..., 0] * sizes).clamp(-0.06, 0.06)
        box = torch.stack([box[:, ::2].clamp(-0.05, 0.3), box[:, 1::2].clamp(0.7, 1.05)], -1).flatten(1)
    return box


def _agreement(source: Tensor, target: Tensor, flipped: Tensor, box: Tensor) -> Tensor:
    """Correlation of fine detail, the source as sharp or blurred as the target; 0 where colours do not fit."""
    source, target = planes(source), planes(target)
    target = reduce(torch.where(flipped[:, None, None, None], target.flip(-1), target))
    window = _window(transform(BLUR[0], source, BLUR[0]), box)
    whole = (normalise(window) * normalise(target)).sum((1, 2, 3))
    goal = normalise(detail(target[:, :1]))
    blurred = (transform(blur, source[:, :1], blur) for blur in BLUR)
    scores = [(normalise(detail(_window(images, box))) * goal).sum((1, 2, 3)) for images in blurred]
    return torch.where(whole >= _LEAST_CORRELATION, torch.stack(scores).amax(0).clamp(0, 1), 0)
