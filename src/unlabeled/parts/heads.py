"""Small networks that stand between the encoder and the loss, and are thrown away."""

from itertools import pairwise

from torch import nn

__all__ = ["mlp"]


def mlp(*widths: int, norm: bool = True, last_norm: bool = False, last_bias: bool = True) -> nn.Sequential:
    """Fully connected layers with batch norm and ReLU between them.

    Args:
        *widths: Width of the input, of each hidden layer, and of the output.
        norm: Whether a batch norm follows each hidden layer; without it the hidden layers have a bias.
        last_norm: Whether a batch norm without shift follows the last layer.
        last_bias: Whether the last layer has a bias (never where a norm follows).

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
