"""Networks of the user's own: wrapped as encoders of images, or named by what builds them, as in `mynets:make`."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.encoders.adapt import Adapt, Input
from unlabeled.encoders.image import OWN_NETWORK, ImageEncoder

if TYPE_CHECKING:
    from unlabeled.data.image.levels import Levels

__all__ = ["UserNetwork", "call_builder", "import_builder", "is_named", "refuse_fixed", "wrap"]

IMAGES = 2
"""Images on which the output of a network is tried out."""


def wrap(
    module: nn.Module,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    input: Input = "color",
    levels: "Levels | None" = None,
    network_channels: int | None = None,
    name: str = OWN_NETWORK,
    neck: Sequence[int] = (),
) -> ImageEncoder:
    """Make an encoder of a network of your own.

    Args:
        module: Network from (batch, channels, height, width) to (batch, dim) or (batch, dim, height, width).
        in_channels: Channels of the images.
        image_size: Height and width in pixels of the images that it will be given.
        input: What the network sees of the images: color, lightness, sobel or lab.
        levels: As in `image.build`.
        network_channels: Channels that the network takes; None for those that the input gives, or where it fails on
            them for those of its first convolution, into which one channel or three colours can be converted.
        name: What its configuration calls it, such as module:function where that builds it.
        neck: As in `image.build`.

    Raises:
        ValueError: The network fails, or its output has another shape.
    """
    adapt = Adapt(input, in_channels, network_channels)
    try:
        trunk = UserNetwork(module, adapt.out_channels, image_size)
    except ValueError:
        others: list[int] = []
        if adapt.out_channels == 1:
            others = [_first_channels(module) or 3, 3]
        elif (input, in_channels) == ("color", 3):
            others = [1]
        other = next((other for other in others if UserNetwork.takes(module, other, image_size)), None)
        if other is None:
            raise
        adapt, trunk = Adapt(input, in_channels, other), UserNetwork(module, other, image_size)
    config: dict[str, Any] = {"kind": "image", "name": name, "in_channels": in_channels}
    config |= {"image_size": image_size, "input": input}
    config |= {"levels": levels} if levels else {}
    if adapt.out_channels != adapt.input_channels:
        config["network_channels"] = adapt.out_channels
    encoder = ImageEncoder(adapt, trunk, config)
    encoder.extend(*neck)
    return encoder


_LIBRARIES = {"timm": "NAME without timm:", "torchvision": "torchvision.models:NAME"}
"""Libraries whose weights are called LIBRARY:NAME, and what their networks are called."""


class UserNetwork(nn.Module):
    """Any network from (batch, channels, height, width) to (batch, dim) or to (batch, dim, height, width).

    Args:
        model: The network.
        in_channels: Channels that it takes.
        image_size: Height and width of the images on which its output is tried out.

    Raises:
        ValueError: It fails on such images, or the output is neither of the two.
    """

    def __init__(self, model: nn.Module, in_channels: int, image_size: int) -> None:
        super().__init__()
        training = model.training
        weight = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
        shape = (IMAGES, in_channels, image_size, image_size)
        try:
            with torch.enable_grad():
                output = model.eval()(torch.zeros(shape, device=weight.device))  # as images come
        except Exception as error:  # a network of the user's can fail in any way
            reason = f"{type(error).__name__}: {check.reason(error)}"
            raise UserError(
                f"encoder must take images of shape {shape}, but {type(model).__name__} failed on them ({reason}); "
                "image_size sets their size"
            ) from error
        finally:
            model.train(training)
        if fault := _fault(output):
            raise UserError(f"encoder must give (batch, dim) or (batch, dim, height, width), got {fault}")
        self.model = model
        self.learns: bool = output.requires_grad  # else training would change nothing of it
        self.dim: int = output.shape[1]
        self.map_dims = {"last": self.dim}

    @staticmethod
    def takes(model: nn.Module, in_channels: int, image_size: int) -> bool:
        """Whether a network takes images of so many channels."""
        try:
            UserNetwork(model, in_channels, image_size)
        except ValueError:
            return False
        return True

    def forward(self, x: Tensor) -> Tensor:
        """Features, float, shape (batch, dim); a map is averaged over the image."""
        return self.maps(x)["last"].mean((2, 3))

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The output as a map, float, shape (batch, dim, height, width); a vector is a map of one position."""
        output = self.model(x)
        return {"last": output if output.ndim == 4 else output[:, :, None, None]}


