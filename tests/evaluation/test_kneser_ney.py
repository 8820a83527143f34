"""Kneser-Ney: probabilities that sum to one, the definition by recursion, counts by hand, texts kept apart."""

from collections import Counter

import numpy as np
import pytest

from unlabeled.evaluation.kneser_ney import SMALL, KneserNey, discounts, windows

VOCABULARY = 12
"""Tokens, of which the last three are never seen."""


def corpus(tokens: int = 400, seed: int = 0) -> np.ndarray:
    """Windows of three in a text in which each token depends on the one before, with all four counts of counts."""
    generator = np.random.default_rng(seed)
    ids = [0]
    for _ in range(tokens):
        ids.append(int(1 + (ids[-1] * 3 + generator.geometric(0.45)) % 8))
    return windows(np.array(ids), np.arange(1, len(ids)), 3, 0)


def slow(seen: np.ndarray, history: tuple[int, ...], token: int, whole: bool = True) -> float:
    """Probability of a token by the definition, of windows that end with histories and tokens."""
    length = len(history) + 1
    grams = Counter(tuple(row[-length:]) for row in seen.tolist())
    if not whole:  # different tokens that each n-gram was seen after
        longer = {tuple(row[-length - 1 :]) for row in seen.tolist()}
        grams = Counter(gram[1:] for gram in longer)
    by = discounts(np.array(list(grams.values())))
    shorter = 1 / VOCABULARY if not history else slow(seen, history[1:], token, whole=False)
    after = {gram: count for gram, count in grams.items() if gram[:-1] == history}
    if not after:
        return shorter
    total = sum(after.values())
    left = sum(by[min(count, 3)] for count in after.values())
    count = after.get((*history, token), 0)
    return (max(count - by[min(count, 3)], 0) + left * shorter) / total


def test_probabilities_are_those_of_the_definition_and_sum_to_one() -> None:
    seen = corpus()
    model = KneserNey(seen, VOCABULARY)
    for history in ((0, 0), (0, 1), (3, 5), (5, 3), (11, 2), (11, 11), (2, 11)):
        rows = np.array([[*history, token] for token in range(VOCABULARY)])
        found = model.probabilities(rows)
        expected = [slow(seen, history, token) for token in range(VOCABULARY)]
        assert found == pytest.approx(expected, rel=1e-12) and found.min() > 0
        assert found.sum() == pytest.approx(1, rel=1e-12)


def test_pairs_by_hand() -> None:
    # Two texts, a b and a c: a twice after the end, b and c once after a.
    seen = windows(np.array([0, 1, 2, 0, 1, 3]), np.array([1, 2, 4, 5]), 2, 0)
    assert seen.tolist() == [[0, 1], [1, 2], [0, 1], [1, 3]]
    one, two, _ = SMALL
    # Each of the three tokens was seen after one other, so their frequencies are alike, not 2 : 1 : 1.
    single = (1 - one) / 3 + one / 4
    expected = {
        (0, 1): (2 - two + two * single) / 2,
        (1, 2): (1 - one + 2 * one * single) / 2,
        (3, 2): single,
    }
    found = KneserNey(seen, 4).probabilities(np.array(list(expected)))
    assert found == pytest.approx(list(expected.values()), rel=1e-12)


def test_discounts_are_those_of_chen_and_goodman() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [50, 20, 10, 5, 3])
    fraction = 50 / (50 + 2 * 20)
    expected = [0, 1 - 2 * fraction * 20 / 50, 2 - 3 * fraction * 10 / 20, 3 - 4 * fraction * 5 / 10]
    assert discounts(counts) == pytest.approx(expected)
    assert discounts(np.array([1, 1, 2])).tolist() == [0, *SMALL], "too few to estimate"


def test_context_helps_where_there_is_any_and_harms_little_where_there_is_none() -> None:
    def nats(seen: np.ndarray, test: np.ndarray, order: int) -> float:
        model = KneserNey(seen[:, -order:], VOCABULARY)
        return float(-np.log(model.probabilities(test[:, -order:])).mean())

    seen, test = corpus(3000), corpus(1000, seed=1)
    assert nats(seen, test, 3) < nats(seen, test, 1) - 0.3
    generator = np.random.default_rng(0)
    seen, test = (generator.integers(1, 9, (count, 3)) for count in (3000, 1000))
    assert abs(nats(seen, test, 1) - np.log(8)) < 0.02
    assert np.log(8) < nats(seen, test, 3) < np.log(8) + 0.3


def test_windows_do_not_look_into_the_text_before() -> None:
    ids = np.array([0, 0, 5, 6, 0, 0, 7, 8])
    rows = windows(ids, np.array([2, 3, 6, 7]), 4, 0)
    assert rows.tolist() == [[0, 0, 0, 5], [0, 0, 5, 6], [0, 0, 0, 7], [0, 0, 7, 8]]
    other = ids.copy()
    other[2:4] = 9
    assert np.array_equal(windows(other, np.array([6, 7]), 4, 0), rows[2:])
