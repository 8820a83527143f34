"""Word vectors learned from neighbours against noise words, in compiled loops without Python's lock.

Two tables have a row for each word: inputs, which are the word vectors, and outputs. A pair of an input v and an output
u of two neighbours has the loss -log sigmoid(u v) - sum over the noise of log sigmoid(-u' v). The noise words of a
centre serve all the words in its window, so that scores and updates are small matrix products on rows in the first
cache (Ji et al., "Parallelizing Word2Vec in Shared and Distributed Memory", 2016, https://arxiv.org/abs/1604.04661).
Within a window all gradients are those before the window's update: a step is exactly one of gradient descent on the sum
of the window's losses.

Rows are padded with zeros, which stay zero, to a multiple of 16 numbers.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from unlabeled.kernels.lanes import (
    LANES,
    add,
    bits_to_float,
    fma,
    jit_cached,
    lane_sums,
    load,
    prefetch,
    splat,
    store,
    zeros,
)

__all__ = ["alias_table", "keep_probabilities", "padded", "train"]


TILE = 6
"""Output rows that are multiplied at once with two input rows: twelve registers of sums."""
CERTAIN = 100.0
"""Score of padding that fills up a tile: its loss and its gradient are 0."""
LARGEST = 80.0
"""Scores beyond it count as it does; exp(-80) is a normal float32."""
LOG_1_PLUS = np.polynomial.Chebyshev.interpolate(np.log1p, 9, domain=[0, 1]).convert(
    kind=np.polynomial.Polynomial
)
EXP_2 = np.polynomial.Chebyshev.interpolate(np.exp2, 6, domain=[0, 1]).convert(kind=np.polynomial.Polynomial)
L0, L1, L2, L3, L4, L5, L6, L7, L8, L9 = (np.float32(c) for c in LOG_1_PLUS.coef)
E0, E1, E2, E3, E4, E5, E6 = (np.float32(c) for c in EXP_2.coef)
LOG2_E = np.float32(1 / math.log(2))


_compiled = partial(jit_cached, fastmath={"reassoc", "contract", "nsz", "arcp"})


def padded(dim: int) -> int:
    """Numbers in a row of a table whose vectors have `dim`."""
    return -(-dim // LANES) * LANES


def keep_probabilities(counts: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """Probability that an occurrence of each word is read.

    Args:
        counts: How often each word occurs in the corpus, shape (words,).
        threshold: Fraction of the corpus above which words are thinned out; 0 keeps all.

    Returns:
        sqrt(t / f) + t / f of a word's fraction f, at most 1, shape (words,).
    """
    if threshold == 0:
        return np.ones(len(counts))
    ratio = threshold / np.maximum(counts / counts.sum(), 1e-300)
    return np.minimum(1, np.sqrt(ratio) + ratio)


def alias_table(weights: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Table that draws a row in proportion to its weight by one look-up (Walker's alias method).

    Args:
        weights: Shape (rows,), at least 0, not all 0.

    Returns:
        Shape (rows,). A row is picked uniformly; the upper half of its entry is the probability, times 2**32, that it
        stands for itself, the lower half the row that it stands for otherwise.
    """
    scaled = weights / weights.sum() * len(weights)
    other = np.arange(len(scaled))
    small = [row for row, weight in enumerate(scaled) if weight < 1]
    large = [row for row, weight in enumerate(scaled) if weight >= 1]
    while small and large:
        less, more = small.pop(), large[-1]
        other[less] = more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            small.append(large.pop())
    scaled[small + large] = 1  # the rest misses 1 by rounding only
    threshold = np.minimum(np.rint(scaled * 2**32), 2**32 - 1).astype(np.uint64)
    return threshold << np.uint64(32) | other.astype(np.uint64)


