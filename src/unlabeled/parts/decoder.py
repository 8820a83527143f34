"""Networks from feature maps back to pixels; they are thrown away after training."""

from collections.abc import Collection, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

if TYPE_CHECKING:
    from unlabeled.encoders import ImageEncoder as Encoder

__all__ = ["Decoder", "Hypercolumn", "LinearDecoder", "decoder", "map_shape"]


def map_shape(encoder: "Encoder") -> tuple[int, int, int]:
    """Shape of an encoder's last map at its image size: (channels, height, width)."""
    device = next(encoder.parameters()).device
    image = torch.zeros(1, encoder.in_channels, encoder.image_size, encoder.image_size, device=device)
    training = encoder.training
    with torch.no_grad():
        *_, last = encoder.eval().maps(image).values()
    encoder.train(training)
    return last.shape[1], last.shape[2], last.shape[3]


def decoder(
    kind: Literal["conv", "linear"], shape: tuple[int, int, int], channels: int, size: int
) -> "Decoder | LinearDecoder":
    """A network from a map to an image, either kind with an output near 0 before training.

    Args:
        kind: "conv" upsamples step by step, "linear" is one layer.
        shape: Shape of the map: channels, height, width; a vector is a map of 1 x 1.
        channels: Channels of the image.
        size: Side of the image in pixels.

    Returns:
        A network from (batch, *shape) to (batch, channels, size, size).
    """
    return Decoder(shape, channels, size) if kind == "conv" else LinearDecoder(shape, channels, size)


class Decoder(nn.Module):
    """From a map to an image by nearest upsampling and 3x3 convolutions, which leave no checkerboard.

    Args:
        shape: Shape of the map: channels, height, width; a vector is a map of 1 x 1.
        channels: Channels of the image.
        size: Side of the image in pixels, any.
        width: Channels of the first stage; they halve with each doubling of the side, down to 16.
    """

    def __init__(self, shape: tuple[int, int, int], channels: int, size: int, *, width: int = 128) -> None:
        super().__init__()
        before, height, _ = shape
        sizes = [size]
        while sizes[0] > max(4, height):
            sizes.insert(0, (sizes[0] + 1) // 2)
        stages: list[nn.Module] = []
        if height == 1:  # one pixel has no places to tell apart: a fully connected layer gives them
            stages += [nn.ConvTranspose2d(before, width, sizes[0]), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        for stage, side in enumerate(sizes):
            after = max(16, width >> stage)
            stages += [nn.Upsample((side, side)), nn.Conv2d(before, after, 3, padding=1, bias=False)]
            stages += [nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.stages = nn.Sequential(*stages)
        self.last = nn.Conv2d(before, channels, 3, padding=1)
        _start_near_zero(self.last)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.stages(features))


class LinearDecoder(nn.Module):
    """From a map to an image by one fully connected layer.

    Args:
        shape: Shape of the map: channels, height, width; a vector is a map of 1 x 1.
        channels: Channels of the image.
        size: Side of the image in pixels.
    """

    def __init__(self, shape: tuple[int, int, int], channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.last = nn.Linear(shape[0] * shape[1] * shape[2], channels * size**2)
        _start_near_zero(self.last)

    def forward(self, features: Tensor) -> Tensor:
        return rearrange(self.last(features.flatten(1)), "b (c h w) -> b c h w", h=self.size, w=self.size)


class Hypercolumn(nn.Module):
    """One prediction per position from several maps at once, each upsampled to the same grid.

    A 1x1 convolution of stacked upsampled maps equals the sum of 1x1 convolutions of each map, upsampled
    afterwards: the same numbers at a fraction of the work.

    Args:
        dims: Channels of each map.
        outputs: Numbers predicted at each position.
        width: Channels of the hidden layer.
    """

    def __init__(self, dims: Collection[int], outputs: int, *, width: int = 128) -> None:
        super().__init__()
        self.reads = nn.ModuleList(nn.Conv2d(dim, width, 1, bias=False) for dim in dims)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, outputs, 1)
        _start_near_zero(self.last)

    def forward(self, maps: Sequence[Tensor], size: int) -> Tensor:
        columns = [_resized(read(features), size) for read, features in zip(self.reads, maps, strict=True)]
        return self.last(F.relu(self.norm(reduce(torch.add, columns))))


def _resized(features: Tensor, size: int) -> Tensor:
    """Bilinear resizing as two products, whose gradient is the same at every run on every device."""
    rows, columns = (
        F.interpolate(torch.eye(side, device=features.device)[None], size, mode="linear")[0].to(
            features.dtype
        )
        for side in features.shape[2:]
    )
    return rows.T @ (features @ columns)


def _start_near_zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Predict nothing at first, but let gradients pass."""
    nn.init.normal_(layer.weight, std=0.001)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
