"""A first layer of atoms: filters that are initialised with a dictionary of whitened patches of the images.

Atoms of spherical k-means take the place of random directions. The whitening is folded into the filters, which are then
scaled so that every channel has variance 1 over the patches.

Source: Krähenbühl, Doersch, Donahue, Darrell, "Data-dependent Initializations of Convolutional Neural Networks", 2016,
https://arxiv.org/abs/1511.06856; Coates, Ng, "Learning Feature Representations with K-means", 2012,
https://doi.org/10.1007/978-3-642-35289-8_30
Differs: only the first layer has atoms, and the layers after it keep their random weights. The atoms are learned from
patches without their mean and with normalised contrast; a convolution can subtract the mean but not divide by the
contrast.
"""

from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.encoders.image import ImageEncoder
from unlabeled.parts.dictionary import Dictionary, draw_patches

__all__ = ["fill_first_layer_", "first_convolution"]

PATCHES, NUMBERS = 20_000, 2**23
"""Largest number of patches in a round, and of the values in all of them together."""
ROUNDS = 10
CONTRAST, WHITENING = 0.01, 0.1
"""Variances that are added in contrast normalisation and in whitening, as in `patch_dictionary`."""


@torch.no_grad()
def fill_first_layer_(encoder: ImageEncoder, images: Tensor) -> str:
    """Initialise the filters of the first convolution with atoms of patches of images, in place.

    Over patches of the images every channel has variance 1, and mean 0 where the layer has a bias. The patches are
    drawn from torch's default generator.

    Args:
        encoder: Its first layer is a convolution over the channels that it sees of images.
        images: Some 500 images to learn from, float, shape (batch, in_channels, height, width), in 0..1.

    Returns:
        A line for the log that says what was done.

    Raises:
        ValueError: The network has another kind of first layer, or its filters are larger than the images.
    """
    x = encoder.adapt(images)
    layer = first_convolution(encoder.trunk, x, encoder.config["name"])
    height, width = layer.kernel_size
    if height > x.shape[2] or width > x.shape[3]:
        raise UserError(
            f"image_size must be at least {max(height, width)} with init dictionary, the side of the first filters, "
            f"got {min(x.shape[2:])}"
        )
    numbers = layer.weight[0].numel()
    count = max(1, min(PATCHES, NUMBERS // numbers) // len(x))

    def draw() -> Tensor:
        return draw_patches(x, (height, width), count).flatten(1)

    atoms = Dictionary(len(layer.weight), numbers, eps=CONTRAST, whitening_eps=WHITENING).to(x).train()
    atoms.begin(draw())
    for _ in range(ROUNDS):
        atoms(draw())
    filters = folded(atoms)
    outputs = draw() @ filters.T
    std, mean = torch.std_mean(outputs, 0, correction=0)
    scale = torch.where(std > 1e-6, 1 / std, 1)
    layer.weight.copy_((filters * scale[:, None]).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(-mean * scale)
    encoder.config["init"] = "dictionary"
    return f"the {len(filters)} filters of the first layer are initialised with atoms of {height}x{width} patches"


def folded(atoms: Dictionary) -> Tensor:
    """Filters whose products with patches are those of the atoms with centred and whitened patches.

    Args:
        atoms: A dictionary; the mean that it subtracts before whitening only shifts the products.

    Returns:
        Float, shape (atoms, numbers).
    """
    filters, _ = atoms.filters()
    return filters - filters.mean(1, keepdim=True)


def first_convolution(trunk: nn.Module, x: Tensor, name: str) -> nn.Conv2d:
    """The convolution that reads the images, the first layer of a network.

    Args:
        trunk: The network.
        x: Its input, float, shape (batch, channels, height, width).
        name: Name of the network in messages.

    Raises:
        ValueError: The first layer with weights is not a plain convolution of that input, or sees single pixels.
    """
    calls: list[tuple[Any, Any]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append((module, inputs[0] if inputs else None))

    leaves = [part for part in trunk.modules() if not list(part.children())]
    hooks = [
        part.register_forward_pre_hook(note) for part in leaves if any(True for _ in part.parameters(False))
    ]
    training, x = trunk.training, x[:2]
    try:
        with torch.no_grad():
            trunk.eval()(x)
    finally:
        trunk.train(training)
        for hook in hooks:
            hook.remove()
    layer, layer_input = calls[0] if calls else ("no such layer", None)
    reads_images = isinstance(layer_input, Tensor) and torch.equal(layer_input, x)
    if isinstance(layer, nn.Conv2d) and reads_images and _is_plain(layer):
        return layer
    raise UserError(
        "init dictionary needs a network whose first layer is a plain convolution over the channels of the images, "
        f"larger than 1x1, got {layer} in {name}"
    )


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether each filter is a product with a patch of all channels, of more than one pixel."""
    return layer.kernel_size != (1, 1) and layer.groups == 1 and layer.dilation == (1, 1)
