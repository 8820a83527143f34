"""How long it will take to fit the scaling of features, which is said before a training of so many minutes begins."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.readout import DIMENSIONS, MOST_REDUCED, REDUCED, SAMPLES, VIEWS, Spec, bare, pooled
from unlabeled.parts.augment import Views
from unlabeled.parts.view_contrast import HIDDEN, OUT, PASSES

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["TRIED", "fit_seconds", "multiplications"]

TRIED = 32
"""Samples that suffice to time how long reading one takes."""
SIDE = 1024
"""Rows and columns of the matrices whose product is timed."""
EXPENSIVE = 20
"""Products of square matrices in single precision that take as long as their eigenvectors in double precision."""


@torch.no_grad()
def fit_seconds(encoder: Encoder, spec: Spec, data: "Data", samples: int) -> float:
    """Seconds that `fit_readout` will take, roughly: from a few samples that are read, and one product of matrices.

    Args:
        encoder: The encoder; neither it nor the random numbers that are drawn later change.
        spec: Which features.
        data: A few samples as the encoder reads them, on its device.
        samples: How many there are to fit to.
    """
    encoder, samples = bare(encoder), min(samples, SAMPLES)
    spec = spec.of(encoder)
    if spec.scaling == "none":
        return 0.0
    training, batch = encoder.training, data.batch(torch.arange(len(data)))
    encoder.eval()
    with torch.random.fork_rng():
        points, read = _timed(lambda: pooled(encoder, encoder.inputs(batch), spec))
        if spec.scaling in ("views", "contrast"):
            views = Views(encoder.config["image_size"], crop=0.4, jitter=0.4, gray=0.1, flip=0.5)
            _, again = _timed(lambda: pooled(encoder, encoder.inputs({"image": views(batch)}), spec))
            read += VIEWS * again
        square = torch.ones(SIDE, SIDE, device=points.device)
        _, once = _timed(lambda: square @ square)
    encoder.train(training)
    return read * samples / len(data) + once * multiplications(spec, samples, points.shape[1]) / SIDE**3


def multiplications(spec: Spec, samples: int, numbers: int) -> int:
    """Multiplications of the algebra with which a scaling is fitted, roughly.

    Args:
        spec: Which features.
        samples: Samples that it is fitted to.
        numbers: Numbers of each before they are scaled.
    """
    if spec.scaling in ("none", "standardize"):
        return 0
    dimensions = spec.dimensions or DIMENSIONS[spec.scaling]
    most = {"whiten": dimensions, "views": REDUCED, "contrast": MOST_REDUCED}[spec.scaling]
    rank = min(most, samples, numbers)
    count = 6 * samples * numbers * rank + EXPENSIVE * rank**3  # three rounds of orthogonal iteration
    if spec.scaling != "whiten":
        count += VIEWS * samples * rank * (numbers + rank) + EXPENSIVE * rank**3
    if spec.scaling == "contrast":  # two views, forwards and twice as much backwards
        count += PASSES * samples * 6 * HIDDEN * (min(dimensions, rank) + OUT)
    return count


def _timed(act: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What something gives, and the seconds that it takes the second time: the first may compile and allocate."""
    act().sum().item()
    began = time.perf_counter()
    result = act()
    result.sum().item()  # a GPU has finished only then
    return result, time.perf_counter() - began
