"""A network of the user's own, read as a vector and as one map."""

from typing import Any

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError

__all__ = ["Own", "channels_of"]

IMAGES = 2
"""Images on which the output of a network is tried out."""


class Own(nn.Module):
    """Any network from (batch, channels, height, width) to (batch, dim) or to (batch, dim, height, width).

    Args:
        model: The network.
        in_channels: Channels that it takes.
        image_size: Height and width of the images on which its output is tried out.

    Raises:
        ValueError: It fails on such images, or the output is neither of the two.
    """

    def __init__(self, model: nn.Module, in_channels: int, image_size: int) -> None:
        super().__init__()
        training = model.training
        weight = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
        shape = (IMAGES, in_channels, image_size, image_size)
        try:
            with torch.no_grad():
                output = model.eval()(torch.zeros(shape, device=weight.device))  # as images come
        except Exception as error:  # a network of the user's can fail in any way
            reason = f"{type(error).__name__}: {check.reason(error)}"
            raise UserError(
                f"encoder must take images of shape {shape}, but {type(model).__name__} failed on them ({reason}). "
                "Set the size with image_size"
            ) from error
        finally:
            model.train(training)
        if fault := _fault(output):
            raise UserError(f"encoder must give (batch, dim) or (batch, dim, height, width), got {fault}")
        self.model = model
        self.dim: int = output.shape[1]
        self.map_dims = {"last": self.dim}

    @staticmethod
    def takes(model: nn.Module, in_channels: int, image_size: int) -> bool:
        """Whether a network takes images of so many channels."""
        try:
            Own(model, in_channels, image_size)
        except ValueError:
            return False
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim); a map is averaged over the image."""
        return self.maps(x)["last"].mean((2, 3))

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The output as a map, float, shape (batch, dim, height, width); a vector is a map of one place."""
        output = self.model(x)
        return {"last": output if output.ndim == 4 else output[:, :, None, None]}


def channels_of(model: nn.Module) -> int | None:
    """Channels that the first convolution of a network takes; None where it has none."""
    return next((part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d)), None)


def _fault(output: Any) -> str:
    """What is wrong with the output of a network, empty if nothing."""
    if not isinstance(output, Tensor):
        parts = f" of {len(output)}" if hasattr(output, "__len__") else ""
        return f"a {type(output).__name__}{parts}; let it return the tensor of the features alone"
    if output.ndim == 3:
        return f"{tuple(output.shape)}; tokens must be averaged, as by output.mean(1)"
    if output.ndim not in (2, 4) or len(output) != IMAGES or not output.numel():
        return f"{tuple(output.shape)} for {IMAGES} images"
    return "" if output.is_floating_point() else f"numbers of type {output.dtype}, not floating"
