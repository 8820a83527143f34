"""Initialisation from images: a baseline that costs seconds and no training.

Within each layer, every channel gets the same mean and variance on a calibration batch. Between layers, the
ratio of a weight's gradient to the weight is made equal, so that all layers would learn at the same speed.

The directions of the weights stay as they are, or come from k-means on patches of what each layer sees.

Source: Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent Initializations of Convolutional Neural
Networks", 2016, https://arxiv.org/abs/1511.06856
Differs: a batch norm is calibrated as the affine layer that it is in evaluation. The step between layers is
omitted where a norm or a smooth activation breaks the homogeneity in the weights that it needs. The paper's
filters from PCA of patches are absent.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.image import ImageEncoder
from unlabeled.encoders.kmeans_filters import replace_filters_
from unlabeled.kernels.compat import BATCH_NORMS

__all__ = ["rescale_"]

SHIFT = 0.1
"""Mean of every channel before its activation: a little above 0 keeps ReLUs alive."""
ROUNDS = 10
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
HOMOGENEOUS = (*LAYERS, *POOLS, nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout)


def rescale_(
    encoder: ImageEncoder, images: Tensor, directions: Literal["rescaled", "kmeans"] = "rescaled"
) -> str:
    """Rescale the weights of an encoder in place, from images.

    Scales, biases and batch norms are set anew. With `rescaled` a second call on the same images
    changes nothing.

    Args:
        encoder: Its convolutions, linear layers and batch norms are rescaled.
        images: Some 256 to calibrate on, float, shape (batch, in_channels, height, width), in 0..1.
        directions: `rescaled` keeps the directions of the weights. `kmeans` takes those of clusters of patches, drawn
            from torch's default generator; a layer with more filters than there are patches keeps its own.

    Returns:
        The steps taken, `within layers` or `within and between layers`, and in how many layers there is k-means.

    Raises:
        ValueError: There are fewer than 2 images.
    """
    if not len(images) >= 2:
        raise UserError(f"images must be at least 2, got {len(images)}")
    was_training = encoder.training
    encoder.eval()
    trunk: nn.Module = nn.Sequential(encoder.trunk, encoder.neck) if len(encoder.neck) else encoder.trunk
    with torch.no_grad():
        x = encoder.adapt(images)
        layers, clustered = _within_layers(trunk, x, directions == "kmeans")
    homogeneous = bool(layers) and all(
        isinstance(leaf, HOMOGENEOUS) for leaf in trunk.modules() if not list(leaf.children())
    )
    if homogeneous:
        _between_layers(trunk, layers, x)
    encoder.train(was_training)
    encoder.config["init"] = directions
    steps = "within and between layers" if homogeneous else "within layers"
    return steps if directions == "rescaled" else f"k-means in {clustered} of {len(layers)} layers, {steps}"


def _within_layers(trunk: nn.Module, x: Tensor, clusters: bool = False) -> tuple[list[Any], int]:
    """Calibrate each layer as the data first passes it.

    Returns:
        The convolutions and linear layers, and how many of them got filters from clusters of patches, if they are to.
    """
    order: list[Any] = []
    clustered: list[Any] = []

    def calibrate(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module in order:
            return None
        order.append(module)
        if isinstance(module, BATCH_NORMS):
            return _calibrate_norm(module, *inputs)
        return _calibrate(module, output)

    def cluster(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module not in order and replace_filters_(module, inputs[0]):
            clustered.append(module)

    modules = [module for module in trunk.modules() if isinstance(module, (*LAYERS, *BATCH_NORMS))]
    hooks = [module.register_forward_hook(calibrate) for module in modules]
    hooks += [module.register_forward_pre_hook(cluster) for module in modules if clusters]
    trunk(x)
    for hook in hooks:
        hook.remove()
    return [module for module in order if isinstance(module, LAYERS)], len(clustered)


def _calibrate(layer: Any, output: Tensor) -> Tensor:
    """Give each output channel variance 1, and the mean `SHIFT` where there is a bias."""
    axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
    mean, std = _moments(output, axis)
    scale = torch.where(std > 1e-6, 1 / std, 1)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    shift = torch.zeros_like(mean)
    if layer.bias is not None:
        shift = SHIFT - mean * scale
        layer.bias.mul_(scale).add_(shift)
    shape = [-1 if number == axis else 1 for number in range(output.ndim)]
    return output * scale.view(shape) + shift.view(shape)


def _calibrate_norm(norm: Any, x: Tensor) -> Tensor:
    """Give a batch norm the statistics of its input, scale 1 and the mean `SHIFT`."""
    mean, std = _moments(x, 1)
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(std.square())
    if norm.affine:
        nn.init.ones_(norm.weight)
        nn.init.constant_(norm.bias, SHIFT)
    return norm.forward(x)


def _moments(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    others = [number for number in range(x.ndim) if number != axis]
    return x.mean(others), x.std(others, correction=0)


def _between_layers(trunk: nn.Module, layers: list[Any], x: Tensor) -> None:
    """Scale whole layers until all have one ratio of gradient to weight, and the output has deviation 1."""
    sizes: dict[nn.Module, Tensor] = {}
    pending: dict[nn.Module, Tensor] = {}

    @torch.no_grad()
    def scale(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].abs().mean()
        if layer in pending:
            factor = pending.pop(layer)
            layer.weight.mul_(factor)
            if layer.bias is not None:
                # A bias keeps its weight in the output only if it follows the change of the input.
                layer.bias.mul_(factor * size / sizes[layer])
        sizes[layer] = size

    hooks = [layer.register_forward_pre_hook(scale) for layer in layers]
    generator = torch.Generator()
    for _ in range(ROUNDS):
        with torch.enable_grad():
            output = trunk(x)
            difference = torch.randn(output.shape, generator=generator.manual_seed(0)).to(output)
            gradients = torch.autograd.grad(output, [layer.weight for layer in layers], difference)
        pairs = zip(gradients, layers)
        ratios = torch.stack([_size(gradient) / _size(layer.weight) for gradient, layer in pairs])
        target = ratios.log().mean().exp() * output.detach().std() ** (1 / len(layers))
        factors = (ratios / target).sqrt()
        moves = factors.log().abs().max()
        if moves < 0.005 or not moves.isfinite():  # not finite where a layer has no gradient at all
            break
        pending.update(zip(layers, factors))
    for hook in hooks:
        hook.remove()


def _size(values: Tensor) -> Tensor:
    return values.detach().square().mean().sqrt()
