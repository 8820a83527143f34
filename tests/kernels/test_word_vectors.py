"""Learning words from neighbours: the formulas, the laws of every draw, and a slow twin of the whole loop."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("numba")

from unlabeled.kernels import word_vectors
from unlabeled.kernels.word_vectors import alias_table, keep_probabilities, padded, train

MASK = 2**64 - 1


def tables(words: int, dim: int, dtype: Any = np.float64, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    made = np.zeros((words, padded(dim)), dtype), np.zeros((words, padded(dim)), dtype)
    for table in made:
        table[:, :dim] = generator.normal(0, 0.5, (words, dim))
    return made


def one_hot(words: int, dtype=np.float64):
    """Inputs of zeros and an output for each word: what a centre adds to an input says which centre it was."""
    inputs, outputs = np.zeros((words, padded(words)), dtype), np.zeros((words, padded(words)), dtype)
    outputs[np.arange(words), np.arange(words)] = 1
    return inputs, outputs


def run(inputs, outputs, tokens, sentence=None, *, counts=None, **options):
    tokens = np.atleast_2d(np.asarray(tokens, np.int64))
    sentence = np.zeros_like(tokens) if sentence is None else np.atleast_2d(np.asarray(sentence, np.int64))
    counts = np.ones(len(inputs)) if counts is None else counts
    chosen = {"window": 2, "negatives": 0, "rate": 1e-9, "seed": 0, "keep": np.ones(len(inputs))} | options
    return train(inputs, outputs, tokens, sentence, noise=alias_table(np.asarray(counts, float)), **chosen)


def step(inputs, outputs, contexts, targets, rate, mean=False):
    width = inputs.shape[1]
    tables = word_vectors.Tables(inputs.reshape(-1), outputs.reshape(-1), width)
    even = len(contexts) + len(contexts) % 2
    scratch = word_vectors.make_scratch(len(targets), even, width, inputs.dtype)
    scratch.contexts[: len(contexts)] = np.array(contexts) * width
    scratch.targets[: len(targets)] = np.array(targets) * width
    move = word_vectors._mean_step if mean else word_vectors._step
    rate = inputs.dtype.type(rate)
    return move(tables, scratch.contexts, len(contexts), len(targets), rate, scratch)


def loss_of(inputs, outputs, contexts, targets, mean=False):
    v, u = inputs[contexts], outputs[targets]
    scores = (v.mean(0, keepdim=True) if mean else v) @ u.T
    signs = torch.tensor([1.0] + [-1.0] * (len(targets) - 1), dtype=scores.dtype)
    return -F.logsigmoid(scores * signs).sum()


CASES = {
    "plain": ([3, 7, 2, 9], [5, 1, 4, 11, 12, 19]),
    "repeated noise": ([3, 7, 2], [5, 1, 1, 4, 1, 5]),
    "repeated context": ([3, 3, 2, 3, 8], [5, 1, 4]),
    "one of each": ([6], [8, 2]),
    "more than a tile": ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [11, *range(10), 3, 15, 16]),
    "no noise": ([1, 2, 3], [4]),
}


@pytest.mark.parametrize("dim", [5, 16, 40])
@pytest.mark.parametrize("contexts, targets", CASES.values(), ids=CASES)
def test_a_window_is_one_exact_step_of_gradient_descent(contexts, targets, dim):
    inputs, outputs = tables(20, dim)
    leaves = [torch.tensor(table, requires_grad=True) for table in (inputs, outputs)]
    loss = loss_of(*leaves, contexts, targets)
    loss.backward()
    assert step(inputs, outputs, contexts, targets, 0.1) == pytest.approx(loss.item(), rel=1e-12)
    for table, leaf in zip((inputs, outputs), leaves):
        assert leaf.grad is not None
        np.testing.assert_allclose(table, (leaf - 0.1 * leaf.grad).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("contexts, targets", CASES.values(), ids=CASES)
def test_mean_step_follows_the_gradient_of_the_mean_and_gives_all_of_it_to_each(contexts, targets):
    inputs, outputs = tables(20, 16)
    start, leaves = inputs.copy(), [torch.tensor(table, requires_grad=True) for table in (inputs, outputs)]
    loss = loss_of(*leaves, contexts, targets, mean=True)
    loss.backward()
    assert step(inputs, outputs, contexts, targets, 0.1, mean=True) == pytest.approx(loss.item(), rel=1e-12)
    gradients = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
    np.testing.assert_allclose(inputs, start - 0.1 * len(contexts) * gradients[0], atol=1e-12)
    np.testing.assert_allclose(outputs, leaves[1].detach().numpy() - 0.1 * gradients[1], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_of_one_word_is_the_step_of_skip_gram(dtype):
    one, other = tables(20, 24, dtype), tables(20, 24, dtype)
    losses = [step(*one, [4], [5, 1, 1, 7], 0.1), step(*other, [4], [5, 1, 1, 7], 0.1, mean=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for first, second in zip(one, other):
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-7)


def test_float32_step_is_the_float64_step():
    exact, fast = tables(20, 100), tables(20, 100, np.float32)
    case = ([1, 2, 3, 3, 5], [11, 4, 4, 12, 13, 14])
    assert step(*fast, *case, 0.1) == pytest.approx(step(*exact, *case, 0.1), rel=1e-5)
    for first, second in zip(exact, fast):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_sigmoid_and_its_logarithm_are_right_for_all_scores():
    scores = np.linspace(-60, 60, 4800, dtype=np.float32)
    errors = scores.copy()
    ones = np.ones_like(scores)
    word_vectors._errors(errors, ones, len(errors), np.float32(1))
    np.testing.assert_allclose(errors, 1 / (1 + np.exp(scores.astype(np.float64))), rtol=5e-5, atol=1e-12)
    for score in (-300.0, -60.0, -6.0, -0.5, 0.0, 1e-4, 2.0, 9.0, 60.0, 300.0):
        sixteen = np.full(16, score, np.float32)
        loss = word_vectors._errors(sixteen, ones, 16, np.float32(1)) / 16
        assert loss == pytest.approx(
            -F.logsigmoid(torch.tensor(score, dtype=torch.float64)).item(), rel=1e-5, abs=2e-7
        )


def test_first_loss_is_chance_for_every_pair_exactly():
    inputs, outputs = tables(30, 20, np.float32)
    outputs[:] = 0
    tokens = np.random.default_rng(0).integers(0, 30, (3, 200))
    for options in ({}, {"share": False}, {"mean": True}):
        loss, predictions = run(inputs, outputs, tokens, negatives=5, rate=0.0, **options)
        assert loss / predictions == pytest.approx(6 * math.log(2), rel=1e-6)
        assert predictions > 500
    assert not outputs.any()


def test_distance_of_neighbours_follows_the_window_law():
    window, words = 5, 400
    used = np.zeros(window + 2)
    for seed in range(20):
        inputs, outputs = one_hot(words)
        run(inputs, outputs, np.arange(words), window=window, seed=seed)
        for distance in range(1, window + 2):
            for offset in (distance, -distance):
                used[distance] += np.count_nonzero(np.diagonal(inputs[:, :words], offset))
        assert inputs[:, :words].max() == pytest.approx(0.5e-9, rel=1e-6)  # no pair was used twice
    possible = np.array([40 * (words - distance) for distance in range(1, window + 1)])
    expected = (window - np.arange(1, window + 1) + 1) / window
    deviation = np.sqrt(expected * (1 - expected) / possible) + 1e-9
    assert (np.abs(used[1:-1] / possible - expected) < 4 * deviation).all()
    assert used[-1] == 0


def test_windows_end_with_the_sentence_and_padding_is_no_word():
    inputs, outputs = one_hot(12)
    run(inputs, outputs, [0, 1, 2, 3, 4, 5, 0, 0], [0, 0, 0, 1, 1, 1, -1, -1], window=8)
    seen = inputs[:, :12] != 0
    assert not seen[:3, 3:].any() and not seen[3:, :3].any() and not seen[6:].any()
    assert seen[0, 1] and seen[4, 5] and not seen.diagonal().any()


def test_words_that_are_not_read_close_the_gap():
    inputs, outputs = one_hot(5)
    keep = np.array([1, 1e-12, 1e-12, 1, 1])
    run(inputs, outputs, [0, 1, 2, 3, 4], window=1, keep=keep)
    assert (inputs[:, :5] != 0).nonzero()[0].tolist() == [0, 3, 3, 4]
    assert (inputs[:, :5] != 0).nonzero()[1].tolist() == [3, 0, 4, 3]


def test_words_are_kept_with_the_probability_of_the_formula():
    counts = np.array([5000, 1000, 100, 10])
    probabilities = keep_probabilities(counts, 1e-2)
    for count, probability in zip(counts, probabilities):
        share = count / counts.sum()
        assert probability == pytest.approx(min(1, (math.sqrt(share / 1e-2) + 1) * 1e-2 / share))
    assert (keep_probabilities(counts, 0) == 1).all()
    tokens = np.random.default_rng(0).integers(0, 4, 40_000)
    words, owners = np.empty(40_001, np.int64), np.empty(40_001, np.int64)
    limits = np.minimum(np.rint(probabilities * 2**32), 2**32 - 1).astype(np.uint32)
    _, count = word_vectors._thinned(np.uint64(12345), tokens, np.zeros_like(tokens), limits, words, owners)
    kept = np.bincount(words[:count], minlength=4) / np.bincount(tokens)
    assert kept == pytest.approx(probabilities, abs=0.02)


def test_noise_is_drawn_in_proportion_to_its_weights_and_never_the_centre():
    from scipy.stats import chisquare

    counts = np.random.default_rng(1).zipf(1.5, 50).clip(1, 2000).astype(float)
    weights = counts**0.75
    noise = alias_table(weights)
    state, draws, targets = np.uint64(99), np.zeros(50), np.zeros(11, np.int64)
    centre = int(weights.argmax())
    for _ in range(20_000):
        state = np.uint64(word_vectors._draw_noise(state, noise, 10, centre, 16, targets))
        np.add.at(draws, targets[1:] // 16, 1)
    assert targets[0] == centre * 16 and draws[centre] == 0
    others = np.arange(50) != centre
    expected = weights[others] / weights[others].sum() * draws.sum()
    assert chisquare(draws[others], expected).pvalue > 1e-3
    flat = np.ones(49) * draws.sum() / 49
    assert chisquare(draws[others], flat).pvalue < 1e-6  # the test can tell another law


@pytest.mark.parametrize("weights", [[1.0, 2, 3, 4], [1e-9, 1, 1e9], [5.0] * 7, [0.0, 1, 0, 3]])
def test_alias_table_holds_exactly_the_shares(weights):
    table = alias_table(np.array(weights))
    stays = (table >> np.uint64(32)).astype(float) / 2**32
    shares = stays.copy()
    np.add.at(shares, (table & np.uint64(2**32 - 1)).astype(int), 1 - stays)
    np.testing.assert_allclose(shares / len(weights), np.array(weights) / np.sum(weights), atol=1e-9)


def twin(inputs, outputs, tokens, sentence, keep, noise, window, negatives, rate, seed, mean, share):
    """The whole loop, word by word."""
    states = np.random.SeedSequence(seed).generate_state(len(tokens), np.uint64) | np.uint64(1)
    total, predictions = 0.0, 0

    def draw():
        nonlocal state
        state ^= state << 13 & MASK
        state ^= state >> 7
        state ^= state << 17 & MASK
        return state * 0x2545F4914F6CDD1D & MASK

    def noise_for(centre):
        found = []
        while len(found) < negatives:
            bits = draw()
            word = (bits >> 32) * len(noise) >> 32
            threshold, other = divmod(int(noise[word]), 2**32)
            word = word if bits % 2**32 < threshold else other
            found += [word] if word != centre else []
        return found

    for row, start in enumerate(states.tolist()):
        state = start
        kept = []
        for word, owner in zip(tokens[row].tolist(), sentence[row].tolist()):
            bits = draw()
            if owner >= 0 and bits >> 32 <= min(round(keep[word] * 2**32), 2**32 - 1):
                kept.append((word, owner))
        ahead = None
        for i, (centre, owner) in enumerate(kept):
            reach = 1 + ((draw() >> 32) * window >> 32)
            contexts = [kept[j][0] for j in range(max(0, i - reach), min(len(kept), i + reach + 1))
                        if j != i and kept[j][1] == owner]  # fmt: skip
            if share or mean:
                now = noise_for(centre) if ahead is None else ahead
                ahead = noise_for(kept[i + 1][0]) if i + 1 < len(kept) else None
                groups = [(contexts, now)] if contexts else []
            else:
                groups = [([context], noise_for(centre)) for context in contexts]
            for group, drawn in groups:
                targets = [centre, *drawn]
                leaves = [torch.tensor(table, requires_grad=True) for table in (inputs, outputs)]
                loss = loss_of(*leaves, group, targets, mean)
                loss.backward()
                factor = len(group) if mean else 1
                inputs -= rate * factor * leaves[0].grad.numpy()
                outputs -= rate * leaves[1].grad.numpy()
                total += loss.item()
                predictions += 1 if mean else len(group)
    return total, predictions


@pytest.mark.parametrize("mean, share", [(False, True), (False, False), (True, True)])
def test_whole_loop_equals_its_slow_twin(mean, share):
    generator = np.random.default_rng(3)
    tokens = generator.integers(0, 20, (3, 40))
    sentence = np.sort(generator.integers(0, 3, (3, 40)), 1)
    sentence[1, 30:] = -1
    counts = np.bincount(tokens.ravel(), minlength=20)
    how = {"keep": keep_probabilities(counts, 0.05), "noise": alias_table(counts**0.75), "window": 3}
    how |= {"negatives": 4, "rate": 0.1, "seed": 5, "mean": mean, "share": share}
    fast, slow = tables(20, 12), tables(20, 12)
    result = train(*fast, tokens, sentence, **how)
    assert result == pytest.approx(twin(*slow, tokens, sentence, **how), rel=1e-10)
    for first, second in zip(fast, slow):
        np.testing.assert_allclose(first, second, atol=1e-10)


def corpus(count: int = 6, length: int = 400):
    """Two languages whose words never meet."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 10, (count, length)) + 10 * (np.arange(count) % 2)[:, None]


