"""Data-dependent initialisation: what each step promises."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlabeled.encoders import ImageEncoder as Encoder
from unlabeled.encoders import build
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.rescaled import _within_layers, rescale_
from unlabeled.encoders.stages import Stages


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 16, 16)


@pytest.fixture
def plain(images: Tensor) -> Encoder:
    """Four convolutions without norms, on scales far apart."""
    widths = [3, 16, 24, 32, 40]
    stages: dict[str, nn.Module] = {}
    convolutions: list[nn.Conv2d] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        convolution = nn.Conv2d(before, after, 3, stride=1 + number % 2, padding=1)
        convolution.bias = nn.Parameter(torch.randn(after))
        convolutions.append(convolution)
        stages[f"s{number}"] = nn.Sequential(convolution, nn.ReLU())
    trunk = Stages(stages, widths[1:])
    with torch.no_grad():
        for number, convolution in enumerate(convolutions):
            convolution.weight.mul_(10 ** (number - 2))
    return Encoder(Adapt(), trunk, {"name": "plain", "image_size": 16, "init": "default"})


def outputs(encoder: Encoder, images: Tensor, kind: type[nn.Module]) -> list[Tensor]:
    """What each layer of a kind gives for the images, in evaluation."""
    seen: list[Tensor] = []
    layers = [module for module in encoder.trunk.modules() if isinstance(module, kind)]
    # Cloned because the activations after them work in place.
    hooks = [layer.register_forward_hook(lambda _, __, y: seen.append(y.clone())) for layer in layers]
    with torch.no_grad():
        encoder.eval()(images)
    for hook in hooks:
        hook.remove()
    return seen


def assert_calibrated(values: list[Tensor]) -> None:
    for value in values:
        assert (value.mean((0, 2, 3)) - 0.1).abs().max() < 0.02
        assert (value.var((0, 2, 3)) - 1).abs().max() < 0.05


def test_every_channel_before_its_activation_has_mean_a_tenth_and_variance_1(
    plain: Encoder, images: Tensor
) -> None:
    with torch.no_grad():
        layers, _ = _within_layers(plain.trunk, plain.adapt(images))
    assert len(layers) == 4
    assert_calibrated(outputs(plain, images, nn.Conv2d))


@pytest.mark.parametrize("directions", ["rescaled", "kmeans"])
def test_ratio_of_gradient_to_weight_is_the_same_in_all_layers(
    directions: Any, plain: Encoder, images: Tensor
) -> None:
    assert rescale_(plain, images, directions).endswith("within and between layers")
    features = plain(images)
    difference = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    features.backward(difference)
    weights = [stage[0].weight for stage in plain.trunk.values()]
    ratios = torch.stack([weight.grad.norm() / weight.norm() for weight in weights])
    assert ratios.max() / ratios.min() < 1.05
    assert abs(features.std() - 1) < 0.1


def test_second_step_only_scales_the_output(plain: Encoder, images: Tensor) -> None:
    first = copy.deepcopy(plain)
    with torch.no_grad():
        _within_layers(first.trunk, first.adapt(images))
    rescale_(plain, images)
    before, after = first(images).flatten(), plain(images).flatten()
    assert torch.cosine_similarity(before, after, dim=0) > 1 - 1e-5


@pytest.mark.parametrize("name", ["plain", "resnet10", "vit-small"])
def test_second_call_changes_nothing(name: str, plain: Encoder, images: Tensor) -> None:
    encoder = plain if name == "plain" else build(name, image_size=16).eval()
    rescale_(encoder, images)
    once = encoder(images)
    rescale_(encoder, images)
    torch.testing.assert_close(encoder(images), once, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["conv4", "resnet10"])
def test_batch_norms_are_calibrated_for_evaluation_and_stop_the_second_step(
    name: str, images: Tensor
) -> None:
    encoder = build(name, image_size=16)
    assert rescale_(encoder, images) == "within layers"
    assert encoder.training and encoder.config["init"] == "rescaled"
    assert_calibrated(outputs(encoder, images, nn.BatchNorm2d))


def test_constant_images_leave_finite_weights(plain: Encoder) -> None:
    rescale_(plain, torch.full((4, 3, 16, 16), 0.5))
    assert all(parameter.isfinite().all() for parameter in plain.parameters())


def test_one_image_is_refused(plain: Encoder, images: Tensor) -> None:
    with pytest.raises(ValueError, match="images must be at least 2, got 1"):
        rescale_(plain, images[:1])


def test_layers_after_the_pooled_vector_are_rescaled_too(images: Tensor) -> None:
    encoder = build("conv4", image_size=16, neck=[24])
    rescale_(encoder, images)
    norm, seen = encoder.neck[1], []
    norm.register_forward_hook(lambda _, __, y: seen.append(y.clone()))
    with torch.no_grad():
        encoder.eval()(images)
    assert (seen[0].mean(0) - 0.1).abs().max() < 0.02 and (seen[0].var(0) - 1).abs().max() < 0.05
