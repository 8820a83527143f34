"""The cosine against known values; where gradients flow; what the spread says of a collapse."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.methods.simsiam import SimSiam, loss


def build(**options) -> SimSiam:
    torch.manual_seed(0)
    sizes = {"projection_dim": 12, "hidden_dim": 6}
    return SimSiam(encoders.build("conv4", image_size=8), **sizes | options)


def rows(seed: int) -> Tensor:
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images(seed: int = 0, count: int = 8) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("factor", "value"), [(2.0, -1), (-0.5, 1)])
def test_equal_directions_have_minus_one_and_opposite_ones_one(factor: float, value: float) -> None:
    assert loss(rows(1), factor * rows(1)).item() == pytest.approx(value)


def test_orthogonal_directions_have_the_loss_that_chance_names() -> None:
    assert loss(torch.eye(4)[:2], torch.eye(4)[2:]).item() == build().chance(8) == 0


def test_gradient_is_the_numeric_one_and_none_reaches_the_target() -> None:
    first, second = rows(1).requires_grad_(), rows(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, second.detach()), first)
    loss(first, second).backward()
    assert second.grad is None


def test_each_prediction_meets_the_projection_of_the_other_view() -> None:
    method, views = build(), (images(1), images(2))
    method.two_views = lambda batch: views  # type: ignore[method-assign]
    first, second = (method.head(method.encoder(view)) for view in views)
    expected = (loss(method.predictor(first), second) + loss(method.predictor(second), first)) / 2
    torch.testing.assert_close(method({}), expected)
    views = views[::-1]
    torch.testing.assert_close(method({}), expected)


def test_encoder_learns_through_the_predictor_alone() -> None:
    method = build()
    with torch.no_grad():
        for parameter in method.predictor.parameters():
            parameter.zero_()
    method({"image": images()}).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.encoder.parameters())


def test_std_is_one_for_spread_directions_and_falls_to_zero_in_a_collapse() -> None:
    method = build(projection_dim=64)
    method({"image": torch.randint(0, 256, (64, 3, 8, 8)).byte()})
    assert method.metrics["std"].item() == pytest.approx(1, abs=0.1)
    method.head.append(torch.nn.Threshold(1e9, 1.0))
    method({"image": images()})
    assert method.metrics["std"].item() == pytest.approx(0, abs=1e-6)


def test_projector_ends_in_a_norm_without_weights_and_the_predictor_without_a_norm() -> None:
    method = build()
    assert isinstance(method.head[-1], torch.nn.BatchNorm1d) and not list(method.head[-1].parameters())
    assert isinstance(method.predictor[-1], torch.nn.Linear) and method.predictor[-1].bias is not None
