"""Encoders: the networks that are kept, one module for each kind of data that they read."""

import importlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unlabeled import check
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.image import OWN_NETWORK, ImageEncoder, fit, wrap
from unlabeled.encoders.rescaled import rescale_

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
    "load",
    "names",
    "rescale_",
    "wrap",
]

_LARGEST_NUMBER = 2**18
"""Number that any encoder may be built from, such as its samples per second; larger ones count its weights."""

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
        weights: A safetensors file: of `Encoder.save`, or the plain state of the network, such as timm's.
        **config: What else the kind's own `build` takes; for images `in_channels`, `image_size`, `input` and
            `init`.

    Returns:
        The encoder, in training mode.

    Raises:
        ValueError: A name, a number or the file does not fit.
    """
    encoder = _module(kind).build({"kind": kind, "name": name, **config})
    if weights is not None:
        _load_weights(encoder, Path(weights))
    return encoder


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
        name: One of `names(kind)`; for images also the name of a timm model.
        data: What it will be trained on.
        kind: Kind of encoder.
        weights: A safetensors file to start from; it brings the statistics too.
        init: default, or rescaled, which makes the channels of each layer vary alike on the data.
        **wanted: What else the kind's own `fitted` takes, such as `image_size`; what is None is chosen.
    """
    check.choice(("default", "rescaled"), init=init)
    module = _module(kind)
    if weights is not None and kind != "image":  # the vocabulary and the shape are the file's
        encoder = load(weights)
        if encoder.kind != kind or encoder.config["name"] != name:
            found = f"{encoder.config['name']}, of {encoder.kind}"
            raise ValueError(f"weights must be of {name}, of {kind}, got {Path(weights).name} of {found}")
        return encoder
    encoder = module.fitted(name, data, **{key: value for key, value in wanted.items() if value is not None})
    if weights is not None:
        _load_weights(encoder, Path(weights))
    if init == "rescaled":
        if not isinstance(encoder, ImageEncoder):
            raise ValueError(f"init must be default for encoders of {kind}, got rescaled")
        encoder.config["init"] = init
        rescale_(encoder, module.sample(encoder, data))
    return encoder


def load(path: str | os.PathLike[str], module: nn.Module | None = None) -> Encoder:
    """Build the encoder that `Encoder.save` wrote to a file, weights included.

    Args:
        path: The file.
        module: The network, where it was one of your own; its weights are replaced.

    Raises:
        ValueError: The file is no encoder of ours, or needs the module.
    """
    about, sizes = _header(Path(path))
    if "unlabeled" not in about:
        raise ValueError(f"path must be an encoder that was saved here, got {path}. Use build with weights")
    encoder: Encoder | None = None
    try:
        config = json.loads(about["unlabeled"])
        if not isinstance(config, dict) or not isinstance(config.get("name"), str):
            raise ValueError("its architecture has no name")
        if config["name"] != OWN_NETWORK:
            with _no_larger_than(sum(sizes.values()), config):
                encoder = build(**config)
    except Exception as error:  # networks refuse what they cannot be built from in ways of their own
        raise ValueError(f"{path} must hold an encoder that can be built: {check.reason(error)}") from error
    if encoder is not None:
        _load_weights(encoder, Path(path))
        return encoder
    if module is None:
        raise ValueError(f"module must be given: {path} holds the weights of a network of your own")
    encoder = wrap(module, **{name: value for name, value in config.items() if name not in ("kind", "name")})
    _load_weights(encoder, Path(path))
    return encoder


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
        raise ValueError(f"{largest} is more than the {weights} weights that it holds")
    left = 2 * weights + _LARGEST_NUMBER

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise ValueError(f"its architecture has more weights than the {weights} that it holds")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _header(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """What a safetensors file says of itself, and the numbers in each of its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_safetensors(path), framework="pt") as file:
            names = list(file.keys())
            sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in names}
            return file.metadata() or {}, sizes
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a readable safetensors file: {check.reason(error)}") from error


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

    about, _ = _header(path)  # tells what is wrong with the file, if anything
    state = load_file(path)
    target: nn.Module = encoder
    if "unlabeled" not in about and not any(name.startswith("adapt.") for name in state):
        target = getattr(encoder.trunk, "model", encoder.trunk)
        state = _without_classifier(target, state)
        if isinstance(encoder, ImageEncoder):
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


def _take_statistics(adapt: Any, model: nn.Module) -> None:
    """Normalise colours as a timm model was trained."""
    configuration = getattr(model, "pretrained_cfg", {})
    if adapt.input == "color" and len(configuration.get("mean", ())) == adapt.in_channels:
        adapt.set_statistics(configuration["mean"], configuration["std"])
