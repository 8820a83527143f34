"""Arithmetic that mixed precision must not round to half precision."""

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["full", "full_precision"]

Result = TypeVar("Result")


def full(value: Tensor) -> Tensor:
    """The same tensor, in float32 if it is in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of tensors compute in float32 or above, also inside autocast.

    Args:
        function: Takes tensors first, then other values.

    Returns:
        The same function, with its tensors promoted and autocast switched off.
    """

    @functools.wraps(function)
    def computed(first: Tensor, *others: Tensor | float | tuple[int, ...]) -> Result:
        with torch.autocast(first.device.type, enabled=False):
            return function(full(first), *(full(x) if isinstance(x, Tensor) else x for x in others))

    return computed
