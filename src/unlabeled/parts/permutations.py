"""Sets of permutations that are far apart."""

import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = ["closest", "permutation_set"]

_GENERATORS: dict[int, list[list[tuple[int, ...]]]] = {
    4: [
        [(1, 2, 0, 3), (0, 2, 3, 1)],  # A4: even permutations
        [(1, 0, 2, 3), (1, 2, 3, 0)],  # S4: all permutations
    ],
    9: [
        [(1, 2, 3, 4, 5, 6, 7, 8, 0)],  # cyclic shifts
        [(1, 2, 0, 4, 5, 3, 7, 8, 6), (0, 4, 8, 5, 6, 1, 7, 2, 3)],  # AGL(1,9): x + 1 and g x over GF(9)
        [  # PGL(2,8): x + 1, g x and 1 / x over GF(8) and infinity
            (1, 0, 3, 2, 5, 4, 7, 6, 8),
            (0, 2, 4, 6, 3, 1, 7, 5, 8),
            (8, 1, 5, 6, 7, 2, 3, 4, 0),
        ],
        [  # PGammaL(2,8): the same with x ** 2
            (1, 0, 3, 2, 5, 4, 7, 6, 8),
            (0, 2, 4, 6, 3, 1, 7, 5, 8),
            (8, 1, 5, 6, 7, 2, 3, 4, 0),
            (0, 1, 4, 5, 6, 7, 2, 3, 8),
        ],
    ],
}
"""Generators of groups by the number of elements that they permute, from small groups to large ones."""

_CANDIDATES = 20_000


def permutation_set(count: int, elements: int) -> Tensor:
    """Permutations of which any two differ in many positions; the same ones every time.

    Four and nine elements have groups that no search can beat: 12 of 4 differ in at least 3 positions; 9, 72,
    504 and 1512 of 9 in at least 9, 8, 7 and 6. A smaller set is a random part of the smallest group that is
    large enough; beyond the largest group permutations are added greedily, each time the farthest of many candidates.

    Args:
        count: Number of permutations, at least 2.
        elements: Number of elements to permute.

    Returns:
        int64, shape (count, elements), distinct rows.

    Raises:
        UserError: There are not that many permutations, or not among the random candidates.
    """
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(elements)[None]
    for generators in _GENERATORS.get(elements, []):
        group = _closure(generators)
        if len(group) >= count:
            return group[torch.randperm(len(group), generator=generator)[:count].sort().values]
    candidates = torch.rand(_CANDIDATES, elements, generator=generator).argsort(dim=1)
    return _extend(group, candidates, count)


def closest(permutations: Tensor) -> int:
    """Smallest number of positions in which two of the permutations, int64, shape (count, elements), differ."""
    distances = torch.cdist(permutations.float(), permutations.float(), p=0)
    return int(distances.fill_diagonal_(torch.inf).min())


def _closure(generators: list[tuple[int, ...]]) -> Tensor:
    """All products of the generators, sorted."""
    group = {tuple(range(len(generators[0])))}
    newest = group
    while newest:
        newest = {tuple(g[x] for x in p) for p in newest for g in generators} - group
        group = group | newest
    return torch.tensor(sorted(group))


def _extend(group: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Add candidates by their smallest distance to the set, among equals by the sum of their distances."""
    distances = torch.cdist(candidates.float(), group.float(), p=0).long()
    smallest, total = distances.amin(dim=1), distances.sum(dim=1)
    added = []
    for _ in range(count - len(group)):
        best = (smallest * candidates.shape[1] * count + total).argmax()
        if smallest[best] == 0:
            raise UserError(f"permutations must be at most {len(group) + len(added)} here, got {count}")
        added.append(candidates[best])
        distance = (candidates != candidates[best]).sum(dim=1)
        smallest, total = torch.minimum(smallest, distance), total + distance
    return torch.cat([group, torch.stack(added)])
