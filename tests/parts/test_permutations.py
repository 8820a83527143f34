"""Permutation sets: their sizes, their distances and the algebra behind them."""

import time

import pytest
import torch

from unlabeled.parts.permutations import closest, permutation_set

EXACT = [(9, 9, 9), (72, 9, 8), (504, 9, 7), (1512, 9, 6), (12, 4, 3), (24, 4, 2)]
PARTS = [(10, 9, 8), (64, 9, 8), (100, 9, 7), (701, 9, 6), (1000, 9, 6), (5, 4, 3)]
GREEDY = [(2000, 9, 4), (64, 16, 12), (6, 6, 5)]


@pytest.mark.parametrize("count, elements, distance", EXACT + PARTS + GREEDY)
def test_permutations_are_distinct_and_far_apart(count, elements, distance):
    found = permutation_set(count, elements)
    assert found.shape == (count, elements)
    assert (found.sort(dim=1).values == torch.arange(elements)).all()
    assert len({tuple(row) for row in found.tolist()}) == count
    assert closest(found) >= distance


@pytest.mark.parametrize("count, elements, distance", EXACT)
def test_exact_sets_are_groups_that_use_every_cell_equally(count, elements, distance):
    found = permutation_set(count, elements)
    members = {tuple(row) for row in found.tolist()}
    picks = torch.randint(count, (200, 2), generator=torch.Generator().manual_seed(0)).tolist()
    assert all(tuple(found[a][found[b]].tolist()) in members for a, b in picks)
    assert closest(found) == distance
    for position in range(elements):
        assert (torch.bincount(found[:, position], minlength=elements) == count // elements).all()


def test_72_permutations_are_the_affine_maps_over_nine_numbers():
    def add(x, y):
        return (x % 3 + y % 3) % 3 + 3 * ((x // 3 + y // 3) % 3)

    def multiply(x, y):  # numbers a + b i with i * i = -1, over GF(3)
        a, b, c, d = x % 3, x // 3, y % 3, y // 3
        return (a * c - b * d) % 3 + 3 * ((a * d + b * c) % 3)

    affine = {tuple(add(multiply(a, x), b) for x in range(9)) for a in range(1, 9) for b in range(9)}
    assert affine == {tuple(row) for row in permutation_set(72, 9).tolist()}


def test_closest_equals_a_slow_count():
    some = torch.stack([torch.randperm(9, generator=torch.Generator().manual_seed(i)) for i in range(30)])
    slow = min(int((some[i] != some[j]).sum()) for i in range(30) for j in range(i))
    assert closest(some) == slow


def test_greedy_beats_chance_and_repeats_quickly():
    begin = time.perf_counter()
    first = permutation_set(100, 16)
    assert torch.equal(first, permutation_set(100, 16))
    assert time.perf_counter() - begin < 5
    random = torch.rand(100, 16, generator=torch.Generator().manual_seed(1)).argsort(dim=1)
    assert closest(first) > closest(random)


def test_default_generator_is_left_alone():
    state = torch.random.get_rng_state()
    permutation_set(100, 9)
    assert torch.equal(state, torch.random.get_rng_state())


def test_more_permutations_than_exist_are_refused():
    with pytest.raises(ValueError, match="permutations must be at most 24 here, got 25"):
        permutation_set(25, 4)
