"""Encoders of images: from pixels in 0..1 to a vector, named maps and tokens."""

import copy
import os
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import (
    dictionary,
    from_timm,
    from_torchvision,
    from_transformers,
    pixel_gpt,
    split,
    stages,
    transformers_folder,
)
from unlabeled.encoders.adapt import Adapt, Input
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.saved import TooLarge
from unlabeled.parts import augment

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.data.image.levels import Levels

__all__ = [
    "INITS",
    "NAMES",
    "OWN_NETWORK",
    "ImageEncoder",
    "build",
    "fit",
    "fitted",
    "pool",
    "pooling_grid",
    "require_name",
    "sample",
]

MAP_NUMBERS = 4096
"""Most numbers of a named map after pooling."""

RAW_SIZE = 32
"""Most pixels on a side of raw images; more would cost much and help no linear classifier."""

SAMPLE = 512
"""Samples that set the statistics of an encoder's input."""

INITS = ("default", "rescaled", "kmeans", "dictionary")
"""How weights can start: as they were drawn, or set from the data."""

OWN_NETWORK = "own"
"""Name in the configuration of a network that the user brought."""

NAMES: dict[str, Callable[[int, int], Any]] = {
    "conv4": stages.conv4,
    "resnet10": partial(from_timm.resnet, "resnet10"),
    "resnet18": partial(from_timm.resnet, "resnet18"),
    "alexnet": stages.alexnet,
    "dense": stages.dense,
    "nin": stages.nin,
    "vit-small": from_timm.vit_small,
    "vit-registers-small": partial(from_timm.vit_small, registers=4),
    "vit-gap-tiny": partial(from_timm.vit_small, width=96, gap=True),
    "vit-gap-small": partial(from_timm.vit_small, gap=True),
    "resnet50": partial(from_timm.resnet, "resnet50"),
    dictionary.NAME: partial(dictionary.dictionary, dictionary.NAME),
    "split-conv4": partial(split.split, stages.conv4),
    "split-alexnet": partial(split.split, stages.alexnet),
    **{name: partial(pixel_gpt.pixel_gpt, name) for name in pixel_gpt.NAMES},
}
"""Names of our own networks; dictionary-ATOMS and dictionary-ATOMS-WIDTH may have any numbers, and dictionary2-... has
two layers."""

ANY_SIZE = {"conv4", "resnet10", "resnet18", "dense", "nin", "resnet50", "split-conv4", *pixel_gpt.NAMES}
"""Networks that take images of every size, so that none needs to be tried."""


