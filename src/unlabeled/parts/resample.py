"""Sound at another sample rate, without aliasing."""

import math

import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.parts.precision import full

__all__ = ["resample"]

ZERO_CROSSINGS = 32
ROLL_OFF = 0.95
KAISER_BETA = 10.0
BLOCK = 2**22
LARGEST_KERNEL = 2**23
MOST_TIMES = 64


def resample(waveform: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """Change the sample rate by a windowed sinc; there is silence before and after the sound.

    Args:
        waveform: Float, shape (..., samples).
        old_rate: Its samples per second, in hertz.
        new_rate: New samples per second; frequencies above 0.475 of the lower rate fade out.

    Returns:
        Float, shape (..., ceil(samples * new_rate / old_rate)); sample i is the sound at i / new_rate seconds.

    Raises:
        UserError: A rate is not a positive whole number, or so far from the other that it must be a mistake.
    """
    check.whole(old_rate=old_rate, new_rate=new_rate)
    check.at_least(1, old_rate=old_rate, new_rate=new_rate)
    divisor = math.gcd(old_rate, new_rate)
    down, up = old_rate // divisor, new_rate // divisor
    if up > MOST_TIMES * down or 2 * ZERO_CROSSINGS * max(up, down) > LARGEST_KERNEL:
        raise UserError(
            f"new_rate must be at most {MOST_TIMES} times old_rate and have a large divisor in common with it, "
            f"got {new_rate} and {old_rate} hertz"
        )
    count = -(-waveform.shape[-1] * up // down)
    if down == up or not waveform.numel():
        return waveform if down == up else waveform.new_zeros(*waveform.shape[:-1], count)
    rows = full(waveform).reshape(-1, waveform.shape[-1])
    kernel = _kernel(down, up).to(rows)
    reach = kernel.shape[1] // 2
    padded = F.pad(rows, (reach, reach + 1)).unfold(1, kernel.shape[1], 1)
    parts = []
    for outputs in torch.arange(count, device=rows.device).split(
        max(1, BLOCK // kernel.numel() * up // len(rows))
    ):
        nearest = outputs * down // up
        around = rows[:, max(0, int(nearest[0]) - reach) : int(nearest[-1]) + reach + 2]
        if not around.any():  # long silence takes no time
            parts.append(rows.new_zeros(len(rows), len(outputs)))
            continue
        parts.append(einsum(padded[:, nearest], kernel[outputs % up], "rows i taps, i taps -> rows i"))
    return torch.cat(parts, dim=1).reshape(*waveform.shape[:-1], count).to(waveform.dtype)


def _kernel(down: int, up: int) -> Tensor:
    """Weights of the samples around each of `up` positions between two samples, float64, shape (up, taps)."""
    cutoff = ROLL_OFF * min(1, up / down)
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    phase = (torch.arange(up) * down % up).double() / up
    time = torch.arange(-reach, reach + 1) - phase[:, None]
    inside = (1 - (time * cutoff / ZERO_CROSSINGS).square()).clamp(min=0)
    kernel = torch.sinc(cutoff * time) * torch.special.i0(KAISER_BETA * inside.sqrt()) * (inside > 0)
    return kernel / kernel.sum(1, keepdim=True)
