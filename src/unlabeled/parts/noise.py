"""Corrupted copies of samples."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Noise", "choose", "corrupt", "salt_pepper"]

Noise = Literal["mask", "salt_pepper", "gaussian"]


def choose(images: Tensor, amount: float, *, exact: bool = True, whole_pixels: bool = False) -> Tensor:
    """Choose a fraction of the elements of each sample at random.

    Args:
        images: Tensor, shape (batch, channels, ...).
        amount: Fraction of the elements to choose, in 0..1.
        exact: Whether every sample has exactly round(amount * elements) of them; else each element is chosen
            independently.
        whole_pixels: Whether all channels of a pixel are chosen together.

    Returns:
        Bool, shape (batch, channels, ...), with 1 channel for whole pixels.
    """
    batch, channels, *space = images.shape
    scores = torch.rand(batch, 1 if whole_pixels else channels, *space, device=images.device)
    if not exact:
        return scores < amount
    rows = scores.flatten(1)
    smallest = rows.topk(round(amount * rows.shape[1]), largest=False).indices
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, smallest, True).view_as(scores)


def salt_pepper(images: Tensor, mask: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Set elements to the lowest or the highest value with equal probability.

    Args:
        images: Tensor, shape (batch, channels, ...).
        mask: Which elements to set, bool, shape of `images` or with 1 channel (one draw per pixel).
        low: Smallest possible value.
        high: Largest possible value.

    Returns:
        Corrupted copy, shape of `images`.
    """
    extremes = torch.where(torch.rand(mask.shape, device=images.device) < 0.5, low, high).to(images.dtype)
    return torch.where(mask, extremes, images)


def corrupt(
    images: Tensor,
    noise: Noise,
    amount: float,
    *,
    exact: bool = True,
    whole_pixels: bool = False,
) -> tuple[Tensor, Tensor]:
    """Corrupt a part of each image.

    Args:
        images: Float, shape (batch, channels, height, width), in 0..1.
        noise: "mask" sets the chosen elements to 0, "salt_pepper" to 0 or 1, "gaussian" shifts all elements.
        amount: Fraction of the elements; for "gaussian" the standard deviation.
        exact: Whether the fraction is exact for each image.
        whole_pixels: Whether all channels of a pixel are corrupted together.

    Returns:
        The corrupted images, same shape, and which elements were corrupted, bool, broadcastable to it.
    """
    if noise == "gaussian":
        return images + amount * torch.randn_like(images), torch.ones_like(images, dtype=torch.bool)
    mask = choose(images, amount, exact=exact, whole_pixels=whole_pixels)
    return images.masked_fill(mask, 0) if noise == "mask" else salt_pepper(images, mask), mask
