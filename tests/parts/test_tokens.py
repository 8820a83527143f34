"""Tokens: counts of those to mask, what they are replaced by, and honest sampling."""

import math

import pytest
import torch
import torch.nn.functional as F

from unlabeled.parts.tokens import (
    IGNORED,
    accuracy,
    choose,
    corrupt,
    cross_entropy,
    entropy,
    generate,
    sample,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_as_many_pieces_are_hidden_as_the_formula_says_and_never_special_ones() -> None:
    lengths = torch.tensor([3, 10, 30, 64, 5])
    candidates = torch.arange(64) < (lengths - 1)[:, None]
    candidates[:, 0] = False
    for _ in range(20):
        chosen = choose(candidates, lengths, 0.15)
        assert chosen.sum(1).tolist() == [max(1, round(0.15 * n)) for n in lengths.tolist()]
        assert not (chosen & ~candidates).any()
    shares = torch.stack([choose(candidates, lengths, 0.15)[3] for _ in range(2000)]).float().mean(0)
    assert shares[1:63].min() > 0.1 and shares[1:63].max() < 0.22, "every place is as likely"


def test_four_fifths_are_masked_a_tenth_random_and_a_tenth_left_alone() -> None:
    tokens = torch.full((200, 1000), 7)
    chosen = torch.rand(tokens.shape) < 0.5
    shown = corrupt(tokens, chosen, 4, 50)
    assert torch.equal(shown[~chosen], tokens[~chosen])
    seen, count = shown[chosen], int(chosen.sum())
    for share, found in (
        (0.8 + 0.1 / 50, seen == 4),
        (0.1 + 0.1 / 50, seen == 7),
        (0.1 * 48 / 50, (seen != 4) & (seen != 7)),
    ):
        deviation = math.sqrt(share * (1 - share) / count)
        assert abs(found.float().mean().item() - share) < 4 * deviation
    others = seen.bincount(minlength=50).double()
    others = others[[n for n in range(50) if n not in (4, 7)]]
    assert ((others - others.mean()).square() / others.mean()).sum() < 48 + 5 * math.sqrt(2 * 48), (
        "chi squared"
    )


def test_sampled_tokens_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    drawn = sample(logits.expand(40_000, -1), 0.5, 0, 1.0).bincount(minlength=4).double()
    expected = (logits / 0.5).softmax(0).double() * 40_000
    assert ((drawn - expected).square() / expected).sum() < 20, "chi squared of 3 degrees of freedom"


def test_top_k_and_top_p_leave_only_the_likeliest() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25])).expand(3000, -1)
    assert set(sample(logits, 1.0, 2, 1.0).tolist()) == {1, 3}
    assert set(sample(logits, 1.0, 0, 0.7).tolist()) == {1, 3}, "until their sum reaches 0.7"
    assert set(sample(logits, 1.0, 0, 0.8).tolist()) == {1, 2, 3}
    for sure in (sample(logits, 1.0, 1, 1.0), sample(logits, 0.0, 0, 1.0), sample(logits, 1.0, 0, 0.0)):
        assert set(sure.tolist()) == {1}
    assert set(sample(1000 * logits, 1e-39, 0, 1.0).tolist()) == {1}, "no quotient is too large"
    cut = sample(logits, 1.0, 2, 1.0).bincount(minlength=4).double() / 3000
    assert cut[1].item() == pytest.approx(2 / 3, abs=0.04), "shares among the rest stay as they were"


def test_entropy_is_the_loss_of_predicting_the_frequencies() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2, 3])
    counts = labels.bincount(minlength=5)
    logits = (counts / counts.sum()).log().expand(6, -1)
    assert entropy(counts).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_cross_entropy_ignores_what_does_not_count() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, IGNORED, 2, 1, IGNORED])
    torch.testing.assert_close(
        cross_entropy(logits, labels), F.cross_entropy(logits[[0, 2, 3]], labels[[0, 2, 3]])
    )
    assert cross_entropy(logits, torch.full((5,), IGNORED)).item() == 0


def test_accuracy_ignores_what_does_not_count() -> None:
    logits = torch.eye(3)[[0, 1, 2, 2]]
    assert accuracy(logits, torch.tensor([0, IGNORED, 2, 1])).item() == pytest.approx(2 / 3)
    assert accuracy(logits, torch.full((4,), IGNORED)).item() == 0


class Latest:
    """An encoder with a window of three tokens."""

    length = 3

    def inputs(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["tokens"] * batch["mask"]


def sums(x: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Logits of the sum of the tokens so far."""
    return F.one_hot(x.cumsum(1)[torch.arange(len(last)), last], 30)


def test_generation_reads_the_latest_tokens_of_each_text() -> None:
    texts, lengths = torch.tensor([[1, 2, 3], [5, 0, 0]]), torch.tensor([3, 1])
    greedy = {"temperature": 0, "top_k": 0, "top_p": 1.0}
    added = generate(Latest(), sums, texts, lengths, 3, **greedy)
    assert added.tolist() == [[6, 11, 20], [5, 10, 20]]
