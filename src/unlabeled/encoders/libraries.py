"""Pretrained weights by name: those of timm, torchvision and transformers, of a run, or of a file.

Nothing that is downloaded or read can execute code: no repository's own code is trusted, and no object is unpickled.
"""

import json
import math
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled import check, hub
from unlabeled.check import UserError
from unlabeled.encoders import from_transformers
from unlabeled.encoders.from_torchvision import encoder_name, torchvision_weights
from unlabeled.encoders.hub import Unreachable, fetching
from unlabeled.encoders.saved import is_ours, read_header
from unlabeled.encoders.weights import read

__all__ = ["FORMS", "Loaded", "Pretrained", "Unreachable", "find", "is_library"]

FORMS = (
    "timm:NAME, torchvision:NAME, hf:OWNER/NAME, hub:OWNER/NAME, a folder with config.json, a run, or a file"
)
LIBRARIES = {"timm": ("image",), "torchvision": ("image",), "hf": ("image", "text", "audio")}
"""Kinds of data for which a library's weights are taken."""
RATE = 16_000
"""Samples per second where nothing says it."""
LARGEST = 4_096
"""Largest image side in pixels that a config may ask for; more is a mistake."""
FOLLOWED = {"num_classes", "in_chans", "img_size", "dynamic_img_size"}
"""Arguments of a network of timm in a config.json that the shapes of its weights tell, too."""
AFTER_PADDING = ("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "xmod")
"""Model types that number positions from the padding token's id on, as those with roberta in their names do."""
LENGTH = 512
"""Most tokens that are read at once, as longer texts cost much."""


@dataclass(frozen=True)
class Loaded:
    """Weights in memory.

    Attributes:
        state: Tensors by name, those of a head among them.
        beside: Names of what the files hold beside `state`, such as a head.
        heads: Names of the layers that are a head.
        classes: Outputs of the head; 0 where there is none.
    """

    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    classes: int = 0


@dataclass(frozen=True)
class Pretrained:
    """Weights that were found, without the weights themselves.

    Attributes:
        weights: What the user named.
        label: What messages call them.
        load: Loads them, for arguments of the library's own function that builds the network.
        encoder: The network that they are of, by its name here; None where a file does not say.
        arguments: Arguments of `encoders.build` beside the name, for networks that are described by them.
        image_size: Height and width in pixels of the images that they were trained on; None where that is not known.
        statistics: Mean and deviation of each channel by which images in 0..1 are normalised; None if not known.
        transform: Makes the function from one image, uint8, shape (channels, height, width), to the network's input,
            as the library itself prepares images; None where it has none.
        own: A file of `Encoder.save`; None for others.
        channels: Channels that the network of such a file takes of colours or grey; None where that is not known.
    """

    weights: str
    label: str
    load: Callable[[dict[str, Any]], Loaded]
    encoder: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    statistics: tuple[list[float], list[float]] | None = None
    transform: Callable[[], Callable[[Tensor], Tensor]] | None = None
    own: Path | None = None
    channels: int | None = None


def is_library(weights: Any) -> bool:
    """Whether weights are named as those of a library: timm:NAME, torchvision:NAME or hf:OWNER/NAME."""
    return isinstance(weights, str) and re.match(rf"({'|'.join(LIBRARIES)}):.", weights) is not None


def find(weights: Any, kind: str = "image") -> Pretrained:
    """Find weights by name or path, and what they need to be loaded.

    Args:
        weights: One of `FORMS`, or what was found before.
        kind: Kind of encoder that they are for.

    Raises:
        Unreachable: They are neither in the cache nor can they be downloaded.
        ValueError: There are none of this name, or they are for other data.
    """
    if isinstance(weights, Pretrained):
        return weights
    if is_library(weights):
        library, _, name = weights.partition(":")
        if library != "torchvision" and (folder := _folder(name)) is not None:
            if not folder.exists():
                raise UserError(f"weights must be a file or folder that exists, got {weights}")
            return replace(find(folder, kind), label=weights)
        if kind not in LIBRARIES[library]:
            raise UserError(f"weights must be of a file or run for encoders of {kind}, got {weights}")
        with fetching(weights):
            return {"timm": _timm, "torchvision": _torchvision, "hf": _hub}[library](weights, name, kind)
    if hub.is_address(weights):
        return replace(find(hub.download(weights), kind), weights=weights, label=weights)
    if not isinstance(weights, str | os.PathLike):
        raise UserError(f"weights must be {FORMS}, got {weights!r}, a {type(weights).__name__}")
    path = Path(weights)
    if path.is_dir():
        run, config = path / "encoder.safetensors", path / "config.json"
        if run.is_file():
            return replace(_file(run, kind), weights=str(weights), label=str(weights))
        if not config.is_file():
            raise UserError(f"weights must be {FORMS}, got the folder {path} without config.json")
        with fetching(str(path)):
            return _described(str(weights), str(path), _json(config), kind)
    if not path.exists() and (named := re.fullmatch(r"([\w-]+):\S+", str(weights))):
        raise UserError(f"weights must be {FORMS}, got {weights}{check.near(named[1], LIBRARIES)}")
    return _file(path, kind)


def _folder(name: str) -> Path | None:
    """The folder that a name says; None for one that may be of a repository of a hub, which is OWNER/NAME."""
    folder = Path(name).expanduser()
    path = name.startswith((".", "~")) or folder.is_absolute()
    return folder if path or (name.count("/") > 1 and folder.is_dir()) else None


def _file(path: Path, kind: str) -> Pretrained:
    """A file of `Encoder.save`, or with tensors by name."""
    if not is_ours(path):
        return Pretrained(str(path), path.name, lambda arguments: Loaded(read(path)))
    own = Pretrained(str(path), path.name, lambda arguments: Loaded(read(path)), own=path)
    try:
        config = json.loads(read_header(path)[0].get("unlabeled", "{}"))
        name, size = config.get("name"), config.get("image_size")
    except (ValueError, AttributeError):  # it is refused with its reason where it is loaded
        return own
    if config.get("kind", "image") != kind or not isinstance(name, str):
        return own
    described = {"architecture": config["architecture"]} if "architecture" in config else {}
    source = replace(
        own, encoder=name, arguments=described, image_size=size if isinstance(size, int) else None
    )
    channels = config.get("network_channels") or config.get("in_channels")
    return replace(source, channels=channels) if config.get("input") == "color" else source


def _timm(weights: str, name: str, kind: str) -> Pretrained:
    import timm

    if "/" in name:
        return _hub(weights, name, kind)
    network, _, tag = name.partition(".")
    if not timm.is_model(network):
        near = check.near(network, timm.list_models(pretrained=True))
        raise UserError(f"weights must be of a network that timm has, got {weights}{near}")
    tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{network}.*")]
    if tag not in ("", *tags) or not tags:
        raise UserError(
            f"weights of {network} must be one of {', '.join(tags) or 'none in timm'}, got {tag or 'none'}"
        )
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    return _of_timm(weights, name, network, config.to_dict())


def _of_timm(weights: str, name: str, network: str, config: dict[str, Any]) -> Pretrained:
    """Weights that timm's own `create_model` loads under a name."""

    def load(arguments: dict[str, Any]) -> Loaded:
        import timm

        sized = {key: value for key, value in arguments.items() if key in ("img_size", "dynamic_img_size")}
        with fetching(weights):
            try:
                # With its head, else timm says nothing of weights that are missing.
                model: Any = timm.create_model(name, pretrained=True, **sized)
            except RuntimeError as error:
                raise UserError(
                    f"weights must fit {network}, got {weights}: {check.reason(error)}"
                ) from error
        heads = config.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        return Loaded(model.state_dict(), heads=heads, classes=config.get("num_classes") or 0)

    def transform() -> Callable[[Tensor], Tensor]:
        from timm.data.config import resolve_data_config
        from timm.data.transforms_factory import create_transform
        from torchvision.transforms.functional import to_pil_image

        prepare: Any = create_transform(**resolve_data_config(pretrained_cfg=config))
        return lambda image: prepare(to_pil_image(image))

    size = config.get("input_size", (3, 224, 224))[1]
    statistics = _statistics(weights, config["mean"], config["std"])
    return Pretrained(weights, weights, load, network, {}, size, statistics, transform)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 1 <= value <= LARGEST


def _statistics(weights: str, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel.

    Raises:
        ValueError: They are not as many finite numbers, or a deviation is not above 0.
    """
    known = all(
        isinstance(values, list | tuple)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        for values in (mean, std)
    )
    if not known or len(mean) != len(std) or min(std, default=0) <= 0:
        raise UserError(
            f"mean and std of {weights} must be as many numbers, and std above 0, got {mean} and {std}"
        )
    return [*map(float, mean)], [*map(float, std)]


def _torchvision(weights: str, name: str, kind: str) -> Pretrained:
    network, chosen = torchvision_weights(name)
    preset = chosen.transforms()

    def load(arguments: dict[str, Any]) -> Loaded:
        with fetching(weights):
            try:  # a file in the cache may be another than the one that was downloaded
                state = chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
            except pickle.UnpicklingError as error:
                raise UserError(
                    f"weights must be tensors only, got {weights}: {check.reason(error)}"
                ) from error
        return Loaded(state, classes=len(chosen.meta.get("categories", ())))

    return Pretrained(
        weights,
        weights,
        load,
        encoder_name(network),
        {},
        preset.crop_size[0],
        ([*preset.mean], [*preset.std]),
        lambda: preset,
    )


def _hub(weights: str, name: str, kind: str) -> Pretrained:
    from huggingface_hub import hf_hub_download

    repository, _, revision = name.partition("@")
    config = hf_hub_download(repository, "config.json", revision=revision or None)
    return _described(weights, name, _json(Path(config)), kind)


def _described(weights: str, source: str, config: dict[str, Any], kind: str) -> Pretrained:
    """What a folder, or a name on the hub, holds by its config.json: a network of timm or of transformers."""
    if "architecture" not in config:
        return _of_transformers(weights, source, kind)
    if kind != "image":
        raise UserError(f"weights must be of a network for {kind}, got {weights}, for images")
    import timm

    network = config["architecture"]
    if not isinstance(network, str) or not timm.is_model(network):
        raise UserError(f"weights must be of a network that timm has, got {weights} of {network}")
    arguments = config.get("model_args") or {}
    if isinstance(arguments, dict) and arguments.get("global_pool") == _pooling(network):
        arguments = {key: value for key, value in arguments.items() if key != "global_pool"}
    if not isinstance(arguments, dict) or arguments.keys() - FOLLOWED:  # it would be another network here
        raise UserError(f"weights must be of {network} as it is, got {weights} with model_args {arguments}")
    about = config.get("pretrained_cfg", config) or {}
    if not isinstance(about, dict):
        raise UserError(f"pretrained_cfg of {weights} must be a table, got {about}")
    about = {"num_classes": config.get("num_classes", 0), "mean": [0.5] * 3, "std": [0.5] * 3} | about
    size, classes = about.get("input_size", (3, 224, 224)), about["num_classes"]
    if not (isinstance(size, list | tuple) and len(size) == 3 and all(_is_size(side) for side in size)):
        raise UserError(f"input_size of {weights} must be channels, height and width, got {size}")
    if classes is not None and not isinstance(classes, int):
        raise UserError(f"num_classes of {weights} must be a whole number, got {classes}")
    place = "local-dir" if Path(source).is_dir() else "hf-hub"
    return _of_timm(weights, f"{place}:{source}", network, about)


def _pooling(network: str) -> str | None:
    """How a network of timm pools its last map if nothing else is asked for."""
    import timm

    with torch.device("meta"):
        pooling = getattr(timm.create_model(network), "global_pool", None)
    return getattr(pooling, "pool_type", pooling)


def _of_transformers(weights: str, source: str, kind: str) -> Pretrained:
    content = from_transformers.architecture(source, kind)
    arguments: dict[str, Any] = {"architecture": content}

    def load(_: dict[str, Any]) -> Loaded:
        with fetching(weights):
            model, beside = from_transformers.load_model(source, content)
        return Loaded(model.state_dict(), tuple(beside))

    find = partial(Pretrained, weights, weights, load, from_transformers.NAME)
    if kind == "text":
        return find(arguments | _tokenizer(source, content))
    prepared = _preprocessor(source)
    if kind == "audio":
        about = {
            "sample_rate": prepared.get("sampling_rate", RATE),
            "normalize": prepared.get("do_normalize", True),
        }
        return find(arguments | about)
    mean, std = (prepared.get(name, [0.5] * 3) for name in ("image_mean", "image_std"))
    if prepared.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    statistics = _statistics(weights, mean, std)

    def transform() -> Callable[[Tensor], Tensor]:
        from transformers import AutoImageProcessor

        with fetching(weights):
            try:
                processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f"weights must come with a preprocessor of transformers, got {source}: {check.reason(error)}"
                ) from error
        return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]

    size = _side(prepared) or getattr(from_transformers.configuration(content), "image_size", None)
    if isinstance(size, int) and not _is_size(size):
        raise UserError(f"image size of {weights} must be in 1..{LARGEST}, got {size}")
    return find(
        arguments, size if isinstance(size, int) else None, statistics, transform if prepared else None
    )


def _preprocessor(source: str) -> dict[str, Any]:
    """The preprocessor_config.json of a folder or of the hub; empty where it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    name = "preprocessor_config.json"
    if Path(source).is_dir():
        path = Path(source) / name
        return _json(path) if path.is_file() else {}
    try:
        return _json(Path(hf_hub_download(source, name)))
    except EntryNotFoundError:
        return {}


def _side(prepared: dict[str, Any]) -> int | None:
    """Height in pixels of the images that a preprocessor gives."""
    for size in (prepared.get("crop_size"), prepared.get("size")):
        if isinstance(size, dict):
            size = size.get("height", size.get("shortest_edge"))
        if isinstance(size, int):
            return size
    return None


def _tokenizer(source: str, content: str) -> dict[str, Any]:
    """Arguments of an encoder of texts: the tokenizer, the names of its special tokens, and the most tokens at once."""
    from transformers import AutoTokenizer

    from unlabeled.encoders.tokenizer import END

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        fast: Any = tokenizer.backend_tokenizer
    except (ValueError, AttributeError, KeyError, ImportError) as error:
        raise UserError(
            f"weights must come with a tokenizer of the tokenizers library, got {source} ({check.reason(error)})"
        ) from error
    # Without files transformers makes a tokenizer that knows special tokens only: all words would be unknown.
    if not {*fast.get_vocab()} - {*tokenizer.all_special_tokens}:
        raise UserError(
            f"weights must come with a tokenizer, such as tokenizer.json, got {source} without one"
        )
    fast.no_truncation()
    fast.no_padding()
    if from_transformers.is_causal(content):
        special = {END: tokenizer.bos_token or tokenizer.eos_token}
    else:
        special = {
            f"[{name.upper()}]": getattr(tokenizer, f"{name}_token")
            for name in ("pad", "unk", "cls", "sep", "mask")
        }
    if missing := [
        name for name, token in special.items() if token is None and name not in ("[PAD]", "[UNK]")
    ]:
        raise UserError(f"weights must come with a tokenizer that has {missing[0]}, got {source} without it")
    special = {name: token for name, token in special.items() if token is not None}
    config = from_transformers.configuration(content)
    positions = getattr(config, "max_position_embeddings", None) or LENGTH
    if "roberta" in config.model_type or config.model_type in AFTER_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    length = min(positions, tokenizer.model_max_length, LENGTH)
    return {"tokenizer": fast.to_str(), "special": special, "length": length}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} must be JSON ({check.reason(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(content).__name__}")
    return content
