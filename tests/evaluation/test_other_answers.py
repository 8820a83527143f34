"""Probes of other schools: distances of Mahalanobis, label propagation, pseudo-labels and what does not belong."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import from_images
from unlabeled.data.audio.data import from_waveforms
from unlabeled.evaluation import evaluate, logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.plan import probes_for
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import PROBES, label_propagation, linear, mahalanobis, pseudo_labels
from unlabeled.evaluation.tasks import outliers

NEW = [mahalanobis, label_propagation, pseudo_labels]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def world(train: Tensor, labels: Tensor, test: Tensor, answers: Tensor) -> tuple[Representation, Labelled]:
    """Vectors with classes; the sounds behind them have no content."""
    parts = [from_waveforms(torch.zeros(len(own), 4), 8000, labels=own) for own in (labels, answers)]
    data = Labelled.of(*parts)
    representation = Representation("unlabeled", lambda batch, layer: torch.empty(0))
    for part, vectors in zip((data.train, data.test), (train, test)):
        representation.cache[id(part), None] = part, vectors
    return representation, data


def heaps(samples: int = 60, dim: int = 5, seed: int = 0, far: float = 2.0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(samples) % 3
    return noise(samples, dim, seed=seed) + far * noise(3, dim, seed=99)[labels], labels


def accuracy(probe: Any, representation: Representation, data: Labelled, rows: list[int]) -> float:
    predicted, _ = probe.probe(representation, data, torch.tensor(rows), None, Settings())
    return float((predicted == data.answers).float().mean())


@pytest.mark.parametrize("probe", NEW)
def test_neither_other_test_samples_nor_labels_that_are_not_given_matter(probe: Any) -> None:
    (train, labels), (test, answers) = heaps(), heaps(30, seed=1)
    rows = torch.tensor([0, 1, 2, 3, 4, 5])
    predicted, detail = probe.probe(*world(train, labels, test, answers), rows, None, Settings())
    others = test.clone()
    others[1:] = 50 * noise(29, 5, seed=2)
    hidden = labels.clone()
    hidden[6:] = (hidden[6:] + 1) % 3
    again, words = probe.probe(*world(train, hidden, others, answers.flip(0)), rows, None, Settings())
    said, still = (re.sub(r", [\d.]+ % of them rightly", "", one) for one in (detail, words))
    assert again[0] == predicted[0] and still == said
    same, _ = probe.probe(*world(train, hidden, test, answers.flip(0)), rows, None, Settings())
    assert torch.equal(same, predicted)


@pytest.mark.parametrize("probe", NEW)
def test_what_is_computed_once_does_not_depend_on_the_draw(probe: Any) -> None:
    (train, labels), (test, answers) = heaps(), heaps(30, seed=1)
    both = world(train, labels, test, answers)
    probe.probe(*both, torch.arange(9), None, Settings())
    again, detail = probe.probe(*both, torch.arange(20, 50), None, Settings())
    fresh, words = probe.probe(*world(train, labels, test, answers), torch.arange(20, 50), None, Settings())
    assert torch.equal(again, fresh) and detail == words


def test_distances_are_those_of_the_covariance_shrunk_by_the_formula_of_ledoit_and_wolf() -> None:
    points, labels = heaps(40, 4)
    points, labels = points.double() * torch.tensor([1.0, 3.0, 0.2, 1.0]), labels * 2
    found = mahalanobis.fit(points, labels)
    assert found.classes.tolist() == [0, 2, 4]
    means = torch.stack([points[labels == label].mean(0) for label in (0, 2, 4)])
    residuals = torch.cat([points[labels == label] - points[labels == label].mean(0) for label in (0, 2, 4)])
    covariance, identity = residuals.T @ residuals / 40, torch.eye(4).double()
    level = covariance.trace() / 4
    spread = (covariance - level * identity).square().sum() / 4
    error = (
        sum((torch.outer(row, row) - covariance).square().sum() / 4 for row in residuals).item() / 40**2  # type: ignore[union-attr]
    )
    weight = min(error, float(spread)) / float(spread)
    shrunk = (1 - weight) * covariance + weight * level * identity
    assert found.shrinkage == pytest.approx(weight)
    differences = points[:, None] - means
    expected = (differences @ torch.linalg.inv(shrunk) * differences).sum(2)
    torch.testing.assert_close(found.squares(points), expected)
    turn = torch.linalg.qr(noise(4, 4, seed=7).double()).Q
    torch.testing.assert_close(mahalanobis.fit(points @ turn, labels).squares(points @ turn), expected)


def test_one_label_per_class_means_euclidean_distances_and_more_tell_the_axis_that_matters() -> None:
    labels = torch.arange(200) % 2
    train, test = (noise(200, 2, seed=s) * torch.tensor([1.0, 0.1]) for s in (1, 2))
    for part in (train, test):
        part[:, 1] += 0.6 * (labels - 0.5)
    train[:2] = torch.tensor([[-1.0, -0.3], [1.0, 0.3]])
    assert torch.equal(mahalanobis.fit(train[:2], labels[:2]).whitening, torch.eye(2).double())
    both = world(train, labels, test, labels)
    assert accuracy(mahalanobis, *both, [0, 1]) < 0.95 < accuracy(mahalanobis, *both, list(range(40)))


def test_labels_spread_as_the_closed_form_says() -> None:
    vectors = noise(12, 3)
    edges = label_propagation.graph(label_propagation.nearest(vectors, vectors, 3, same=True))
    weights = edges.toarray()
    unit = torch.nn.functional.normalize(vectors, dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-2)
    near = torch.zeros(12, 12).scatter_(1, cosine.topk(3).indices, 1.0)
    expected = torch.maximum(near, near.T) * cosine.clamp_min(1e-3) ** 3
    assert np.allclose(weights, expected.numpy(), atol=1e-6) and np.allclose(weights, weights.T)
    labels = torch.full((12,), -1)
    labels[:3] = torch.tensor([0, 2, 2])
    scale = weights.sum(1) ** -0.5
    smooth = scale[:, None] * weights * scale
    given = np.zeros((12, 4))
    given[[0, 1, 2], [0, 2, 2]] = 1
    beliefs = np.linalg.solve(np.eye(12) - label_propagation.ALPHA * smooth, given)
    beliefs /= beliefs.sum(1, keepdims=True)
    assert np.allclose(label_propagation.spread(edges, labels, 4).numpy(), beliefs, atol=1e-4)


def arcs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two arcs side by side on a sphere, each a class."""
    labels = torch.arange(samples) % 2
    angle = math.pi * torch.linspace(0.1, 0.9, samples)
    height = 0.4 * (labels - 0.5) + 0.01 * noise(samples, seed=seed)
    return torch.stack([angle.cos(), angle.sin(), height], 1), labels


