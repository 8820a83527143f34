"""Dictionaries of a second layer: each explains patches of a few maps of the first that respond at the same places.

Source: Coates, Ng, "Selecting Receptive Fields in Deep Networks", 2011,
https://neurips.cc/virtual/2011/poster/2794
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.parts import gather
from unlabeled.parts.dictionary import Dictionary, draw_patches

__all__ = ["GroupDictionaries", "related"]

POSITIONS = 2**15
"""Most positions whose responses are compared."""


class GroupDictionaries(nn.Module):
    """A dictionary for each group of maps, and the choice of the groups.

    Args:
        layer: The second layer, a `SecondLayer`.
        patches: Patches drawn in each call, at least one of each sample in each group.
        whitening_eps: Variance added in whitening; that of a normalised patch is 1.
    """

    due: Tensor
    begun: Tensor

    def __init__(self, layer: Any, patches: int, whitening_eps: float) -> None:
        super().__init__()
        self.patches = patches
        self.dictionaries = nn.ModuleList(
            Dictionary(len(one.offset), one.numbers, eps=one.eps, whitening_eps=whitening_eps)
            for one in layer.filters
        )
        self.register_buffer("due", torch.zeros((), dtype=torch.bool))  # whether the first layer has settled
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))  # whether it has begun after that

    @torch.no_grad()
    def begin(self, maps: Tensor, layer: Any) -> None:
        """Choose the groups, and begin each dictionary; alike in all processes.

        Args:
            maps: Maps of the first layer, float, shape (batch, maps, rows, columns).
            layer: The second layer, which takes the groups and the filters.
        """
        layer.groups.copy_(gather.broadcast(related(maps, *layer.groups.shape)))
        for dictionary, filters, patches in self._draw(maps, layer):
            dictionary.begin(patches, filters)

    @torch.no_grad()
    def forward(self, maps: Tensor, layer: Any) -> Tensor:
        """Fraction of the patches' squares that their atoms leave unexplained, the mean over groups; no gradient.

        In training mode they begin, the first time, and the atoms move to what they explain.

        Args:
            maps: As in `begin`.
            layer: As in `begin`.
        """
        if self.training and not self.begun:
            self.begin(maps, layer)
            self.begun.fill_(True)
        losses = [
            dictionary(patches, code=filters) for dictionary, filters, patches in self._draw(maps, layer)
        ]
        return torch.stack(losses).mean()

    def _draw(self, maps: Tensor, layer: Any) -> Iterator[tuple[Any, Any, Tensor]]:
        """Dictionary, filters, and patches, float, shape (patches, numbers), of each group."""
        each = -(-self.patches // (len(maps) * len(layer.groups)))
        for dictionary, filters, group in zip(
            self.dictionaries, layer.filters, layer.inputs(maps), strict=True
        ):
            yield dictionary, filters, draw_patches(group, filters.sides, each).flatten(1)


def related(maps: Tensor, groups: int, size: int) -> Tensor:
    """Groups of maps that respond at the same places: a map drawn at random, and those most correlated with it.

    A map that is in a group begins no other one, as long as there are others.

    Args:
        maps: Float, shape (batch, maps, rows, columns).
        groups: Number of groups.
        size: Maps of each group, at most all.

    Returns:
        Indices of maps, int64, shape (groups, size), ascending in each group.
    """
    responses = maps.movedim(1, 3).flatten(0, 2)
    if len(responses) > POSITIONS:
        responses = responses[torch.randperm(len(responses), device=maps.device)[:POSITIONS]]
    centred = responses - responses.mean(0)
    units = centred / centred.norm(dim=0).clamp_min(1e-12)
    free, chosen = torch.ones(maps.shape[1], device=maps.device), []
    for _ in range(groups):
        # Where every map is in a group already, any may begin one.
        seed = torch.multinomial(free + 1e-12, 1)
        group = (units.T @ units[:, seed[0]]).topk(size).indices.sort().values
        free[group] = 0
        chosen.append(group)
    return torch.stack(chosen)
