import math

import pytest
import torch

from unlabeled.parts.psnr import gain, psnr, squared_error


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("some", [False, True])
def test_squared_error_matches_a_slow_loop_in_value_and_gradient(some):
    predicted, images = torch.rand(2, 3, 4, 5, requires_grad=True), torch.rand(2, 3, 4, 5)
    where = torch.rand(2, 1, 4, 5) < 0.4
    total, count, slope = 0.0, 0, torch.zeros(2, 3, 4, 5)
    for place in torch.cartesian_prod(*map(torch.arange, (2, 3, 4, 5))).tolist():
        b, c, y, x = place
        if not some or where[b, 0, y, x]:
            difference = float(predicted[b, c, y, x].detach() - images[b, c, y, x])
            total, count = total + difference**2, count + 1
            slope[b, c, y, x] = 2 * difference
    error = squared_error(predicted, images, where if some else None)
    error.backward()
    assert error.item() == pytest.approx(total / count, rel=1e-5)
    torch.testing.assert_close(predicted.grad, slope / count)


def test_an_empty_mask_has_zero_error():
    nothing = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    assert squared_error(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), nothing) == 0


def test_ten_times_less_error_is_ten_decibels_more():
    values = psnr(torch.tensor([1.0, 0.1, 0.01, 0.0]))
    torch.testing.assert_close(values, torch.tensor([0.0, 10.0, 20.0, 100.0]))


def test_gain_is_zero_without_change_and_six_decibels_for_half_the_distance():
    images = torch.rand(4, 3, 8, 8)
    given = images + 0.1 * torch.randn_like(images)
    assert gain(given, given, images) == 0
    halfway = ((given + images) / 2).requires_grad_()
    assert gain(halfway, given, images).item() == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert not gain(halfway, given, images).requires_grad
    left = torch.arange(8).expand(4, 1, 8, 8) < 4
    better = torch.where(left, halfway, given)
    assert gain(better, given, images, left).item() == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert gain(better, given, images, ~left) == 0
