"""What a sample holds, as a number of 64 bits: equal samples have equal digests, wherever they lie."""

from hashlib import blake2b

import numpy as np
from torch import Tensor

__all__ = ["digest", "in_one_channel"]


def digest(*parts: Tensor | np.ndarray | str) -> int:
    """A number in -2^63 .. 2^63 - 1 that stands for some content: any other content has another one, but once in 2^64.

    Args:
        *parts: Arrays on the CPU, of which the shape counts too, and texts.
    """
    state = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            state.update(part.encode())
        else:
            array = part.numpy() if isinstance(part, Tensor) else part
            state.update(str(array.shape).encode())
            state.update(np.ascontiguousarray(array).data)
    return int.from_bytes(state.digest(), "little", signed=True)


def in_one_channel(pixels: Tensor | np.ndarray) -> np.ndarray:
    """Grey pixels in one channel however many equal ones hold them, others as they are.

    Grey images are opened as three equal channels beside coloured ones, or for an encoder of colours.

    Args:
        pixels: Shape (..., channels, height, width), on the CPU.
    """
    array = pixels.numpy() if isinstance(pixels, Tensor) else pixels
    first = array[..., :1, :, :]
    grey = array.shape[-3] > 1 and all(
        np.array_equal(array[..., channel, :, :], first[..., 0, :, :])
        for channel in range(1, array.shape[-3])
    )
    return first if grey else array
