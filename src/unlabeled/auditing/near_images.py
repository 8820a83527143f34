"""Near duplicates among images: copies that were cropped, mirrored, resized or compressed again.

The search narrows in three steps, all on thumbnails of 32 x 32 pixels:

1. Candidates. Means of brightness, edges and colours over parts of an image are weighted so that crops of one image lie
   close together and different images far apart: linear discriminants, fitted to simulated copies of a sample of the
   images. Each image is paired with those that are most likely its copies. Mirroring changes only the sign of the odd
   half of the features, so one matrix product compares an image with another and with its mirror image.
2. Windows. Of 36 windows of one image, mirrored or not, that which correlates best with the whole of the other is kept.
3. Alignment. The window is fitted to fractions of a pixel (Gauss-Newton steps); then fine detail must correlate.

Images of one kind, such as characters or radiographs, resemble one another even in detail. How many pairs reach a score
by chance is therefore extrapolated from those that fall short of it, and the threshold is raised until chance accounts
for a twentieth of what is reported.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.data.image.data import Images

__all__ = ["SIDE", "NearPairs", "detailed", "near_pairs", "thumbnails", "thumbnails_of"]

SIDE = 32
"""Height and width in pixels of the thumbnails that are compared."""

_COARSE, _FINE = 8, 16
"""Sides in pixels to which windows are reduced before they are compared in the second and third step."""
_SAMPLE, _VIEWS = 3000, 5
"""Images to which the discriminants are fitted, and simulated copies of each."""
_EVEN, _ODD = 40, 24
"""Discriminants of the even and the odd half of the features."""
_CANDIDATES, _PAIRS = 64, 500_000
"""Candidates of each image, and more where there are no more pairs than these in all."""
_PARTNERS, _ALIGNED = 12, 150_000
"""Most candidates of one image that enter the third step, and more where there are no more pairs than these in all; the
latter only where all pairs are looked for, as this step takes longest."""
_READ, _BLOCK, _ROWS, _GROUP, _CHUNK = 256, 1024, 512, 64, 1024
_LOW = torch.tensor([0.0, 0.0, 0.1, 0.0, 0.1, 0.2])
_HIGH = torch.tensor([1.0, 0.9, 1.0, 0.8, 0.9, 1.0])
"""Ends of the windows along one axis, in 0..1."""
_WINDOWS = len(_LOW) ** 2

_LEAST_DETAIL = 0.008
"""Root mean square of fine detail, in 0..1, below which an image holds nothing that could be recognised."""
_LEAST_FIT, _LEAST_START, _LEAST_CORRELATION = 0.8, 0.85, 0.92
_LEAST_SCORE, _HIGHEST_SCORE = 0.92, 0.985
_CHANCE_SHARE = 0.05
"""Share of pairs that reach a score by chance among those that are reported."""
_BANDS = (0.88, 0.90, 0.92)
"""Ends of two bands of scores in which nearly all pairs of images of one kind are there by chance."""
_POWERS = (2.0, 6.0)
"""Least and greatest power of 1 - score with which chance pairs become fewer."""


class NearPairs(NamedTuple):
    """Pairs of images of which one is probably a copy of the other, by falling score."""

    pairs: Tensor
    """Rows of both images, the smaller first, int64, shape (pairs, 2)."""
    score: Tensor
    """Correlation of fine detail after alignment, float, shape (pairs,), at most 1."""
    mirrored: Tensor
    """Whether one is a mirror image of the other, bool, shape (pairs,)."""
    threshold: float
    """The lowest score that is reported among these images."""


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


def detailed(small: Tensor) -> Tensor:
    """Which thumbnails hold enough detail to be compared; flat ones would all match one another.

    Args:
        small: As `thumbnails` returns them.

    Returns:
        bool, shape (images,).
    """

    def strength(planes: Tensor) -> tuple[Tensor]:
        inner = _detail(_reduced(planes[:, :1]))[..., 2:-2, 2:-2]  # a blur bends even slopes at the edges
        return (inner.square().mean((1, 2, 3)),)

    (found,) = _in_blocks(strength, small)
    return found.sqrt() >= _LEAST_DETAIL


def near_pairs(small: Tensor, *, part: Tensor | None = None, chance: float = 1.0, seed: int = 0) -> NearPairs:
    """Find images that are probably copies of one another.

    Copies are crops of at least 80 % of each side, mirror images, images of half the size or compressed as JPEG, and
    combinations of these. Exact copies should be left out beforehand, as they would fill the list of candidates of an
    image. In large groups of copies not all pairs are listed, but the listed ones connect them.

    Args:
        small: As `thumbnails` returns them; those without detail are left out (see `detailed`).
        part: Part that each image is in, int64 or bool, shape (images,), where only pairs across parts are looked for;
            None looks for all.
        chance: Pairs that may be there by chance where few are reported; more where these are a twentieth.
        seed: Seed of the sample to which the discriminants are fitted.
    """
    rows = detailed(small).nonzero().flatten()
    if len(rows) < 2:
        none = torch.zeros(0)
        return NearPairs(none.long().view(0, 2), none, none.bool(), _LEAST_SCORE)
    small = small[rows]
    pairs = _candidates(small, None if part is None else part[rows], torch.Generator().manual_seed(seed))
    partners = max(_PARTNERS, _ALIGNED // len(small) if part is None else 0)
    pairs, window, _ = _promising(small, pairs, partners)
    pairs, score, mirrored = _aligned(small, pairs, window)
    threshold = _threshold(score, chance)
    order = score.argsort(descending=True, stable=True)
    order = order[score[order] >= threshold]
    return NearPairs(rows[pairs[order]], score[order], mirrored[order], threshold)


def _threshold(score: Tensor, chance: float = 1.0) -> float:
    """The lowest score at which chance accounts for a small share of the pairs that reach it.

    The number of chance pairs with a score above s is taken to be c (1 - s)^k, and c and k from the pairs in two bands
    of scores that few copies have: on characters k is 2 to 5, on radiographs 5 and rising with s.
    """
    far, middle, close = (1 - limit for limit in _BANDS)
    first, second = (max(1, int(((score >= low) & (score < high)).sum())) for low, high in pairwise(_BANDS))
    powers = torch.linspace(*_POWERS, 61).tolist()
    ratios = [(far**power - middle**power) / (middle**power - close**power) for power in powers]
    power = min(zip(powers, ratios, strict=True), key=lambda item: abs(item[1] - first / second))[0]
    scale = second / (middle**power - close**power)
    for threshold in torch.linspace(_LEAST_SCORE, _HIGHEST_SCORE, 66).tolist():
        if scale * (1 - threshold) ** power <= max(chance, _CHANCE_SHARE * int((score >= threshold).sum())):
            return threshold
    return _HIGHEST_SCORE


def _planes(small: Tensor) -> Tensor:
    """Brightness, in 0..1, and of colour images how much red and blue differ from it."""
    pixels = small.float() / 255
    if pixels.shape[1] == 1:
        return pixels
    brightness = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
    return torch.cat([brightness, pixels[:, :1] - brightness, pixels[:, 2:] - brightness], 1)


def _in_blocks(function: Callable[[Tensor], Sequence[Tensor]], small: Tensor) -> list[Tensor]:
    """Results of a function of planes, computed for a block of thumbnails at a time."""
    parts = [function(_planes(block)) for block in small.split(_BLOCK)]
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _stretches(low: Tensor, high: Tensor, side: int) -> Tensor:
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


def _blurring(side: int) -> Tensor:
    """Matrix that blurs a line of pixels by (1, 2, 1) / 4, its ends repeated, shape (side, side)."""
    lines = torch.eye(side)
    lines = torch.cat([lines[:1], lines, lines[-1:]])
    return (lines[:-2] + 2 * lines[1:-1] + lines[2:]) / 4


def _apply(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Matrices applied to the rows and to the columns of images."""
    return rows @ images @ columns.mT


