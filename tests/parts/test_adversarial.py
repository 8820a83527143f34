"""Two players: what guessing costs, and who is pushed where."""

import math

import pytest
import torch
from torch import nn

from unlabeled.parts.adversarial import build_discriminator, players


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [4, 8, 14, 16, 32])
def test_a_guessing_discriminator_costs_ln_2_per_judgement(size):
    discriminator = build_discriminator(3, size)
    assert discriminator(torch.rand(2, 3, size, size)).shape == (2, 1)
    nn.init.zeros_(discriminator[-1].weight)
    nn.init.zeros_(discriminator[-1].bias)
    fool, judge = players(discriminator, torch.rand(2, 3, size, size), torch.rand(2, 3, size, size))
    assert fool.item() == pytest.approx(math.log(2))
    assert judge.item() == pytest.approx(2 * math.log(2))


def test_the_generator_moves_towards_what_the_discriminator_takes_for_real():
    discriminator = build_discriminator(1, 8)
    generated = torch.rand(4, 1, 8, 8, requires_grad=True)
    fool, judge = players(discriminator, torch.rand(4, 1, 8, 8), generated)
    (through,) = torch.autograd.grad(-nn.functional.logsigmoid(discriminator(generated)).mean(), generated)
    (fool + judge).backward()
    torch.testing.assert_close(generated.grad, through)
