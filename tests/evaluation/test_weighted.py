"""The probe on a weighted sum of layers: which layers get the weight, and what it is equal to."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import Data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.evaluation import evaluate, logistic
from unlabeled.evaluation.features import Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import linear, weighted

CLASSES, DIM = 3, 6


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labelled(samples: int = 120) -> Labelled:
    """Sounds without content: what matters of them is their number and their class."""
    train, test = (
        from_waveforms(torch.zeros(samples, 4), 8000, labels=torch.arange(samples) % CLASSES, name=name)
        for name in ("train", "test")
    )
    return Labelled.of(train, test)


def carrying(strength: float, seed: int, samples: int = 120, first: int = 0) -> tuple[Tensor, Tensor]:
    """Noise of training and test samples in which the class moves the mean, from a number of the vector on."""
    labels = torch.arange(samples) % CLASSES
    means = torch.zeros(CLASSES, DIM)
    means[range(CLASSES), range(first, first + CLASSES)] = strength
    return tuple(noise(samples, DIM, seed=seed + part) + means[labels] for part in (0, 1000))  # type: ignore[return-value]


def of_layers(data: Labelled, **layers: tuple[Tensor, Tensor]) -> Representation:
    """A network whose layers give vectors as they are listed."""
    parts = {data.train.name: 0, data.test.name: 1}
    network = SimpleNamespace(map_dims={name: pair[0].shape[1] for name, pair in layers.items()})
    representation = Representation("unlabeled", lambda batch, layer: torch.empty(0), network)  # type: ignore[arg-type]
    for part in (data.train, data.test):
        for name, pair in layers.items():
            representation.cache[id(part), name] = part, pair[parts[part.name]]
    return representation


def weights_of(detail: str) -> dict[str, float]:
    words = detail.partition(";")[0].partition(" (")[0].split(", ")
    return {name: float(weight) for name, weight in (word.split(" ") for word in words)}


def test_the_layer_that_carries_the_class_gets_the_weight_wherever_it_is() -> None:
    data, rows = labelled(), torch.arange(120)
    layers = {f"layer{n}": carrying(3.0 if n == 3 else 0.0, seed=n) for n in range(1, 5)}
    predicted, detail = weighted.probe(of_layers(data, **layers), data, rows, None, Settings())
    weights = weights_of(detail)
    assert weights["layer3"] > 0.9 and abs(sum(weights.values()) - 1) < 0.03
    best, _ = linear.probe(of_layers(data, layer3=layers["layer3"]), data, rows, "layer3", Settings())
    assert (predicted == data.answers).float().mean() > (best == data.answers).float().mean() - 0.03
    turned = dict(sorted(layers.items(), reverse=True))
    again = weights_of(weighted.probe(of_layers(data, **turned), data, rows, None, Settings())[1])
    assert again == pytest.approx(weights, abs=0.011)


def test_layers_that_tell_different_classes_apart_share_the_weight() -> None:
    data, rows, third = labelled(), torch.arange(120), torch.arange(120) % CLASSES == 2
    # One layer tells the third class from the others, the other the first two from each other.
    first, second = torch.zeros(2, 2, 120, DIM)
    first[:, :, 0] = 2.0 * third + 0.4 * noise(2, 120, seed=1)
    second[:, :, 1] = ~third * (2.0 * (torch.arange(120) % CLASSES) - 1) + 0.4 * noise(2, 120, seed=2)
    layers = of_layers(data, first=tuple(first), second=tuple(second), idle=carrying(0.0, seed=3))  # type: ignore[arg-type]
    predicted, detail = weighted.probe(layers, data, rows, None, Settings())
    weights = weights_of(detail)
    assert min(weights["first"], weights["second"]) > 0.3 > 0.1 > weights["idle"]
    for name in ("first", "second"):
        alone, _ = linear.probe(layers, data, rows, name, Settings())
        assert (predicted == data.answers).float().mean() > (alone == data.answers).float().mean() + 0.1


def test_one_layer_is_the_linear_probe_and_equal_layers_are_one() -> None:
    data, rows = labelled(), torch.arange(0, 120, 2)
    layer = carrying(1.0, seed=5)
    expected, words = linear.probe(of_layers(data, one=layer), data, rows, "one", Settings(seed=3))
    for layers, weights in (({"one": layer}, "one 1.00"), ({"a": layer, "b": layer}, "a 0.50, b 0.50")):
        predicted, detail = weighted.probe(of_layers(data, **layers), data, rows, None, Settings(seed=3))
        assert torch.equal(predicted, expected) and detail == f"{weights}; {words}"


def test_the_weights_are_those_of_the_lowest_loss_on_a_grid() -> None:
    labels = torch.arange(90) % CLASSES
    layers = torch.stack(
        [carrying(strength, seed, 90, first)[0] for strength, seed, first in ((1.5, 1, 0), (1.0, 2, 3))]
    )
    layers = (layers - layers.mean(1, keepdim=True)) / layers.std(1, keepdim=True, correction=0)
    statistics = torch.zeros(DIM), torch.ones(DIM)

    def lowest(first: float) -> float:
        """Penalised loss of the best classifier at these weights."""
        sums = first * layers[0] + (1 - first) * layers[1]
        best = logistic.fit(sums, labels, CLASSES, penalty=0.01, statistics=statistics)
        return float(
            torch.nn.functional.cross_entropy(best(sums), labels) + 0.005 * best.weight.square().sum()
        )

    weights = weighted.layer_weights(layers, labels, CLASSES, penalty=0.01)
    assert lowest(float(weights[0])) < min(lowest(number / 20) for number in range(21)) + 1e-4
    assert lowest(float(weights[0])) < lowest(0.5) - 1e-3, "equal weights are another point"
    assert torch.equal(weights, weighted.layer_weights(layers, labels, CLASSES, penalty=0.01))


def test_layers_without_the_class_stay_at_chance() -> None:
    data, rows = labelled(300), torch.arange(300)
    layers = {f"layer{n}": carrying(0.0, seed=10 * n, samples=300) for n in range(1, 7)}
    predicted, _ = weighted.probe(of_layers(data, **layers), data, rows, None, Settings())
    assert abs(float((predicted == data.answers).float().mean()) - 1 / 3) < 3 * (2 / 9 / 300) ** 0.5


def test_layers_of_other_widths_are_left_out_and_named() -> None:
    data, rows = labelled(), torch.arange(120)
    wide = tuple(part.repeat(1, 2) for part in carrying(3.0, seed=1))
    layers = of_layers(data, mel=wide, one=carrying(1.0, seed=2), two=carrying(0.0, seed=3))  # type: ignore[arg-type]
    _, detail = weighted.probe(layers, data, rows, None, Settings())
    assert "(without mel, of other widths)" in detail and [*weights_of(detail)] == ["one", "two"]
    assert weights_of(detail)["one"] > 0.8


def test_scores_name_the_weights_of_ours_and_of_the_random_network() -> None:
    labels = torch.arange(40) % 2
    pitch = torch.where(labels == 0, 300.0, 900.0)[:, None]
    waves = 0.3 * torch.sin(2 * torch.pi * pitch * torch.arange(1600) / 8000 + noise(40, 1, seed=1))
    sounds: Data = from_waveforms(waves + 0.01 * noise(40, 1600, seed=2), 8000, labels=labels)
    torch.manual_seed(0)
    encoder = encoders.build("gru2-16", kind="audio", sample_rate=8000)
    lines: list[str] = []
    beside = ("raw", "random")
    scores = evaluate(encoder, sounds, probe="weighted", controls=beside, device="cpu", progress=lines.append)
    assert any(line.startswith("weighted of unlabeled: gru1 ") for line in lines)
    details = {record["features"]: record["detail"] for record in scores}
    for name in ("unlabeled", "random"):
        assert (
            abs(sum(weights_of(details[name].removeprefix("norm statistics from data; ")).values()) - 1)
            < 0.02
        )
        assert "gru1" in details[name] and "(without mel" in details[name]
    assert "gru1" not in details["raw"]
    assert all(record["value"] > 0.9 for record in scores)
