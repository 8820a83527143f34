"""How large a file may be and what it may unpack to: a small file that claims more would only fill the memory."""

from unlabeled.check import UserError

__all__ = ["LARGEST", "TOO_LARGE", "most_samples", "refuse_unpacked"]

LARGEST = 512 * 2**20
"""Bytes of the largest file that is read as one image or sound."""
TOO_LARGE = f"larger than {LARGEST // 2**20} MB"
UNPACKED, _RATIO = 2**28, 100
"""Bytes that any file may unpack to, and how many times its own size a larger one."""
SAMPLES, SAMPLES_OF_A_BYTE = 2**28, 64
"""Samples of sound that any file may unpack to, which are 1.5 hours at 48 kHz and 1 GB while it is decoded, however
small the silence in it has become; and how many for each byte of a larger one."""


def refuse_unpacked(unpacked: int, size: int) -> None:
    """Refuse a file of `size` bytes that unpacks to so many.

    Raises:
        ValueError: They are too many.
    """
    if unpacked > max(UNPACKED, _RATIO * size):
        raise UserError(f"it unpacks to {unpacked} bytes or more, over {_RATIO} times its size")


def most_samples(size: int) -> int:
    """Samples of sound, of all channels together, that a file of `size` bytes may unpack to."""
    return max(SAMPLES, SAMPLES_OF_A_BYTE * size)
