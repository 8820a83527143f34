"""Encoders: the networks that are kept, from images in 0..1 to a vector, named maps and tokens."""

import json
import os
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.encoders import from_timm, image
from unlabeled.encoders.adapt import Adapt, Input
from unlabeled.encoders.own import Own
from unlabeled.encoders.rescaled import rescale_
from unlabeled.files import atomic
from unlabeled.parts import augment

__all__ = ["Encoder", "build", "load", "names", "rescale_", "wrap"]

MAP_NUMBERS = 4096
"""Most numbers of a named map after pooling."""

OWN_NETWORK = "own"
"""Name in the configuration of a network that the user brought."""

OWN: dict[str, Callable[[int, int], Any]] = {
    "conv4": image.conv4,
    "resnet10": partial(from_timm.resnet, "resnet10"),
    "resnet18": partial(from_timm.resnet, "resnet18"),
    "alexnet": image.alexnet,
    "dense": image.dense,
    "nin": image.nin,
    "vit-small": from_timm.vit_small,
    "resnet50": partial(from_timm.resnet, "resnet50"),
}


class Encoder(nn.Module):
    """An adaptation of the input followed by a network; what a run keeps.

    Args:
        adapt: Turns images into the channels that the network sees.
        trunk: Network with `dim`, `map_dims`, `maps(x)` and a forward to (batch, dim).
        config: Arguments of `build` that give this architecture again.
    """

    kind = "image"

    def __init__(self, adapt: Adapt, trunk: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.adapt = adapt
        self.trunk: Any = trunk
        self.config = config

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.trunk.dim

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.adapt.in_channels

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that `inputs` gives."""
        return self.config["image_size"]

    @property
    def map_dims(self) -> dict[str, int]:
        """Channels of each named map, early to late."""
        return self.trunk.map_dims

    @property
    def is_vit(self) -> bool:
        """Whether `tokens` exists."""
        return getattr(self.trunk, "is_vit", False)

    @property
    def prefix_tokens(self) -> int:
        """Tokens of a ViT that stand before those of the patches, 1 where it has a class token."""
        return self.trunk.model.num_prefix_tokens if self.is_vit else 0

    @property
    def patch_size(self) -> int:
        """Height and width in pixels of the patches of a ViT, 0 where it is none."""
        return self.trunk.model.patch_embed.patch_size[0] if self.is_vit else 0

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Images of a batch without random changes: resized on the shorter side, the centre cut out.

        Args:
            batch: `image` uint8, shape (batch, channels, height, width), and `size` where sizes differ.

        Returns:
            Float, shape (batch, in_channels, image_size, image_size), in 0..1.
        """
        return augment.fit(batch["image"], self.image_size, batch.get("size"))

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim).

        Args:
            x: Images of any size it takes, float, shape (batch, in_channels, height, width), in 0..1.
        """
        return self.trunk(self.adapt(x))

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Named maps, early to late, float, shape (batch, channels, height, width); the last one is pooled.

        Args:
            x: Images, float, shape (batch, in_channels, height, width), in 0..1.
        """
        return self.trunk.maps(self.adapt(x))

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Vector of each image, from the end of the network or from a named map.

        Args:
            x: Images, float, shape (batch, in_channels, height, width), in 0..1.
            layer: Name of a map, averaged down to at most 4096 numbers; None for the features of `forward`.

        Returns:
            Float, shape (batch, numbers).

        Raises:
            ValueError: The layer does not exist.
        """
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        chosen = self.maps(x)[layer]
        grid = max(1, int((MAP_NUMBERS / chosen.shape[1]) ** 0.5))
        height, width = (min(grid, side) for side in chosen.shape[2:])
        return F.adaptive_avg_pool2d(chosen, (height, width)).flatten(1)

    def tokens(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens of a ViT that sees only some patches.

        Args:
            x: Images, float, shape (batch, in_channels, height, width), in 0..1.
            keep: Numbers of the patches to see, counted row by row, int64, shape (batch, kept); None for all.

        Returns:
            Float, shape (batch, prefix_tokens + kept, dim): the class token, then the patches as in `keep`.

        Raises:
            ValueError: The encoder is not a ViT.
        """
        if not self.is_vit:
            raise ValueError(f"encoder must be a ViT such as vit-small, got {self.config['name']}")
        return self.trunk.tokens(self.adapt(x), keep)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and architecture to one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        with atomic(Path(path)) as temporary:
            save_file(state, temporary, metadata={"format": "pt", "unlabeled": json.dumps(self.config)})


def names() -> list[str]:
    """Names of our own small encoders; any name of a timm model is accepted by `build` as well."""
    return list(OWN)


