"""Hidden spans: how many, how long, where; and the share of the whole that they hide."""

import pytest
import torch
from torch import Tensor

from unlabeled.parts.spans import even, spans


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def runs(hidden: Tensor) -> list[int]:
    """Lengths of what is hidden without a gap."""
    edges = torch.diff(hidden.int(), prepend=torch.zeros(1), append=torch.zeros(1)).nonzero().flatten()
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize(("size", "share"), [(49, 0.51), (499, 0.491), (2_000, 0.490)])
def test_share_that_is_hidden_is_that_of_the_papers_law(size: int, share: float) -> None:
    lengths = torch.full((16,), size)
    found = torch.stack([spans(lengths, size).float().mean() for _ in range(60)])
    assert found.mean().item() == pytest.approx(share, abs=0.006)
    assert pytest.approx(0.489, abs=1e-3) == 1 - (1 - 0.065) ** 10, "what it tends to"


def test_every_run_is_a_span_or_longer_and_the_last_place_is_shown() -> None:
    hidden = spans(torch.full((50,), 120), 120)
    assert all(min(runs(row)) >= 10 for row in hidden)
    assert not hidden[:, -1].any()


def test_a_sequence_may_have_fewer_spans_than_two() -> None:
    hidden = spans(torch.full((50,), 40), 40, 0.1, 7, fewest=1)
    assert set(hidden.sum(1).tolist()) == {7}


@pytest.mark.parametrize(("size", "counts"), [(49, {3, 4}), (100, {6, 7}), (20, {2})])
def test_number_of_spans_is_rounded_up_or_down_and_at_least_two(size: int, counts: set[int]) -> None:
    found = set()
    for _ in range(200):
        hidden = spans(torch.tensor([size]), size, span=10)[0]
        found.add(int(hidden.sum()) / 10)
    assert max(found) <= max(counts)
    # One place per span: none overlap, so that they can be counted.
    for _ in range(50):
        count = int(spans(torch.tensor([size]), size, share=0.65 / 10, span=1).sum())
        assert count in counts | {2}


def test_starts_are_alike_likely() -> None:
    lengths = torch.full((4_000,), 30)
    hidden = spans(lengths, 30, share=0.0, span=1)
    assert (hidden.sum(1) == 2).all()
    expected = 4_000 * 2 / 29
    chi = ((hidden[:, :29].sum(0) - expected).square() / expected).sum().item()
    assert chi < 60 and not hidden[:, 29].any()


def test_short_sequences_hide_fewer_places_and_nothing_behind_their_end() -> None:
    lengths = torch.tensor([1, 2, 5, 11, 40])
    for _ in range(50):
        hidden = spans(lengths, 40)
        assert not (hidden & (torch.arange(40) >= lengths[:, None] - 1)).any()
        assert hidden.sum(1)[:4].tolist() == [0, 1, 4, 10]


def test_evened_rows_hide_equally_many_of_what_was_hidden() -> None:
    hidden = torch.rand(20, 60) < torch.linspace(0.3, 0.9, 20)[:, None]
    evened = even(hidden)
    assert (evened.sum(1) == hidden.sum(1).min()).all()
    assert not (evened & ~hidden).any()


def test_spans_may_be_one_and_cover_at_most_a_part_of_a_short_sequence() -> None:
    lengths = torch.tensor([1, 2, 11, 400])
    masked = [spans(lengths, 400, 0.4, 10, fewest=1, most=0.5) for _ in range(60)]
    counts = torch.stack([mask.sum(1) for mask in masked])
    assert (counts[:, 0] == 0).all() and (counts[:, 1] == 1).all() and (counts[:, 2] == 5).all()
    assert counts[:, 3].float().mean().item() / 400 == pytest.approx(1 - (1 - 0.04) ** 10, abs=0.02)
    assert all(min(runs(mask[3])) >= 10 for mask in masked)
