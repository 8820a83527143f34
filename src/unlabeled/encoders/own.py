"""A network of the user's own, read as a vector and as one map."""

import torch
from torch import Tensor, nn

__all__ = ["Own"]


class Own(nn.Module):
    """Any network from (batch, channels, height, width) to (batch, dim) or to (batch, dim, height, width).

    Args:
        model: The network.
        in_channels: Channels that it takes.
        image_size: Height and width of the images on which its output is tried out.

    Raises:
        ValueError: The output is neither of the two.
    """

    def __init__(self, model: nn.Module, in_channels: int, image_size: int) -> None:
        super().__init__()
        training = model.training
        weight = next(iter(model.parameters()), torch.zeros(()))
        with torch.no_grad():
            output = model.eval()(weight.new_zeros(2, in_channels, image_size, image_size))
        model.train(training)
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"encoder must give (batch, dim) or (batch, dim, height, width), got {shape}")
        self.model = model
        self.dim: int = output.shape[1]
        self.map_dims = {"last": self.dim}

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim); a map is averaged over the image."""
        return self.maps(x)["last"].mean((2, 3))

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The output as a map, float, shape (batch, dim, height, width); a vector is a map of one place."""
        output = self.model(x)
        return {"last": output if output.ndim == 4 else output[:, :, None, None]}