def train(
    inputs: NDArray[Any],
    outputs: NDArray[Any],
    tokens: NDArray[np.int64],
    sentence: NDArray[np.int64],
    *,
    keep: NDArray[np.float64],
    noise: NDArray[np.uint64],
    window: int,
    negatives: int,
    rate: float,
    seed: int,
    threads: int = 1,
    mean: bool = False,
    share: bool = True,
) -> tuple[float, int]:
    """Move both tables by one pass over word sequences.

    Args:
        inputs: The word vectors, float32 or float64, shape (words, padded dim), contiguous.
        outputs: Vectors that score them, as `inputs`.
        tokens: Words, shape (stretches, length).
        sentence: Number of the sentence that each belongs to, same shape; -1 where there is no word. Windows end
            with the sentence.
        keep: Probability that a word is read, shape (words,); where it is not, its neighbours close up.
        noise: `alias_table` of the noise words, at least two of weight above 0.
        window: Words on each side of a centre at most; each centre's own width is drawn from 1 to it.
        negatives: Noise words of a centre or of a pair; the centre itself is drawn again.
        rate: Learning rate.
        seed: Seed of all draws, 0 to 2**63 - 1.
        threads: Threads that share the tables without locks; one repeats every bit, more do not.
        mean: Whether the mean of a window's vectors predicts its centre (CBOW), instead of each (skip-gram).
        share: Whether a window's pairs share their noise words; otherwise each pair is a step with its own.

    Returns:
        Sum of the losses in nats, and the number of predictions.
    """
    states = np.random.SeedSequence(seed).generate_state(len(tokens), np.uint64) | np.uint64(1)
    limits = np.minimum(np.rint(keep * 2**32), 2**32 - 1).astype(np.uint32)
    width = inputs.shape[1]
    assert width % LANES == 0 and outputs.shape == inputs.shape
    assert tokens.size == 0 or (int(tokens.max()) < len(inputs) and int(tokens.min()) >= 0)
    tables = Tables(inputs.reshape(-1), outputs.reshape(-1), width)
    options = Options(window, negatives, inputs.dtype.type(rate), mean, share)

    def part(rows: slice) -> tuple[float, int]:
        text = Text(np.ascontiguousarray(tokens[rows]), np.ascontiguousarray(sentence[rows]), states[rows])
        scratch = make_scratch(negatives + 1, 2 * window, width, inputs.dtype)
        return _train(tables, text, Draws(limits, noise), options, scratch)

    borders = np.linspace(0, len(tokens), min(threads, len(tokens)) + 1).astype(int).tolist()
    slices = [slice(first, last) for first, last in pairwise(borders)]
    if len(slices) < 2:
        parts = [part(rows) for rows in slices]
    else:
        with ThreadPoolExecutor(len(slices)) as pool:
            parts = list(pool.map(part, slices))
    return math.fsum(loss for loss, _ in parts), sum(pairs for _, pairs in parts)


# Compiled functions unpack these groups at their top: reading a field in a loop costs up to a fifth of its time.
class Tables(NamedTuple):
    """Both tables, flat, and the numbers in a row."""

    inputs: Any
    outputs: Any
    width: int


class Text(NamedTuple):
    """Words and their sentences, shape (stretches, length), and a random state for each stretch."""

    tokens: Any
    sentence: Any
    states: Any


class Draws(NamedTuple):
    """Probability that each word is read, times 2**32, and the `alias_table` of the noise words."""

    limits: Any
    noise: Any


class Options(NamedTuple):
    """Those arguments of `train`."""

    window: int
    negatives: int
    rate: Any
    mean: bool
    share: bool


class Scratch(NamedTuple):
    """Memory for the intermediate results of one thread; targets and contexts are where rows start in a table.

    Attributes:
        rows: Copies of the target rows of a step, filled up to a multiple of `TILE`, the slots.
        scores: Their products with the context rows, which become errors, shape (contexts * slots + padding,).
        signs: 1 for the true targets, -1 for all else, as `scores`.
        hidden: Mean of the context rows, shape (width,).
        targets: The true target, then the noise words, shape (slots,).
        contexts: Shape (contexts,).
        single: Context of a step that has one, shape (2,); zeros where that is `hidden`.
    """

    rows: Any
    scores: Any
    signs: Any
    hidden: Any
    targets: Any
    contexts: Any
    single: Any


