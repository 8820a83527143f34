"""Feature maps of an encoder: their shapes, and a description of every position from several of them."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check

__all__ = [
    "STRIDE",
    "MapEncoder",
    "blank_maps",
    "deepest",
    "describe",
    "finest",
    "map_shape",
    "survey",
    "vector_and_map",
]

STRIDE = 4
"""Most pixels of the image, along a side, that a position covers if no layer is named."""


class MapEncoder(Protocol):
    """A network that reads images and has named maps."""

    training: bool

    @property
    def in_channels(self) -> int: ...
    @property
    def image_size(self) -> int: ...
    def maps(self, x: Tensor) -> dict[str, Tensor]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def train(self, mode: bool = True) -> Any: ...


@torch.no_grad()
def blank_maps(encoder: MapEncoder, size: int | None = None) -> dict[str, Tensor]:
    """Maps of one blank image by name, computed in evaluation mode; at the encoder's image size if none is given."""
    device = next(encoder.parameters()).device
    size = size or encoder.image_size
    image = torch.zeros(1, encoder.in_channels, size, size, device=device)
    training = encoder.training
    encoder.train(False)
    maps = encoder.maps(image)
    encoder.train(training)
    return maps


def map_shape(encoder: MapEncoder) -> tuple[int, int, int]:
    """Shape of an encoder's last map at its image size: (channels, height, width)."""
    *_, last = blank_maps(encoder).values()
    return last.shape[1], last.shape[2], last.shape[3]


def finest(maps: Mapping[str, Tensor], height: int) -> str:
    """Name of the deepest map whose positions are at most `STRIDE` pixels high, else of the deepest of the largest.

    Args:
        maps: Maps by name, early to late, each float, shape (batch, channels, rows, columns).
        height: Height of the images in pixels.
    """
    return deepest(maps, -(-height // STRIDE))


def deepest(maps: Mapping[str, Tensor], rows: int) -> str:
    """Name of the deepest map of at least so many rows, else of the deepest of the largest.

    Args:
        maps: Maps by name, early to late, each float, shape (batch, channels, rows, columns).
        rows: Rows that are enough.
    """
    enough = min(max(map_.shape[2] for map_ in maps.values()), rows)
    return [name for name, map_ in maps.items() if map_.shape[2] >= enough][-1]


def vector_and_map(encoder: Any, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Features of images and one of their maps, from a single pass; other networks than ours pool the last map.

    Args:
        encoder: An encoder of images.
        images: Float in 0..1, shape (batch, channels, size, size).
        layer: Name of the map; of a ViT the last one is taken, whatever the name.

    Returns:
        Float, shape (batch, dim), and float, shape (batch, channels, rows, columns).
    """
    if encoder.is_vit:
        tokens, model = encoder.tokens(images), encoder.trunk.model
        places = tokens[:, encoder.prefix_tokens :].unflatten(1, (images.shape[2] // encoder.patch_size, -1))
        return encoder.neck(model.forward_head(tokens)), places.movedim(3, 1)
    maps = encoder.maps(images)
    *_, last = maps.values()
    return encoder.neck(last.mean((2, 3))), maps[layer]


def survey(encoder: MapEncoder, layer: str | None = None) -> tuple[str, int, int]:
    """The map that defines the positions at the encoder's image size, and how many there are.

    Args:
        encoder: An encoder of images.
        layer: Name of the map; None chooses by `finest`.

    Returns:
        Name of the map, its rows and its columns.

    Raises:
        UserError: There is no such map.
    """
    maps = blank_maps(encoder)
    layer = finest(maps, encoder.image_size) if layer is None else layer
    check.choice(maps, layer=layer)
    rows, columns = maps[layer].shape[2:]
    return layer, rows, columns


def describe(maps: Mapping[str, Tensor], layer: str, normalize: bool = True) -> Tensor:
    """Join a map with all deeper ones, all with equal weights.

    Args:
        maps: Maps by name, early to late, each float, shape (batch, channels, rows, columns).
        layer: The map that defines the positions; deeper ones are resized to it.
        normalize: Whether the vectors of every map are scaled to the same length, such that of the whole is 1.

    Returns:
        A vector along the channels for each position, float32, shape (batch, channels of all, rows, columns).

    Raises:
        UserError: There is no such map.
    """
    check.choice(maps, layer=layer)
    names = list(maps)
    deeper = [maps[name].float() for name in names[names.index(layer) :]]
    size = deeper[0].shape[2:]
    same_size = [
        map_ if map_.shape[2:] == size else F.interpolate(map_, size, mode="bilinear") for map_ in deeper
    ]
    if not normalize:
        return torch.cat(same_size, 1)
    return torch.cat([F.normalize(map_, dim=1) for map_ in same_size], 1) / len(deeper) ** 0.5
