"""Rescaled random weights: the same network of images untrained, rescaled so that all channels vary alike."""

from typing import TYPE_CHECKING, Any

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import CALIBRATION_SAMPLES, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation | None:
    """The same architecture with weights drawn by the seed, rescaled on training images; no dictionaries."""
    from unlabeled.encoders import rescale_

    if getattr(encoder, "is_dictionary", False):  # it normalises the contrast of what it sees
        return None
    network: Any = untrained(encoder, seed)
    rescale_(network, network.inputs(data.sample(CALIBRATION_SAMPLES, seed)))
    return Representation("rescaled", of_encoder(network), network, detail="rescaled on the training images")


CONTROL = Control(make, ("image",), row=7)