_BLUR = [torch.linalg.matrix_power(_blurring(SIDE), times) for times in (1, 2, 3)]
_SMOOTH = torch.linalg.matrix_power(_blurring(_FINE), 2)
_REDUCE = _stretches(torch.zeros(1), torch.ones(1), _FINE)[0] @ _BLUR[0]


def _reduced(planes: Tensor) -> Tensor:
    """Whole images as they are aligned, shape (images, channels, 16, 16)."""
    return _apply(_REDUCE, planes, _REDUCE)


def _detail(images: Tensor) -> Tensor:
    """What a blur takes from images of 16 x 16 pixels."""
    return images - _apply(_SMOOTH, images, _SMOOTH)


def _unit(images: Tensor) -> Tensor:
    """Images less the mean of each channel, scaled to length 1 over the last three axes."""
    images = images - images.mean((-2, -1), keepdim=True)
    return images / images.square().sum((-3, -2, -1), keepdim=True).sqrt().clamp(min=1e-6)


# First step: candidates


def _candidates(small: Tensor, part: Tensor | None, generator: torch.Generator) -> Tensor:
    """Pairs that may be copies, across parts if there are any, the smaller row first, int64, shape (pairs, 2)."""
    pairs = _neighbours(small, generator)
    return pairs if part is None else pairs[part[pairs[:, 0]] != part[pairs[:, 1]]]


