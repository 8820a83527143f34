"""A description of every place of an image, from the maps of a network: what correspondence is found by."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check

if TYPE_CHECKING:
    from unlabeled.encoders import ImageEncoder

__all__ = ["STRIDE", "describe", "finest", "survey"]

STRIDE = 4
"""Most pixels of the image, along a side, that a place covers where no layer is named."""


def finest(maps: dict[str, Tensor], height: int) -> str:
    """Name of the deepest map whose places are at most `STRIDE` pixels high, else of the deepest of the largest.

    Args:
        maps: Maps by name, early to late, each float, shape (batch, channels, rows, columns).
        height: Height of the images in pixels.
    """
    enough = min(max(map_.shape[2] for map_ in maps.values()), -(-height // STRIDE))
    return [name for name, map_ in maps.items() if map_.shape[2] >= enough][-1]


def survey(encoder: "ImageEncoder", layer: str | None = None) -> tuple[str, int, int]:
    """The map that gives the places at the encoder's image size, and how many there are.

    Args:
        encoder: An encoder of images.
        layer: Name of the map; None chooses by `finest`.

    Returns:
        Name of the map, its rows and its columns.

    Raises:
        ValueError: There is no such map.
    """
    size, device = encoder.image_size, next(encoder.parameters()).device
    training = encoder.training
    with torch.no_grad():
        maps = encoder.eval().maps(torch.zeros(1, encoder.in_channels, size, size, device=device))
    encoder.train(training)
    layer = finest(maps, size) if layer is None else layer
    check.choice(maps, layer=layer)
    rows, columns = maps[layer].shape[2:]
    return layer, rows, columns


def describe(maps: dict[str, Tensor], layer: str, normalize: bool = True) -> Tensor:
    """Join a map with all deeper ones, each of which weighs the same.

    Args:
        maps: Maps by name, early to late, each float, shape (batch, channels, rows, columns).
        layer: The map that gives the places; deeper ones are resized to it.
        normalize: Whether every map is brought to the same length at every place, and so their whole to 1.

    Returns:
        A vector along the channels for each place, float32, shape (batch, channels of all, rows, columns).

    Raises:
        ValueError: There is no such map.
    """
    check.choice(maps, layer=layer)
    names = list(maps)
    joined = [maps[name].float() for name in names[names.index(layer) :]]
    size = joined[0].shape[2:]
    resized = [
        map_ if map_.shape[2:] == size else F.interpolate(map_, size, mode="bilinear") for map_ in joined
    ]
    if not normalize:
        return torch.cat(resized, 1)
    return torch.cat([F.normalize(map_, dim=1) for map_ in resized], 1) / len(joined) ** 0.5
