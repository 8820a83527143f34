"""Patch dictionary: how similar the patches of an image are to the clusters of patches of the training images."""

from typing import TYPE_CHECKING, Any

import torch

from unlabeled.evaluation.control import Control
from unlabeled.evaluation.features import Representation, of_encoder

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROL", "make"]

LARGEST, IMAGES = 64, 256
"""Largest side of the images in pixels, and number of images in a step."""


def make(encoder: "Encoder", data: "Data", seed: int = 0) -> Representation:
    """What the method `patch_dictionary` learns from the training images with its defaults."""
    from unlabeled import encoders
    from unlabeled.methods.patch_dictionary import PatchDictionary

    defaults, size = PatchDictionary.defaults, min(encoder.config["image_size"], LARGEST)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network: Any = encoders.fitted(defaults["encoder"], data, kind="image", image_size=size)
        network = network.to(data.device)
        method = PatchDictionary(network).to(data.device)
        method.prepare(data)
        for _ in range(defaults["steps"]):
            method(data.batch(torch.randint(len(data), (min(IMAGES, len(data)),))))
    network.eval()
    return Representation(
        "dictionary", of_encoder(network), detail=f"{network.config['name']} at {size} pixels"
    )


CONTROL = Control(make, ("image",), row=4, default=False)
