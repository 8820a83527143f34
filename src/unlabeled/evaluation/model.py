"""The model under evaluation: a frozen copy of an encoder, and of the method around it where there is one."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.notes import note
from unlabeled.evaluation import twins
from unlabeled.evaluation.features import Reader, of_encoder
from unlabeled.method import Method
from unlabeled.parts import devices
from unlabeled.run import Run

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["EvaluatedModel", "Transfer", "frozen", "method_around", "pick_device"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Transfer:
    """How tasks train on labelled images.

    Attributes:
        labels: Numbers of labelled training images, fractions of them such as "10%", or "all".
        seeds: Trainings of each cell, each on a draw of the images of its own where not all are used.
        train: Parts of the network that are trained, each in cells of its own: head, all, or the name of the map from
            which upward; for multilabel frozen too. Empty as the task has it.
        maps: Names of the maps that heads see; empty for all that differ in size, from a stride of 4 pixels upward.
    """

    labels: Sequence[int | str] = ("all",)
    seeds: int = 1
    train: Sequence[str] = ()
    maps: Sequence[str] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Those that differ from the defaults, of JSON types."""
        own = {name: value for name, value in vars(self).items() if value != getattr(Transfer, name)}
        return {name: value if isinstance(value, int) else [*value] for name, value in own.items()}


@dataclass
class EvaluatedModel:
    """A model in evaluation mode, which nothing that measures it may change.

    Attributes:
        encoder: The frozen encoder.
        method: The method around it; None where only an encoder was given.
        seed: Seed of every random choice, the weights of random twins among them.
        device: Where to compute.
        size: Shorter side in pixels of the images or frames that a task looks at; None lets the task choose.
        clips: Clips of a test video that recognition averages; None lets it choose.
        crops: Crops of each of these, likewise.
        steps: Optimizer steps of trainings on labels; None lets their length follow from the labels.
        transfer: How tasks train on labelled images.
        controlled: Whether tasks that train on images also train random weights.
        others: Pretrained encoders by name, which tasks that train on images measure beside it: the same pre-trained
            with labels, and public weights.
        name: What lines on the progress call it.
    """

    encoder: "Encoder"
    method: Method | None = None
    seed: int = 0
    device: torch.device = CPU
    size: int | None = None
    clips: int | None = None
    crops: int | None = None
    steps: int | None = None
    transfer: Transfer = Transfer()
    controlled: bool = True
    others: Mapping[str, "Encoder"] = field(default_factory=dict)
    name: str = "unlabeled"

    def untrained(self, data: "Data | None" = None) -> "Encoder":
        """The same encoder with random weights and the same input statistics.

        Args:
            data: What batch norms are calibrated on, and what first layers of atoms are made of, as the encoder reads
                it; None leaves both as they are drawn.
        """
        encoder = twins.untrained(self.encoder, self.seed, data)
        if data is not None:
            twins.calibrate_(encoder, data)
        return encoder

    def untrained_method(self, data: "Data") -> Method | None:
        """The same method with random weights in encoder and heads; None where there is no method.

        Args:
            data: What its norms and priors are taken from, as it was opened.
        """
        return None if self.method is None else twins.untrained_method(self.method, data, self.seed)


def frozen(source: Any, device: torch.device) -> tuple["Encoder", Reader]:
    """Copy an encoder in evaluation mode, so that nothing done to it reaches the original.

    Args:
        source: A run, a method or an encoder.
        device: Where the copy lives.

    Returns:
        The copy, and the function that reads features from it: the method's own where a method is given.

    Raises:
        ValueError: The source is none of these.
    """
    network: Any = source if isinstance(source, nn.Module) else getattr(source, "encoder", None)
    if not isinstance(network, Method) and not hasattr(network, "inputs"):
        raise UserError(
            f"run must be a run or its folder, a method or an encoder, got {type(source).__name__}; "
            "encoders.wrap makes an encoder of a network"
        )
    network = _copy(network, device)
    if isinstance(network, Method):
        return network.encoder, network.features
    return network, of_encoder(network)


def method_around(encoder: "Encoder", source: Any, device: torch.device) -> Method | None:
    """A copy of the method of a run or of a method itself, around a frozen encoder.

    Args:
        encoder: What `frozen` made of the source.
        source: A run, a method or an encoder.
        device: Where the copy lives.

    Returns:
        The copy; None for an encoder, and for a run whose method cannot be rebuilt, which is said in a warning.
    """
    if isinstance(source, Run):
        try:
            source = source.method
        except ValueError as error:
            warnings.warn(f"tasks see the encoder alone: {check.reason(error)}", stacklevel=2)
            return None
    if not isinstance(source, Method):
        return None
    method = _copy(source, device)
    method.encoder = encoder
    return method


def pick_device(device: str) -> torch.device:
    """The device of a name; `auto` takes the GPU where there is one.

    Raises:
        ValueError: There is no such device.
    """
    devices.require(device)
    if device == "mps":
        note("evaluation computes on the CPU: it needs float64, which Apple's GPU lacks")
        return torch.device("cpu")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def _copy(network: Any, device: torch.device) -> Any:
    return copy.deepcopy(network).eval().requires_grad_(False).to(device)
