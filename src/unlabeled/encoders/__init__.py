"""Encoders: the networks that are kept, one module for each kind of data that they read."""

import importlib
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import named
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import OWN_NETWORK, ImageEncoder, conversion, fit, wrap
from unlabeled.encoders.named import is_named
from unlabeled.encoders.rescaled import rescale_
from unlabeled.encoders.weights import match, read, stem_channels

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = [
    "KINDS",
    "OWN_NETWORK",
    "Encoder",
    "ImageEncoder",
    "build",
    "fit",
    "fitted",
    "is_named",
    "load",
    "names",
    "rescale_",
    "wrap",
]

_LARGEST_NUMBER = 2**18
"""Number that any encoder may be built from, such as its samples per second; larger ones count its weights."""

SIZES = (32, 64, 96, 128, 192, 224, 256, 384, 448, 518)
"""Image sizes in pixels that weights are commonly of."""

KINDS = {
    "image": "image",
    "text": "text",
    "words": "words",
    "audio": "audio",
    "video": "video",
    "audio-visual": "audio_visual",
}
"""Kinds of encoders, and the module of each."""


def names(kind: str = "image") -> list[str]:
    """Names of our own encoders of a kind, first what is taken where nobody chooses.

    Any name of a timm model is accepted for images as well.
    """
    return list(_module(kind).NAMES)


def build(
    name: str, *, kind: str = "image", weights: str | os.PathLike[str] | None = None, **config: Any
) -> Encoder:
    """Build an encoder with random weights, or with those of a file.

    Args:
        name: One of `names(kind)`; for images also the name of a timm model.
        kind: Kind of data that it reads: image, text, words, audio, video or audio-visual.
        weights: A file: of `Encoder.save`, or the state of the network as timm, torchvision, MoCo, DINO, Lightning
            and others save it, safetensors or pickled tensors.
        **config: What else the kind's own `build` takes; for images `in_channels`, `image_size`, `input` and
            `init`.

    Returns:
        The encoder, in training mode; `notes` says what was loaded and converted.

    Raises:
        ValueError: A name, a number or the file does not fit.
    """
    make = _module(kind).build
    return _started(lambda **more: make({"kind": kind, "name": name, **config, **more}), weights)


def fitted(
    name: str,
    data: "Data",
    *,
    kind: str = "image",
    weights: str | os.PathLike[str] | None = None,
    init: str = "default",
    **wanted: Any,
) -> Encoder:
    """Build an encoder for data: its shape, its vocabulary and the statistics of its input come from there.

    Args:
        name: One of `names(kind)`; for images also the name of a timm model. Or module:function, which is imported,
            and builds a network from those of `in_channels` and `image_size` that it has parameters for.
        data: What it will be trained on.
        kind: Kind of encoder.
        weights: A file to start from, as in `build`; it brings the statistics too.
        init: default, or rescaled, which makes the channels of each layer vary alike on the data.
        **wanted: What else the kind's own `fitted` takes, such as `image_size`; what is None is chosen.
    """
    check.choice(("default", "rescaled"), init=init)
    module = _module(kind)
    wanted = {key: value for key, value in wanted.items() if value is not None}
    if is_named(name):
        encoder = _started(partial(_fitted_own, name, data, kind, **wanted), weights)
    elif weights is not None and kind != "image":  # the vocabulary and the shape are the file's
        encoder = load(weights)
        if encoder.kind != kind or encoder.config["name"] != name:
            found = f"{encoder.config['name']}, of {encoder.kind}"
            raise UserError(f"weights must be of {name}, of {kind}, got {Path(weights).name} of {found}")
        return encoder
    else:
        encoder = _started(partial(module.fitted, name, data, **wanted), weights)
    if init == "rescaled":
        if not isinstance(encoder, ImageEncoder):
            raise UserError(f"init must be default for encoders of {kind}, got rescaled")
        encoder.config["init"] = init
        rescale_(encoder, module.sample(encoder, data))
    return encoder


