"""Retrieval: ranks by hand, scikit-learn's nDCG, and a chance that random orders meet."""

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score

from unlabeled.data.audio_visual import Pairs, from_pairs
from unlabeled.encoders.audio_visual import fitted
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks import retrieval
from unlabeled.evaluation.tasks.retrieval import TASK, hits, ndcg, ranking
from unlabeled.worlds.chiming_shapes import make


def pairs(count: int = 40) -> Pairs:
    made = make(count, 0, image_size=16)
    return from_pairs(made["image"], made["waveform"], sample_rate=8000, labels=made["labels"])


def test_ranking_by_hand():
    similarity = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.3, 0.1]])
    assert ranking(similarity, False).tolist() == [[1, 2, 0], [1, 0, 2]]
    square = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1], [0.0, 0.2, 0.1]])
    assert ranking(square, True).tolist() == [[2, 1], [0, 2], [1, 0]]


def test_a_network_that_gives_the_same_for_all_finds_by_chance():
    own = torch.arange(200)[:, None]
    found = [hits(ranking(torch.zeros(200, 200), False, seed) == own, 10).mean().item() for seed in range(20)]
    assert np.mean(found) == pytest.approx(10 / 200, abs=1e-6)


def test_hits_and_ndcg_by_hand():
    relevant = torch.tensor([[False, True, False, True], [True, False, False, False]])
    assert hits(relevant, 1).tolist() == [0, 1] and hits(relevant, 2).tolist() == [1, 1]
    expected = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    torch.testing.assert_close(ndcg(relevant), torch.tensor([expected, 1.0], dtype=torch.float32))
    first = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    assert ndcg(relevant, 2)[0].item() == pytest.approx(first)
    assert ndcg(torch.zeros(1, 4)).isnan().all()


@pytest.mark.parametrize("k", [3, 30])
def test_ndcg_is_that_of_scikit_learn(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 50, generator=generator, dtype=torch.float64)
    for relevance in (
        torch.randint(2, (20, 50), generator=generator),
        torch.randint(4, (20, 50), generator=generator),
    ):
        ours = ndcg(relevance.gather(1, ranking(scores, False)), k)
        theirs = [
            ndcg_score(truth[None].numpy(), score[None].numpy(), k=k)
            for truth, score in zip(relevance, scores)
        ]
        assert ours.numpy() == pytest.approx(np.array(theirs), abs=1e-6)


def test_chance_is_what_random_orders_give_on_average():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 5 + [1] * 20 + [2] * 15 + [3] + [-1] * 2)
    for same_kind in (False, True):
        expected = retrieval._by_chance(len(labels), same_kind, labels)
        drawn: dict[str, list[float]] = {unit: [] for unit in expected}
        for _ in range(60):
            queries = torch.randn(len(labels), 8, generator=generator)
            others = torch.randn(len(labels), 8, generator=generator)
            values = retrieval._values(queries, others, same_kind, labels, 0)
            for unit, value in values.items():
                assert value.shape == expected[unit].shape
                drawn[unit].append(value.mean().item())
        for unit, value in expected.items():
            assert np.mean(drawn[unit]) == pytest.approx(value.mean().item(), abs=0.02), unit


def test_one_space_for_both_finds_everything_and_shuffled_sounds_nothing():
    labels = torch.arange(40) % 4
    directions = torch.nn.functional.normalize(torch.randn(40, 16) * 0.1 + torch.eye(16)[labels], dim=1)
    perfect = retrieval._values(directions, directions, False, labels, 0)
    assert perfect["recall@1"].mean() == 1 and perfect["nDCG@30"].mean() > 0.9
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = retrieval._values(directions, directions[order], False, labels, 0)
    chance = retrieval._by_chance(40, False, labels)
    assert shuffled["nDCG@30"].mean().item() == pytest.approx(chance["nDCG@30"].mean().item(), abs=0.12)


def test_measured_are_four_directions_with_chance_and_a_random_twin():
    data = pairs()
    encoder = fitted("av-conv4", data, image_size=16).eval()
    measured = TASK(EvaluatedModel(encoder), data)
    columns = {(m.layer, m.unit) for m in measured}
    assert {layer for layer, _ in columns} == {"im-aud", "aud-im", "im-im", "aud-aud"}
    assert {unit for _, unit in columns} == {"recall@1", "recall@5", "recall@10", "nDCG@30"}
    for layer, unit in columns:
        rows = {m.features: m.values for m in measured if (m.layer, m.unit) == (layer, unit)}
        assert rows.keys() == {"unlabeled", "random", "chance"}
        assert len({values.shape for values in rows.values()}) == 1
        assert all(values.min() >= 0 and values.max() <= 1 for values in rows.values())
    again = TASK(EvaluatedModel(encoder), data)
    assert all(torch.equal(a.values, b.values) for a, b in zip(measured, again))


def test_without_classes_only_partners_are_looked_for():
    data = pairs(12)
    data.labels = None
    measured = TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)
    assert {(m.layer, m.unit) for m in measured} == {
        (layer, f"recall@{k}") for layer in ("im-aud", "aud-im") for k in (1, 5, 10)
    }


@pytest.mark.parametrize("label", [-1, None])
def test_without_two_of_a_class_nothing_is_asked_of_classes(label):
    data = pairs(12)
    data.labels = torch.arange(12) if label is None else torch.full((12,), label)
    measured = TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)
    assert {m.layer for m in measured} == {"im-aud", "aud-im"}
    assert all(m.values.isfinite().all() and "recall" in m.unit for m in measured)


def test_groups_are_those_of_the_queries():
    data = pairs(12)
    data.labels = torch.tensor([0, 0, 0, -1, 1, 1, 1, 1, 2, -1, 0, 1])  # two unknown, one alone
    data.groups = torch.arange(12) // 2
    measured = TASK(EvaluatedModel(fitted("av-conv4", data, image_size=16).eval()), data)
    known = data.groups[torch.tensor([0, 1, 2, 4, 5, 6, 7, 10, 11])]
    for one in measured:
        asked_all = one.layer in ("im-aud", "aud-im") and "recall" in one.unit
        assert one.groups is not None and one.groups.shape == one.values.shape[1:]
        assert torch.equal(one.groups, data.groups if asked_all else known)