def _neighbours(small: Tensor, generator: torch.Generator) -> Tensor:
    """Pairs that may be copies, the smaller row first, int64, shape (pairs, 2)."""
    count = len(small)
    if count * (count - 1) // 2 <= _PAIRS:
        return torch.combinations(torch.arange(count), 2)
    neighbours = _likeliest(*_descriptors(small, generator))
    rows = torch.arange(count)[:, None].expand_as(neighbours)
    keys = (torch.minimum(rows, neighbours) * count + torch.maximum(rows, neighbours)).flatten().unique()
    return torch.stack([keys // count, keys % count], 1)


def _features(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd half of what is measured in images; a mirror image has the same even and the negative odd half."""
    half = F.avg_pool2d(planes, 2)
    wide = F.pad(half[:, :1], (1, 1, 1, 1), mode="replicate")
    right = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    down = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    slope = (right.square() + down.square() + 1e-6).sqrt()
    edges = torch.cat([slope, right.abs(), down.abs(), down.clamp(min=0)], 1)
    shades = [_shades(half[:, :1], 0, 1, 8, 0.1)]
    shades += [_shades(half[:, at : at + 1], -0.3, 0.3, 6, 0.08) for at in range(1, half.shape[1])]
    maps = [
        F.adaptive_avg_pool2d(planes[:, :1], 8),
        F.adaptive_avg_pool2d(torch.cat([half[:, 1:], edges], 1), 4),
        F.adaptive_avg_pool2d(torch.cat(shades, 1), 2).sqrt(),
        F.adaptive_avg_pool2d(right * down / slope, 4),
    ]
    even, odd = [], []
    for place, values in enumerate(maps):
        left = values[..., : values.shape[-1] // 2]
        mirrored = values.flip(-1)[..., : values.shape[-1] // 2]
        if place == len(maps) - 1:  # diagonal edges change their sign in a mirror
            mirrored = -mirrored
        even.append((left + mirrored).flatten(1) / 2)
        odd.append((left - mirrored).flatten(1) / 2)
    for first, second in pairwise(shades):
        even.append((first.flatten(2) @ second.flatten(2).mT / first[0, 0].numel()).sqrt().flatten(1))
    return torch.cat(even, 1), torch.cat(odd, 1)


def _shades(plane: Tensor, low: float, high: float, count: int, width: float) -> Tensor:
    """How close the pixels of a plane are to each of some shades, shape (images, shades, height, width)."""
    return torch.exp(-((plane - torch.linspace(low, high, count)[:, None, None]) / width).square())


def _copies(small: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of thumbnails, some of them of half the size, with noise instead of compression."""

    def stretches() -> Tensor:
        size = 1 - 0.2 * torch.rand(len(small), generator=generator).sqrt()
        low = (1 - size) * torch.rand(len(small), generator=generator)
        return _stretches(low, low + size, SIDE)[:, None]

    pixels = small.float()
    coarse = F.interpolate(F.avg_pool2d(pixels, 2), (SIDE, SIDE), mode="bilinear")
    halved = torch.rand(len(small), 1, 1, 1, generator=generator) < 0.3
    pixels = _apply(stretches(), torch.where(halved, coarse, pixels), stretches())
    return (pixels + 3 * torch.randn(pixels.shape, generator=generator)).clamp(0, 255)


class _Discriminants(NamedTuple):
    """Log-likelihood ratio of "copies of one image" to "of two" as a product less a bias of each (PLDA)."""

    mean: Tensor
    weight: Tensor
    ratio: Tensor
    """Variance between images by that between copies of one, shape (discriminants,)."""

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors, shape (images, discriminants), and biases, shape (images,)."""
        values, ratio = (features - self.mean) @ self.weight, self.ratio
        bias = values.square() @ (ratio.square() / ((1 + ratio) * (1 + 2 * ratio))) / 2
        return values * (ratio / (1 + 2 * ratio)).sqrt(), bias


def _fitted(views: Tensor, count: int, mean: Tensor) -> _Discriminants:
    """Linear discriminants of features of copies, shape (copies, images, features)."""
    centres = views.mean(0)
    within = (views - centres).flatten(0, 1)
    within = within.T @ within / ((len(views) - 1) * views.shape[1])
    between = (centres - mean).T @ (centres - mean) / views.shape[1] - within / len(views)
    within += (1e-3 * within.diagonal().mean() + 1e-9) * torch.eye(len(within))
    white = torch.linalg.inv(torch.linalg.cholesky(within))
    ratio, axes = torch.linalg.eigh(white @ between @ white.T)
    return _Discriminants(mean, white.T @ axes[:, -count:], ratio[-count:].clamp(min=0))


def _descriptors(small: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Even and odd descriptors, shape (images, discriminants), and biases, shape (images,)."""
    sample = small[torch.randperm(len(small), generator=generator)[:_SAMPLE]]
    views = [sample, *(_copies(sample, generator) for _ in range(_VIEWS - 1))]
    even, odd = map(torch.stack, zip(*(_in_blocks(_features, view) for view in views), strict=True))
    even = _fitted(even, _EVEN, even.mean((0, 1)))
    odd = _fitted(odd, _ODD, torch.zeros(odd.shape[-1]))

    def described(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (first, bias), (second, more) = map(lambda half, values: half(values), (even, odd), _features(planes))
        return first, second, bias + more

    first, second, bias = _in_blocks(described, small)
    return first, second, bias


def _likeliest(even: Tensor, odd: Tensor, bias: Tensor) -> Tensor:
    """The likeliest copies of each image, int64, shape (images, candidates); a block of images at a time.

    Sorting whole rows would take longer than the products. The best are among the groups whose maximum is among the
    best, and only the members of these are sorted.
    """
    count = len(even)
    groups, best = -(-count // _GROUP), min(max(_CANDIDATES, 2 * _PAIRS // count), count - 1)
    scores = torch.full((_ROWS, groups * _GROUP), -torch.inf)
    rows = []
    for start in range(0, count, _ROWS):
        block = scores[: min(_ROWS, count - start)]
        ratio = block[:, :count]
        ratio.copy_((odd[start : start + _ROWS] @ odd.T).abs_().addmm_(even[start : start + _ROWS], even.T))
        ratio -= bias
        ratio.diagonal(start).fill_(-torch.inf)
        grouped = block.view(len(block), groups, _GROUP)
        chosen = grouped.amax(2).topk(min(best, groups), 1).indices
        members = grouped.gather(1, chosen[..., None].expand(-1, -1, _GROUP)).flatten(1)
        place = members.topk(best, 1).indices
        rows.append(chosen.gather(1, place // _GROUP) * _GROUP + place % _GROUP)
    return torch.cat(rows)


# Second step: windows


def _promising(small: Tensor, pairs: Tensor, partners: int) -> tuple[Tensor, Tensor, Tensor]:
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
    stretches = _stretches(_LOW, _HIGH, _COARSE)
    (whole,) = _in_blocks(lambda planes: (_unit(_apply(stretches[0], planes, stretches[0])),), small)
    whole = torch.stack([whole, whole.flip(-1)], 1).flatten(2)
    order = pairs[:, 0].argsort(stable=True)
    partners = pairs[order, 1]
    ends = pairs[:, 0].bincount(minlength=len(small)).cumsum(0).tolist()
    fit, window = torch.empty(len(pairs)), torch.empty(len(pairs), dtype=torch.int64)
    row = done = 0
    for block in small.split(_BLOCK // 4):
        planes = _planes(block)[:, None, None]
        parts = _apply(stretches[:, None, None], planes, stretches[:, None]).flatten(1, 2)
        for part in _unit(parts).flatten(2):
            places = order[done : ends[row]]
            best = (whole[partners[done : ends[row]]] @ part.T).flatten(1).max(1)
            fit[places], window[places] = best.values, best.indices
            row, done = row + 1, ends[row]
    return fit, window


# Third step: alignment


def _aligned(small: Tensor, pairs: Tensor, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with their scores and whether they are mirrored, those that do not correlate at all left out."""
    (whole,) = _in_blocks(lambda planes: (_reduced(planes[:, :1]),), small)
    (brightness,) = _in_blocks(lambda planes: (_apply(_BLUR[0], planes[:, :1], _BLUR[0]),), small)
    score = torch.zeros(len(pairs))
    mirrored = torch.zeros(len(pairs), dtype=torch.bool)
    for side in (0, 1):
        for index in torch.arange(len(pairs)).split(_CHUNK):
            source, target = pairs[index, side], pairs[index, 1 - side]
            flipped, window = windows[index, side] >= _WINDOWS, windows[index, side] % _WINDOWS
            goal = torch.where(flipped[:, None, None, None], whole[target].flip(-1), whole[target])
            box = torch.stack([ends[at] for at in (window % 6, window // 6) for ends in (_LOW, _HIGH)], 1)
            box = _moved(brightness[source], goal, box, 3)
            fit = (_unit(_sampled(brightness[source], box)) * _unit(goal)).sum((1, 2, 3))
            rows = (fit >= _LEAST_START).nonzero().flatten()
            if not len(rows):
                continue
            box = _moved(brightness[source[rows]], goal[rows], box[rows], 6)
            value = _agreement(small[source[rows]], small[target[rows]], flipped[rows], box)
            rows, better = index[rows], value > score[index[rows]]
            score[rows[better]], mirrored[rows[better]] = value[better], flipped[rows - index[0]][better]
    rows = (score > 0).nonzero().flatten()
    return pairs[rows], score[rows], mirrored[rows]


def _sampled(images: Tensor, box: Tensor) -> Tensor:
    """Windows of images, between the ends left, right, top, bottom in 0..1, shape (images, channels, 16, 16)."""
    middles = (torch.arange(_FINE) + 0.5) / _FINE
    left, right, top, bottom = (box[:, side, None] for side in range(4))
    across, down = left + (right - left) * middles, top + (bottom - top) * middles
    grid = torch.stack([across[:, None].expand(-1, _FINE, -1), down[..., None].expand(-1, -1, _FINE)], -1)
    return F.grid_sample(images, 2 * grid - 1, padding_mode="border", align_corners=False)


def _moved(images: Tensor, goal: Tensor, box: Tensor, steps: int) -> Tensor:
    """Move the ends of windows so that what they show of images fits the goal (Gauss-Newton, slopes of the goal)."""
    goal = _unit(goal)
    wide = F.pad(goal, (1, 1, 1, 1), mode="replicate")[:, 0]
    across = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) * (_FINE / 2)
    down = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) * (_FINE / 2)
    place = (torch.arange(_FINE) + 0.5) / _FINE
    slopes = [across * (1 - place), across * place, down * (1 - place)[:, None], down * place[:, None]]
    slopes = torch.stack(slopes, 1).flatten(2)
    square = slopes @ slopes.mT
    damping = 1e-2 * square.diagonal(dim1=1, dim2=2).mean(1) + 1e-5
    inverse = torch.linalg.solve(square + damping[:, None, None] * torch.eye(4), slopes)
    for _ in range(steps):
        error = (goal - _unit(_sampled(images, box))).flatten(1)
        sizes = (box[:, 1::2] - box[:, ::2]).repeat_interleave(2, 1)
        box = box + ((inverse @ error[..., None])[..., 0] * sizes).clamp(-0.06, 0.06)
        box = torch.stack([box[:, ::2].clamp(-0.05, 0.3), box[:, 1::2].clamp(0.7, 1.05)], -1).flatten(1)
    return box


def _agreement(source: Tensor, target: Tensor, flipped: Tensor, box: Tensor) -> Tensor:
    """Correlation of fine detail, the source as sharp or blurred as the target; 0 where colours do not fit."""
    source, target = _planes(source), _planes(target)
    target = _reduced(torch.where(flipped[:, None, None, None], target.flip(-1), target))
    window = _sampled(_apply(_BLUR[0], source, _BLUR[0]), box)
    whole = (_unit(window) * _unit(target)).sum((1, 2, 3))
    goal = _unit(_detail(target[:, :1]))
    blurred = (_apply(blur, source[:, :1], blur) for blur in _BLUR)
    scores = [(_unit(_detail(_sampled(images, box))) * goal).sum((1, 2, 3)) for images in blurred]
    return torch.where(whole >= _LEAST_CORRELATION, torch.stack(scores).amax(0).clamp(0, 1), 0)