def load(path: str | os.PathLike[str], module: nn.Module | str | None = None) -> Encoder:
    """Build the encoder that `Encoder.save` wrote to a file, weights included.

    Args:
        path: The file.
        module: The network, where it was one of your own, or the module:function that builds it; its weights are
            replaced. What the file itself names is never imported.

    Raises:
        ValueError: The file is no encoder of ours, or needs the module.
    """
    about, sizes = _header(Path(path))
    if "unlabeled" not in about:
        raise UserError(f"path must be an encoder that was saved here, got {path}. Use build with weights")
    encoder: Encoder | None = None
    try:
        config = json.loads(about["unlabeled"])
        if not isinstance(config, dict) or not isinstance(config.get("name"), str):
            raise UserError("its architecture has no name")
        if "weights" in config:
            raise UserError("its architecture names another file")
        if config["name"] != OWN_NETWORK and not is_named(config["name"]):
            with _no_larger_than(sum(sizes.values()), config):
                encoder = build(**config)
    except Exception as error:  # networks refuse what they cannot be built from in ways of their own
        raise UserError(f"{path} must hold an encoder that can be built: {check.reason(error)}") from error
    if encoder is None:
        encoder = _own_again(path, config, module)
    elif module not in (None, config["name"]):
        raise UserError(f"encoder must be left out for {path}, which holds a {config['name']}, got {module}")
    _load_weights(encoder, Path(path))
    return encoder


def _own_again(
    path: str | os.PathLike[str], config: dict[str, Any], module: nn.Module | str | None
) -> Encoder:
    """The encoder of a file around a network that its user brings again."""
    if module is None:
        known = config["name"] != OWN_NETWORK
        what, name = (
            (f"what {config['name']} built", config["name"])
            if known
            else ("a network of your own", "MODULE:FUNCTION")
        )
        raise UserError(
            f"module must be given: {path} holds the weights of {what}, and nothing that a file names is imported. "
            f"Name it again: --encoder {name}, load(run, encoder=...), encoders.load(path, module=...)"
        )
    if isinstance(module, Encoder):
        return module
    if isinstance(module, str):
        if not is_named(module):
            raise UserError(f"encoder must be module:function to open {path}, got {module}")
        return _made(named.imported(module), config | {"name": module})
    if config.get("kind", "image") != "image":
        raise UserError(
            f"module must be an Encoder of {config['kind']} for {path}, got {type(module).__name__}"
        )
    return wrap(module, **{key: value for key, value in config.items() if key not in ("kind", "init")})


def _made(maker: Callable[..., Any], config: dict[str, Any]) -> Encoder:
    """An encoder around the network that a function of the user's builds."""
    kind = config.get("kind", "image")
    facts = {key: value for key, value in config.items() if key not in ("kind", "name", "init")}
    if "in_channels" in facts:
        facts["in_channels"] = facts.get("network_channels") or facts["in_channels"]
    network = named.made(maker, **facts)
    if isinstance(network, Encoder):
        if network.kind != kind:
            raise UserError(
                f"encoder must be of kind {kind}, got one of {network.kind} from {config['name']}"
            )
        network.config["name"] = config["name"]
        encoder = network
    elif kind != "image":
        raise UserError(f"{config['name']} must give an Encoder of {kind}, got a {type(network).__name__}")
    else:
        encoder = wrap(
            network, **{key: value for key, value in config.items() if key not in ("kind", "init")}
        )
    encoder.maker = maker
    return encoder


def _fitted_own(name: str, data: "Data", kind: str, **wanted: Any) -> Encoder:
    """A network that a function of the user's builds, its statistics set from data."""
    if kind != "image":
        return _made(named.imported(name), {"kind": kind, "name": name})
    shape, wanted = data.shape, {key: value for key, value in wanted.items() if key != "exact"}
    facts = {"in_channels": shape["channels"], "image_size": shape["image_size"]} | wanted
    encoder = _made(named.imported(name), {"kind": kind, "name": name, **facts})
    return fit(encoder, data) if isinstance(encoder, ImageEncoder) else encoder


