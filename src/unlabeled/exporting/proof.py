"""What proves that a file gives the features of an encoder: samples of its kind, and how far two results differ."""

import contextlib
import io
import logging
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from unlabeled.encoders import Encoder

__all__ = ["SAMPLES", "difference", "example", "quiet", "tolerance"]

SAMPLES = 3
TOLERANCE = 1e-5
ROOT_TOLERANCE = 1e-4


def tolerance(encoder: Encoder) -> float:
    """Largest difference of a feature that is rounding, in units of the largest feature or of 1."""
    # Roots of a code near 0 magnify rounding: a dictionary of sounds in float32 is 7e-5 from itself in float64.
    roots = encoder.kind == "audio" and getattr(encoder, "is_dictionary", False)
    return ROOT_TOLERANCE if roots else TOLERANCE


def difference(result: Tensor, expected: Tensor) -> float:
    """Largest difference of a feature, in units of the largest feature or of 1; infinite for other shapes."""
    if result.shape != expected.shape:
        return math.inf
    return ((result - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


def example(encoder: Encoder) -> dict[str, Tensor]:
    """A batch of noise of the kind that an encoder reads, always the same."""
    config, generator = encoder.config, torch.Generator().manual_seed(0)
    batch = {"index": torch.arange(SAMPLES)}
    if "image_size" in config:
        size = (config.get("in_channels", 3), config["image_size"], config["image_size"])
        frames = (config.get("frames") or 4,) if encoder.kind == "video" else ()
        pixels = torch.randint(256, (SAMPLES, *frames, *size), dtype=torch.uint8, generator=generator)
        batch["video" if encoder.kind == "video" else "image"] = pixels
    if "sample_rate" in config:
        batch["waveform"] = 0.2 * torch.randn(SAMPLES, config["sample_rate"], generator=generator).clamp(
            -4, 4
        )
        batch["length"] = torch.full((SAMPLES,), config["sample_rate"])
    if encoder.kind in ("text", "words"):
        vocabulary: Any = encoder.vocabulary
        words = vocabulary if isinstance(vocabulary, int) else len(vocabulary)
        length = min(12, getattr(encoder, "length", 14) - 2)  # an encoder of texts adds tokens of its own
        batch["tokens"] = torch.randint(min(5, words - 1), words, (SAMPLES, length), generator=generator)
        batch["mask"] = torch.arange(length).expand(SAMPLES, length) < torch.tensor([[12], [9], [4]])
        batch["tokens"] = torch.where(batch["mask"], batch["tokens"], 0)
        batch["sentence"] = torch.where(batch["mask"], 0, -1)
    return batch


@contextlib.contextmanager
def quiet() -> Any:
    """Without the exporter's progress on the screen; what fails is raised all the same."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
