"""The random choices behind one view of each image of a batch."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["ViewParameters"]


@dataclass
class ViewParameters:
    """Random choices for each image; None where an operation does not happen.

    Attributes:
        size: Side of the views in pixels.
        boxes: Top, left, height and width, int64, shape (batch, 4).
        flip: Which views are mirrored, bool, shape (batch,).
        degrees: Rotations, float, shape (batch,).
        factors: Of brightness, contrast, saturation and hue, float, shape (batch, 4).
        order: Order of these four, 4 for none, int64, shape (batch, 4).
        gray: Which views are converted to grayscale, bool, shape (batch,).
        blurred: Which views are blurred, bool, shape (batch,).
        sigmas: Widths of the blur in pixels, float, shape (batch,).
        solarized: Which views are solarised, bool, shape (batch,).
    """

    size: int
    boxes: Tensor
    flip: Tensor | None = None
    degrees: Tensor | None = None
    factors: Tensor | None = None
    order: Tensor | None = None
    gray: Tensor | None = None
    blurred: Tensor | None = None
    sigmas: Tensor | None = None
    solarized: Tensor | None = None
