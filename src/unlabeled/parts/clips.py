"""One random view for a whole clip, and how much moves in it."""

from dataclasses import fields, replace

import torch
from einops import rearrange, reduce
from torch import Tensor

from unlabeled.parts.augment import Views, apply, to_float

__all__ = ["clip_views", "motion", "strip"]

COARSE = 4
"""Side in pixels of the squares whose means tell motion from noise."""


def clip_views(views: Views, video: Tensor) -> Tensor:
    """One view of each clip: what is drawn is the same for all of its frames.

    Args:
        views: What is drawn and how large the frames become.
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).

    Returns:
        Float in 0..1, shape (batch, frames, channels, size, size).
    """
    drawn = views.draw({"image": video[:, 0]})
    each = {}
    for field in fields(drawn):
        value = getattr(drawn, field.name)
        if isinstance(value, Tensor):
            each[field.name] = value.repeat_interleave(video.shape[1], 0)
    images = apply(rearrange(video, "b t c h w -> (b t) c h w"), replace(drawn, **each))
    return rearrange(images, "(b t) c h w -> b t c h w", b=len(video))


@torch.no_grad()
def motion(video: Tensor) -> Tensor:
    """How much each frame differs from its neighbours, from the one from which it differs more.

    Frames that a file shows twice still count as moving.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).

    Returns:
        Mean absolute difference of a coarse grey image, float, shape (batch, frames), in 0..1; 0 for one frame.
    """
    grey = to_float(video).mean(2)
    height, width = (max(1, side // COARSE) * min(COARSE, side) for side in grey.shape[2:])
    grey = grey[:, :, :height, :width]
    blocks = {"y": min(COARSE, height), "x": min(COARSE, width)}
    coarse = reduce(grey, "b t (h y) (w x) -> b t (h w)", "mean", **blocks)
    change = coarse.diff(dim=1).abs().mean(2)
    nothing = change.new_zeros(len(change), 1)
    return torch.maximum(torch.cat([change, nothing], 1), torch.cat([nothing, change], 1))


def strip(video: Tensor) -> Tensor:
    """Frames side by side as one picture.

    Args:
        video: Shape (batch, frames, channels, height, width).

    Returns:
        The same type, shape (batch, channels, height, frames * width).
    """
    return rearrange(video, "b t c h w -> b c h (t w)")
