import torch

from unlabeled.parts import ragged


def test_real_places_are_the_first_ones():
    assert ragged.real(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_mean_equals_that_of_each_sequence_alone():
    values, count = torch.randn(3, 5, 2), torch.tensor([5, 1, 3])
    values[1, 1:], values[2, 3:] = torch.nan, torch.inf
    expected = torch.stack([row[:length].mean(0) for row, length in zip(values, count)])
    torch.testing.assert_close(ragged.mean(values, count), expected)
    torch.testing.assert_close(ragged.mean(values[..., 0], count), expected[:, 0])


def test_no_gradient_reaches_the_padding():
    values = torch.randn(2, 4, 3, requires_grad=True)
    ragged.mean(values, torch.tensor([4, 2])).sum().backward()
    assert values.grad is not None and not values.grad[1, 2:].any()
    torch.testing.assert_close(values.grad[1, :2], torch.full((2, 3), 0.5))
