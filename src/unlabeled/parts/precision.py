"""Arithmetic that mixed precision must not round to half precision."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["full", "full_precision"]

Result = TypeVar("Result")


def full(value: Tensor) -> Tensor:
    """The same tensor, in float32 if it is in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _full(value: Any) -> Any:
    return full(value) if isinstance(value, Tensor) else value


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function of tensors compute in float32 or above, also inside autocast.

    Args:
        function: Takes a tensor first, then tensors and other values, also by name.

    Returns:
        The same function, with its tensors promoted and autocast switched off.
    """

    @functools.wraps(function)
    def computed(first: Tensor, /, *others: Any, **named: Any) -> Result:
        with torch.autocast(first.device.type, enabled=False):
            return function(
                full(first), *map(_full, others), **{name: _full(value) for name, value in named.items()}
            )

    return computed
