"""The part of each frame that a network may see where the camera and black borders would give away the order.

Played backward, a clip gets the same boxes in reverse, exactly: what chooses them must not tell one end from the other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import tracker
from unlabeled.parts.augment import to_float

__all__ = ["camera_path", "steady_boxes", "within_borders"]

BLACK = 0.06
"""Mean level up to which a row or column is black, with room for what compression does to it."""
REACH = 2
"""Largest shift of the camera from one frame to the next, in pixels of frames of 64."""
LEAST = 0.5
"""Fraction of each side that must be visible throughout a clip."""


def within_borders(video: Tensor) -> Tensor:
    """Box between the rows and columns at the edges that are black in all frames of a clip.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).

    Returns:
        Top, left, height and width in pixels, int64, shape (batch, 4); the whole frame if all is black.
    """
    gray = to_float(video).mean(2)
    ends = []
    for axis in (3, 2):
        bright = (gray.mean(axis).amax(1) > BLACK).int()
        first, after = bright.argmax(1), bright.shape[1] - bright.flip(1).argmax(1)
        ends.append((first, after - first))
    (top, height), (left, width) = ends
    return torch.stack([top, left, height, width], 1)


@torch.no_grad()
def camera_path(video: Tensor) -> Tensor:
    """How far most of the picture has moved, from its uppermost and leftmost place.

    Only shifts are seen, by whole pixels of frames of at most 64; a step counts if it is the same back and forth.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width), at least 8 pixels on a side.

    Returns:
        Downward and rightward in pixels, int64, shape (batch, frames, 2), at least 0.
    """
    small, factor = tracker.shrink(video)
    earlier, later = small[:, :-1].flatten(0, 1), small[:, 1:].flatten(0, 1)
    there, back = (tracker.displacements(*pair, REACH)[1] for pair in ((earlier, later), (later, earlier)))
    steps = torch.where((there == -back).all(1, keepdim=True), there, 0).unflatten(0, (len(small), -1))
    path = F.pad(steps.cumsum(1), (0, 0, 1, 0))
    return factor * (path - path.amin(1, keepdim=True))


def steady_boxes(video: Tensor, borders: bool, stabilize: bool) -> tuple[Tensor, Tensor]:
    """Boxes that show the same part of the scene in all frames of a clip.

    Args:
        video: uint8 or float in 0..1, shape (batch, frames, channels, height, width).
        borders: Whether they leave out black borders.
        stabilize: Whether they follow shifts of the camera.

    Returns:
        Top, left, height and width in pixels, int64, shape (batch, frames, 4), of one size for all frames of a clip;
        and which clips they show well, bool, shape (batch,): elsewhere the camera moves too far and they stand still.
    """
    whole = torch.tensor([0, 0, *video.shape[3:]], device=video.device).expand(len(video), -1)
    box = within_borders(video) if borders else whole
    path = camera_path(video) if stabilize else box.new_zeros(*video.shape[:2], 2)
    size = box[:, 2:] - path.amax(1)
    steady = (size >= LEAST * box[:, 2:]).all(1)
    size, path = torch.where(steady[:, None], size, box[:, 2:]), path * steady[:, None, None]
    corners = box[:, None, :2] + path
    return torch.cat([corners, size[:, None].expand_as(corners)], 2), steady
