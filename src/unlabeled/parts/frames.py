"""Frames of films as images, for image encoders that read scenes and trajectories."""

import torch
from torch import Tensor

__all__ = ["as_images", "one_each"]

FILMS = ("views", "video")


def as_images(frames: Tensor) -> dict[str, Tensor]:
    """A batch of images from frames.

    Args:
        frames: uint8 or float, shape (..., channels, height, width).

    Returns:
        `image`, shape (images, channels, height, width), the last of the leading axes the fastest.
    """
    return {"image": frames.flatten(0, -4)}


def one_each(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of images as it is; of films one frame per sample, a different one for each.

    Args:
        batch: `image`, or `index` and `views` (batch, cameras, frames, channels, height, width) or `video` (batch,
            frames, channels, height, width).

    Returns:
        A batch with `image`, one per sample.
    """
    if "image" in batch:
        return batch
    film = next(batch[key] for key in FILMS if key in batch)
    film = film.flatten(1, -4)
    # The multiplier has no small factor in common with the number of frames.
    number = (7919 * batch["index"]).remainder(film.shape[1])
    return {"image": film[torch.arange(len(film), device=film.device), number], "index": batch["index"]}
