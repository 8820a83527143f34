"""Networks of the transformers library by their configuration, with random weights or those of a hub or folder."""

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError

__all__ = [
    "NAME",
    "ImageModel",
    "architecture",
    "channels_of",
    "configuration",
    "is_causal",
    "load_model",
    "make_model",
]

NAME = "transformers"
"""What configurations of encoders call networks that are described by a configuration of transformers."""
NOT_ARCHITECTURE = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
)
"""What a configuration says beside the architecture."""
INPUTS = {"image": "pixel_values", "text": "input_ids", "audio": "input_values"}
"""What the main input of a network is called there, by kind of data."""


def architecture(source: str, kind: str) -> str:
    """The configuration of a network as JSON; of two towers that of the one for images.

    Args:
        source: A folder or a name on the hub.
        kind: Kind of data that it must take.

    Raises:
        OSError: It cannot be read.
        ValueError: The network is for other data, or needs code that is not in transformers.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"weights must be of a network that transformers has, got {source} ({check.reason(error)})"
        ) from error
    if kind == "image" and hasattr(config, "vision_config"):
        config = config.vision_config
    content = config.to_diff_dict() | {"model_type": config.model_type}
    content = {name: value for name, value in content.items() if name not in NOT_ARCHITECTURE}
    if hasattr(config, "mask_ratio"):  # a masked autoencoder hides patches in evaluation too
        content["mask_ratio"] = 0.0
    words = json.dumps(content)
    with torch.device("meta"):
        takes = make_model(words).main_input_name
    if takes != INPUTS.get(kind):
        raise UserError(
            f"weights must be of a network for {kind}, got {source}, a {config.model_type}, which takes {takes}"
        )
    return words


def make_model(content: str) -> Any:
    """A network with random weights.

    Args:
        content: As `architecture` gives it.

    Raises:
        ValueError: transformers has no such network.
    """
    from transformers import AutoModel

    config = configuration(content)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"weights must be of an encoder or a causal network, got a {config.model_type}")
    return _without_pooler(AutoModel.from_config, config)


def load_model(source: str, content: str) -> tuple[Any, list[str]]:
    """The network with its weights in float32, and names of what its files hold beside them, such as a head.

    Args:
        source: A folder or a name on the hub.
        content: As `architecture` gives it.

    Raises:
        OSError: The weights cannot be read.
        ValueError: Weights are missing or have other shapes.
    """
    from transformers import AutoModel

    config = configuration(content)
    model, info = _without_pooler(
        AutoModel.from_pretrained,
        source,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    faults = {"missing": info["missing_keys"], "misshapen": {key for key, *_ in info["mismatched_keys"]}}
    if any(faults.values()):
        listing = "; ".join(f"{len(keys)} {fault} ({_few(keys)})" for fault, keys in faults.items() if keys)
        raise UserError(f"weights must fit {config.model_type}, got {source}: {listing}")
    return model, sorted(info["unexpected_keys"])


def configuration(content: str) -> Any:
    """The configuration as an object of transformers.

    Args:
        content: As `architecture` gives it.
    """
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads(content))


def channels_of(content: str) -> int:
    """Channels of the images that a network takes."""
    return getattr(configuration(content), "num_channels", 3)


def is_causal(content: str) -> bool:
    """Whether a network for texts sees earlier tokens only.

    Raises:
        ValueError: It is no network for texts that predicts tokens.
    """
    from transformers.models.auto import modeling_auto as auto

    config = configuration(content)
    kind = config.model_type
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return True
    raise UserError(f"weights must be of a network that predicts tokens, such as bert or gpt2, got a {kind}")


def _without_pooler(make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function makes, if it can without a layer on the first token, which many files lack and we do not read."""
    try:
        return make(*arguments, add_pooling_layer=False, **options)
    except TypeError:
        return make(*arguments, **options)


def _few(names: set[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


class ImageModel(nn.Module):
    """A network for images whose vector is its class token, or else the mean over all positions, as it pools maps.

    Args:
        content: As `architecture` gives it.
        image_size: Height and width of the images on which its layers are looked at.

    Raises:
        ValueError: It does not take images of that size.
    """

    def __init__(self, content: str, image_size: int) -> None:
        super().__init__()
        self.model: Any = make_model(content)
        channels = getattr(self.model.config, "num_channels", 3)
        takes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        resized = takes and image_size != getattr(self.model.config, "image_size", image_size)
        self.options = {"interpolate_pos_encoding": True} if resized else {}
        self.orders = "noise" in inspect.signature(self.model.forward).parameters
        """Whether it orders patches at random, as masked autoencoders do, unless it is given numbers to sort."""
        self.prefix, self.unread = 0, 0
        """Tokens before the patches, and rows and columns of pixels that fill no patch at the end."""
        like = next(self.model.parameters())
        with torch.no_grad():
            images = torch.zeros(1, channels, image_size, image_size, device=like.device)
            training = self.model.training
            output = self._run(images)
            states = output.last_hidden_state
            self.model.train(training)
        self.is_map = states.ndim == 4
        self.pools = self.is_map and getattr(output, "pooler_output", None) is not None
        if states.ndim == 3:  # a class token and registers come before the patches
            patch = getattr(self.model.config, "patch_size", 0) or 1
            patches = (image_size // patch) ** 2 if isinstance(patch, int) else 0
            side = math.isqrt(states.shape[1])
            self.prefix = states.shape[1] - (patches if 0 < patches <= states.shape[1] else side**2)
            if 0 < patches == states.shape[1] - self.prefix:
                self.unread = image_size % patch
        self.dim: int = states.shape[1] if states.ndim == 4 else states.shape[2]
        self.map_dims = {"last": self.dim}

    def _run(self, x: Tensor) -> Any:
        options: dict[str, Any] = self.options
        if self.orders:
            patches = x.shape[2] * x.shape[3] // self.model.config.patch_size**2
            options = options | {"noise": torch.arange(patches, device=x.device).expand(len(x), -1)}
        return self.model(pixel_values=x, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim)."""
        output = self._run(x)
        states = output.last_hidden_state
        if states.ndim == 4:  # whose pooling may end in a norm
            pooled = getattr(output, "pooler_output", None)
            return states.mean((2, 3)) if pooled is None else pooled.flatten(1)
        return states[:, 0] if self.prefix else states.mean(1)

    @property
    def reading(self) -> str:
        """How the vector is read from what the model itself gives, in Python."""
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        if self.pools:
            place = "pooler_output.flatten(1)"
        elif self.is_map:
            place = "last_hidden_state.mean((2, 3))"
        else:
            place = f"last_hidden_state{'[:, 0]' if self.prefix else '.mean(1)'}"
        return f"model(pixel_values=x{options}).{place}"

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The last layer as a map, float, shape (batch, dim, height, width)."""
        states = self._run(x).last_hidden_state
        if states.ndim == 3:
            patches = states[:, self.prefix :]
            side = math.isqrt(patches.shape[1])
            states = patches.transpose(1, 2).unflatten(2, (side, side))
        return {"last": states}
