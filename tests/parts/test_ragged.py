import numpy as np
import pytest
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


def test_unknown_places_lie_on_lines_between_known_ones():
    torch.manual_seed(0)
    values, known = torch.randn(20, 12, 2), torch.rand(20, 12) < 0.4
    known[0], known[1] = False, True
    hidden = values.masked_fill(~known[:, :, None], torch.nan)
    found = ragged.interpolate(hidden, known)
    for row in range(20):
        places = known[row].nonzero().flatten().numpy()
        for number in range(2):
            ordinates = values[row, known[row], number].numpy()
            expected = np.interp(np.arange(12), places, ordinates) if len(places) else np.zeros(12)
            np.testing.assert_allclose(found[row, :, number].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [0.125, 0.6, 1.0, 2.0])
def test_reading_at_a_rate_is_linear_between_places_and_stops_at_the_last(rate):
    values, count = torch.randn(3, 6, 2), torch.tensor([6, 1, 4])
    found = ragged.at_rate(values, count, rate, 9)
    for row, length in enumerate(count.tolist()):
        for number in range(2):
            ordinates = values[row, :length, number].numpy()
            expected = np.interp(rate * np.arange(9), np.arange(length), ordinates)
            np.testing.assert_allclose(found[row, :, number].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "parts"), [([5] * 9, 1), ([7, 40, 1, 3, 2, 5, 6, 4, 9], 5), ([3, 30], 2)]
)
def test_rows_of_similar_length_are_joined_in_their_first_order(lengths: list[int], parts: int) -> None:
    count = torch.tensor(lengths)
    values = (
        torch.randn(len(count), int(count.max()), 2, 3)
        * ragged.real(count, int(count.max()))[:, :, None, None]
    )
    rows = ragged.alike(count, values.shape[1])
    assert len(rows) == parts
    pieces = [values[some, : int(count[some].max())] for some in rows]
    assert torch.equal(ragged.join(rows, pieces), values)
    assert sum(piece.shape[:2].numel() for piece in pieces) <= values.shape[:2].numel()
