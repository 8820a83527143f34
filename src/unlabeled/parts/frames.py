"""Frames of videos as images, for image encoders that read scenes and trajectories."""

import torch
from torch import Tensor

__all__ = ["as_images", "one_each"]

VIDEOS = ("views", "video")


def as_images(frames: Tensor) -> dict[str, Tensor]:
    """A batch of images from frames.

    Args:
        frames: uint8 or float, shape (..., channels, height, width).

    Returns:
        `image`, shape (images, channels, height, width); the last of the leading axes varies fastest.
    """
    return {"image": frames.flatten(0, -4)}


def one_each(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of images unchanged, or one frame of each video, at positions that vary between samples.

    Args:
        batch: `image`, or `index` and `views` (batch, cameras, frames, channels, height, width) or `video` (batch,
            frames, channels, height, width).

    Returns:
        A batch with `image`, one per sample.
    """
    if "image" in batch:
        return batch
    video = next(batch[key] for key in VIDEOS if key in batch)
    video = video.flatten(1, -4)
    # The multiplier has no small factor in common with the number of frames.
    number = (7919 * batch["index"]).remainder(video.shape[1])
    return {"image": video[torch.arange(len(video), device=video.device), number], "index": batch["index"]}
