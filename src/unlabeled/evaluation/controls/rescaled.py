"""Rescaled random weights: the same network of images untrained, rescaled so that all channels vary alike."""

from typing import TYPE_CHECKING, Any

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import CALIBRATION_SAMPLES, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same architecture with weights drawn by the seed, rescaled on training images."""
    from unlabeled.encoders import rescale_

    network: Any = untrained(encoder, seed)
    rescale_(network, network.inputs(data.sample(CALIBRATION_SAMPLES, seed)))
    return Representation("rescaled", of_encoder(network), network, detail="rescaled on the training images")


CONTROL = Control(make, ("image",), row=7)
