"""Heads have the layers that their options say."""

import torch
from torch import nn

from unlabeled.parts.heads import mlp


def kinds(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head.children()]


def test_hidden_layers_have_norm_and_activation_and_the_last_has_none() -> None:
    head = mlp(4, 8, 6, 2)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert head(torch.randn(3, 4)).shape == (3, 2)
    assert head[0].bias is None and head[-1].bias is not None


def test_head_without_norms_has_biases_instead() -> None:
    head = mlp(4, 8, 2, norm=False)
    assert kinds(head) == ["Linear", "ReLU", "Linear"]
    assert head[0].bias is not None


def test_two_widths_make_one_linear_layer() -> None:
    assert kinds(mlp(4, 2, norm=False)) == ["Linear"] and mlp(4, 2, last_bias=False)[0].bias is None


def test_last_norm_centres_the_outputs_and_its_shift_never_trains() -> None:
    head = mlp(4, 8, 2, last_norm=True)
    outputs = head(torch.randn(32, 4))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    outputs.square().mean().backward()
    assert head[-2].bias is None and head[-1].bias.grad is None and not head[-1].bias.any()
    assert head[-1].weight.grad is not None
