"""Which weights of a network see nothing but padding: on images that are too small they learn nothing."""

import torch
from torch import Tensor, nn

__all__ = ["only_padding"]


@torch.no_grad()
def only_padding(network: nn.Module, images: Tensor) -> set[tuple[str, int, int]]:
    """Rows and columns of kernels that lie on padding wherever a convolution stands.

    Such weights get no gradient. It depends on sizes alone, not on weights or values.

    Args:
        network: Its 2-D convolutions are looked at, in evaluation mode.
        images: What it takes, shape (batch, channels, height, width).

    Returns:
        Name of the convolution, axis (0 for rows) and number in the kernel.
    """
    found: set[tuple[str, int, int]] = set()
    names = {part: name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}

    def look(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(part, nn.Conv2d)
        for axis, (kernel, stride, step) in enumerate(zip(part.kernel_size, part.stride, part.dilation)):
            side, places = inputs[0].shape[2 + axis], output.shape[2 + axis]
            # What the last place needs beyond the input lies half before it, however the padding was asked for.
            before = max(0, ((places - 1) * stride + (kernel - 1) * step + 1 - side + 1) // 2)
            if not isinstance(part.padding, str) and part.padding[axis]:
                before = int(part.padding[axis])
            for number in range(kernel):
                seen = (place * stride - before + number * step for place in range(places))
                if not any(0 <= position < side for position in seen):
                    found.add((names[part], axis, number))

    hooks = [part.register_forward_hook(look) for part in names]
    training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return found
