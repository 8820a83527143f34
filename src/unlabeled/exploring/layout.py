"""A map of many samples, and their order along a curve through it, so that near samples share a sheet of pictures."""

import torch
from torch import Tensor

from unlabeled.evaluation import geometry

__all__ = ["hilbert", "layout"]

LANDMARKS = 4000
"""Samples that t-SNE arranges; the others are placed among the nearest of these."""
NEAREST, TEMPERATURE, JITTER = 3, 0.05, 0.004
BLOCK = 1024
BITS = 10
"""The curve runs through a grid of 2^10 cells on a side."""


def layout(features: Tensor, *, seed: int = 0) -> tuple[Tensor, str]:
    """Lay samples out in a plane, similar ones close together.

    Args:
        features: Float, shape (samples, dim).
        seed: Seed of the samples that are arranged first.

    Returns:
        Points, float, shape (samples, 2), in 0..1, and how they were made.
    """
    points = geometry.unit_components(features)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(points), generator=generator)[:LANDMARKS].msort()
    plane, name = geometry.flat(points[some]) or (torch.full((len(some), 2), 0.5), "no map")
    if len(some) == len(points):
        return plane, name
    placed = []
    for block in points.split(BLOCK):
        cosines, nearest = (block @ points[some].T).topk(NEAREST, 1)
        placed.append(((cosines / TEMPERATURE).softmax(1)[:, :, None] * plane[nearest]).sum(1))
    every = torch.cat(placed)
    every += JITTER * torch.randn(every.shape, generator=generator)  # else those of one landmark coincide
    every[some] = plane
    return every.clamp(0, 1), f"{name} of {len(some):,} samples, the others among the nearest of these"


def hilbert(points: Tensor) -> Tensor:
    """Place of points on Hilbert's curve, which keeps what is near in the plane near on the curve.

    Args:
        points: Float, shape (samples, 2), in 0..1.

    Returns:
        int64, shape (samples,), in 0..4^10 - 1.
    """
    x, y = (points.clamp(0, 1) * (2**BITS - 1)).round().long().unbind(1)
    place = torch.zeros_like(x)
    for bit in range(BITS - 1, -1, -1):
        side = 1 << bit
        right, up = (x & side) > 0, (y & side) > 0
        place += side * side * ((3 * right.long()) ^ up.long())
        flip = ~up & right
        x, y = (
            torch.where(flip, side - 1 - (x & (side - 1)), x & (side - 1)),
            torch.where(flip, side - 1 - (y & (side - 1)), y & (side - 1)),
        )
        x, y = torch.where(up, x, y), torch.where(up, y, x)
    return place
