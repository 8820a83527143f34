"""Random numbers that are a function of the seed, the step and the process, so that resuming is exact."""

import torch
from torch import Tensor

__all__ = ["mix", "order", "seed_device"]


def mix(seed: int, step: int, stream: int) -> int:
    """One number from (seed, step, stream) that differs wherever one of them does (splitmix64)."""
    mixed = seed
    for value in (step, stream):
        mixed = (mixed * 0x9E3779B97F4A7C15 + value + 0x632BE59BD9B4E019) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generator of a device; `torch.manual_seed` writes a stack trace for every kind of device it lacks."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def order(seed: int, samples: int, weights: Tensor | None = None) -> Tensor:
    """Order of the samples in an epoch, the same in all processes.

    Args:
        seed: Differs from epoch to epoch.
        samples: Number of samples.
        weights: Sampling weights, float, shape (samples,); each sample comes once if None.

    Returns:
        Rows, int64, shape (samples,).
    """
    generator = torch.Generator().manual_seed(seed)
    if weights is None:
        return torch.randperm(samples, generator=generator)
    return torch.multinomial(weights.double(), samples, replacement=True, generator=generator)
