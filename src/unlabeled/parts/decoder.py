"""Networks from features back to pixels or spectrograms, which are discarded after training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from unlabeled.parts import ragged
from unlabeled.parts.heads import near_zero

__all__ = [
    "ChannelwiseLinear",
    "Decoder",
    "FrameDecoder",
    "Hypercolumn",
    "LayerHead",
    "LinearDecoder",
    "decoder",
]

LAYERS = 3
"""Last layers of a network that `LayerHead` reads."""


def decoder(
    kind: Literal["conv", "linear"], shape: tuple[int, int, int], channels: int, size: int
) -> "Decoder | LinearDecoder":
    """A network from a map to an image, whose output is near 0 before training.

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
    """From a map to an image by nearest upsampling and 3x3 convolutions, which avoid checkerboard artefacts.

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
        if height == 1:  # a single position: a fully connected layer makes several
            stages += [nn.ConvTranspose2d(before, width, sizes[0]), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        for stage, side in enumerate(sizes):
            after = max(16, width >> stage)
            stages += [nn.Upsample((side, side)), nn.Conv2d(before, after, 3, padding=1, bias=False)]
            stages += [nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.stages = nn.Sequential(*stages)
        self.last = near_zero(nn.Conv2d(before, channels, 3, padding=1))

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
        self.last = near_zero(nn.Linear(shape[0] * shape[1] * shape[2], channels * size**2))

    def forward(self, features: Tensor) -> Tensor:
        return rearrange(self.last(features.flatten(1)), "b (c h w) -> b c h w", h=self.size, w=self.size)


class FrameDecoder(nn.Module):
    """An LSTM that generates one frame after another from a summary.

    Args:
        units: Width of the LSTM; the summary is its initial hidden and cell state.
        pixels: Number of values in a frame.
        conditional: Whether it reads the frame that it generated last; in training, the true one.
    """

    def __init__(self, units: int, pixels: int, conditional: bool) -> None:
        super().__init__()
        self.conditional = conditional
        self.recurrent = nn.LSTM(pixels if conditional else 1, units, batch_first=True)
        self.last = near_zero(nn.Linear(units, pixels))

    def forward(
        self, summary: Tensor, count: int, truth: Tensor | None, draw: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Outputs, float, shape (batch, count, pixels), from which `draw` makes frames.

        Args:
            summary: Float, shape (batch, 2 * units).
            count: Number of frames to generate.
            truth: True frames, float, shape (batch, count, pixels), which a conditional decoder reads one step late;
                with None it reads its own.
            draw: Function from outputs to frames, both of shape (batch, 1, pixels).
        """
        state = tuple(part.contiguous()[None] for part in summary.chunk(2, 1))
        if not self.conditional:
            return self.last(self.recurrent(summary.new_zeros(len(summary), count, 1), state)[0])
        if truth is not None:
            before = torch.cat([torch.zeros_like(truth[:, :1]), truth[:, :-1]], 1)
            return self.last(self.recurrent(before, state)[0])
        frame = summary.new_zeros(len(summary), 1, self.last.out_features)
        outputs = []
        for _ in range(count):
            hidden, state = self.recurrent(frame, state)
            outputs.append(self.last(hidden))
            frame = draw(outputs[-1])
        return torch.cat(outputs, 1)


class ChannelwiseLinear(nn.Module):
    """A fully connected layer within each channel: every position sees all positions, no channel sees another.

    Args:
        channels: Channels of the map.
        positions: Height times width of the map.
    """

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        bound = positions**-0.5
        self.weight = nn.Parameter(torch.empty(channels, positions, positions).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels, positions))

    def forward(self, features: Tensor) -> Tensor:
        mixed = einsum(features.flatten(2), self.weight, "b c before, c after before -> b c after")
        return (mixed + self.bias).view_as(features)


class Hypercolumn(nn.Module):
    """One prediction per position from several maps at once, each upsampled to the same grid.

    A 1x1 convolution of stacked upsampled maps equals the sum of 1x1 convolutions of each map, upsampled
    afterwards: the same numbers at a fraction of the work.

    Args:
        dims: Channels of each map.
        outputs: Number of values predicted at each position.
        width: Channels of the hidden layer.
    """

    def __init__(self, dims: Collection[int], outputs: int, *, width: int = 128) -> None:
        super().__init__()
        self.reads = nn.ModuleList(nn.Conv2d(dim, width, 1, bias=False) for dim in dims)
        self.norm = nn.BatchNorm2d(width)
        self.last = near_zero(nn.Conv2d(width, outputs, 1))

    def forward(self, maps: Sequence[Tensor], size: int) -> Tensor:
        columns = [_resize(read(features), size) for read, features in zip(self.reads, maps, strict=True)]
        return self.last(F.relu(self.norm(reduce(torch.add, columns))))


def _resize(features: Tensor, size: int) -> Tensor:
    """Bilinear resizing as two products, whose gradient is the same in every run on every device."""
    rows, columns = (
        F.interpolate(torch.eye(side, device=features.device)[None], size, mode="linear")[0].to(
            features.dtype
        )
        for side in features.shape[2:]
    )
    return rows.T @ (features @ columns)


class LayerHead(nn.Module):
    """One prediction per frame of a spectrogram from the last layers of a network, which have frames of their own.

    Args:
        dims: Width of each layer by name, early to late; "mel" is the input and is not read.
        rates: Frames of each layer per frame of the spectrogram.
        outputs: Numbers predicted at each frame.
        width: Units of the hidden layer.
    """

    def __init__(
        self, dims: Mapping[str, int], rates: Mapping[str, float], outputs: int, *, width: int = 128
    ) -> None:
        super().__init__()
        self.rates = rates
        names = [name for name in dims if name != "mel"][-LAYERS:]
        self.reads = nn.ModuleDict({name: nn.Linear(dims[name], width) for name in names})
        self.last = near_zero(nn.Linear(width, outputs))

    def forward(
        self, layers: Mapping[str, Tensor], frames: Tensor | Mapping[str, Tensor], size: int
    ) -> Tensor:
        """Float, shape (batch, size, outputs).

        Args:
            layers: By name, float, shape (batch, frames, width).
            frames: True frames of each sound, int64, shape (batch,), in all layers or by their names.
            size: Frames of the spectrogram.
        """
        hidden = [
            ragged.at_rate(
                read(layers[name]),
                frames if isinstance(frames, Tensor) else frames[name],
                self.rates[name],
                size,
            )
            for name, read in self.reads.items()
        ]
        return self.last(F.relu(reduce(torch.add, hidden))).float()
