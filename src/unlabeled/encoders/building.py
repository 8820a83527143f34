"""Encoders of every kind by name: build them, fit them to data, load them from files."""

import inspect
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders import audio, audio_visual, image, text, video, word_vectors
from unlabeled.encoders.adapt import Adapt
from unlabeled.encoders.audio import AudioEncoder
from unlabeled.encoders.audio_visual import AudioVisualEncoder
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.first_layer import fill_first_layer_
from unlabeled.encoders.image import INITS, OWN_NETWORK, ImageEncoder
from unlabeled.encoders.libraries import Pretrained, find, is_library
from unlabeled.encoders.readout import Readout, Spec, bare
from unlabeled.encoders.rescaled import rescale_
from unlabeled.encoders.saved import load_weights, no_larger_than, read_header
from unlabeled.encoders.text import TextEncoder
from unlabeled.encoders.user_network import call_builder, import_builder, is_named, wrap
from unlabeled.encoders.video import VideoEncoder
from unlabeled.encoders.weights import match, stem_channels
from unlabeled.encoders.word_vectors import WordEncoder

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["KINDS", "build", "fitted", "load", "names", "pretrained", "rebuilt"]

Weights = str | os.PathLike[str] | Pretrained | None
SIZES = (32, 64, 96, 128, 192, 224, 256, 384, 448, 518)
"""Usual image sizes of pretrained weights, in pixels."""

KINDS: dict[str, Any] = {
    "image": image,
    "text": text,
    "words": word_vectors,
    "audio": audio,
    "video": video,
    "audio-visual": audio_visual,
}
"""Kinds of encoders, and the module of each, with its `NAMES`, `build` and `fitted`."""


def names(kind: str = "image") -> list[str]:
    """Names of our own encoders of a kind, the default first; for images any name of a timm model works too."""
    check.choice(KINDS, kind=kind)
    return list(KINDS[kind].NAMES)


@overload
def build(
    name: str, *, kind: Literal["image"] = "image", weights: Weights = ..., **config: Any
) -> ImageEncoder: ...
@overload
def build(name: str, *, kind: Literal["text"], weights: Weights = ..., **config: Any) -> TextEncoder: ...
@overload
def build(name: str, *, kind: Literal["words"], weights: Weights = ..., **config: Any) -> WordEncoder: ...
@overload
def build(name: str, *, kind: Literal["audio"], weights: Weights = ..., **config: Any) -> AudioEncoder: ...
@overload
def build(name: str, *, kind: Literal["video"], weights: Weights = ..., **config: Any) -> VideoEncoder: ...
@overload
def build(
    name: str, *, kind: Literal["audio-visual"], weights: Weights = ..., **config: Any
) -> AudioVisualEncoder: ...
@overload
def build(name: str, *, kind: str, weights: Weights = ..., **config: Any) -> Encoder: ...
def build(name: str, *, kind: str = "image", weights: Weights = None, **config: Any) -> Encoder:
    """Build an encoder with random weights, or with those of a library or file.

    Args:
        name: One of `names(kind)`; for images also the name of a timm model.
        kind: Kind of data that it reads: image, text, words, audio, video or audio-visual.
        weights: timm:NAME, torchvision:NAME, hf:OWNER/NAME, hub:OWNER/NAME, a folder with config.json, a run, or a
            file: of `Encoder.save`, or the state of the network as timm, torchvision, MoCo, DINO, Lightning and others
            save it, safetensors or pickled tensors. `pretrained` builds the network that weights are of.
        **config: Further arguments of the kind's own `build`; for images `in_channels`, `image_size`, `input` and
            `init`.

    Returns:
        The encoder, in training mode; `notes` says what was loaded and converted.

    Raises:
        ValueError: A name, a number or the file does not fit.
    """
    check.choice(KINDS, kind=kind)
    make = KINDS[kind].build
    for argument in config:
        check.choice(inspect.signature(make).parameters, argument=argument)
    if weights is None:
        return make(name, **config)
    source = find(weights, kind)
    return _filled(partial(make, name, **_arguments(source, name), **config), source)


