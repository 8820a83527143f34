"""What the learned features must beat: the raw input, and the same network before it learned anything."""

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from unlabeled.evaluate.features import Representation, of_encoder

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["calibrate_", "random", "raw", "rescaled", "untrained"]

CALIBRATION_SAMPLES = 512


def raw(encoder: "Encoder") -> Representation:
    """The input without any network, as the encoder's kind of data gives it."""
    pixels = encoder.kind == "image"
    return Representation(
        "raw", lambda batch, layer: encoder.raw(batch), one_unit=pixels, detail=encoder.raw_detail
    )


def random(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same network with random weights, its batch norms calibrated on training images."""
    network = untrained(encoder, seed)
    calibrate_(network, data)
    return Representation("random", of_encoder(network), detail="norm statistics from data")


def rescaled(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same network with random weights, rescaled so that all channels vary alike."""
    from unlabeled.encoders.rescaled import rescale_

    network = untrained(encoder, seed)
    rescale_(network, network.inputs(data.sample(CALIBRATION_SAMPLES, seed)))
    return Representation("rescaled", of_encoder(network), detail="rescaled on the training images")


def untrained(encoder: "Encoder", seed: int = 0) -> "Encoder":
    """Build the same architecture with fresh random weights and the same input statistics.

    Args:
        encoder: Where the architecture, the statistics and the device come from.
        seed: Seed of the weights.

    Returns:
        A new encoder in evaluation mode.

    Raises:
        ValueError: It is the user's own, with weights that no `reset_parameters` draws again.
    """
    from unlabeled import encoders

    ours = type(encoder).__module__.startswith(f"{encoders.__name__}.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if ours and encoder.config["name"] != encoders.OWN_NETWORK:
            fresh = encoders.build(
                **(encoder.config | ({"init": "default"} if "init" in encoder.config else {}))
            )
        else:
            fresh = _drawn_again(encoder)
    # Statistics of the input stand in front ends, also in those of encoders within encoders.
    statistics = {key: value for key, value in encoder.state_dict().items() if "adapt" in key.split(".")}
    fresh.load_state_dict(statistics, strict=False)
    return fresh.to(next(encoder.parameters()).device).eval()


def _drawn_again(encoder: "Encoder") -> "Encoder":
    """A copy of an encoder that only its user can build, each layer's weights drawn as the layer itself does."""
    fresh = copy.deepcopy(encoder)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                "controls must be raw or none for a network whose weights nothing draws again, "
                f"got {type(module).__name__} without reset_parameters"
            )
    return fresh


@torch.no_grad()
def calibrate_(encoder: "Encoder", data: "Data", samples: int = CALIBRATION_SAMPLES) -> None:
    """Set the statistics of batch norms to those of data; at their defaults random weights look worse.

    Args:
        encoder: Changed in place; its weights stay.
        data: Where images are taken from.
        samples: Most images looked at.
    """
    norms = [module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    encoder(encoder.inputs(data.sample(samples)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
