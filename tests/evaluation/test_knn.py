"""The nearest-neighbour vote against a slow twin, its limits and its invariances."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled.evaluation.probes import knn


def cloud(samples: int = 90, dim: int = 6, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    centers = torch.randn(classes, dim, generator=generator)
    return centers[labels] + torch.randn(samples, dim, generator=generator), labels


TRAIN, LABELS = cloud()
TEST, _ = cloud(seed=1)


def slow(train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int, temperature: float) -> list[int]:
    predictions = []
    for query in test.double():
        cosines = [float(row @ query / row.norm() / query.norm()) for row in train.double()]
        nearest = sorted(range(len(train)), key=lambda row: (-cosines[row], row))[:k]
        votes = [0.0] * classes
        for row in nearest:
            votes[int(labels[row])] += math.exp(cosines[row] / temperature)
        predictions.append(max(range(classes), key=votes.__getitem__))
    return predictions


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.1), (20, 1.0), (90, 0.07)])
def test_votes_equal_a_slow_count(k, temperature):
    expected = slow(TRAIN, LABELS, TEST, 4, k, temperature)
    assert knn.predict(TRAIN, LABELS, TEST, 4, k=k, temperature=temperature).tolist() == expected


def test_the_nearest_neighbour_of_a_training_sample_is_itself():
    assert torch.equal(knn.predict(TRAIN, LABELS, TRAIN, 4, k=1), LABELS)


def test_all_neighbours_at_infinite_temperature_vote_for_the_most_frequent_class():
    labels = LABELS.clone()
    labels[:30] = 2
    assert knn.predict(TRAIN, labels, TEST, 4, k=90, temperature=1e6).unique().tolist() == [2]


def test_rotating_and_scaling_the_features_changes_nothing():
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2))).Q
    plain = knn.predict(TRAIN, LABELS, TEST, 4, k=7)
    assert torch.equal(knn.predict(3.7 * TRAIN @ rotation, LABELS, 0.2 * TEST @ rotation, 4, k=7), plain)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_size_changes_nothing(chunk):
    assert torch.equal(
        knn.predict(TRAIN, LABELS, TEST, 4, chunk=chunk), knn.predict(TRAIN, LABELS, TEST, 4, chunk=90)
    )


def test_of_equally_near_samples_the_earlier_one_votes():
    same = torch.ones(50, 3)
    labels = torch.tensor([2, 1, 1] + [0] * 47)
    assert knn.predict(same, labels, same[:4], 3, k=1).tolist() == [2] * 4
    assert knn.predict(same, labels, same[:4], 3, k=3).tolist() == [1] * 4


@pytest.mark.parametrize("k", [1, 3, 16, 47, 63])
@pytest.mark.parametrize("samples", [63, 64, 200])
def test_of_many_equal_numbers_the_first_columns_are_taken(samples, k):
    generator = torch.Generator().manual_seed(samples + k)
    numbers = torch.randint(0, 9, (50, samples), generator=generator).float()
    room = torch.full((50, knn.GROUP * (samples // knn.GROUP + 1)), -math.inf)
    room[:, :samples] = numbers
    expected = numbers.argsort(dim=1, descending=True, stable=True)[:, :k].sort(1).values
    assert torch.equal(knn._nearest(room, k).sort(1).values, expected)


def test_the_nearest_of_many_samples_are_found_in_any_group():
    generator = torch.Generator().manual_seed(0)
    room = torch.randn(40, 1600, generator=generator)
    room[:, 7::100] += 5  # all in one group of 100 columns apart
    for k in (1, 20, 300):
        expected = room.topk(k).indices.sort(1).values
        assert torch.equal(knn._nearest(room, k).sort(1).values, expected)


def test_more_neighbours_than_samples_are_all_samples():
    assert torch.equal(
        knn.predict(TRAIN, LABELS, TEST, 4, k=10_000), knn.predict(TRAIN, LABELS, TEST, 4, k=90)
    )


def test_a_tiny_temperature_stays_finite_and_lets_the_nearest_decide():
    nearest = knn.predict(TRAIN, LABELS, TEST, 4, k=1)
    assert torch.equal(knn.predict(TRAIN, LABELS, TEST, 4, k=20, temperature=1e-6), nearest)


@pytest.mark.parametrize("bad", [{"k": 0}, {"temperature": 0.0}, {"temperature": math.nan}, {"chunk": 0}])
def test_a_bad_value_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        knn.predict(TRAIN, LABELS, TEST, 4, **bad)