def pretrained(weights: Weights, kind: str = "image", **config: Any) -> Encoder:
    """Build the network that weights are of, with these weights.

    Args:
        weights: As in `build`; a file must be of `Encoder.save`. Or what `find` gives.
        kind: Kind of encoder.
        **config: Arguments of the kind's own `build`, such as `in_channels`; by default those of the weights.

    Raises:
        ValueError: There are no such weights, or they do not say of which network they are.
    """
    source = find(weights, kind)
    if source.encoder is None:
        raise UserError(
            f"weights must say of which network they are, got {source.label}; name it with --encoder"
        )
    if source.own is not None:
        return load(source.own)
    if kind == "image" and source.image_size is not None:
        config = {"image_size": source.image_size} | config
    make = partial(KINDS[kind].build, source.encoder, **_arguments(source, source.encoder))
    return _filled(partial(make, **config), source)


def fitted(
    name: str,
    data: "Data",
    *,
    kind: str = "image",
    weights: Weights = None,
    init: str = "default",
    image_size: int | None = None,
    **options: Any,
) -> Encoder:
    """Build an encoder for data: its shape, its vocabulary and the statistics of its input come from there.

    Args:
        name: One of `names(kind)`; for images also the name of a timm model. Or module:function, which is imported,
            and builds a network from those of `in_channels` and `image_size` that it has parameters for.
        data: What it will be trained on.
        kind: Kind of encoder.
        weights: What to start from, as in `build`; it brings the statistics and the tokenizer too.
        init: default; rescaled, which makes the channels of each layer vary equally on the data; kmeans, which also
            takes the filters of each layer from clusters of patches; or dictionary, which initialises the filters of
            the first convolution with atoms of patches of the data.
        image_size: Height and width in pixels of images and frames; None takes that of the data. Other kinds have none.
        **options: Further arguments of the kind's own `fitted`; None for automatic values.
    """
    check.choice(INITS, init=init)
    if init in ("kmeans", "dictionary") and weights is not None:
        raise UserError(
            f"init must be default or rescaled with weights, which {init} would replace, got {init}"
        )
    check.choice(KINDS, kind=kind)
    make = KINDS[kind].fitted
    options = {key: value for key, value in options.items() if value is not None}
    if image_size is not None and "image_size" in inspect.signature(make).parameters:
        options["image_size"] = image_size
    source = None if weights is None else find(weights, kind)
    arguments = {} if source is None else _arguments(source, name)
    if is_named(name):
        encoder = _filled(partial(_fitted_own, name, data, kind, **options), source)
    elif source is not None and kind != "image" and not is_library(source.weights) and not arguments:
        return _loaded_as(
            name, kind, source.own or Path(source.weights)
        )  # vocabulary and shape come from the file
    else:
        encoder = _filled(partial(make, name, data, **arguments, **options), source)
    if init != "default":
        if not isinstance(encoder, ImageEncoder):
            raise UserError(f"init must be default for encoders of {kind}, got {init}")
        images = image.sample(encoder, data)
        if init == "dictionary":
            encoder.notes.append(fill_first_layer_(encoder, images))
        else:
            steps = rescale_(encoder, images, init)  # type: ignore[arg-type]
            encoder.notes.append(f"init {init}: {steps}")
    return encoder


def load(path: str | os.PathLike[str], module: nn.Module | str | None = None) -> Encoder:
    """Build the encoder that `Encoder.save` wrote to a file, weights included.

    Args:
        path: The file.
        module: The network, where it was one of your own, or the module:function that builds it; its weights are
            replaced. Names in the file itself are never imported.

    Raises:
        ValueError: The file is no encoder of ours, or needs the module.
    """
    path = Path(path)
    about, sizes = read_header(path)
    if "unlabeled" not in about:
        raise UserError(f"path must be an encoder that was saved here, got {path}. Use build with weights")
    encoder: Encoder | None = None
    try:
        config = json.loads(about["unlabeled"])
        if not isinstance(config, dict) or not isinstance(config.get("name"), str):
            raise UserError("its architecture has no name")
        if "weights" in config:
            raise UserError("its architecture names another file")
        spec, numbers = _readout(config, sum(sizes.values()))
        if config["name"] != OWN_NETWORK and not is_named(config["name"]):
            with no_larger_than(sum(sizes.values()), config):
                encoder = build(**config)
    except Exception as error:  # networks refuse what they cannot be built from in ways of their own
        raise UserError(f"{path} must hold an encoder that can be built: {check.reason(error)}") from error
    if encoder is None:
        encoder = _own_again(path, config, bare(module) if isinstance(module, Encoder) else module)
    elif module not in (None, config["name"]):
        raise UserError(f"encoder must be left out for {path}, which holds a {config['name']}, got {module}")
    encoder = encoder if spec is None else Readout(encoder, spec, numbers)
    load_weights(encoder, path)
    return encoder


