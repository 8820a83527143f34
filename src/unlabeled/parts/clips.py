"""One random view for a whole clip, and where in it something moves."""

from dataclasses import fields, replace
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.parts.augment import Views, apply, to_float

__all__ = ["ClipViews", "clip_length", "clip_views", "draw_windows", "motion"]

COARSE = 4
"""Side in pixels of the squares whose means separate motion from noise."""
MOST_FRAMES = 48
"""Most frames of a clip in which a window is drawn, unless the user asks for more."""


class ClipViews:
    """Base beside `Method` of methods that see clips of `frames` frames, `stride` apart, each in one of `views`."""

    frames: int
    stride: int
    views: Views

    def training_view(self, data: Any) -> Any:
        return data.clips(frames=self.frames, stride=self.stride)

    def draw(self, batch: dict[str, Tensor]) -> Tensor:
        """Clips, float in 0..1, shape (batch, frames, channels, size, size)."""
        if (count := batch["video"].shape[1]) != self.frames:
            raise UserError(f"clips must have frames={self.frames} frames, got {count}")
        return clip_views(self.views, batch["video"])


def clip_length(counts: Tensor, window: int, stride: int) -> int:
    """Frames of clips in which windows can be drawn by their motion: all of the shortest video that holds a window.

    Args:
        counts: Frames of each video, int64, shape (videos,).
        window: Frames of a window.
        stride: Frames of the video from one frame of a clip to the next.

    Returns:
        At most 48; `window` if no video holds one.
    """
    lengths = (counts - 1) // stride + 1
    lengths = lengths[lengths >= window]
    return max(window, min(MOST_FRAMES, int(lengths.min()))) if len(lengths) else window


def clip_views(views: Views, video: Tensor, boxes: Tensor | None = None) -> Tensor:
    """One view of each clip, the same for all of its frames.

    Args:
        views: Draws the views, of their own size.
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).
        boxes: Top, left, height and width in pixels of the part of each frame that may be seen, int64, shape (batch,
            frames, 4), of one size for all frames of a clip; None for whole frames.

    Returns:
        Float in 0..1, shape (batch, frames, channels, size, size).
    """
    first = {"image": video[:, 0]}
    parameters = views.draw(first if boxes is None else first | {"size": boxes[:, 0, 2:]})
    per_frame = {}
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if isinstance(value, Tensor):
            per_frame[field.name] = value.repeat_interleave(video.shape[1], 0)
    if boxes is not None:  # drawn as if all boxes began at the top left corner
        per_frame["boxes"][:, :2] += boxes[:, :, :2].flatten(0, 1)
    images = apply(rearrange(video, "b t c h w -> (b t) c h w"), replace(parameters, **per_frame))
    return rearrange(images, "(b t) c h w -> b t c h w", b=len(video))


@torch.no_grad()
def motion(video: Tensor) -> Tensor:
    """Difference of each frame from that of its two neighbours which differs more.

    So frames that a file contains twice still count as moving.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).

    Returns:
        Mean absolute difference of a coarse grey image, float, shape (batch, frames), in 0..1; 0 for one frame.
    """
    gray = to_float(video).mean(2)
    height, width = (max(1, side // COARSE) * min(COARSE, side) for side in gray.shape[2:])
    gray = gray[:, :, :height, :width]
    blocks = {"y": min(COARSE, height), "x": min(COARSE, width)}
    coarse = reduce(gray, "b t (h y) (w x) -> b t (h w)", "mean", **blocks)
    change = coarse.diff(dim=1).abs().mean(2)
    nothing = change.new_zeros(len(change), 1)
    return torch.maximum(torch.cat([change, nothing], 1), torch.cat([nothing, change], 1))


def draw_windows(motions: Tensor, size: int) -> Tensor:
    """Draw a window of each clip in proportion to its motion.

    The weight of a window is the motion of its least moving frame; if every window of a clip has a frame that does not
    move, it is the sum over its frames; if nothing moves, all windows have equal weights.

    Args:
        motions: Motion of each frame, float, at least 0, shape (batch, frames).
        size: Frames of a window.

    Returns:
        First frame of each window, int64, shape (batch, 1).
    """
    windows = motions.unfold(1, size, 1)
    weights = windows.amin(2)
    weights = torch.where(weights.any(1, keepdim=True), weights, windows.sum(2))
    weights = torch.where(weights.any(1, keepdim=True), weights, torch.ones_like(weights))
    return torch.multinomial(weights, 1)
