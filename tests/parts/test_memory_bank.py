"""The memory bank: its losses against known values and slow twins, and what a visit moves."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import memory_bank
from unlabeled.parts.memory_bank import MemoryBank, nce, softmax


def units(count: int, seed: int, dim: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def bank(samples: int = 12, momentum: float = 0.5) -> MemoryBank:
    torch.manual_seed(0)
    made = MemoryBank(4, momentum).double()
    made.fill(samples)
    return made


def test_softmax_is_the_cross_entropy_over_all_samples_in_value_and_gradient() -> None:
    vectors, rows, index = units(5, 1).requires_grad_(), units(9, 2), torch.tensor([3, 0, 8, 3, 5])
    slow = torch.stack([-F.log_softmax(rows @ v / 0.3, 0)[i] for v, i in zip(vectors, index)]).mean()
    fast = softmax(vectors, rows, index, 0.3)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(value, vectors)[0] for value in (fast, slow)))


def test_softmax_of_equal_vectors_is_the_logarithm_of_the_number_of_samples() -> None:
    ones = torch.full((50, 4), 0.5, dtype=torch.float64)
    assert softmax(ones[:3], ones, torch.arange(3), 0.1).item() == pytest.approx(math.log(50))


@pytest.mark.parametrize(("negatives", "value"), [(4096, 9.3179), (32000, 11.3735)])
def test_nce_has_its_closed_form_if_every_probability_is_that_of_the_noise(
    negatives: int, value: float
) -> None:
    logits, samples = torch.zeros(2, 1 + negatives, dtype=torch.float64), 1000
    found = nce(logits, torch.tensor(math.log(samples)), samples).item()
    assert found == pytest.approx(value, abs=5e-5)


def test_nce_matches_the_paper_in_value_and_gradient() -> None:
    logits = (3 * torch.randn(5, 8, generator=torch.Generator().manual_seed(3)).double()).requires_grad_()
    samples, negatives, constant = 40, 7, 25.0
    noise, terms = 1 / samples, []
    for row in logits:
        probabilities = row.exp() / constant
        own = probabilities[0] / (probabilities[0] + negatives * noise)
        others = negatives * noise / (probabilities[1:] + negatives * noise)
        terms.append(-own.log() - others.log().sum())
    fast, slow = nce(logits, torch.tensor(constant).log(), samples), torch.stack(terms).mean()
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)
    found, wanted = (torch.autograd.grad(value, logits)[0] for value in (fast, slow))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


def test_with_many_negatives_the_gradient_is_that_of_the_softmax() -> None:
    rows, vector = units(12, 4), units(1, 5).requires_grad_()
    made, index, temperature = bank(), torch.tensor([7]), 0.5
    made.rows.copy_(rows)
    made.log_constant.copy_((rows @ vector[0] / temperature).logsumexp(0).detach())
    (exact,) = torch.autograd.grad(softmax(vector, rows, index, temperature), vector)
    torch.manual_seed(0)
    for negatives, close in ((50_000, True), (5, False)):
        (found,) = torch.autograd.grad(made.estimate(vector, rows, index, negatives, temperature), vector)
        assert bool((found - exact).norm() < 0.05 * exact.norm()) == close


def test_first_estimate_in_training_sets_the_constant_permanently() -> None:
    made, index = bank(), torch.arange(3)
    made.eval().estimate(units(3, 1), made.current(), index, 6, 0.2)
    assert made.log_constant == torch.inf
    torch.manual_seed(1)
    made.train().estimate(units(3, 1), made.current(), index, 6, 0.2)
    torch.manual_seed(1)
    chosen = torch.cat([index[:, None], torch.randint(12, (3, 6))], 1)
    logits = torch.stack([made.rows[c] @ v for c, v in zip(chosen, units(3, 1))]) / 0.2
    torch.testing.assert_close(made.log_constant, (logits.exp().mean() * 12).log())
    before = made.log_constant.clone()
    made.estimate(units(3, 2), made.current(), index, 6, 0.2)
    assert torch.equal(made.log_constant, before)
    made.fill(12)
    assert made.log_constant == torch.inf


def test_both_ways_to_multiply_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    made, values = bank(), []
    for most in (0, 8):
        monkeypatch.setattr(memory_bank, "ALL_AT_ONCE", most)
        vectors = units(5, 1).requires_grad_()
        torch.manual_seed(2)
        value = copy.deepcopy(made).estimate(vectors, made.current(), torch.arange(5), 6, 0.2)
        values.append((value, torch.autograd.grad(value, vectors)[0]))
    torch.testing.assert_close(*values)


def test_update_moves_only_the_given_rows_by_the_momentum() -> None:
    made, index = bank(momentum=0.3), torch.tensor([4, 0, 9])
    before, new = made.rows.clone(), units(3, 6)
    made.update(new, index)
    torch.testing.assert_close(made.rows[index], F.normalize(0.3 * before[index] + 0.7 * new, dim=1))
    torch.testing.assert_close(made.rows.norm(dim=1), torch.ones(12).double())
    rest = [number for number in range(12) if number not in (0, 4, 9)]
    assert torch.equal(made.rows[rest], before[rest])


def test_sample_that_occurs_twice_moves_to_the_mean_in_any_order() -> None:
    first, second, new = bank(), bank(), units(3, 6)
    expected = F.normalize(0.5 * first.rows[4] + 0.5 * (new[0] + new[2]) / 2, dim=0)
    first.update(new, torch.tensor([4, 1, 4]))
    second.update(new.flip(0), torch.tensor([4, 1, 4]))
    torch.testing.assert_close(first.rows[4], expected)
    torch.testing.assert_close(first.rows, second.rows)


def test_losses_of_the_current_vectors_are_not_changed_by_updates() -> None:
    made, vectors = bank(), units(3, 1).requires_grad_()
    rows = made.current()
    value = softmax(vectors, rows, torch.arange(3), 0.2)
    made.update(vectors, torch.arange(3))
    value.backward()  # would fail if the rows had been changed in place
    assert not torch.equal(rows, made.rows) and vectors.grad is not None


def test_empty_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="memory bank must be filled first"):
        MemoryBank(4, 0.5).current()


@pytest.mark.parametrize("most", [0, 8])
def test_mixed_precision_changes_neither_the_loss_nor_its_gradient(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_bank, "ALL_AT_ONCE", most)
    vectors, values = units(5, 1).float().requires_grad_(), []
    for enabled in (False, True):
        made = bank().float()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = made.estimate(vectors, made.current(), torch.arange(5), 6, 0.07)
        values.append((value, torch.autograd.grad(value, vectors)[0], made.log_constant))
    assert all(torch.equal(plain, mixed) for plain, mixed in zip(*values))


@pytest.mark.parametrize("temperature", [0.2, 0.005])
def test_constant_is_finite_in_float32_even_at_low_temperatures(temperature: float) -> None:
    constants = []
    for made, vectors in ((bank().float(), units(3, 1).float()), (bank(), units(3, 1))):
        for rows in (made.rows, -vectors):  # one of cosines up to 1, one of a cosine of -1
            made.rows[: len(rows)] = rows
        torch.manual_seed(1)
        value = made.estimate(vectors, made.current(), torch.arange(3), 6, temperature)
        assert value.isfinite()
        constants.append(made.log_constant)
    assert constants[0].dtype == torch.float32
    torch.testing.assert_close(constants[0].double(), constants[1], rtol=1e-5, atol=1e-4)


def test_samples_are_compared_with_all_or_with_as_many_as_are_asked_for() -> None:
    made, vectors, index = bank(), units(3, 1), torch.arange(3)
    rows = made.current()
    torch.testing.assert_close(made.compare(vectors, rows, index, 0, 0.2), softmax(vectors, rows, index, 0.2))
    torch.manual_seed(1)
    estimate = made.compare(vectors, rows, index, 5, 0.2)
    torch.manual_seed(1)
    torch.testing.assert_close(made.compare(vectors, rows, index, 5, 0.2), estimate)
    assert made.chance(0) == pytest.approx(math.log(12)) and made.chance(4096) == pytest.approx(
        9.3179, abs=5e-5
    )
    assert MemoryBank(4, 0.5).chance(0) is None
