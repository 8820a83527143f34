"""Walks of a clip's patches through its frames and back, by the similarity of their vectors."""

import torch
from torch import Tensor

from unlabeled.parts.precision import full_precision

__all__ = ["round_trips", "transitions"]

NEVER = -1e20
"""Affinity of a dropped edge; if all edges of a patch are dropped, all are equally likely."""


@full_precision
def transitions(nodes: Tensor, temperature: float, dropout: float) -> tuple[Tensor, Tensor]:
    """Probabilities of a step from each patch to those of the next frame, and from these back.

    Args:
        nodes: Unit vectors of the patches, float, shape (batch, frames, patches, dim).
        temperature: Softmax temperature.
        dropout: Probability that an edge is dropped, drawn separately for both directions.

    Returns:
        Forward and back, float, shape (batch, frames - 1, patches, patches) each: number t leads from frame t to t + 1,
        or from t + 1 to t; rows are where a step starts, and sum to 1.
    """
    affinities = nodes[:, :-1] @ nodes[:, 1:].mT / temperature
    forward, back = (
        edges.masked_fill(torch.rand_like(edges) < dropout, NEVER).softmax(3)
        for edges in (affinities, affinities.mT)
    )
    return forward, back


@full_precision
def round_trips(forward: Tensor, back: Tensor) -> Tensor:
    """Probabilities of where a walk through two or more steps forward, and as many back, ends.

    Args:
        forward: As from `transitions`, float, shape (batch, steps, patches, patches), at least 2 steps.
        back: The same shape.

    Returns:
        Float, shape (batch, steps - 1, patches, patches): of walks from each row to each column, shortest first.
    """
    there, home = forward[:, 0], back[:, 0]
    trips = []
    for step in range(1, forward.shape[1]):
        there, home = there @ forward[:, step], back[:, step] @ home
        trips.append(there @ home)
    return torch.stack(trips, 1)