def make_scratch(targets: int, contexts: int, width: int, dtype: Any) -> Scratch:
    """Memory for steps of so many targets and at most so many contexts, an even number."""
    slots = -(-targets // TILE) * TILE
    size = contexts * slots + 2 * LANES
    signs = np.full(size, -1, dtype)
    signs[: contexts * slots : slots] = 1
    floats = _aligned(slots * width, dtype), _aligned(size, dtype), signs, _aligned(width, dtype)
    return Scratch(*floats, *(np.zeros(count, np.int64) for count in (slots, contexts, 2)))


def _aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Zeros that start with a cache line."""
    block = np.zeros(size + 64, dtype)
    start = -block.ctypes.data % 64 // block.itemsize
    return block[start : start + size]


def _missed(score) -> Any:
    """sigmoid(-score) and -log(sigmoid(score))."""


@overload(_missed, inline="always")
def _missed_of(score):
    if score == types.float64:
        return lambda score: (1 / (1 + math.exp(score)), math.log1p(math.exp(-abs(score))) + max(-score, 0.0))

    def fast(score):
        # Without a branch or a call, so that sixteen of them run at once.
        power = min(abs(score), np.float32(LARGEST)) * -LOG2_E
        whole = np.int32(power) - np.int32(1)
        x = power - np.float32(whole)
        x = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * (E5 + x * E6)))))
        small = x * bits_to_float((whole + np.int32(127)) << np.int32(23))
        x = L5 + small * (L6 + small * (L7 + small * (L8 + small * L9)))
        x = L0 + small * (L1 + small * (L2 + small * (L3 + small * (L4 + small * x))))
        share = np.float32(1) / (np.float32(1) + small)
        missed = small * share if score > 0 else share
        return missed, x - min(score, np.float32(0))

    return fast


@_compiled
def _errors(scores, signs, count, rate):
    """Turn `count` scores, a multiple of 16, into gradients times the rate; returns the sum of their losses."""
    total = scores.dtype.type(0)
    for i in range(count):
        missed, loss = _missed(signs[i] * scores[i])
        scores[i] = signs[i] * rate * missed
        total += loss
    return total


@_compiled
def _scores(inputs, contexts, rows, width, slots, pairs, scores):
    """Products of two input rows at a time with six rows rows at a time; shape (pairs, slots)."""
    for j in range(0, pairs, 2):
        first, second = contexts[j], contexts[j + 1]
        for k in range(0, slots, TILE):
            start = k * width
            a0 = a1 = a2 = a3 = a4 = a5 = zeros(rows)
            b0 = b1 = b2 = b3 = b4 = b5 = zeros(rows)
            for d in range(0, width, LANES):
                a, b = load(inputs, first + d), load(inputs, second + d)
                row = start + d
                u = load(rows, row)
                a0, b0 = fma(a0, a, u), fma(b0, b, u)
                u = load(rows, row + width)
                a1, b1 = fma(a1, a, u), fma(b1, b, u)
                u = load(rows, row + 2 * width)
                a2, b2 = fma(a2, a, u), fma(b2, b, u)
                u = load(rows, row + 3 * width)
                a3, b3 = fma(a3, a, u), fma(b3, b, u)
                u = load(rows, row + 4 * width)
                a4, b4 = fma(a4, a, u), fma(b4, b, u)
                u = load(rows, row + 5 * width)
                a5, b5 = fma(a5, a, u), fma(b5, b, u)
            dots = lane_sums(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5)
            _place(scores, dots, j * slots + k, slots)


@_compiled
def _place(scores, dots, start, slots):
    """Put six scores of one row and six of the next where they belong."""
    if slots == TILE:
        store(scores, start, dots)
    else:
        end = len(scores) - LANES
        store(scores, end, dots)
        for k in range(TILE):
            scores[start + k] = scores[end + k]
            scores[start + slots + k] = scores[end + TILE + k]


@_compiled
def _move_outputs(inputs, contexts, pairs, errors, outputs, targets, count, slots, width):
    """Add to each target row of `outputs` its errors times the input rows."""
    for k in range(0, count, TILE):
        for d in range(0, width, LANES):
            a0 = a1 = a2 = a3 = a4 = a5 = zeros(inputs)
            for j in range(pairs):
                v = load(inputs, contexts[j] + d)
                error = j * slots + k
                a0 = fma(a0, splat(errors[error]), v)
                a1 = fma(a1, splat(errors[error + 1]), v)
                a2 = fma(a2, splat(errors[error + 2]), v)
                a3 = fma(a3, splat(errors[error + 3]), v)
                a4 = fma(a4, splat(errors[error + 4]), v)
                a5 = fma(a5, splat(errors[error + 5]), v)
            # One after the other: a noise word may have been drawn twice.
            _increase(outputs, targets[k] + d, a0)
            if k + 1 < count:
                _increase(outputs, targets[k + 1] + d, a1)
            if k + 2 < count:
                _increase(outputs, targets[k + 2] + d, a2)
            if k + 3 < count:
                _increase(outputs, targets[k + 3] + d, a3)
            if k + 4 < count:
                _increase(outputs, targets[k + 4] + d, a4)
            if k + 5 < count:
                _increase(outputs, targets[k + 5] + d, a5)


@_compiled
def _move_inputs(rows, errors, slots, width, inputs, contexts, pairs):
    """Add to each context's row of `inputs` its errors times the rows rows."""
    for j in range(0, pairs, 2):
        for k in range(0, slots, TILE):
            e, f, start = j * slots + k, (j + 1) * slots + k, k * width
            e0, e1, e2 = splat(errors[e]), splat(errors[e + 1]), splat(errors[e + 2])
            e3, e4, e5 = splat(errors[e + 3]), splat(errors[e + 4]), splat(errors[e + 5])
            f0, f1, f2 = splat(errors[f]), splat(errors[f + 1]), splat(errors[f + 2])
            f3, f4, f5 = splat(errors[f + 3]), splat(errors[f + 4]), splat(errors[f + 5])
            for d in range(0, width, LANES):
                row = start + d
                a = b = zeros(rows)
                u = load(rows, row)
                a, b = fma(a, e0, u), fma(b, f0, u)
                u = load(rows, row + width)
                a, b = fma(a, e1, u), fma(b, f1, u)
                u = load(rows, row + 2 * width)
                a, b = fma(a, e2, u), fma(b, f2, u)
                u = load(rows, row + 3 * width)
                a, b = fma(a, e3, u), fma(b, f3, u)
                u = load(rows, row + 4 * width)
                a, b = fma(a, e4, u), fma(b, f4, u)
                u = load(rows, row + 5 * width)
                a, b = fma(a, e5, u), fma(b, f5, u)
                _increase(inputs, contexts[j] + d, a)  # a word may occur twice in a window
                _increase(inputs, contexts[j + 1] + d, b)


@_compiled
def _increase(table, start, register):
    store(table, start, add(load(table, start), register))


@_compiled
def _copy_targets(outputs, width, targets, count, rows):
    for k in range(count):
        for d in range(0, width, LANES):
            store(rows, k * width + d, load(outputs, targets[k] + d))


@_compiled
def _step(tables, contexts, pairs, count, rate, scratch):
    """One step of gradient descent on the sum of the losses of all pairs of context and target.

    The first of `count` targets is the true one. `contexts` has room for one more than an odd number of pairs.
    """
    inputs, outputs, width = tables
    rows, scores, signs, _, targets, _, _ = scratch
    slots = len(rows) // width
    _copy_targets(outputs, width, targets, count, rows)
    even = pairs + pairs % 2
    if pairs % 2:
        contexts[pairs] = contexts[pairs - 1]
    _scores(inputs, contexts, rows, width, slots, even, scores)
    used = pairs * slots
    end = -(-max(used, even * slots) // LANES) * LANES
    for j in range(pairs):  # padding of tiles has no effect
        for k in range(count, slots):
            scores[j * slots + k] = -CERTAIN
    for i in range(used, end):
        scores[i] = CERTAIN * signs[i]
    loss = _errors(scores, signs, end, rate)
    _move_outputs(inputs, contexts, pairs, scores, outputs, targets, count, slots, width)
    _move_inputs(rows, scores, slots, width, inputs, contexts, even)
    return loss


@_compiled
def _mean_step(tables, contexts, pairs, count, rate, scratch):
    """One step with the mean of the contexts; each of them gets the whole gradient of that mean."""
    inputs, outputs, width = tables
    rows, scores, signs, hidden, targets, _, single = scratch
    weight = splat(hidden.dtype.type(1) / hidden.dtype.type(pairs))
    for d in range(0, width, LANES):
        total = zeros(hidden)
        for j in range(pairs):
            total = add(total, load(inputs, contexts[j] + d))
        store(hidden, d, fma(zeros(hidden), total, weight))
    slots = len(rows) // width
    _copy_targets(outputs, width, targets, count, rows)
    _scores(hidden, single, rows, width, slots, 2, scores)
    end = -(-2 * slots // LANES) * LANES
    for k in range(count, end):
        scores[k] = CERTAIN * signs[k]
    loss = _errors(scores, signs, end, rate)
    _move_outputs(hidden, single, 1, scores, outputs, targets, count, slots, width)
    for d in range(0, width, LANES):
        total = zeros(rows)
        for k in range(count):
            total = fma(total, splat(scores[k]), load(rows, k * width + d))
        for j in range(pairs):
            _increase(inputs, contexts[j] + d, total)
    return loss


@_compiled
def _next(state):
    """The next state of xorshift64."""
    state ^= state << np.uint64(13)
    state ^= state >> np.uint64(7)
    return state ^ (state << np.uint64(17))


@_compiled
def _mixed(state):
    """64 random bits of a state; its own low bits are not random enough."""
    return state * np.uint64(0x2545F4914F6CDD1D)


@_compiled
def _below(bits, count):
    """A number in 0 .. count - 1 from the upper half of random bits."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))


@_compiled
def _draw_noise(state, noise, negatives, centre, width, targets):
    """Fill `targets` with where the rows of the centre and of its noise words start; returns the random state."""
    targets[0] = centre * width
    for k in range(1, negatives + 1):
        word = centre
        while word == centre:
            state = _next(state)
            bits = _mixed(state)
            word = _below(bits, len(noise))
            entry = noise[word]
            if (bits & np.uint64(0xFFFFFFFF)) >= entry >> np.uint64(32):
                word = np.int64(entry & np.uint64(0xFFFFFFFF))
        targets[k] = word * width
    return state


@_compiled
def _thinned(state, tokens, sentence, limits, words, owners):
    """Copy the words that are read and the numbers of their sentences; returns the state and their number."""
    count = 0
    for i in range(len(tokens)):
        state = _next(state)
        words[count] = tokens[i]
        owners[count] = sentence[i]
        read = sentence[i] >= 0 and np.uint32(_mixed(state) >> np.uint64(32)) <= limits[tokens[i]]
        count += read
    return state, count


@_compiled
def _train(tables, text, draws, options, scratch):
    """Read stretches one after the other; returns the sum of the losses and their number."""
    loss, predictions = 0.0, 0
    inputs, outputs, width = tables
    limits, noise = draws
    window, negatives, rate, mean, share = options
    _, _, _, _, targets, contexts, single = scratch
    length, count = text.tokens.shape[1] + 1, negatives + 1
    words, owners = np.empty(length, np.int64), np.empty(length, np.int64)
    coming = np.empty_like(targets)
    for stretch in range(len(text.tokens)):
        tokens, sentence = text.tokens[stretch], text.sentence[stretch]
        state, read = _thinned(text.states[stretch], tokens, sentence, limits, words, owners)
        for i in range(read):
            state = _next(state)
            reach = 1 + _below(_mixed(state), window)
            pairs = 0
            for j in range(max(0, i - reach), min(read, i + reach + 1)):
                if j != i and owners[j] == owners[i]:
                    contexts[pairs] = words[j] * width
                    pairs += 1
            if share or mean:
                # Noise is drawn one centre ahead, so that its rows are on their way while this centre is learned.
                if i == 0:
                    state = _draw_noise(state, noise, negatives, words[0], width, coming)
                for k in range(count):
                    targets[k] = coming[k]
                if i + 1 < read:
                    state = _draw_noise(state, noise, negatives, words[i + 1], width, coming)
                    for k in range(count):
                        for d in range(0, width, LANES):
                            prefetch(outputs, coming[k] + d)
                if i + 1 + window < read:
                    for d in range(0, width, LANES):
                        prefetch(inputs, words[i + 1 + window] * width + d)
                if pairs == 0:
                    continue
                if mean:
                    loss += _mean_step(tables, contexts, pairs, count, rate, scratch)
                    predictions += 1
                else:
                    loss += _step(tables, contexts, pairs, count, rate, scratch)
                    predictions += pairs
            else:
                for j in range(pairs):
                    state = _draw_noise(state, noise, negatives, words[i], width, targets)
                    single[0] = contexts[j]
                    loss += _step(tables, single, 1, count, rate, scratch)
                    predictions += 1
    return loss, predictions
