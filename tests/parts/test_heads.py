"""Heads have the layers that their options say."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlabeled import encoders
from unlabeled.parts.heads import BestPosition, Distance, MapCode, SpatialSoftmax, classifier, mlp, near_zero


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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


@pytest.mark.parametrize("norm", [True, False])
def test_classifiers_start_at_chance_and_pass_gradients_on(norm: bool) -> None:
    head = classifier(4, 8, 5, norm=norm)
    assert kinds(head) == kinds(mlp(4, 8, 5, norm=norm))
    inputs = torch.randn(64, 4, requires_grad=True)
    loss = F.cross_entropy(head(inputs), torch.randint(5, (64,)))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(5), abs=1e-2)
    assert inputs.grad is not None and inputs.grad.any()
    assert classifier(3, 1, bias=-1.0)[-1].bias.item() == -1


def test_layers_near_zero_have_the_deviation_and_bias_that_their_options_say() -> None:
    layer = near_zero(nn.Linear(300, 300), std=0.02, bias=0.5)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and (layer.bias == 0.5).all()
    convolution = near_zero(nn.Conv2d(3, 4, 1, bias=False))
    assert convolution.weight.abs().max() < 0.01 and convolution.bias is None


def unit(*shape: int, axis: int = -1) -> torch.Tensor:
    return F.normalize(torch.randn(shape, dtype=torch.float64), dim=axis)


def test_the_head_of_distances_has_exactly_four_numbers_and_starts_undecided_at_1():
    head = Distance().double()
    assert sum(parameter.numel() for parameter in head.parameters()) == 4
    picture = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    angles = torch.tensor([0.0, 60.0, 180.0], dtype=torch.float64).deg2rad()
    sounds = torch.stack([angles.cos(), angles.sin()], 1)[None]
    logits = head(picture, sounds)[0]
    torch.testing.assert_close(logits, torch.tensor([4.0, 0.0, -4.0]).double(), atol=1e-5, rtol=0)


def test_distances_equal_a_slow_twin():
    head = Distance().double()
    torch.nn.init.normal_(head.layer.weight)
    pictures, sounds = unit(3, 5), unit(3, 4, 5)
    for row in range(3):
        for other in range(4):
            distance = math.dist(pictures[row].tolist(), sounds[row, other].tolist())
            no, yes = head.layer(torch.tensor([distance], dtype=torch.float64))
            assert head(pictures, sounds)[row, other].item() == pytest.approx((yes - no).item(), abs=1e-5)


def test_both_heads_ignore_a_joint_rotation_of_the_space():
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    pictures, sounds = unit(4, 6), unit(4, 3, 6)
    head = Distance().double()
    torch.testing.assert_close(head(pictures @ rotation, sounds @ rotation), head(pictures, sounds))
    assert not torch.allclose(head(pictures @ rotation, sounds), head(pictures, sounds))
    places = unit(4, 6, 3, 3, axis=1)
    turned = torch.einsum("bdhw,de->behw", places, rotation)
    best = BestPosition().double()
    torch.testing.assert_close(best(turned, sounds @ rotation), best(places, sounds))


def test_the_head_of_positions_scales_the_best_cosine_and_only_that_position_gets_a_gradient():
    head = BestPosition().double()
    assert sum(parameter.numel() for parameter in head.parameters()) == 2
    places, sounds = unit(2, 5, 3, 4, axis=1), unit(2, 3, 5)
    logits = head(places, sounds)
    for row in range(2):
        for other in range(3):
            cosines = [
                float(places[row, :, top, left] @ sounds[row, other]) for top in range(3) for left in range(4)
            ]
            assert logits[row, other].item() == pytest.approx(8 * max(cosines) - 4)
    head(places.requires_grad_(), sounds)[0, 0].backward()
    assert places.grad is not None
    touched = places.grad.abs().sum(1)[0]
    assert (touched > 0).sum() == 1 and touched.argmax() == torch.einsum(
        "bdhw,bd->bhw", places, sounds[:, 0]
    )[0].argmax()


def test_spatial_softmax_says_where_a_channel_is_bright() -> None:
    maps = torch.full((1, 2, 5, 7), -50.0)
    maps[0, 0, 0, 6], maps[0, 1, 4, 3] = 50.0, 50.0
    torch.testing.assert_close(SpatialSoftmax()(maps), torch.tensor([[1.0, 0.0, -1.0, 1.0]]))
    assert SpatialSoftmax()(torch.zeros(1, 2, 5, 7)).abs().max() < 1e-6


@pytest.mark.parametrize(("size", "grid"), [(64, 4), (16, 2), (3, 1)])
def test_a_map_code_reads_what_is_where(size: int, grid: int) -> None:
    encoder = encoders.build("conv4", image_size=size)
    code = MapCode(encoder, 5)
    *_, last = encoder.maps(torch.rand(2, 3, size, size)).values()
    assert code.grid == (grid, grid) and code(last).shape == (2, 5)
    pooled = F.adaptive_avg_pool2d(last, grid)
    torch.testing.assert_close(code(last), pooled.flatten(1) @ code.weight.T + code.bias)
    if grid > 1:
        assert (code(last) - code(last.flip(3))).abs().max() > 1e-3  # a mean over the map would not tell