def test_one_thread_repeats_every_bit_and_seeds_differ():
    results = []
    for seed in (1, 1, 2):
        made = tables(20, 30, np.float32)
        loss = run(*made, corpus(), negatives=5, rate=0.05, seed=seed)[0]
        results.append((loss, made[0].tobytes(), made[1].tobytes()))
    assert results[0] == results[1] and results[0][1] != results[2][1]


def test_two_threads_see_the_same_draws():
    made = tables(20, 30, np.float32)
    losses = [run(*made, corpus(), negatives=5, rate=0.0, threads=threads) for threads in (1, 2, 50)]
    assert losses[0][1] == losses[1][1] == losses[2][1]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-9)
    start = made[0].copy()
    run(*made, corpus(), negatives=5, rate=0.1, threads=2)
    assert np.isfinite(made[0]).all() and (made[0] != start).any()


@pytest.mark.parametrize("options", [{}, {"share": False}, {"mean": True}, {"threads": 2}])
def test_words_that_meet_become_alike_and_an_evenly_mixed_world_stays_at_its_entropy(options):
    generator = np.random.default_rng(1)
    worlds = {"two languages": corpus(8), "mixed": generator.permutation(corpus(8).ravel()).reshape(8, 400)}
    gaps = {}
    for name, tokens in worlds.items():
        inputs, outputs = tables(20, 16, np.float32)
        inputs, outputs = inputs * 0.1, outputs * 0
        for seed in range(12):
            run(inputs, outputs, tokens, negatives=5, window=5, rate=0.05, seed=seed, **options)
        units = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
        cosines = units @ units.T
        gaps[name] = (cosines[:10, :10].sum() - 10) / 90 - cosines[:10, 10:].mean()
    assert gaps["two languages"] > 0.5 and abs(gaps["mixed"]) < 0.15


def test_padding_of_rows_stays_zero():
    inputs, outputs = tables(20, 30, np.float32)
    run(inputs, outputs, corpus(), negatives=5, rate=0.1)
    assert not inputs[:, 30:].any() and not outputs[:, 30:].any()


@pytest.mark.parametrize("tokens", [np.zeros((0, 5)), np.zeros((2, 0)), np.zeros((3, 1))])
def test_texts_without_a_pair_move_nothing(tokens):
    inputs, outputs = tables(4, 8)
    start = inputs.copy(), outputs.copy()
    assert run(inputs, outputs, tokens.astype(np.int64), negatives=2, rate=0.1) == (0.0, 0)
    assert (inputs == start[0]).all() and (outputs == start[1]).all()
