"""How close one image is to another, in decibels."""

from torch import Tensor

__all__ = ["gain", "psnr", "squared_error"]

LEAST = 1e-10


def squared_error(predicted: Tensor, images: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean squared error, of all pixels or of some.

    Args:
        predicted: Float, shape (batch, channels, height, width).
        images: Float, same shape.
        where: Pixels that count, bool, shape (batch, 1, height, width); None for all.

    Returns:
        Mean over the elements that count, scalar, in squared units of the image; 0 if none does.
    """
    error = (predicted.float() - images).square()
    if where is None:
        return error.mean()
    return (error * where).sum() / (error.shape[1] * where.sum()).clamp(min=1)


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of values in 0..1.

    Args:
        error: Mean squared error, float, any shape; below 1e-10 it counts as that, which is 100 decibels.

    Returns:
        Float, same shape, in decibels.
    """
    return -10 * error.clamp(min=LEAST).log10()


def gain(predicted: Tensor, inputs: Tensor, images: Tensor, where: Tensor | None = None) -> Tensor:
    """Improvement in PSNR of a prediction over the images that it was made from.

    Args:
        predicted: Float, shape (batch, channels, height, width); need not be in 0..1.
        inputs: What it was made from, float, same shape.
        images: Float, same shape.
        where: Pixels that count, as in `squared_error`.

    Returns:
        Scalar without gradient, in decibels; 0 if nothing was changed.
    """
    after, before = (squared_error(one.detach(), images, where) for one in (predicted, inputs))
    return psnr(after) - psnr(before)