def rebuilt(encoder: Encoder) -> Encoder | None:
    """Build the architecture of an encoder anew with random weights; None where only its user can build it."""
    if isinstance(encoder, Readout):
        inner = rebuilt(encoder.encoder)
        return None if inner is None else Readout(inner, encoder.spec, encoder.config["numbers"])
    config = encoder.config | ({"init": "default"} if "init" in encoder.config else {})
    if encoder.maker is not None:
        return _built_by(encoder.maker, config)
    ours = type(encoder).__module__.rpartition(".")[0] == __package__
    return build(**config) if ours and config["name"] != OWN_NETWORK else None


def _readout(config: dict[str, Any], weights: int) -> tuple[Spec | None, list[int]]:
    """Take what makes a readout out of a configuration: which features, None for an encoder alone, and its shape.

    Args:
        config: The configuration of a file.
        weights: Numbers that the file holds, which the shape cannot exceed.
    """
    text, numbers = config.pop("features", None), config.pop("numbers", [])
    if text is None:
        return None, []
    whole = isinstance(numbers, list) and all(type(number) is int and number > 0 for number in numbers)
    if not (isinstance(text, str) and whole and len(numbers) in (1, 2)):
        raise UserError(f"its features must have a name and a shape, got {text} and {numbers}")
    if math.prod(numbers) > weights:
        raise UserError(f"its features have more numbers than the {weights} that it holds")
    return Spec.parse(text), numbers


def _loaded_as(name: str, kind: str, path: Path) -> Encoder:
    """The encoder of a file, which must be of a name and a kind."""
    encoder = load(path)
    if encoder.kind != kind or encoder.config["name"] != name:
        content = f"{encoder.config['name']}, of {encoder.kind}"
        raise UserError(f"weights must be of {name}, of {kind}, got {path.name} of {content}")
    return encoder


def _own_again(path: Path, config: dict[str, Any], module: nn.Module | str | None) -> Encoder:
    """The encoder of a file around a network that its user brings again."""
    name, kind = config["name"], config.get("kind", "image")
    if module is None:
        content, option = f"what {name} built", name
        if name == OWN_NETWORK:
            content, option = "a network of your own", "MODULE:FUNCTION"
        raise UserError(
            f"module must be given: {path} holds the weights of {content}, and no module named in a file is imported. "
            f"Name it again: --encoder {option}, load(run, encoder=...), encoders.load(path, module=...)"
        )
    if isinstance(module, Encoder):
        return module
    if isinstance(module, str):
        if not is_named(module):
            raise UserError(f"encoder must be module:function to open {path}, got {module}")
        return _built_by(import_builder(module), config | {"name": module})
    if kind != "image":
        raise UserError(f"module must be an Encoder of {kind} for {path}, got {type(module).__name__}")
    return wrap(module, **_wrap_arguments(config))


def _fitted_own(name: str, data: "Data", kind: str, **options: Any) -> Encoder:
    """An encoder around the network that a function of the user's builds, its statistics set from data."""
    config: dict[str, Any] = {"kind": kind, "name": name}
    if kind == "image":
        config |= {"in_channels": data.shape["channels"], "image_size": data.shape["image_size"], **options}
        config.pop("exact", None)
    encoder = _built_by(import_builder(name), config)
    return image.fit(encoder, data) if isinstance(encoder, ImageEncoder) else encoder


def _built_by(maker: Callable[..., Any], config: dict[str, Any]) -> Encoder:
    """An encoder around the network that a function of the user's builds."""
    kind, name = config.get("kind", "image"), config["name"]
    facts = {key: value for key, value in _wrap_arguments(config).items() if key not in ("name", "neck")}
    if "in_channels" in facts:
        facts["in_channels"] = facts.get("network_channels") or facts["in_channels"]
    network = call_builder(maker, **facts)
    if isinstance(network, Encoder):
        if network.kind != kind:
            raise UserError(f"encoder must be of kind {kind}, got one of {network.kind} from {name}")
        network.config["name"] = name
        encoder = network
        _extend(encoder, config)
    elif kind != "image":
        raise UserError(f"{name} must give an Encoder of {kind}, got a {type(network).__name__}")
    else:
        encoder = wrap(network, **_wrap_arguments(config))
    encoder.maker = maker
    return encoder


def _extend(encoder: Encoder, config: dict[str, Any]) -> None:
    """Add the layers after the pooled vector that a configuration has beyond those of an encoder."""
    if isinstance(encoder, ImageEncoder):
        encoder.extend(*config.get("neck", ())[len(encoder.config.get("neck", ())) :])


