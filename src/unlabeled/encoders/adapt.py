"""From images to the channels that a network sees; saved with the encoder."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts.color import lightness, rgb_to_lab

__all__ = ["INPUTS", "Adapt", "Input"]

Input = Literal["color", "lightness", "sobel", "lab"]
INPUTS = ("color", "lightness", "sobel", "lab")

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey."""

STATISTICS = {
    "color": ([0.5], [0.25]),
    "lightness": ([50.0], [25.0]),
    "sobel": ([0.0, 0.0], [0.5, 0.5]),
    "lab": ([50.0, 0.0, 0.0], [25.0, 20.0, 20.0]),
}


class Adapt(nn.Module):
    """Turn images into the channels that a network sees, each with mean 0 and deviation 1 over the data.

    Args:
        input: `color` keeps the channels, `lightness` is L of Lab (from 3 channels or 1), `sobel` is two
            gradient maps of the mean channel, `lab` is all of Lab (from 3 channels; further ones are kept).
        in_channels: Channels of the images.
        network_channels: Channels that the network takes, where `input` gives others: one is repeated, and colours
            are converted to grey; None for those that `input` gives.
    """

    mean: Tensor
    std: Tensor
    kernels: Tensor
    luma: Tensor

    def __init__(
        self, input: Input = "color", in_channels: int = 3, network_channels: int | None = None
    ) -> None:
        super().__init__()
        check.choice(INPUTS, input=input)
        check.at_least(1, in_channels=in_channels)
        if (input == "lightness" and in_channels not in (1, 3)) or (input == "lab" and in_channels < 3):
            takes = {"lightness": "1 or 3", "lab": "3 or more"}[input]
            raise UserError(f"in_channels must be {takes} with input {input}, got {in_channels}")
        self.input = input
        self.in_channels = in_channels
        mean, std = STATISTICS[input]
        if input == "lab":  # further channels are in 0..1, as colours are
            mean, std = (
                [*own, *others * (in_channels - 3)] for own, others in zip((mean, std), STATISTICS["color"])
            )
        self.input_channels = in_channels if input == "color" else len(mean)
        """Channels that `input` gives."""
        self.out_channels = network_channels or self.input_channels
        """Channels that the network takes."""
        grey = input == "color" and self.input_channels == 3 and self.out_channels == 1
        if not (self.out_channels == self.input_channels or self.input_channels == 1 or grey):
            raise UserError(
                f"encoder must take the {self.input_channels} channels of the images, or 1 of colours, "
                f"got one of {network_channels}"
            )
        mean, std = (
            values if len(values) in (1, self.out_channels) else values[:1] for values in (mean, std)
        )
        self.register_buffer("mean", torch.tensor(mean).expand(self.out_channels).clone())
        self.register_buffer("std", torch.tensor(std).expand(self.out_channels).clone())
        horizontal = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.register_buffer("luma", torch.tensor(LUMA)[:, None, None], persistent=False)
        self.register_buffer("kernels", torch.stack([horizontal, horizontal.T])[:, None], persistent=False)

    @property
    def notes(self) -> list[str]:
        """A line that says how the channels of the input are converted, where the network takes others."""
        if self.input == "lab" and self.in_channels > 3:
            return [f"the first 3 of {self.in_channels} channels are read as red, green and blue, in Lab"]
        if self.input_channels == self.out_channels:
            return []
        repeated = f"the one channel of {self.input} is repeated"
        conversion = repeated if self.input_channels == 1 else "colours are converted to grey"
        plural = "s" if self.out_channels > 1 else ""
        return [f"{conversion} for a network that takes {self.out_channels} channel{plural}"]

    def channels(self, images: Tensor) -> Tensor:
        """Channels before they are normalised, float, shape (batch, out_channels, height, width)."""
        channels = self._input(images)
        if channels.shape[1] == self.out_channels:
            return channels
        if channels.shape[1] == 1:
            return channels.expand(-1, self.out_channels, -1, -1)
        return (channels * self.luma).sum(1, keepdim=True)

    def _input(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.in_channels:
            raise UserError(f"images must have {self.in_channels} channels, got {images.shape[1]}")
        if not images.is_floating_point():
            raise UserError(f"images must be floats in 0..1, got {images.dtype}")
        if self.input == "lightness":
            return lightness(images)
        if self.input == "lab":
            return torch.cat([rgb_to_lab(images[:, :3]), images[:, 3:]], 1)
        if self.input == "sobel":
            grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
            return F.conv2d(grey, self.kernels)
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Normalised channels, float, shape (batch, out_channels, height, width), of images in 0..1."""
        return (self.channels(images) - self.mean[:, None, None]) / self.std[:, None, None]

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Set the mean that is subtracted from each channel and the deviation that divides it.

        Args:
            mean: One number per channel that the network sees, in the unit of that channel.
            std: The same, at least 0; a channel that does not vary (below 0.0001) is divided by 1.

        Raises:
            ValueError: A count is wrong, a number is not finite or a deviation is below 0.
        """
        for name, values in {"mean": mean, "std": std}.items():
            values = torch.as_tensor(values, dtype=self.mean.dtype, device=self.mean.device)
            if values.shape != self.mean.shape:
                raise UserError(f"{name} must have {self.out_channels} numbers, got {tuple(values.shape)}")
            if not values.isfinite().all():
                raise UserError(f"{name} must be finite, got {values.tolist()}")
            if name == "std":
                check.at_least(0, std=values.min().item())
                values = torch.where(values < 1e-4, 1.0, values)
            getattr(self, name).copy_(values)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the statistics to those of images.

        Args:
            images: A sample, float, shape (batch, in_channels, height, width), in 0..1.
        """
        channels = self.channels(images)
        self.set_statistics(channels.mean((0, 2, 3)), channels.std((0, 2, 3), correction=0))
