"""Balanced sampling from a hierarchy of clusters: from the top, every cluster gives as many samples as the others.

Source: Vo et al. 2024, https://arxiv.org/abs/2405.15613, section 3.3; clusters that have fewer give all of theirs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.curating.hierarchy import flat_sizes, members

__all__ = ["draw", "fill"]


def fill(sizes: Tensor, target: int, generator: torch.Generator) -> Tensor:
    """Divide a number among clusters as evenly as their sizes permit.

    All give the same number or, where they are smaller, all that they have; what is left over is one more from each of
    some at random.

    Args:
        sizes: Samples of each cluster, int64, shape (clusters,).
        target: Samples to take, from 0 to all.
        generator: Draws the clusters that give one more.

    Returns:
        Samples to take of each, int64, shape (clusters,), whose sum is the target.

    Raises:
        ValueError: The target is negative or more than there are.
    """
    check.at_least(0, target=target)
    if target > int(sizes.sum()):
        raise UserError(f"target must be at most the number of samples, {int(sizes.sum()):,}, got {target:,}")
    ordered = sizes.sort().values
    # The sum of all sizes cut at the size of each cluster; the level lies above the last that is within the target.
    sums = ordered.cumsum(0) + ordered * torch.arange(len(sizes) - 1, -1, -1)
    full = int((sums <= target).sum())
    if full == len(sizes):
        return sizes.clone()
    level = (target - int(ordered[:full].sum())) // (len(sizes) - full)
    quotas = sizes.clamp(max=level)
    larger = (sizes > level).nonzero().flatten()
    rest = target - int(quotas.sum())
    quotas[larger[torch.randperm(len(larger), generator=generator)[:rest]]] += 1
    return quotas


def draw(levels: Sequence[Tensor], counts: Sequence[int], target: int, *, seed: int = 0) -> Tensor:
    """Draw samples so that clusters of the last level are balanced, and within each those of the level below.

    Args:
        levels: As `hierarchy` returns them.
        counts: Clusters of each level.
        target: Samples to draw, at most all.
        seed: Seed of all random choices.

    Returns:
        Rows in order, int64, shape (target,).
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = flat_sizes(levels, counts)
    quotas = fill(sizes[-1], target, generator)
    for level in range(len(levels) - 1, 0, -1):
        below = torch.zeros(counts[level - 1], dtype=torch.int64)
        for quota, children in zip(quotas.tolist(), members(levels[level], counts[level])):
            if len(children):
                below[children] = fill(sizes[level - 1][children], quota, generator)
        quotas = below
    rows = [
        own[torch.randperm(len(own), generator=generator)[:quota]]
        for quota, own in zip(quotas.tolist(), members(levels[0], counts[0]))
    ]
    return torch.cat(rows).msort()