def _started(make: Callable[..., Encoder], weights: str | os.PathLike[str] | None) -> Encoder:
    """Make an encoder and fill it from a file, whose network may take other channels than the images have."""
    encoder = make()
    if weights is None:
        return encoder
    path = Path(weights)
    if _is_ours(path):
        _load_weights(encoder, path)
        return encoder
    state = read(path)
    channels = stem_channels(_network(encoder), state) if isinstance(encoder, ImageEncoder) else None
    taken = encoder.adapt.out_channels if channels else 0
    if channels and (taken == 1 or (channels == 1 and taken == 3 and encoder.adapt.input == "color")):
        encoder = make(network_channels=channels)
        encoder.notes += conversion(encoder)  # type: ignore[arg-type]
    try:
        matched = match(_network(encoder), state, encoder.config["name"], path.name)
    except ValueError as error:
        size = _fitting_size(encoder, state)
        raise UserError(f"{error}" + (f". They fit with image_size={size}" if size else "")) from error
    _network(encoder).load_state_dict(matched.state)
    encoder.notes.append(matched.note)
    if isinstance(encoder, ImageEncoder):
        _take_statistics(encoder.adapt, _network(encoder))
    return encoder


def _network(encoder: Encoder) -> nn.Module:
    """What others call the model: the network without what is ours."""
    return getattr(encoder.trunk, "model", encoder.trunk)


def _is_ours(path: Path) -> bool:
    """Whether a file is of `Encoder.save`."""
    if path.suffix != ".safetensors":
        return False
    about, sizes = _header(path)
    return "unlabeled" in about or any(name.startswith("adapt.") for name in sizes)


def _fitting_size(encoder: Encoder, state: dict[str, Tensor]) -> int | None:
    """An image size for which the same network would take these weights: stems and positions depend on it."""
    if not isinstance(encoder, ImageEncoder) or encoder.maker or encoder.config["name"] == OWN_NETWORK:
        return None
    for size in sorted(SIZES, key=lambda size: abs(size - encoder.image_size)):
        with suppress(ValueError), torch.random.fork_rng(devices=[]), torch.device("meta"):
            match(_network(build(**{**encoder.config, "image_size": size})), state, "", "")
            return size
    return None


def rebuilt(encoder: Encoder) -> Encoder | None:
    """Build the architecture of an encoder anew with random weights; None where only its user can build it."""
    config = encoder.config | ({"init": "default"} if "init" in encoder.config else {})
    if encoder.maker is not None:
        return _made(encoder.maker, config)
    ours = type(encoder).__module__.startswith(f"{__name__}.")
    return build(**config) if ours and config["name"] != OWN_NETWORK else None


def _module(kind: str) -> Any:
    check.choice(KINDS, kind=kind)
    return importlib.import_module(f"unlabeled.encoders.{KINDS[kind]}")


@contextmanager
def _no_larger_than(weights: int, config: dict[str, Any]) -> Iterator[None]:
    """Refuse to build an architecture that a file claims, as soon as it has more weights than the file can fill."""
    largest = max((value for value in config.values() if isinstance(value, int)), default=0)
    if largest > max(_LARGEST_NUMBER, weights):
        raise UserError(f"{largest} is more than the {weights} weights that it holds")
    left = 2 * weights + _LARGEST_NUMBER

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        # On the meta device, where sizes are tried out, nothing takes memory.
        left -= 0 if parameter is None or parameter.is_meta else parameter.numel()
        if left < 0:
            raise UserError(f"its architecture has more weights than the {weights} that it holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _header(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """What a safetensors file says of itself, and the numbers in each of its tensors."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise UserError(f"path must be a .safetensors file, got {path.name}")
    if not path.is_file():
        raise UserError(f"weights must be a file that exists, got {path}")

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
            return file.metadata() or {}, sizes
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} must be a readable safetensors file: {check.reason(error)}") from error


def _load_weights(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file of `Encoder.save`, whose names and shapes must all fit."""
    from safetensors.torch import load_file

    state, wanted = load_file(path), encoder.state_dict()
    missing, unexpected = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    misshapen = {
        f"{name} {tuple(state[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if wanted[name].shape != state[name].shape
    }
    faults = [
        f"{len(keys)} {fault} ({', '.join(sorted(keys)[:3])})"
        for fault, keys in {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}.items()
        if keys
    ]
    if faults:
        raise UserError(f"weights must fit {encoder.config['name']}, got {path.name}: {'; '.join(faults)}")
    encoder.load_state_dict(state)


def _take_statistics(adapt: Any, model: nn.Module) -> None:
    """Normalise colours as a timm model was trained."""
    configuration = getattr(model, "pretrained_cfg", {})
    if adapt.input == "color" and len(configuration.get("mean", ())) == adapt.out_channels:
        adapt.set_statistics(configuration["mean"], configuration["std"])
