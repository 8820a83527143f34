"""One code of each group, exactly, with gradients to all; and how many are in use."""

import math

import pytest
import torch

from unlabeled.parts.quantizer import Quantizer, choose, perplexity

TWO = torch.tensor(2.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("noise", [False, True])
def test_choice_is_exactly_one_code_and_its_gradient_reaches_all(noise: bool) -> None:
    logits = torch.randn(50, 7, requires_grad=True)
    chosen = choose(logits, TWO, noise)
    assert set(chosen.unique().tolist()) == {0.0, 1.0} and (chosen.sum(1) == 1).all()
    (chosen * torch.randn(7)).sum().backward()
    assert logits.grad is not None and (logits.grad != 0).all()


def test_gradient_is_that_of_the_softmax() -> None:
    logits, weights = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), torch.randn(4).double()
    (found,) = torch.autograd.grad((choose(logits, TWO, False) * weights).sum(), logits)
    (expected,) = torch.autograd.grad(((logits / 2).softmax(-1) * weights).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_without_noise_the_most_likely_code_is_chosen() -> None:
    logits = torch.randn(50, 7)
    assert torch.equal(choose(logits, TWO, False).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_with_noise_each_code_is_chosen_with_its_probability(temperature: float) -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5]).expand(40_000, 4)
    share = choose(logits, torch.tensor(temperature), True).mean(0)
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.01, rtol=0)


def test_perplexity_of_one_code_and_of_all() -> None:
    one = torch.zeros(9, 2, 8)
    one[:, :, 3] = 1
    assert perplexity(one).item() == pytest.approx(2)
    assert perplexity(torch.full((9, 2, 8), 1 / 8)).item() == pytest.approx(16)
    half = torch.eye(8)[torch.arange(8) % 4][:, None]
    assert perplexity(half).item() == pytest.approx(4)
    for _ in range(20):
        assert 2 <= perplexity(torch.randn(30, 2, 8).mul(5).softmax(-1)).item() <= 16
    assert math.isfinite(perplexity(torch.zeros(0, 2, 8)).item())


def test_descriptions_are_the_chosen_codes_concatenated() -> None:
    quantizer = Quantizer(5, 2, 6, 8).eval()
    words, chosen, probable = quantizer(torch.randn(3, 4, 5), TWO)
    numbers = chosen.argmax(3)
    expected = torch.cat([quantizer.words[group, numbers[:, :, group]] for group in range(2)], dim=2)
    torch.testing.assert_close(words, expected)
    torch.testing.assert_close(probable.sum(3), torch.ones(3, 4, 2))
    assert torch.equal(probable.argmax(3), numbers)


def test_weights_start_as_the_authors_have_them() -> None:
    quantizer = Quantizer(400, 2, 300, 256)
    assert quantizer.logits.weight.std().item() == pytest.approx(1, abs=0.01)
    assert not quantizer.logits.bias.any()
    assert 0 <= quantizer.words.min() < 0.01 and 0.99 < quantizer.words.max() <= 1
