"""Distances between the views of a batch: to the partner, the other view of the image, and to other images."""

import torch
from torch import Tensor

from unlabeled.parts import gather
from unlabeled.parts.precision import full_precision

__all__ = ["partners_closest", "view_distances"]


@full_precision
def view_distances(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared Euclidean distances of the views of this process to those of all processes.

    Args:
        first: Vectors of one view of each image, float, shape (batch, dim).
        second: Vectors of the other view, row by row the same images, float, shape (batch, dim).

    Returns:
        Distances to the partner, float, shape (2 * batch,), first views before second ones; distances to every view,
        float, shape (2 * batch, 2 * images of all processes); and which of these show other images, bool, same shape.
    """
    views, everyone = torch.cat([first, second]), torch.cat([gather.gather(first), gather.gather(second)])
    products = views @ everyone.T
    lengths = views.square().sum(1)[:, None] + everyone.square().sum(1)
    own = gather.own_rows(len(first), first.device).repeat(2)
    images = torch.arange(len(everyone) // 2, device=first.device).repeat(2)
    to_partner = (first - second).square().sum(1).repeat(2)
    return to_partner, (lengths - 2 * products).clamp(min=0), own[:, None] != images


@torch.no_grad()
def partners_closest(to_partner: Tensor, to_everyone: Tensor, others: Tensor) -> Tensor:
    """Fraction of the views whose partner is closer than every view of another image, scalar in 0..1.

    Args:
        to_partner: Distances as `view_distances` gives them, float, shape (views,).
        to_everyone: Float, shape (views, all views).
        others: bool, same shape.
    """
    return (to_everyone.masked_fill(~others, torch.inf).amin(1) > to_partner).float().mean()
