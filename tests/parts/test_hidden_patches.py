"""The loss of predicting 0, by integration."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.parts.hidden_patches import zero_loss


@pytest.mark.parametrize(("beta", "known"), [(1.0, 0.4246), (2.0, 0.2471), (4.0, 0.1250), (1e-3, 0.7974)])
def test_loss_of_zero_is_the_integral_over_the_normal_density(beta: float, known: float) -> None:
    x = torch.linspace(-9, 9, 100_001).double()
    density = (-(x**2) / 2).exp() / (2 * torch.pi) ** 0.5
    values = F.smooth_l1_loss(torch.zeros_like(x), x, beta=beta, reduction="none")
    assert zero_loss(beta) == pytest.approx(torch.trapezoid(values * density, x).item(), abs=1e-6)
    assert zero_loss(beta) == pytest.approx(known, abs=5e-4)
