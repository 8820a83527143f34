"""Two networks of half the width side by side, each of which sees some of the channels.

Source: Zhang, Isola, Efros, "Split-Brain Autoencoders: Unsupervised Learning by Cross-Channel Prediction", 2017,
https://arxiv.org/abs/1611.09842
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.stages import Stages

__all__ = ["Split", "split"]


class Split(nn.Module):
    """Two networks with the same stages and disjoint channels, whose outputs are concatenated.

    Args:
        first: Network that sees the first channels.
        second: Network that sees the other channels.
        channels: Number of channels that the first one sees.
    """

    def __init__(self, first: Stages, second: Stages, channels: int) -> None:
        super().__init__()
        self.first, self.second, self.channels = first, second, channels
        self.dim = first.dim + second.dim
        self.map_dims = {name: width + second.map_dims[name] for name, width in first.map_dims.items()}

    def halves(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Maps of each network by name, from images, float, shape (batch, channels, height, width)."""
        return self.first.maps(x[:, : self.channels]), self.second.maps(x[:, self.channels :])

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Maps of both networks, the first one's channels before the second one's."""
        first, second = self.halves(x)
        return {name: torch.cat([map_, second[name]], 1) for name, map_ in first.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Means of both last maps, float, shape (batch, dim)."""
        return torch.cat([self.first(x[:, : self.channels]), self.second(x[:, self.channels :])], 1)


def split(make: Callable[..., Stages], in_channels: int, image_size: int) -> Split:
    """Two networks of half the width: for lightness and colour, or for the first three channels and the others.

    Args:
        make: Function from (channels, image_size, share) to a network.
        in_channels: Channels of both; the first network sees one of up to 3 channels, and three of more.
        image_size: Height and width of the images in pixels.

    Raises:
        ValueError: There is only one channel.
    """
    if in_channels < 2:
        raise UserError(f"channels must be at least 2 for a network in two halves, got {in_channels}")
    first = 3 if in_channels > 3 else 1
    return Split(make(first, image_size, share=2), make(in_channels - first, image_size, share=2), first)
