"""Small networks between the encoder and the loss, which are discarded after training."""

from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from unlabeled.parts.maps import MapEncoder, map_shape
from unlabeled.parts.precision import full

__all__ = [
    "BestPosition",
    "Distance",
    "MapCode",
    "PrototypeHead",
    "SpatialSoftmax",
    "classifier",
    "mlp",
    "near_zero",
]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
GRID = 4
"""Most positions on a side of a map that `MapCode` reads; more are averaged."""


def mlp(*widths: int, norm: bool = True, last_norm: bool = False, last_bias: bool = True) -> nn.Sequential:
    """Fully connected layers with batch norm and ReLU between them.

    Args:
        *widths: Width of the input, of each hidden layer, and of the output.
        norm: Whether a batch norm follows each hidden layer; without it the hidden layers have a bias.
        last_norm: Whether a batch norm without shift follows the last layer.
        last_bias: Whether the last layer has a bias (never if a norm follows).

    Returns:
        A network from (batch, widths[0]) to (batch, widths[-1]).
    """
    layers: list[nn.Module] = []
    *hidden, last = pairwise(widths)
    for before, after in hidden:
        layers.append(nn.Linear(before, after, bias=not norm))
        layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)] if norm else [nn.ReLU(inplace=True)]
    layers.append(nn.Linear(*last, bias=last_bias and not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(last[1]))
        layers[-1].bias.requires_grad_(False)  # a shift common to all samples: starts at 0 and stays there
    return nn.Sequential(*layers)


def classifier(*widths: int, norm: bool = True, std: float = 1e-3, bias: float = 0.0) -> nn.Sequential:
    """`mlp` whose last layer starts near zero, so that the first loss is at chance level."""
    head = mlp(*widths, norm=norm)
    near_zero(head[-1], std, bias)  # type: ignore[type-var]
    return head


def near_zero(layer: Layer, std: float = 1e-3, bias: float = 0.0) -> Layer:
    """Initialise a layer so that it first predicts nearly the same for every input but still passes gradients.

    Args:
        layer: Initialised in place.
        std: Standard deviation of its weights.
        bias: Value of its biases, if it has any.

    Returns:
        The layer itself.
    """
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
    return layer


class PrototypeHead(nn.Module):
    """Cosines of features, after some layers, with learned prototypes.

    Args:
        *widths: Widths of the layers as in `mlp`; the last number is that of the prototypes.
        norm: Whether a batch norm follows each hidden layer.
        freeze_steps: Value of `steps` from which on the prototypes learn.
    """

    steps: Tensor
    """Optimizer steps that were done; the method counts them."""

    def __init__(self, *widths: int, norm: bool, freeze_steps: int = 0) -> None:
        super().__init__()
        *layers, prototypes = widths
        self.layers = mlp(*layers, norm=norm)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, layers[-1]), dim=1))
        self.freeze_steps = freeze_steps
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines, float, in float32 or above, shape (batch, prototypes), of features (batch, widths[0])."""
        vectors = F.normalize(full(self.layers(features)), dim=1)
        # Only their directions count, which weight decay leaves alone. While frozen the gradient is 0 rather than
        # None, which several processes could not average.
        frozen = self.steps < self.freeze_steps
        prototypes = F.normalize(torch.where(frozen, self.prototypes.detach(), self.prototypes), dim=1)
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors @ prototypes.T


class MapCode(nn.Linear):
    """A vector that says what is where in an image: a linear layer on the last map, which a mean would not tell.

    Args:
        encoder: Network whose map it reads.
        dim: Width of the vector.
    """

    def __init__(self, encoder: MapEncoder, dim: int) -> None:
        channels, height, width = map_shape(encoder)
        rows, columns = min(GRID, height), min(GRID, width)
        super().__init__(channels * rows * columns, dim)
        self.grid = rows, columns

    def forward(self, input: Tensor) -> Tensor:
        """Vectors, float, shape (batch, dim), of maps (batch, channels, height, width)."""
        return super().forward(F.adaptive_avg_pool2d(input, self.grid).flatten(1))


class SpatialSoftmax(nn.Module):
    """Where each channel is active: the expected position under the softmax of its map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Columns and rows in -1..1, float, shape (batch, 2 * channels), of maps (batch, channels, height, width)."""
        height, width = maps.shape[2:]
        weights = maps.flatten(2).softmax(2).unflatten(2, (height, width))
        row, column = (
            torch.linspace(-1, 1, side, device=maps.device, dtype=maps.dtype) for side in (height, width)
        )
        return torch.cat([weights.sum(2) @ column, weights.sum(3) @ row], 1)


class Distance(nn.Module):
    """Whether two unit vectors match, from their distance, by two weights and two biases.

    At the start both answers are equally likely at distance 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[2.0], [-2.0]]))
            self.layer.bias.copy_(torch.tensor([-2.0, 2.0]))

    def forward(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Logits of a match, float, shape (batch, candidates).

        Args:
            anchors: Unit vectors, float, shape (batch, dim).
            candidates: Unit vectors, float, shape (batch, candidates, dim).
        """
        squares = (anchors[:, None] - candidates).square().sum(2)
        distances = (squares + 1e-12).sqrt()  # the slope of the root is infinite at 0
        answers = self.layer(distances[..., None])
        return answers[..., 1] - answers[..., 0]


class BestPosition(nn.Module):
    """Whether a map and a unit vector match, from their best cosine over all positions, by a scale and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(self, maps: Tensor, candidates: Tensor) -> Tensor:
        """Logits of a match, float, shape (batch, candidates).

        Args:
            maps: A unit vector at each position, float, shape (batch, dim, rows, columns).
            candidates: Unit vectors, float, shape (batch, candidates, dim).
        """
        cosines = einsum(
            maps, candidates, "batch dim rows columns, batch others dim -> batch others rows columns"
        )
        return self.scale * cosines.amax((2, 3)) + self.bias
