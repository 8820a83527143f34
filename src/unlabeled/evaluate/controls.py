"""What the learned features must beat: the raw input, and the same network before it learned anything."""

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from unlabeled.evaluate.features import Representation, of_encoder

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["RAW_SIZE", "calibrate_", "random", "raw", "rescaled", "untrained"]

RAW_SIZE = 32
"""Most pixels on a side of raw images; more would cost much and help no linear classifier."""
CALIBRATION_SAMPLES = 512


def raw(encoder: "Encoder", data: "Data") -> Representation:
    """The pixels, at the size the encoder sees, but no more of them than the images or `RAW_SIZE` have."""
    from unlabeled.parts import augment

    size = min(encoder.image_size, data.image_size, RAW_SIZE)
    return Representation(
        "raw",
        lambda batch, layer: augment.fit(batch["image"], size, batch.get("size")).flatten(1),
        one_unit=True,
        detail=f"{size}x{size} pixels",
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
    """
    from unlabeled import encoders

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = encoders.build(**{**encoder.config, "init": "default"})
    fresh.adapt.load_state_dict(copy.deepcopy(encoder.adapt.state_dict()))
    return fresh.to(next(encoder.parameters()).device).eval()


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
