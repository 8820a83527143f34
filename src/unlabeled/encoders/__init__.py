"""Encoders: the networks that are kept, one module for each kind of data that they read."""

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

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
    encoder = wrap(module, **{name: value for name, value in config.items() if name not in ("kind", "name")})
    _load_weights(encoder, Path(path))
    return encoder


def _module(kind: str) -> Any:
    check.choice(KINDS, kind=kind)
    return importlib.import_module(f"unlabeled.encoders.{KINDS[kind]}")


def _safetensors(path: Path) -> Path:
    if path.suffix != ".safetensors":
        convert = "save_file(torch.load(old, weights_only=True), new) of safetensors.torch"
        raise ValueError(f"weights must be a .safetensors file, got {path.name}. Convert it: {convert}")
    if not path.is_file():
        raise ValueError(f"weights must be a file that exists, got {path}")
    return path


def _load_weights(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file whose names and shapes must all fit."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    state = load_file(_safetensors(path))
    target: nn.Module = encoder
    with safe_open(path, framework="pt") as file:
        ours = "unlabeled" in (file.metadata() or {})
    if not ours and not any(name.startswith("adapt.") for name in state):
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
