"""Colours as classes: bins of the a and b axes of Lab, soft codes over them, and weights for rare colours.

Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016, https://arxiv.org/abs/1603.08511
"""

import torch
from einops import einsum, rearrange
from torch import Tensor

from unlabeled.parts.color import rgb_to_lab

__all__ = ["annealed_mean", "bins", "equal_bins", "rarity", "soft_code"]

# fmt: off
PAPER_BINS = (  # lowest and highest b in the paper's gamut, for a = -90, -80 ... 100
    (50, 90), (20, 90), (0, 90), (-20, 90), (-30, 100), (-40, 100), (-50, 100),
    (-50, 100), (-60, 100), (-70, 100), (-80, 90), (-80, 90), (-90, 90), (-100, 90),
    (-100, 80), (-110, 80), (-110, 80), (-110, 70), (-110, 70), (-90, 0),
)
# fmt: on


def bins(grid: int) -> Tensor:
    """Centres of the colour bins: the paper's 313 for a grid of 10, otherwise all within the gamut of sRGB.

    Args:
        grid: Distance between neighbouring centres in Lab.

    Returns:
        a and b of each bin, float, shape (bins, 2).
    """
    if grid == 10:
        rows = zip(range(-90, 101, 10), PAPER_BINS, strict=True)
        return torch.tensor([(a, b) for a, (low, high) in rows for b in range(low, high + 1, 10)]).float()
    level = torch.linspace(0, 1, 256)
    first, second = torch.meshgrid(level, level, indexing="ij")
    # Projected along the lightness, the six faces of the colour cube cover all of its interior.
    sides = [(first, second, torch.full_like(first, end)) for end in (0.0, 1.0)]
    faces = torch.stack([torch.stack(side[turn:] + side[:turn]) for side in sides for turn in range(3)])
    colors = rearrange(rgb_to_lab(faces)[:, 1:], "n ab h w -> (n h w) ab")
    return (colors / grid).round().unique(dim=0) * grid


def equal_bins(values: Tensor, count: int, highest: float = 1.0) -> Tensor:
    """Index of the bin of each value among equally wide bins of 0..highest; the last one includes its upper end.

    Args:
        values: Float, any shape.
        count: Number of bins.
        highest: Upper end of the last bin.

    Returns:
        int64, the same shape, in 0..count - 1.
    """
    return (values / highest * count).long().clamp(0, count - 1)


def soft_code(
    colors: Tensor, centers: Tensor, neighbours: int = 5, width: float = 5.0
) -> tuple[Tensor, Tensor]:
    """Spread each colour over its nearest bins, by a Gaussian of their distance.

    Args:
        colors: a and b of Lab, float, shape (batch, 2, height, width).
        centers: Bins, float, shape (bins, 2).
        neighbours: Number of bins that share a colour; 1 is the hard code.
        width: Standard deviation of the Gaussian, in Lab.

    Returns:
        Weights that sum to 1, float, and bins, int64, nearest first, both of shape (batch, neighbours, height, width).
    """
    rows = rearrange(colors, "b ab h w -> (b h w) ab")
    distance = torch.cdist(rows, centers, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distance.topk(min(neighbours, len(centers)), largest=False)
    weight = (-0.5 * (nearest / width).square()).softmax(1)
    batch, _, height, _ = colors.shape
    weight, index = (rearrange(x, "(b h w) k -> b k h w", b=batch, h=height) for x in (weight, index))
    return weight, index


def rarity(counts: Tensor, centers: Tensor, uniform: float = 0.5, width: float = 5.0) -> Tensor:
    """Weight of each bin: the rarer its colour, the higher, but bounded.

    Args:
        counts: How often each bin occurs in the data, shape (bins,).
        centers: Bins, float, shape (bins, 2).
        uniform: Fraction of the uniform distribution in the prior, above 0; 1 weights all bins equally.
        width: Standard deviation of the Gaussian that smooths the prior, in Lab.

    Returns:
        Float, shape (bins,), with mean 1 under the smoothed prior.
    """
    squared = (centers[:, None] - centers).square().sum(2)
    spread = (-0.5 * squared / width**2).softmax(0)
    prior = spread @ (counts / counts.sum())
    weight = 1 / ((1 - uniform) * prior + uniform / len(prior))
    return weight / (prior @ weight)


def annealed_mean(logits: Tensor, centers: Tensor, temperature: float = 0.38) -> Tensor:
    """Colour between the mean (temperature 1) and the mode (near 0) of a distribution over bins.

    Args:
        logits: Float, shape (batch, bins, height, width).
        centers: Bins, float, shape (bins, 2).
        temperature: Above 0; lower is more vivid.

    Returns:
        a and b of Lab, float, shape (batch, 2, height, width).
    """
    probabilities = (logits.float() / temperature).softmax(1)
    return einsum(probabilities, centers, "b bins h w, bins ab -> b ab h w")
