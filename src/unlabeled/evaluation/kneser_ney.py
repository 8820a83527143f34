"""N-grams with modified Kneser-Ney smoothing: what frequencies of short sequences alone predict.

An n-gram's count is lowered by a discount, which depends on whether it was seen once, twice or more often. What this
leaves goes to the shorter n-gram, whose probability is not made of its count but of the number of different tokens
that it was seen after: a token that follows only one other says nothing elsewhere.

Source: Chen, Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999,
https://doi.org/10.1006/csla.1999.0128 (interpolated, with three discounts for each length)
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["KneserNey", "discounts", "windows"]

SMALL = (0.5, 1.0, 1.5)
"""Discounts where there is too little data to estimate them."""


def discounts(counts: np.ndarray) -> np.ndarray:
    """Discounts of what was counted never, once, twice and more often, float64, shape (4,).

    Args:
        counts: Of the n-grams that were seen, int64, shape (n-grams,).
    """
    of = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    if of.all():
        fraction = of[0] / (of[0] + 2 * of[1])
        estimates = [number - (number + 1) * fraction * of[number] / of[number - 1] for number in (1, 2, 3)]
        if min(estimates) > 0:
            return np.array([0.0, *estimates])
    return np.array([0.0, *SMALL])


def windows(ids: np.ndarray, places: np.ndarray, order: int, end: int) -> np.ndarray:
    """Tokens with those before them, oldest first, int64, shape (places, order).

    Args:
        ids: All tokens in one row, int64, shape (tokens,); the first is `end`.
        places: Where the last token of each window stands, int64, shape (places,).
        order: Tokens of a window.
        end: Token between two texts, before which a window has nothing but this token.
    """
    columns, ended = [ids[places]], np.zeros(len(places), dtype=bool)
    for back in range(1, order):
        token = np.where(ended, end, ids[np.maximum(places - back, 0)])
        ended |= token == end
        columns.append(token)
    return np.stack(columns[::-1], axis=1)


@dataclass(frozen=True)
class Level:
    """N-grams of one length.

    Attributes:
        grams: Keys of the n-grams, rising, int64, shape (n-grams,).
        counts: Of each, int64, shape (n-grams,).
        contexts: Keys of the n-grams without their last tokens, rising, int64, shape (contexts,).
        totals: Sum of the counts after each context, shape (contexts,).
        rest: Probability that discounts leave to shorter n-grams after each context, float64, shape (contexts,).
        discounts: As `discounts` gives them.
    """

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    rest: np.ndarray
    discounts: np.ndarray


class KneserNey:
    """Probabilities of tokens after those before them.

    Args:
        seen: Tokens with those before them, as `windows` gives them, int64, shape (tokens, order).
        vocabulary: Number of different tokens.
    """

    def __init__(self, seen: np.ndarray, vocabulary: int) -> None:
        self.vocabulary, self.order = vocabulary, seen.shape[1]
        self.levels: list[Level] = []
        grams = contexts = np.zeros(len(seen), dtype=np.int64)
        steps = []
        for length in range(1, self.order + 1):
            contexts = self._joined(seen, length, contexts, 1 if length == 1 else len(steps[-1][1]))
            context_keys, contexts = np.unique(contexts, return_inverse=True)
            grams = seen[:, -1] if length == 1 else self._joined(seen, length, grams, len(steps[-1][0]))
            keys, first, grams, occurrences = np.unique(
                grams, return_index=True, return_inverse=True, return_counts=True
            )
            steps.append((keys, context_keys, contexts[first], occurrences))
        for (keys, context_keys, owners, counts), longer in zip(steps, [*steps[1:], None]):
            if longer is not None:  # in how many longer n-grams it stands
                counts = np.bincount(longer[0] % len(keys), minlength=len(keys))
            self.levels.append(_level(keys, counts, context_keys, owners))

    def probabilities(self, windows: np.ndarray) -> np.ndarray:
        """Of the last tokens of windows after the others, float64, shape (windows,), of (windows, order)."""
        mixed = np.full(len(windows), 1 / self.vocabulary)
        grams = contexts = np.zeros(len(windows), dtype=np.int64)
        for length, level in enumerate(self.levels, 1):
            before = self.levels[length - 2] if length > 1 else None
            contexts = _find(
                level.contexts, self._joined(windows, length, contexts, len(before.contexts) if before else 1)
            )
            joined = self._joined(windows, length, grams, len(before.grams)) if before else windows[:, -1]
            grams = _find(level.grams, joined)
            count = np.where(grams >= 0, level.counts[grams], 0)
            mass = np.maximum(count - level.discounts[np.minimum(count, 3)], 0) / level.totals[contexts]
            mixed = np.where(contexts >= 0, mass + level.rest[contexts] * mixed, mixed)
        return mixed

    def _joined(self, windows: np.ndarray, length: int, shorter: np.ndarray, count: int) -> np.ndarray:
        """Keys of sequences that are one token longer to the left; -1 where the shorter one was never seen.

        Args:
            windows: int64, shape (windows, order).
            length: Tokens of the n-gram; its context has one fewer.
            shorter: Numbers of the shorter sequences, int64, shape (windows,).
            count: How many different ones of these there are.
        """
        if length == 1:
            return shorter
        return np.where(shorter >= 0, windows[:, -length] * count + shorter, -1)


def _level(grams: np.ndarray, counts: np.ndarray, contexts: np.ndarray, owners: np.ndarray) -> Level:
    """N-grams of one length, of which `owners` are the numbers of the contexts."""
    by = discounts(counts)
    totals = np.bincount(owners, counts, len(contexts))
    rest = np.bincount(owners, by[np.minimum(counts, 3)], len(contexts)) / totals
    return Level(grams, counts, contexts, totals, rest, by)


def _find(keys: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Places in rising keys, -1 where there is none, int64, shape of `queries`."""
    places = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[places] == queries, places, -1)
