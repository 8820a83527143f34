"""Filters of a layer from k-means on patches of its input.

Source: Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent Initializations of Convolutional Neural Networks", 2016,
https://arxiv.org/abs/1511.06856, and its code, https://github.com/philkr/magic_init
Differs: patches are cut out of the input itself, and include padding only if there are too few without it, as padding
would become filters; at most 256 principal components are whitened.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.kmeans import kmeans

__all__ = ["draw_inputs", "filters", "replace_filters_"]

LEAST_PATCHES, PATCHES_PER_FILTER = 4096, 8
"""Patches that are drawn for a layer, at least, and for each of its filters."""
COMPONENTS, EXACT = 256, 1024
"""Largest number of whitened principal components, and size of a patch up to which these are computed exactly."""
ITERATIONS = 10
EPS = 1e-3
"""Added to the variances of the components, as a fraction of the largest."""


def filters(patches: Tensor, count: int) -> Tensor | None:
    """Directions of the clusters of whitened patches, which are normalised to the same length.

    Args:
        patches: Float, shape (patches, numbers).
        count: Number of filters.

    Returns:
        Filters for unwhitened patches, whose responses have standard deviation 1, float, shape (count, numbers); None
        if there are fewer patches than filters, or the patches do not vary.
    """
    if len(patches) < count:
        return None
    centred = patches - patches.mean(0)
    most = min(count, centred.shape[1], COMPONENTS)
    if centred.shape[1] <= EXACT:
        variances, axes = torch.linalg.eigh((centred.T @ centred).double() / len(centred))
        variances, axes = variances[-most:].to(centred), axes[:, -most:].to(centred)
    else:
        _, lengths, axes = torch.svd_lowrank(centred, most, niter=1)
        variances = lengths.square() / len(centred)
    largest = variances.max()
    if not largest > 1e-10:
        return None
    varies = variances > 1e-6 * largest
    whitening = axes[:, varies] * (variances[varies] + EPS * largest).rsqrt()
    clusters = kmeans(F.normalize(centred @ whitening, dim=1), count, ITERATIONS)
    directions = F.normalize(clusters.centres, dim=1) @ whitening.T
    deviations = (centred @ directions.T).square().mean(0).sqrt()
    return directions / deviations.clamp_min(1e-12)[:, None]


def draw_inputs(layer: nn.Conv2d | nn.Linear, x: Tensor, count: int) -> Tensor:
    """What the layer multiplies by its filters, at random positions.

    Args:
        layer: The layer.
        x: Its input: float, shape (batch, channels, height, width) of a convolution, (..., numbers) of a linear layer.
        count: Number of distinct positions; fewer if there are fewer, including those in the padding.

    Returns:
        Float, shape (positions, groups, numbers of a filter).
    """
    if isinstance(layer, nn.Linear):
        rows = x.flatten(0, -2)
        return rows[torch.randperm(len(rows), device=x.device)[:count], None]
    span = [dilation * (side - 1) + 1 for dilation, side in zip(layer.dilation, layer.kernel_size)]
    rows, columns = _positions(layer, x, span)
    if len(x) * rows * columns < count:
        sides = layer.padding if isinstance(layer.padding, tuple) else [one // 2 for one in span]
        x = F.pad(x, (sides[1], sides[1], sides[0], sides[0]))
        rows, columns = _positions(layer, x, span)
    places = torch.randperm(len(x) * rows * columns, device=x.device)[:count]
    sample, place = places // (rows * columns), places % (rows * columns)
    offsets = [
        start[:, None] * stride + dilation * torch.arange(side, device=x.device)
        for start, stride, dilation, side in zip(
            (place // columns, place % columns), layer.stride, layer.dilation, layer.kernel_size
        )
    ]
    patches = x[sample[:, None, None], :, offsets[0][:, :, None], offsets[1][:, None, :]]
    return patches.permute(0, 3, 1, 2).reshape(len(places), layer.groups, -1)


def _positions(layer: nn.Conv2d, x: Tensor, span: list[int]) -> list[int]:
    """Number of rows and of columns of positions at which a filter that spans so many pixels lies inside."""
    sides = zip(x.shape[2:], span, layer.stride)
    return [max(0, (length - one) // stride + 1) for length, one, stride in sides]


@torch.no_grad()
def replace_filters_(layer: Any, x: Tensor) -> bool:
    """Give a layer filters from k-means, drawn from torch's default generator.

    Args:
        layer: A convolution or a linear layer; only linear layers and convolutions of images are changed.
        x: Its input.

    Returns:
        Whether all of its filters were replaced; otherwise it is unchanged.
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return False
    groups = getattr(layer, "groups", 1)
    count = len(layer.weight) // groups
    patches = draw_inputs(layer, x, max(LEAST_PATCHES, PATCHES_PER_FILTER * count))
    new = [filters(patches[:, group], count) for group in range(groups)]
    if any(part is None for part in new):
        return False
    layer.weight.copy_(torch.cat(new).view_as(layer.weight))  # type: ignore[arg-type]
    return True