def build(
    name: str,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    input: Input = "color",
    init: Literal["default", "rescaled"] = "default",
    weights: str | os.PathLike[str] | None = None,
) -> Encoder:
    """Build an encoder with random weights, or with those of a file.

    Args:
        name: One of `names()` or the name of a timm model.
        in_channels: Channels of the images.
        image_size: Height and width in pixels of the images in training.
        input: What the network sees of an image: all channels, the lightness, two gradient maps, or Lab.
        init: How the weights were or will be initialised; `rescaled` needs images, see `rescale_`.
        weights: A safetensors file: of `Encoder.save`, or the plain state of the network, such as timm's.

    Returns:
        The encoder, in training mode.

    Raises:
        ValueError: A name, a number or the file does not fit.
    """
    check.at_least(1, image_size=image_size)
    check.choice(("default", "rescaled"), init=init)
    adapt = Adapt(input, in_channels)
    trunk = _maker(name)(adapt.out_channels, image_size)
    config = dict(name=name, in_channels=in_channels, image_size=image_size, input=input, init=init)
    encoder = Encoder(adapt, trunk, config)
    if weights is not None:
        _load_weights(encoder, Path(weights))
    return encoder


def wrap(module: nn.Module, *, in_channels: int = 3, image_size: int = 32, input: Input = "color") -> Encoder:
    """Make an encoder of a network of your own.

    Args:
        module: Network from (batch, channels, height, width) to (batch, dim) or (batch, dim, height, width).
        in_channels: Channels of the images.
        image_size: Height and width in pixels of the images that it will be given.
        input: What the network sees of the images, as in `build`.

    Raises:
        ValueError: The network's output has another shape.
    """
    adapt = Adapt(input, in_channels)
    config = {"name": OWN_NETWORK, "in_channels": in_channels, "image_size": image_size, "input": input}
    return Encoder(adapt, Own(module, adapt.out_channels, image_size), config)


def load(path: str | os.PathLike[str], module: nn.Module | None = None) -> Encoder:
    """Build the encoder that `Encoder.save` wrote to a file, weights included.

    Args:
        path: The file.
        module: The network, where it was one of your own; its weights are replaced.

    Raises:
        ValueError: The file is no encoder of ours, or needs the module.
    """
    from safetensors import safe_open

    with safe_open(_safetensors(Path(path)), framework="pt") as file:
        text = (file.metadata() or {}).get("unlabeled")
    if text is None:
        raise ValueError(f"path must be an encoder that was saved here, got {path}. Use build with weights")
    config = json.loads(text)
    if config["name"] != OWN_NETWORK:
        return build(**config, weights=path)
    if module is None:
        raise ValueError(f"module must be given: {path} holds the weights of a network of your own")
    encoder = wrap(module, **{name: value for name, value in config.items() if name != "name"})
    _load_weights(encoder, Path(path))
    return encoder


def _maker(name: str) -> Callable[[int, int], Any]:
    """Function from (channels, image_size) to the network of a name."""
    if name in OWN:
        return OWN[name]
    import timm

    if timm.is_model(name):
        return partial(from_timm.any_timm, name)
    if name == OWN_NETWORK:
        raise ValueError("encoder must be one that can be built again by its name, got a network of your own")
    near = get_close_matches(name, [*OWN, *timm.list_models()], n=3, cutoff=0.5) or list(OWN)
    raise ValueError(f"encoder must be one of ours or a timm model, got {name}. Near it: {', '.join(near)}")


def _safetensors(path: Path) -> Path:
    if path.suffix != ".safetensors":
        convert = "save_file(torch.load(old, weights_only=True), new) of safetensors.torch"
        raise ValueError(f"weights must be a .safetensors file, got {path.name}. Convert it: {convert}")
    if not path.is_file():
        raise ValueError(f"weights must be a file that exists, got {path}")
    return path


def _load_weights(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file whose names and shapes must all fit."""
    from safetensors.torch import load_file

    state = load_file(_safetensors(path))
    target: nn.Module = encoder
    if not any(name.startswith("adapt.") for name in state):
        target = getattr(encoder.trunk, "model", encoder.trunk)
        state = _without_classifier(target, state)
        _take_statistics(encoder.adapt, target)
    wanted = target.state_dict()
    missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    misshapen = {name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape}
    faults = [
        f"{len(keys)} {fault} ({', '.join(sorted(keys)[:3])})"
        for fault, keys in {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}.items()
        if keys
    ]
    if faults:
        raise ValueError(f"weights must fit {encoder.config['name']}, got {path.name}: {'; '.join(faults)}")
    target.load_state_dict(state)


def _without_classifier(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State without the classifier that timm's models end with and that no encoder has."""
    heads = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return {name: value for name, value in state.items() if not name.startswith(heads)}


def _take_statistics(adapt: Adapt, model: nn.Module) -> None:
    """Normalise colours as a timm model was trained."""
    configuration = getattr(model, "pretrained_cfg", {})
    if adapt.input == "color" and len(configuration.get("mean", ())) == adapt.in_channels:
        adapt.set_statistics(configuration["mean"], configuration["std"])