def test_labels_follow_an_arc_where_the_nearest_label_is_on_the_other_one() -> None:
    (train, labels), (test, answers) = arcs(300, 1), arcs(101, 2)
    train = torch.cat([train, -train])  # so that the centre is that of the sphere
    labels = torch.cat([labels, labels + 2])
    both = world(train, labels, test, answers)
    rows = torch.tensor([0, 299, 300, 599])  # the ends of two arcs, and of those on the other side
    assert accuracy(label_propagation, *both, rows.tolist()) > 0.95
    assert accuracy(mahalanobis, *both, rows.tolist()) < 0.7


def test_where_no_label_comes_the_nearest_one_decides() -> None:
    labels = torch.arange(90) // 30
    train = 0.01 * noise(90, 3) + torch.eye(3)[labels]
    test, answers = torch.eye(3) + 0.01 * noise(3, 3, seed=4), torch.arange(3)
    representation, data = world(train, labels, test, answers)
    rows = torch.tensor([0, 1, 30])
    predicted, detail = label_propagation.probe(representation, data, rows, None, Settings())
    assert predicted[:2].tolist() == [0, 1] and predicted[2] in (0, 1)
    assert "60 of 90 training samples reached" in detail


def test_few_samples_are_no_complete_graph_and_labelled_ones_keep_their_labels() -> None:
    train = torch.eye(4)[[0, 1, 2, 3, 0]] + 0.1 * noise(5, 4)
    labels, answers = torch.tensor([0, 1, 2, 3, 0]), torch.arange(4).repeat(5)
    test = torch.eye(4)[answers] + 0.1 * noise(20, 4, seed=1)
    both = world(train, labels, test, answers)
    assert accuracy(label_propagation, *both, [0, 1, 2, 3]) == 1
    assert accuracy(label_propagation, *both, [0, 1, 2, 3, 4]) == 1
    (train, labels), (test, answers) = heaps(200, far=0.5), heaps(40, seed=1, far=0.5)
    both = world(train, labels, test, answers)
    predicted, _ = label_propagation.probe(*both, torch.arange(200), None, Settings())
    index, weights = label_propagation.nearest(test - train.mean(0), train - train.mean(0), 10)
    votes = torch.zeros(40, 3).scatter_add_(1, labels[index], weights)  # with all labels: those of neighbours
    assert torch.equal(predicted, votes.argmax(1))


def test_only_confident_predictions_become_labels_and_true_ones_stay() -> None:
    logits = torch.tensor([[0.0, 5.0], [0.0, 1.0], [9.0, 0.0], [math.log(19.01), 0.0]])
    labels = torch.tensor([0, -1, -1, -1])
    assert pseudo_labels.confident(logits, labels).tolist() == [0, -1, 0, 0]


