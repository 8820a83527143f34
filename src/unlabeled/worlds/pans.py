"""Pans: a camera slides and turns over flat pictures, so that every motion is known exactly.

The pictures are an argument. Each trajectory looks at one of them from straight above, at random positions and
headings; outside the picture, its reflection is seen. All frames are resampled in the same way, so that none is sharper
than others.

Known for each frame: the pose, in pixels of the frame, with the heading upwards in the frame. The content of a picture
says nothing about the motion, and a single frame says nothing about its pose, except by what is upright in the
pictures.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import check

__all__ = ["look", "make"]


def make(
    n: int,
    seed: int,
    *,
    pictures: Sequence[Tensor] | Tensor,
    frames: int = 8,
    size: int = 32,
    shift: float = 3.0,
    turn: float = 30.0,
    blank: bool = False,
) -> dict[str, Tensor]:
    """Look at pictures from several poses.

    Args:
        n: Number of trajectories; trajectory i is over picture i, and after the last picture comes the first one again.
        seed: Seed of the poses.
        pictures: uint8, shape (channels, height, width) each; a frame covers all of a picture's shorter side.
        frames: Number of frames of each trajectory.
        size: Height and width of a frame in pixels.
        shift: Largest motion between two frames along each axis, in pixels of the frame.
        turn: Largest turn between two frames, in degrees.
        blank: Whether the frames are empty, so that they say nothing about the motion: a control.

    Returns:
        `video` uint8 (n, frames, channels, size, size); `pose` float (n, frames, 3): x to the right and y upwards from
        the centre of the picture in pixels of the frame, and the heading in radians counter-clockwise from +x, which
        is pi / 2 for an upright view; `picture` int64 (n,), its index.

    Raises:
        ValueError: A number is out of its range.
    """
    check.at_least(1, n=n, frames=frames, size=size, pictures=len(pictures))
    check.at_least(0, shift=shift, turn=turn)
    generator = torch.Generator().manual_seed(seed)
    pose = (torch.rand(n, frames, 3, generator=generator) - 0.5) * torch.tensor(
        [shift, shift, math.radians(turn)]
    )
    pose[..., 2] += math.pi / 2
    number = torch.arange(n) % len(pictures)
    # Frame by frame in 8 bits: floats of all frames at once would take many times the memory.
    video = torch.full((n, frames, len(pictures[0]), size, size), 128, dtype=torch.uint8)
    for row, trajectory in enumerate(pose if not blank else ()):
        video[row] = (255 * look(pictures[int(number[row])], trajectory, size)).round()
    return {"video": video, "pose": pose, "picture": number}


def look(picture: Tensor, pose: Tensor, size: int) -> Tensor:
    """What a camera sees of a picture.

    Args:
        picture: uint8, shape (channels, height, width).
        pose: As in `make`, float, shape (frames, 3).
        size: Height and width of the frames in pixels.

    Returns:
        Float in 0..1, shape (frames, channels, size, size).
    """
    side = (torch.arange(size) + 0.5) - size / 2
    ahead, right = -side[:, None], side
    x, y, heading = pose[:, :, None, None].unbind(1)
    # Where each pixel of the frame lies in the picture, in pixels of the frame from its centre.
    across = x + ahead * heading.cos() + right * heading.sin()
    up = y + ahead * heading.sin() - right * heading.cos()
    height, width = picture.shape[1:]
    half = size / min(height, width) / 2
    grid = torch.stack([across / (half * width), -up / (half * height)], -1)
    pixels = picture.float().expand(len(pose), -1, -1, -1) / 255
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