def _first_channels(model: nn.Module) -> int | None:
    """Channels that the first convolution of a network takes; None where it has none."""
    return next((part.in_channels for part in model.modules() if isinstance(part, nn.Conv2d)), None)


def _fault(output: Any) -> str:
    """What is wrong with the output of a network, empty if nothing."""
    if not isinstance(output, Tensor):
        parts = f" of {len(output)}" if hasattr(output, "__len__") else ""
        return f"a {type(output).__name__}{parts}; let it return the tensor of the features alone"
    if output.ndim == 3:
        return f"{tuple(output.shape)}; tokens must be averaged, as by output.mean(1)"
    if output.ndim not in (2, 4) or len(output) != IMAGES or not output.numel():
        return f"{tuple(output.shape)} for {IMAGES} images"
    return "" if output.is_floating_point() else f"numbers of type {output.dtype}, not floating"


def refuse_fixed(encoder: nn.Module) -> None:
    """Refuse a network of the user's that training cannot change.

    Raises:
        ValueError: None of its weights is trained, or no gradient reaches them.
    """
    for part in encoder.modules():
        if not isinstance(part, UserNetwork):
            continue
        name = type(part.model).__name__
        if not any(weight.requires_grad for weight in part.parameters()):
            raise UserError(f"encoder must have weights that can be trained, got {name} without any")
        if not part.learns:
            raise UserError(
                f"encoder must give features that gradients go through, got {name}, whose output has none; leave out "
                "detach() and no_grad() in its forward"
            )


def is_named(name: Any) -> bool:
    """Whether the name of an encoder is that of a function, as module:function."""
    return isinstance(name, str) and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name) is not None


def import_builder(name: str) -> Callable[..., Any]:
    """Import a function that the user named, from the working folder too.

    Only names that the user gives are imported, never those in a file.

    Raises:
        ValueError: There is no such module or function, or importing it fails.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        builder: Any = importlib.import_module(module)
        for part in function.split("."):
            builder = getattr(builder, part)
    except Exception as error:  # a module of the user's can fail in any way
        reason = f"{type(error).__name__}: {check.reason(error)}"
        if module in _LIBRARIES:
            reason = f"untrained, its networks are {_LIBRARIES[module]}; pretrained ones are weights={name}"
        raise UserError(
            f"encoder must be a module:function that can be imported, got {name} ({reason})"
        ) from error
    if isinstance(builder, nn.Module) or not callable(builder):
        kind = type(builder).__name__
        raise UserError(f"encoder must name a function or class that builds a network, got {name}, a {kind}")
    return builder


def call_builder(function: Callable[..., Any], **facts: Any) -> nn.Module:
    """Call a function of the user's with those facts that it has parameters for.

    Args:
        function: Returns a network.
        **facts: Facts about the data, such as `in_channels` and `image_size`.

    Raises:
        ValueError: It needs anything else, fails, or gives no network.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    parameters = inspect.signature(function).parameters
    try:
        network = function(**{fact: value for fact, value in facts.items() if fact in parameters})
    except Exception as error:
        reason = f"{type(error).__name__}: {check.reason(error)}"
        raise UserError(
            f"encoder must be built by {name}, given what it takes of {', '.join(facts)}; it failed ({reason})"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"encoder must be a torch module, got a {type(network).__name__} from {name}")
    return network
