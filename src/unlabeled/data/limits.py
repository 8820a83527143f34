"""How much a packed file may unpack to: a small file that claims more would only fill the memory."""

from unlabeled.check import UserError

__all__ = ["RATIO", "UNPACKED", "refuse_unpacked"]

UNPACKED, RATIO = 2**28, 100
"""Bytes that any file may unpack to, and how many times its own size a larger one."""


def refuse_unpacked(unpacked: int, size: int) -> None:
    """Refuse a file of `size` bytes that unpacks to so many.

    Raises:
        ValueError: They are too many.
    """
    if unpacked > max(UNPACKED, RATIO * size):
        raise UserError(f"it unpacks to {unpacked} bytes or more, over {RATIO} times its size")
