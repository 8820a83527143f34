"""Two players with one backward pass: a generator, and a discriminator that judges its images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["build_discriminator", "judge", "players"]


def judge(discriminator: nn.Module, *inputs: Tensor) -> Tensor:
    """Output of a discriminator, with a gradient for its inputs but none for its parameters."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return torch.func.functional_call(discriminator, frozen, inputs)


def players(discriminator: nn.Module, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the generator and of the discriminator, whose gradients do not mix.

    The discriminator learns from detached images; the generator is judged by a discriminator with detached parameters.
    One backward pass of the sum therefore gives each player its own gradient and nothing else.

    Args:
        discriminator: Network from images to one logit each, high for real ones.
        real: Float, shape (batch, channels, height, width).
        generated: Float, same shape.

    Returns:
        Two scalars in nats, -log D(generated) and -log D(real) - log(1 - D(generated)): 0.693 and 1.386 if the
        discriminator guesses.
    """
    judgement = judge(discriminator, generated)
    on_real, on_generated = discriminator(real), discriminator(generated.detach())
    return F.softplus(-judgement).mean(), F.softplus(-on_real).mean() + F.softplus(on_generated).mean()


def build_discriminator(channels: int, size: int, width: int = 32, outputs: int = 1) -> nn.Sequential:
    """Network from images, shape (batch, channels, size, size), to one logit each, or to `outputs` numbers."""
    layers: list[nn.Module] = []
    while size > 4:
        layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
        if len(layers) > 1:  # no running statistics, as real and generated images differ in theirs
            layers.append(nn.BatchNorm2d(width, track_running_stats=False))
        layers.append(nn.LeakyReLU(0.2))
        channels, width, size = width, min(2 * width, 256), size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, outputs))
