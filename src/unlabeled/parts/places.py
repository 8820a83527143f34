"""Square patches of a third of the side of a frame, at any place and angle: cut out, drawn, located.

A place is x and y of the centre, -1 and 1 at the borders of the frame, and an angle in radians, clockwise: float, shape
(batch, 3).
"""

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts.heads import near_zero
from unlabeled.parts.maps import MapEncoder, blank_maps, survey
from unlabeled.parts.precision import full_precision

__all__ = ["SCALE", "border", "localizer", "moving_places", "points", "sample", "thirds"]

SCALE = 1 / 3
"""Side of a patch, as a fraction of the side of a frame."""
CELLS, WINDOW, MOVING = 9, 3, 10
"""Cells on a side of a frame, cells on a side of a window, and how many windows count as moving."""


def thirds(encoder: MapEncoder, layer: str | None) -> tuple[str, int, int]:
    """How large frames may be so that patches of them have exactly a third of their positions.

    Args:
        encoder: An encoder of images.
        layer: Map that defines the positions; None as in `survey`.

    Returns:
        Name of the map, positions of a patch along a side, and its side in pixels; frames have three times both.

    Raises:
        UserError: Patches would have fewer than 2 positions along a side, or maps are not in proportion to the images.
    """
    layer, rows, _ = survey(encoder, layer)
    pixels = -(-encoder.image_size // rows)
    check.at_least(6 * pixels, image_size=encoder.image_size)
    side = encoder.image_size // (3 * pixels)
    sides = set()
    with suppress(RuntimeError):  # some networks take no small images
        sides = {blank_maps(encoder, times * side * pixels)[layer].shape[2] / times for times in (1, 3)}
    if sides != {side}:
        raise UserError(
            f"encoder must have maps in proportion to its images, such as conv4, got {layer} of images of "
            f"{encoder.image_size} pixels"
        )
    return layer, side, side * pixels


def localizer(side: int) -> nn.Sequential:
    """A network from affinities to places, which first answers the middle of the frame for every input.

    Args:
        side: Positions of a patch along a side, at least 2; kernels have a third of it.

    Returns:
        A network from (batch, 9 * side * side, side, side), the positions of the frame first, to (batch, 3).
    """
    kernel = (side + 2) // 3
    first, second = nn.Conv2d(9 * side**2, 128, kernel, bias=False), nn.Conv2d(128, 64, kernel, bias=False)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    last = near_zero(nn.Linear(64 * (side - 2 * kernel + 2) ** 2, 3), 0.01)
    return nn.Sequential(first, nn.LeakyReLU(0.1), second, nn.LeakyReLU(0.1), nn.Flatten(), last)


def points(places: Tensor, side: int) -> Tensor:
    """Where the positions of a patch lie in the frame.

    Args:
        places: Float, shape (batch, 3).
        side: Positions of a patch along a side.

    Returns:
        x and y, float, shape (batch, side, side, 2).
    """
    x, y, angle = places.unbind(1)
    cos, sin = SCALE * angle.cos(), SCALE * angle.sin()
    affine = torch.stack([cos, -sin, x, sin, cos, y], 1).view(-1, 2, 3)
    return F.affine_grid(affine, [len(places), 1, side, side], align_corners=False)


@full_precision
def sample(maps: Tensor, places: Tensor, side: int, padding: str = "zeros") -> Tensor:
    """Cut patches out of images or maps, bilinearly.

    Args:
        maps: Float, shape (batch, channels, rows, columns).
        places: Float, shape (batch, 3).
        side: Positions of a patch along a side.
        padding: What lies beyond the borders, as in `grid_sample`.

    Returns:
        Float, shape (batch, channels, side, side).
    """
    return F.grid_sample(maps, points(places, side), padding_mode=padding, align_corners=False)


def moving_places(clips: Tensor, rotation: float) -> Tensor:
    """Draw a patch of the last frame, where it differs from the one before, and an angle.

    Args:
        clips: Float, shape (batch, frames, channels, size, size).
        rotation: Largest angle in degrees.

    Returns:
        Places, float, shape (batch, 3); the centre of a patch is at least half its side from the border.
    """
    change = (clips[:, -1] - clips[:, -2]).abs().mean(1, keepdim=True)
    motion = F.avg_pool2d(F.adaptive_avg_pool2d(change, CELLS), WINDOW, 1)
    steps = motion.shape[3] - 1
    chosen = torch.randint(MOVING, (len(clips), 1), device=clips.device)
    window = motion.flatten(1).topk(MOVING).indices.gather(1, chosen)
    cell = torch.cat([window % (steps + 1), window // (steps + 1)], 1)
    noise = torch.rand(len(clips), 3, dtype=clips.dtype, device=clips.device) - 0.5
    centre = ((cell + noise[:, :2]) / steps).clamp(0, 1)
    angle = torch.deg2rad(2 * rotation * noise[:, 2:])
    return torch.cat([(2 * centre - 1) * (1 - SCALE), angle], 1)


def border(places: Tensor, size: int) -> Tensor:
    """The border of each patch, 1 on it and 0 elsewhere, float, shape (batch, size, size)."""
    x, y, angle = (value[:, None, None] for value in places.unbind(1))
    axis = (2 * torch.arange(size, device=places.device) + 1) / size - 1
    right, down = axis - x, axis[:, None] - y
    across = angle.cos() * right + angle.sin() * down, angle.cos() * down - angle.sin() * right
    distance = torch.maximum(across[0].abs(), across[1].abs())
    return ((distance - SCALE).abs() <= 1.5 / size).to(places.dtype)
