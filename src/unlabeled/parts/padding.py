"""Which weights of a network see nothing but padding: on images that are too small they learn nothing."""

from typing import Any

import torch
from torch import Tensor, nn

from unlabeled.check import UserError

__all__ = ["input_size", "least_size", "only_padding"]


@torch.no_grad()
def only_padding(network: nn.Module, images: Tensor) -> set[tuple[str, int, int]]:
    """Rows and columns of kernels that lie on padding at every position of a convolution.

    Such weights get no gradient. It depends on sizes alone, not on weights or values.

    Args:
        network: Its 2-D convolutions are examined, in evaluation mode.
        images: Its input, shape (batch, channels, height, width).

    Returns:
        Name of the convolution, axis (0 for rows) and index in the kernel.
    """
    idle_weights: set[tuple[str, int, int]] = set()
    names = {part: name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}

    def look(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        for axis, (kernel, stride, step) in enumerate(zip(part.kernel_size, part.stride, part.dilation)):
            side, positions = inputs[0].shape[2 + axis], output.shape[2 + axis]
            # Half of what the last position needs beyond the input lies before it, however padding was configured.
            before = max(0, ((positions - 1) * stride + (kernel - 1) * step + 1 - side + 1) // 2)
            if not isinstance(part.padding, str) and part.padding[axis]:
                before = int(part.padding[axis])
            for number in range(kernel):
                pixels = (position * stride - before + number * step for position in range(positions))
                if not any(0 <= pixel < side for pixel in pixels):
                    idle_weights.add((names[part], axis, number))

    hooks = [part.register_forward_hook(look) for part in names]
    training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return idle_weights


def least_size(encoder: Any, size: int) -> int:
    """The smallest image size, from the given one on, that all weights can learn from; at most the encoder's own."""
    return next(
        (side for side in range(size, encoder.image_size) if not _idle(encoder, side)), encoder.image_size
    )


def input_size(encoder: Any, size: int, **option: int | None) -> int | None:
    """Size in pixels to which square images are resized so that every weight of an encoder learns from them.

    Args:
        encoder: An encoder of images.
        size: Size of the images.
        **option: Size that the user asks for, by the name of its option; None for the smallest.

    Returns:
        That size, or None if the images can stay as they are; for a ViT the size of its own images.

    Raises:
        UserError: Some weights would see only padding at the size that the user asks for.
    """
    ((name, choice),) = option.items()
    if choice is None and getattr(encoder, "is_vit", False):
        return encoder.image_size
    if choice is None:
        least = least_size(encoder, size)
        return least if least > size else None
    if choice < encoder.image_size and _idle(encoder, choice):
        least = least_size(encoder, size)
        raise UserError(
            f"{name} must be at least {least}, so that every weight sees more than padding, got {choice}"
        )
    return choice


def _idle(encoder: Any, size: int) -> bool:
    """Whether an encoder rejects images of a size, or has weights that learn only from images of its own size."""
    device = next(encoder.parameters(), torch.zeros(())).device

    def idle_weights(side: int) -> set[tuple[str, int, int]]:
        return only_padding(encoder, torch.zeros(1, encoder.in_channels, side, side, device=device))

    try:
        return bool(idle_weights(size) - idle_weights(encoder.image_size))
    except (RuntimeError, ValueError, AssertionError):  # networks reject sizes with different errors
        return True