def test_pseudo_labels_are_the_linear_probe_fitted_to_its_own_predictions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (train, labels), (test, answers) = heaps(far=1.0), heaps(40, seed=1, far=1.0)
    both, rows = world(train, labels, test, answers), torch.arange(6)
    expected, _ = linear.probe(*both, rows, None, Settings())
    first = linear.fit(*both, rows, None, 0)
    monkeypatch.setattr(pseudo_labels, "CONFIDENCE", 1.1)
    predicted, detail = pseudo_labels.probe(*both, rows, None, Settings())
    assert torch.equal(predicted, expected) and detail.startswith(
        "0 of 54 unlabelled samples labelled in 0 rounds, penalty"
    )
    monkeypatch.setattr(pseudo_labels, "CONFIDENCE", 0.0)
    monkeypatch.setattr(pseudo_labels, "ROUNDS", 1)
    own = first(train).argmax(1)
    own[:6] = labels[:6]
    statistics = both[0].statistics(both[1].train)
    again = logistic.fit(train, own, 3, penalty=first.penalty, statistics=statistics)
    predicted, detail = pseudo_labels.probe(*both, rows, None, Settings())
    assert torch.equal(predicted, again(test).argmax(1))
    right = float((labels == own)[6:].float().mean())
    assert detail.startswith(
        f"54 of 54 unlabelled samples labelled in 1 round, {100 * right:.1f} % of them rightly"
    )


def test_a_word_stands_for_the_probes_that_learn_from_unlabelled_samples() -> None:
    assert probes_for(["semi_supervised", "knn", "knn"]) == ["label_propagation", "pseudo_labels", "knn"]
    assert not PROBES.load("mahalanobis").semi_supervised
    with pytest.raises(ValueError, match=r"probe must be one of .*semi_supervised, got guessing"):
        probes_for(["guessing"])


def test_auroc_counts_pairs_and_ties_half() -> None:
    scores, outlier = (
        torch.randint(5, (40,), generator=torch.Generator().manual_seed(0)).float(),
        noise(40) > 0,
    )
    pairs = [float(a > b) + 0.5 * float(a == b) for a in scores[outlier] for b in scores[~outlier]]
    assert outliers.auroc(scores, outlier) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(outliers.auroc(scores, outlier | True)) and math.isnan(
        outliers.auroc(scores, outlier & False)
    )


def test_every_class_is_held_out_once() -> None:
    for classes in (2, 10, 37):
        parts = outliers.parts_of(classes, 3)
        assert len(parts) == min(10, classes)
        assert torch.cat(parts).sort().values.tolist() == list(range(classes))


def test_distances_see_no_sample_of_a_class_that_is_held_out() -> None:
    train, labels = heaps()
    test, _ = heaps(9, seed=1)
    found = outliers.distances(train, labels, test, torch.tensor([1]))
    changed = train.where(labels[:, None] != 1, 7.0)
    assert torch.equal(outliers.distances(changed, labels, test, torch.tensor([1])), found)
    rest = labels != 1
    expected = mahalanobis.fit(train[rest], labels[rest]).squares(test).min(1).values
    assert torch.equal(found, expected)
    assert not torch.allclose(outliers.distances(changed, labels, test, torch.tensor([0])), found)


def test_the_diagonal_is_left_out_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = noise(11, 3)
    whole = label_propagation.nearest(vectors, vectors, 4, same=True)
    monkeypatch.setattr(label_propagation, "CHUNK", 4)
    chunks = label_propagation.nearest(vectors, vectors, 4, same=True)
    assert torch.equal(whole[0], chunks[0]) and not (whole[0] == torch.arange(11)[:, None]).any()


def rows_of_pixels(seed: int, samples: int = 60, strength: int = 120) -> Any:
    """Images with a bright row, whose height is the class."""
    images = torch.randint(90, (samples, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(samples) % 3
    images[torch.arange(samples), 0, 1 + 2 * labels] += strength
    return from_images(images.to(torch.uint8), labels, name="rows", classes=["low", "middle", "high"])


def test_outliers_are_told_from_the_input_and_at_chance_where_classes_are_the_same(
    small_networks: None,
) -> None:
    torch.manual_seed(0)
    encoder = encoders.build("conv4", in_channels=1, image_size=8).eval()
    scores = evaluate(encoder, (rows_of_pixels(0), rows_of_pixels(1)), probe="outliers", device="cpu")
    records = {record["features"]: record for record in scores}
    assert [*records] == ["raw", "random", "unlabeled"] and records["raw"]["value"] > 0.95
    for record in records.values():
        assert record["unit"] == "AUROC" and record["low"] <= record["value"] <= record["high"] <= 1
        assert {*record["by_class"]} == {"low", "middle", "high"}
        assert sum(record["by_class"].values()) / 3 == pytest.approx(record["value"])
    assert "outliers: " in scores.verdict()
    parts = rows_of_pixels(0, strength=0), rows_of_pixels(1, strength=0)
    chance = evaluate(encoder, parts, probe="outliers", device="cpu").records[0]
    assert chance["low"] < 0.5 < chance["high"]