def _wrap_arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("kind", "init")}


def _arguments(source: Pretrained, name: str) -> dict[str, Any]:
    """Arguments by which an encoder of this name is described by its weights."""
    if source.arguments and name != source.encoder:
        raise UserError(
            f"encoder must be left out with weights {source.label}, which bring their own, got {name}"
        )
    return source.arguments


def _filled(make: Callable[..., Encoder], source: Pretrained | None) -> Encoder:
    """Make an encoder and fill it with weights, whose network may take other channels than the images have."""
    encoder = make()
    if source is None:
        return encoder
    if source.own is not None:
        encoder = _for_channels(make, encoder, source.channels)
        _load_ours(encoder, source.own)
        encoder.notes.append(f"{len(encoder.state_dict())} tensors of {source.label} loaded")
        return encoder
    loaded = source.load(getattr(getattr(encoder, "trunk", None), "arguments", {}))
    if isinstance(encoder, ImageEncoder):
        channels = stem_channels(_network(encoder), loaded.state)
        encoder = _for_channels(make, encoder, channels)
        adapt: Any = encoder.adapt
        if channels not in (None, adapt.out_channels):
            raise UserError(
                f"weights must take the {adapt.out_channels} channels that input {adapt.input} has, got "
                f"{source.label}, which take {channels}"
            )
    name = encoder.config["name"]
    try:
        matched = match(_network(encoder), loaded.state, name, source.label, loaded.beside)
    except ValueError as error:
        size = _fitting_size(encoder, loaded.state)
        raise UserError(f"{error}" + (f". They fit with image_size={size}" if size else "")) from error
    _network(encoder).load_state_dict(matched.state)
    encoder.notes.append(matched.note)
    if isinstance(encoder, ImageEncoder):
        if source.image_size not in (None, encoder.image_size):
            encoder.notes.append(
                f"images of {encoder.image_size} pixels; {source.label} was trained on {source.image_size}"
            )
        _take_statistics(encoder.adapt, _network(encoder), source.statistics)
    return encoder


def _for_channels(make: Callable[..., Encoder], encoder: Encoder, channels: int | None) -> Encoder:
    """The encoder, or one whose network takes other channels, into which one channel or three colours are converted."""
    if channels is None or not isinstance(encoder, ImageEncoder) or channels == encoder.adapt.out_channels:
        return encoder
    grey = channels == 1 and encoder.adapt.out_channels == 3 and encoder.adapt.input == "color"
    return make(network_channels=channels) if encoder.adapt.out_channels == 1 or grey else encoder


def _load_ours(encoder: Encoder, path: Path) -> None:
    """Fill an encoder from a file of `Encoder.save`, with the layers after the pooled vector that it has there."""
    about, sizes = read_header(path)
    try:
        config = json.loads(about.get("unlabeled", "{}"))
        with no_larger_than(sum(sizes.values()), config):
            _extend(encoder, config)
    except Exception as error:  # a header may hold anything
        raise UserError(f"weights must be of an encoder, got {path.name}: {check.reason(error)}") from error
    load_weights(encoder, path)


def _network(encoder: Encoder) -> nn.Module:
    """The network as its authors name its weights."""
    trunk = getattr(encoder, "trunk", encoder)
    return getattr(trunk, "model", trunk)


def _fitting_size(encoder: Encoder, state: dict[str, Tensor]) -> int | None:
    """An image size for which the same network would take these weights: stems and positions depend on it."""
    if not isinstance(encoder, ImageEncoder) or encoder.maker or encoder.config["name"] == OWN_NETWORK:
        return None
    for size in sorted(SIZES, key=lambda size: abs(size - encoder.image_size)):
        with suppress(ValueError), torch.random.fork_rng(devices=[]), torch.device("meta"):
            match(_network(build(**{**encoder.config, "image_size": size})), state, "", "")
            return size
    return None


def _take_statistics(adapt: Adapt, model: Any, statistics: tuple[list[float], list[float]] | None) -> None:
    """Normalise colours as the weights were trained, or else as timm says of the network."""
    if statistics is None:
        configuration = getattr(model, "pretrained_cfg", {})
        statistics = configuration.get("mean", ()), configuration.get("std", ())
    if adapt.input == "color" and len(statistics[0]) == adapt.out_channels:
        adapt.set_statistics(*statistics)
