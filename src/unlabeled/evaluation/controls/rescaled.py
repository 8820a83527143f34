"""Rescaled random weights: the same image network untrained, rescaled so that all channels vary equally."""

from typing import TYPE_CHECKING, Any, Literal

import torch

from unlabeled.encoders.readout import Readout, bare, fit_readout, one_unit
from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.twins import CALIBRATION_SAMPLES, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]


def make(
    encoder: "Encoder", data: "Data", seed: int = 0, init: Literal["rescaled", "kmeans"] = "rescaled"
) -> Representation | None:
    """The same architecture with random weights, rescaled on training images; None for dictionaries.

    The features `contrast` are replaced by the same map, only standardised.

    Args:
        encoder: Source of the architecture.
        data: The training images.
        seed: Seed of the weights, and of the sample of images.
        init: Whether the directions of filters are random, or those of clusters of patches.
    """
    from unlabeled.encoders import rescale_

    if getattr(encoder, "is_dictionary", False):  # it normalises the contrast of what it sees
        return None
    network: Any = untrained(bare(encoder), seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        steps = rescale_(network, network.inputs(data.sample(CALIBRATION_SAMPLES, seed)), init)
    detail = "rescaled on the training images" if init == "rescaled" else steps
    if isinstance(encoder, Readout):
        spec = encoder.spec
        if spec.scaling == "contrast":  # which learns
            spec = spec._replace(scaling="standardize", dimensions=None)
        network = fit_readout(network, spec, data, seed)
        detail += f", features {spec}"
    return Representation(init, of_encoder(network), network, one_unit=one_unit(network), detail=detail)


CONTROL = Control(make, ("image",), row=7)