class ImageEncoder(Encoder):
    """An adaptation of images followed by a network, which also gives named maps and, of a ViT, tokens.

    Args:
        adapt: Turns images into the channels that the network sees.
        trunk: Network with `dim`, `map_dims`, `maps(x)` and a forward to (batch, dim).
        config: Arguments of `build` that give this architecture again.
    """

    kind = "image"

    def __init__(self, adapt: Adapt, trunk: Any, config: dict[str, Any]) -> None:
        super().__init__(config, trunk.dim, trunk.map_dims)
        self.adapt, self.trunk = adapt, trunk
        self.neck = nn.Sequential()
        """Layers from the pooled vector to the features; none unless `extend` adds some."""
        self.notes += adapt.notes
        self.raw_size = min(self.image_size, RAW_SIZE)
        """Side in pixels of the images that `raw` gives."""
        self.raw_detail = f"{self.raw_size}x{self.raw_size} pixels"

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.adapt.in_channels

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that `inputs` gives."""
        return self.config["image_size"]

    @property
    def is_vit(self) -> bool:
        """Whether `tokens` exists."""
        return getattr(self.trunk, "is_vit", False)

    @property
    def is_dictionary(self) -> bool:
        """Whether `trunk` is a `PatchCode`."""
        return isinstance(self.trunk, dictionary.PatchCode)

    @property
    def is_split(self) -> bool:
        """Whether `trunk` is a `Split`, two networks that see disjoint channels."""
        return isinstance(self.trunk, split.Split)

    @property
    def is_pixel_gpt(self) -> bool:
        """Whether `trunk` is a `PixelGPT`."""
        return isinstance(self.trunk, pixel_gpt.PixelGPT)

    @property
    def prefix_tokens(self) -> int:
        """Tokens of a ViT before those of the patches, 1 where it has a class token."""
        return self.trunk.model.num_prefix_tokens if self.is_vit else 0

    @property
    def patch_size(self) -> int:
        """Height and width in pixels of the patches of a ViT, 0 for other networks."""
        return self.trunk.model.patch_embed.patch_size[0] if self.is_vit else 0

    def extend(self, *widths: int) -> None:
        """Add fully connected layers with batch norm and ReLU, whose last output becomes the features.

        Args:
            *widths: Width of each layer.
        """
        for width in widths:
            layers = nn.Linear(self.dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
            self.neck.extend(layers)
            self.dim = width
        if widths:
            self.config["neck"] = [*self.config.get("neck", ()), *widths]

    def raw(self, batch: dict[str, Tensor]) -> Tensor:
        """Pixels at the size that the network sees, but no more of them than `RAW_SIZE` on a side."""
        return augment.fit(batch["image"], self.raw_size, batch.get("size")).flatten(1)

    def evaluation_view(self, data: "Data") -> "Data":
        """Images as they are; scenes and agent trajectories give every frame as one."""
        frames = getattr(data, "frames", None)
        return data if frames is None else frames()

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Images of a batch without random changes: resized on the shorter side, the centre cut out.

        Args:
            batch: `image` uint8, shape (batch, channels, height, width), and `size` where sizes differ.

        Returns:
            Float, shape (batch, in_channels, image_size, image_size), in 0..1.
        """
        return augment.fit(batch["image"], self.image_size, batch.get("size"))

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim), of images of any size that it takes, in 0..1."""
        return self.neck(self.trunk(self.adapt(x)))

    @torch.no_grad()
    def takes(self, size: int) -> bool:
        """Whether it takes square images of some size in pixels, which many networks of patches do not."""
        weight, training = next(self.parameters(), self.adapt.mean), self.training
        try:
            self.eval()(torch.zeros(1, self.in_channels, size, size, device=weight.device))
        except Exception:  # networks refuse sizes in ways of their own
            return False
        finally:
            self.train(training)
        return True

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Named maps, early to late, float, shape (batch, channels, height, width); the last one is pooled.

        Args:
            x: Images, float, shape (batch, in_channels, height, width), in 0..1.
        """
        return self.trunk.maps(self.adapt(x))

    def features(self, x: Tensor, layer: str | None = None) -> Tensor:
        """Vector of each image; a named map is averaged down to at most 4096 numbers."""
        if layer is None:
            return self(x)
        check.choice(self.map_dims, layer=layer)
        return pool(self.maps(x)[layer])

    def tokens(
        self, x: Tensor, keep: Tensor | None = None, masked: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Tokens of a ViT that sees only some patches.

        Args:
            x: Images, float, shape (batch, in_channels, height, width), in 0..1.
            keep: Indices of the patches to see, counted row by row, int64, shape (batch, kept); None for all.
            masked: Patches to replace, bool, shape (batch, patches), and the embedded patch, float, shape (dim,), that
                replaces each of them before its position is added; None for none.

        Returns:
            Float, shape (batch, prefix_tokens + kept, dim): the class token, then the patches as in `keep`.

        Raises:
            ValueError: The encoder is not a ViT.
        """
        if not self.is_vit:
            raise UserError(f"encoder must be a ViT such as vit-small, got {self.config['name']}")
        return self.trunk.tokens(self.adapt(x), keep, masked)

    def write_transformers(self, folder: str | os.PathLike[str]) -> None:
        """Write model and image processor as `AutoModel` and `AutoImageProcessor` of transformers read them.

        Raises:
            ValueError: It is no model of transformers, or more than one that reads images as they are.
        """
        if not isinstance(self.trunk, from_transformers.ImageModel):
            name = self.config["name"]
            raise UserError(
                f"encoder must be a model of transformers, got {name}. Take safetensors, timm or onnx"
            )
        grey = self.in_channels > self.adapt.out_channels
        if len(self.neck) or self.adapt.input != "color" or grey:
            what = (
                "layers of a head" if len(self.neck) else "colours that are converted to grey" if grey else ""
            )
            raise UserError(
                "encoder must be a model of transformers on images as they are, got one with "
                f"{what or f'input {self.adapt.input}'}. Take safetensors or onnx"
            )
        statistics = self.adapt.mean.tolist(), self.adapt.std.tolist()
        transformers_folder.write_image_model(Path(folder), self.trunk.model, self.image_size, *statistics)

    def read_transformers(self, folder: str | os.PathLike[str], x: Tensor) -> Tensor:
        """Features that transformers computes from what `write_transformers` wrote, float, shape (batch, dim)."""
        images = x.expand(-1, self.adapt.out_channels, -1, -1)
        reader = copy.deepcopy(self.trunk)
        reader.model, pixels = transformers_folder.read_image_model(Path(folder), images)
        return reader(pixels)

    def pooled(self, tokens: Tensor) -> Tensor:
        """Features, float, shape (batch, dim), of all tokens of a ViT as `tokens` gives them."""
        return self.neck(self.trunk.pool(tokens))


def pool(maps: Tensor) -> Tensor:
    """Maps, shape (batch, channels, height, width), averaged down to at most 4096 numbers, (batch, numbers)."""
    grid = pooling_grid(maps.shape[1])
    height, width = (min(grid, side) for side in maps.shape[2:])
    return F.adaptive_avg_pool2d(maps, (height, width)).flatten(1)


def pooling_grid(channels: int) -> int:
    """Most rows and columns to which a map of so many channels is averaged."""
    return max(1, int((MAP_NUMBERS / channels) ** 0.5))


def build(
    name: str,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    input: Input = "color",
    init: str = "default",
    levels: "Levels | None" = None,
    network_channels: int | None = None,
    neck: Sequence[int] = (),
    architecture: str | None = None,
) -> ImageEncoder:
    """Build an encoder with random weights.

    Args:
        name: One of `NAMES`, the name of a timm model, torchvision-NAME, or transformers.
        in_channels: Channels of the images.
        image_size: Height and width in pixels of the images in training.
        input: What the network sees of an image: color, lightness, sobel or lab.
        init: How the weights will be initialised: default, rescaled, kmeans or dictionary.
        levels: The values that became 0 and 255 in training, for images of more than 8 bits.
        network_channels: Channels that the network takes, where the input gives others; None as the input gives.
        neck: Widths of layers after the pooled vector, as in `ImageEncoder.extend`.
        architecture: Configuration of a network of transformers as JSON.

    Raises:
        ValueError: A name or a number does not fit.
    """
    check.at_least(1, image_size=image_size)
    check.choice(INITS, init=init)
    config = {"kind": "image", "name": name, "in_channels": in_channels, "image_size": image_size}
    config |= {"input": input, "init": init}
    config |= {"levels": levels} if levels else {}
    config |= {"architecture": architecture} if architecture else {}
    network_channels = network_channels or _fixed_channels(name, input, in_channels, architecture)
    config |= {} if network_channels is None else {"network_channels": network_channels}
    adapt = Adapt(input, in_channels, network_channels)
    if reason := refusal(name, adapt.out_channels, image_size, architecture):
        near = " or ".join(
            map(str, nearest_sizes(name, adapt.out_channels, image_size, reason, architecture))
        )
        hint = f". Take {near}" if near else ""
        raise UserError(f"image_size must suit {name}, got {image_size} ({reason}){hint}")
    encoder = ImageEncoder(adapt, _maker(name, architecture)(adapt.out_channels, image_size), config)
    encoder.extend(*neck)
    if unread := getattr(encoder.trunk, "unread", 0):
        encoder.notes.append(
            f"the last {unread} of {image_size} pixels on a side fill no patch and are not read; image_size "
            f"{image_size - unread} has none of these"
        )
    return encoder


@cache
def refusal(name: str, channels: int, image_size: int, architecture: str | None = None) -> str:
    """Why a network does not take images of some size, empty if it does; at most shapes are computed."""
    if name in ANY_SIZE:
        return ""
    make = _maker(name, architecture)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            make(channels, image_size).eval()(torch.zeros(1, channels, image_size, image_size))
    except TooLarge:
        raise
    except Exception as error:  # networks refuse sizes in ways of their own
        return check.reason(error)
    return ""


def nearest_sizes(
    name: str, channels: int, image_size: int, reason: str, architecture: str | None = None
) -> list[int]:
    """The next smaller and the next larger size in pixels that a network takes.

    Args:
        name: As in `build`.
        channels: Channels that the network takes.
        image_size: A size in pixels that it refuses.
        reason: Why, as `refusal` says.
        architecture: As in `build`.
    """
    # Large networks take a second to be built even without their weights, so sizes between patches are not tried.
    patch = re.search(r"multiple of the (\d+) pixels", reason)

    def likely(size: int) -> bool:
        if patch:
            return size % int(patch[1]) == 0
        # Elsewhere patches and strides are multiples of 4 or 14 pixels nearly everywhere.
        return abs(size - image_size) <= 2 or size % 4 == 0 or size % 14 == 0

    directions = range(image_size - 1, image_size // 2, -1), range(image_size + 1, 2 * image_size + 33)
    near = (
        next(
            (size for size in filter(likely, sizes) if not refusal(name, channels, size, architecture)), None
        )
        for sizes in directions
    )
    return [size for size in near if size is not None]


def fitted(
    name: str,
    data: "Data",
    *,
    image_size: int | None = None,
    exact: bool = True,
    input: Input = "color",
    network_channels: int | None = None,
    architecture: str | None = None,
) -> ImageEncoder:
    """Build an encoder for data and set the statistics of its input.

    Args:
        name: As in `build`.
        data: Images, or what has frames.
        image_size: Height and width in pixels of the images in training; None takes that of the data.
        exact: Whether no other size will do; else the nearest that the network takes is chosen, and noted.
        input: What the network sees of an image, as in `build`.
        network_channels: As in `build`.
        architecture: As in `build`.
    """
    channels, size = data.shape["channels"], image_size or data.shape["image_size"]
    notes = []
    network_channels = network_channels or _fixed_channels(name, input, channels, architecture)
    if not exact or image_size is None:
        out_channels = Adapt(input, channels, network_channels).out_channels
        reason = refusal(name, out_channels, size, architecture)
        if reason and (near := nearest_sizes(name, out_channels, size, reason, architecture)):
            nearest = min(near, key=lambda other: abs(other - size))
            size, note = nearest, f"image_size {nearest}, not {size}, for {name} ({reason})"
            notes.append(note)
    options: dict[str, Any] = {"in_channels": channels, "image_size": size, "architecture": architecture}
    options["network_channels"] = network_channels
    encoder = build(name, input=input, **options)
    if encoder.is_dictionary:
        name, note = dictionary.suited(name, sample(encoder, data, dictionary.SAMPLE))
        encoder = build(name, input=input, **options)
        notes += [note] if note else []
    encoder.notes += notes
    return fit(encoder, data)


def fit(encoder: ImageEncoder, data: "Data") -> ImageEncoder:
    """Set the statistics of an encoder's input to those of a sample of data."""
    encoder.adapt.fit(sample(encoder, data))
    return encoder


def sample(encoder: ImageEncoder, data: "Data", count: int = SAMPLE) -> Tensor:
    """Inputs of at most so many samples on the CPU, float, shape (samples, channels, height, width)."""
    batch = encoder.evaluation_view(data).sample(count)
    return encoder.inputs({name: value.cpu() for name, value in batch.items()})


def _fixed_channels(name: str, input: Input, channels: int, architecture: str | None) -> int | None:
    """Channels of a network that is built for one number of them only, where one channel can be repeated for them.

    Raises:
        ValueError: It takes others than the images have.
    """
    if architecture is None and not name.startswith(from_torchvision.PREFIX):
        return None
    network_channels = 3 if architecture is None else from_transformers.channels_of(architecture)
    given = Adapt(input, channels).out_channels
    if given == network_channels:
        return None
    if given == 1 or (input, given, network_channels) == ("color", 3, 1):
        return network_channels
    able = " or ".join(
        map(str, sorted({1, network_channels, 3 if network_channels == 1 else network_channels}))
    )
    raise UserError(
        f"images must have {able} channels for a network that takes {network_channels}, got {given}"
    )


def require_name(name: str) -> None:
    """Refuse a name of which there is no network.

    Raises:
        ValueError: There is none.
    """
    if name != from_transformers.NAME:
        _maker(name)


def _maker(name: str, architecture: str | None = None) -> Callable[[int, int], Any]:
    """Function from (channels, image_size) to the network of a name."""
    if name in NAMES:
        return NAMES[name]
    if name == from_transformers.NAME:
        if architecture is None:
            raise UserError("encoder transformers must come with weights, as hf:OWNER/NAME, got none")
        return lambda channels, size: from_transformers.ImageModel(architecture, size)
    if name.startswith(from_torchvision.PREFIX):
        network = name.removeprefix(from_torchvision.PREFIX)
        check.choice(from_torchvision.known(), **{"encoder of torchvision": network})
        return partial(from_torchvision.FromTorchvision, network)
    if dictionary.is_dictionary(name):
        return partial(dictionary.dictionary, name)
    import timm

    if timm.is_model(name):
        return partial(from_timm.any_timm, name)
    if name == OWN_NETWORK:
        raise UserError("encoder must be one that can be built again by its name, got a network of your own")
    near = get_close_matches(name, [*NAMES, *timm.list_models()], n=3, cutoff=0.5)
    similar = f"; similar names: {', '.join(dict.fromkeys(near))}" if near else ""
    raise UserError(f"encoder must be {', '.join(NAMES)} or a timm model, got {name}{similar}")
