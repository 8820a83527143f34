"""Characteristic functions of samples: the memory is that of the samples, however many frequencies there are."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["characteristic"]


def characteristic(values: Tensor, step: float, points: int) -> Tensor:
    """Mean of exp(i t x) over the samples, at the frequencies t = 0, step, ... (points - 1) * step.

    Args:
        values: Samples x, float, shape (..., samples, slices).
        step: Distance of the frequencies.
        points: Number of frequencies.

    Returns:
        Real and imaginary parts, float, shape (points, ..., slices, 2); differentiable once.
    """
    return _Characteristic.apply(values, step, points)  # type: ignore[return-value]


class _Characteristic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, step: float, points: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(values)
        ctx.step, ctx.points = step, points
        return torch.stack([torch.view_as_real(wave.mean(-2)) for wave in _waves(values, step, points)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (values,) = ctx.saved_tensors
        slopes = torch.view_as_complex(gradient.contiguous()).conj().unsqueeze(-2) * (1j / values.shape[-2])
        result = torch.zeros_like(values)
        for number, wave in enumerate(_waves(values, ctx.step, ctx.points)):
            result += (number * ctx.step) * (slopes[number] * wave).real
        return result, None, None


def _waves(values: Tensor, step: float, points: int) -> Iterator[Tensor]:
    """exp(i t x) at one frequency after the other, as powers of the first above 0."""
    first = torch.polar(torch.ones_like(values), step * values)
    wave = torch.ones_like(first)
    for _ in range(points):
        yield wave
        wave = wave * first
