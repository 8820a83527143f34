"""The characteristic function of samples against cosines and sines, and its gradient."""

import torch

from unlabeled.kernels.characteristic import characteristic


def test_it_is_the_mean_of_cosines_and_sines() -> None:
    values = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    angles = 0.3 * torch.arange(5.0, dtype=torch.float64)[:, None, None, None] * values
    plain = torch.stack([angles.cos().mean(2), angles.sin().mean(2)], 3)
    torch.testing.assert_close(characteristic(values, 0.3, 5), plain)
    single = characteristic(values.float(), 0.3, 17)
    torch.testing.assert_close(single.double(), characteristic(values, 0.3, 17), atol=2e-6, rtol=0)


def test_gradient_is_the_numeric_one() -> None:
    values = torch.randn(
        2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: characteristic(x, 0.7, 4), values)


def test_only_the_samples_are_stored_for_the_backward_pass() -> None:
    stored: list[int] = []
    values = torch.randn(8, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.numel()) or x, lambda x: x):
        characteristic(values, 0.2, 17)
    assert sum(stored) == values.numel()
