"""Candidates for near-duplicates: pairs of images whose features are those of crops of one image.

Means of brightness, edges and colours over parts of an image are weighted so that crops of one image lie close together
and different images far apart: linear discriminants, fitted to simulated copies of a sample of the images. Mirroring
changes only the sign of the odd half of the features, so one matrix product compares an image with another and with its
mirror image.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.auditing.thumbnails import SIDE, averaging, in_blocks, transform

__all__ = ["candidates", "features", "most_likely"]

_SAMPLE, _VIEWS = 3000, 5
"""Images to which the discriminants are fitted, and simulated copies of each."""
_EVEN, _ODD = 40, 24
"""Discriminants of the even and the odd half of the features."""
_CANDIDATES, _PAIRS = 64, 500_000
"""Candidates of each image, and more where there are no more pairs than these in all."""
_ROWS, _GROUP = 512, 64


def candidates(small: Tensor, part: Tensor | None, generator: torch.Generator) -> Tensor:
    """Pairs that may be copies, across parts if there are any, the smaller row first, int64, shape (pairs, 2)."""
    count = len(small)
    if count * (count - 1) // 2 <= _PAIRS:
        pairs = torch.combinations(torch.arange(count), 2)
    else:
        neighbours = most_likely(*_descriptors(small, generator))
        rows = torch.arange(count)[:, None].expand_as(neighbours)
        keys = (torch.minimum(rows, neighbours) * count + torch.maximum(rows, neighbours)).flatten().unique()
        pairs = torch.stack([keys // count, keys % count], 1)
    return pairs if part is None else pairs[part[pairs[:, 0]] != part[pairs[:, 1]]]


def features(planes: Tensor) -> tuple[Tensor, Tensor]:
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
    for index, values in enumerate(maps):
        left = values[..., : values.shape[-1] // 2]
        mirrored = values.flip(-1)[..., : values.shape[-1] // 2]
        if index == len(maps) - 1:  # diagonal edges change their sign in a mirror
            mirrored = -mirrored
        even.append((left + mirrored).flatten(1) / 2)
        odd.append((left - mirrored).flatten(1) / 2)
    for first, second in pairwise(shades):
        even.append((first.flatten(2) @ second.flatten(2).mT / first[0, 0].numel()).sqrt().flatten(1))
    return torch.cat(even, 1), torch.cat(odd, 1)


def _shades(plane: Tensor, low: float, high: float, count: int, width: float) -> Tensor:
    """How close the pixels of a plane are to each of some shades, shape (images, shades, height, width)."""
    return torch.exp(-((plane - torch.linspace(low, high, count)[:, None, None]) / width).square())


def _simulate_copies(small: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of thumbnails, some of them of half the size, with noise instead of compression."""

    def crop() -> Tensor:
        size = 1 - 0.2 * torch.rand(len(small), generator=generator).sqrt()
        low = (1 - size) * torch.rand(len(small), generator=generator)
        return averaging(low, low + size, SIDE)[:, None]

    pixels = small.float()
    coarse = F.interpolate(F.avg_pool2d(pixels, 2), (SIDE, SIDE), mode="bilinear")
    halved = torch.rand(len(small), 1, 1, 1, generator=generator) < 0.3
    pixels = transform(crop(), torch.where(halved, coarse, pixels), crop())
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


def _fit_discriminants(views: Tensor, count: int, mean: Tensor) -> _Discriminants:
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
    views = [sample, *(_simulate_copies(sample, generator) for _ in range(_VIEWS - 1))]
    even, odd = map(torch.stack, zip(*(in_blocks(features, view) for view in views), strict=True))
    describe_even = _fit_discriminants(even, _EVEN, even.mean((0, 1)))
    describe_odd = _fit_discriminants(odd, _ODD, torch.zeros(odd.shape[-1]))

    def describe(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        even, odd = features(planes)
        (even, even_bias), (odd, odd_bias) = describe_even(even), describe_odd(odd)
        return even, odd, even_bias + odd_bias

    even, odd, bias = in_blocks(describe, small)
    return even, odd, bias


def most_likely(even: Tensor, odd: Tensor, bias: Tensor) -> Tensor:
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
        likely = grouped.amax(2).topk(min(best, groups), 1).indices
        members = grouped.gather(1, likely[..., None].expand(-1, -1, _GROUP)).flatten(1)
        member = members.topk(best, 1).indices
        rows.append(likely.gather(1, member // _GROUP) * _GROUP + member % _GROUP)
    return torch.cat(rows)
