"""What learned features must beat: the raw input, the same network untrained, and the same network with labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Prediction, Settings
from unlabeled.evaluation.probes import finetune
from unlabeled.evaluation.twins import CALIBRATION_SAMPLES, calibrate_, untrained

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROLS", "random", "raw", "representations", "rescaled", "supervised"]

CONTROLS = ("raw", "random", "rescaled", "supervised")


def representations(
    names: Sequence[str], encoder: "Encoder", data: "Data", seed: int = 0
) -> list[Representation]:
    """The controls that are representations, in the order of `CONTROLS`.

    Args:
        names: Controls, of which `supervised` is no representation and `rescaled` one of images only.
        encoder: The encoder that they are beside.
        data: Training samples, on which norms are calibrated.
        seed: Seed of random weights.
    """
    made = []
    if "raw" in names:
        made.append(raw(encoder))
    if "random" in names:
        made.append(random(encoder, data, seed))
    # A dictionary normalises the contrast of what it sees: there is nothing to rescale.
    if "rescaled" in names and encoder.kind == "image" and not getattr(encoder, "is_dictionary", False):
        made.append(rescaled(encoder, data, seed))
    return made


def raw(encoder: "Encoder") -> Representation:
    """The input without any network, as the encoder's kind of data gives it."""
    pixels = encoder.kind == "image"
    return Representation(
        "raw", lambda batch, layer: encoder.raw(batch), one_unit=pixels, detail=encoder.raw_detail
    )


def random(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same network with random weights, its batch norms calibrated on training samples."""
    network = untrained(encoder, seed)
    calibrate_(network, data)
    return Representation("random", of_encoder(network), network, detail="norm statistics from data")


def rescaled(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """The same network of images with random weights, rescaled so that all channels vary alike."""
    from unlabeled.encoders import rescale_

    network: Any = untrained(encoder, seed)
    rescale_(network, network.inputs(data.sample(CALIBRATION_SAMPLES, seed)))
    return Representation("rescaled", of_encoder(network), network, detail="rescaled on the training images")


def supervised(
    encoder: "Encoder", data: Labelled, draws: Sequence[Tensor], settings: Settings
) -> list[Prediction]:
    """Predictions of the same network trained on the same labels only, from other random weights for each draw.

    Args:
        encoder: Where the architecture comes from.
        data: Training and test samples.
        draws: Training samples whose labels are used, int64, shape (labels,) each.
        settings: Steps and augmentation of the training, and the seed of the first draw.
    """
    predictions = []
    for draw, rows in enumerate(draws):
        seed = settings.seed + draw
        predictions.append(finetune.train(untrained(encoder, seed), data, rows, replace(settings, seed=seed)))
    return predictions
