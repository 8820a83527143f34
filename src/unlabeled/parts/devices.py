"""Whether this machine has a device."""

from typing import get_args

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.options import Device

__all__ = ["require"]


def require(device: str) -> None:
    """Refuse a device that there is not.

    Args:
        device: One of `options.Device`.

    Raises:
        ValueError: There is no device of that name, or this machine lacks it.
    """
    check.choice(get_args(Device), device=device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device must be auto or cpu on a machine without a usable GPU, got cuda")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("device must be auto or cpu on a machine without Apple's GPU, got mps")
