"""The nonlinear probe: what is frozen, what is learned anew, and what it is measured beside."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlabeled import encoders
from unlabeled.data import Data, from_images
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import linear, nonlinear
from unlabeled.evaluation.probes.nonlinear import Above, below, layers


def rows(samples: int, seed: int) -> Data:
    """Images with a bright row, whose height is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 90, (samples, 1, 8, 8), generator=generator)
    labels = torch.arange(samples) % 3
    images[torch.arange(samples), 0, 1 + 2 * labels] += 60
    return from_images(images.to(torch.uint8), labels, name="rows", classes=["low", "middle", "high"])


TRAIN, TEST = rows(60, 0), rows(45, 1)
pytestmark = pytest.mark.usefixtures("small_networks")


def network(name: str = "conv4", seed: int = 0) -> encoders.Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return encoders.build(name, in_channels=1, image_size=8).eval().requires_grad_(False)


def predictions(encoder: encoders.Encoder, layer: str, steps: int = 6) -> Tensor:
    data = Labelled.of(TRAIN, TEST)
    representation = Representation("unlabeled", of_encoder(encoder), encoder)
    settings = Settings(seed=1, steps=steps)
    return nonlinear.probe(representation, data, torch.arange(60), layer, settings)[0]


def disturbed(encoder: encoders.Encoder, stages: tuple[str, ...]) -> encoders.Encoder:
    """The same with other weights and statistics in some stages."""
    other = copy.deepcopy(encoder)
    for name, value in other.state_dict().items():
        if name.split(".")[1] in stages and value.is_floating_point():
            value.copy_(value + 0.5 * torch.rand(value.shape))
    return other


def test_weights_above_the_map_do_not_matter_and_those_below_do() -> None:
    encoder = network()
    expected = predictions(encoder, "s2")
    torch.rand(3)
    assert torch.equal(predictions(disturbed(encoder, ("s3", "s4")), "s2"), expected)
    for stage in ("s1", "s2"):
        assert not torch.equal(predictions(disturbed(encoder, (stage,)), "s2"), expected)
    # The same change matters where it is below.
    assert not torch.equal(predictions(disturbed(encoder, ("s3",)), "s3"), predictions(encoder, "s3"))


@pytest.mark.parametrize(
    ("name", "layer", "parts"),
    [
        ("conv4", "s3", ("s1", "s2", "s3")),
        ("conv4", "s4", ("s1", "s2", "s3", "s4")),
        ("resnet10", "layer2", ("conv1", "bn1", "layer1", "layer2")),
    ],
)
def test_below_a_map_are_the_parameters_it_is_computed_from(name: str, layer: str, parts: tuple) -> None:
    encoder = network(name)
    names, modules = below(encoder, layer, encoder.inputs(TEST.batch(torch.arange(2))))

    def lower(key: str) -> bool:
        return key.removeprefix("trunk.").removeprefix("model.").partition(".")[0] in parts

    assert names == {key for key, _ in encoder.named_parameters() if lower(key)}
    norms = {key for key, part in encoder.named_modules() if isinstance(part, nn.BatchNorm2d)}
    assert norms & modules == {key for key in norms if lower(key)}


def test_the_frozen_part_keeps_every_bit_and_its_mode_while_the_rest_is_trained() -> None:
    encoder = network()
    before = copy.deepcopy(encoder.state_dict())
    x = encoder.inputs(TRAIN.batch(torch.arange(40)))
    above = Above(encoder, "s2", x[:2], seed=9).train()
    start = {key: value.clone() for key, value in above.network.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in above.parameters() if weight.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        above(x).square().mean().backward()
        optimizer.step()
    after: dict[str, Any] = above.network.state_dict()
    for key, value in after.items():
        lower = "adapt" in key or key.split(".")[1] in ("s1", "s2")
        assert torch.equal(value, start[key]) == lower, key
        assert not lower or torch.equal(value, before[key]), key
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    weights = [key for key in start if key.endswith("weight") and key.split(".")[1] in ("s3", "s4")]
    assert any(not torch.equal(start[key], before[key]) for key in weights)


def test_dropout_is_off_only_below_the_map() -> None:
    class Dropping(encoders.Encoder):
        kind = "image"

        def __init__(self) -> None:
            super().__init__({"name": "dropping", "image_size": 8}, 4, {"first": 6, "second": 4})
            self.first = nn.Sequential(nn.Linear(64, 6), nn.Dropout(0.5))
            self.second = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))

        def inputs(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["image"].flatten(1) / 255

        def features(self, x: Tensor, layer: str | None = None) -> Tensor:
            first = self.first(x)
            return first if layer == "first" else self.second(first)

        forward = features

    encoder = Dropping().eval()
    names, modules = below(encoder, "first", encoder.inputs(TEST.batch(torch.arange(2))))
    assert names == {"first.0.weight", "first.0.bias"}
    assert modules == {"first.0"}  # what comes after the last weights below the map is not run before them
    assert "first.1" in below(encoder, "second", encoder.inputs(TEST.batch(torch.arange(2))))[1]


def test_two_hidden_layers_learn_what_no_linear_classifier_can() -> None:
    torch.manual_seed(0)
    points = torch.randn(400, 2)
    labels = (points.prod(1) > 0).long()
    images = from_images(torch.zeros(400, 1, 8, 8, dtype=torch.uint8), labels)
    read = {id(images): points}
    data = Labelled.of(images, images)
    one = Representation("raw", lambda batch, layer: torch.zeros(1), whole=lambda part: read[id(images)])
    every = torch.arange(400)
    curved, words = nonlinear.probe(one, data, every, None, Settings(steps=150))
    straight, _ = linear.probe(one, data, every, None, Settings())
    assert (curved == labels).float().mean() > 0.95 > 0.7 > (straight == labels).float().mean()
    assert words == "no map, 150 steps, rate 0.001"


def test_columns_are_the_last_two_maps_or_the_one_that_is_named() -> None:
    assert layers(network()) == ["s3", "s4"]
    scores = evaluate(
        network(), (TRAIN, TEST), probe="nonlinear", features="s2:2x2:whiten", steps=3, controls="random"
    )
    assert [(r["layer"], r["features"]) for r in scores] == [("s2", "random"), ("s2", "unlabeled")]
    without = encoders.fitted("words-50", _texts(), kind="words")
    without.map_dims = {}
    with pytest.raises(ValueError, match="probe must not be nonlinear for words-50, which has no named maps"):
        layers(without)


def _texts() -> Data:
    from unlabeled.data.text.data import Texts

    return Texts(["red green tree", "sun moon tree", "red moon"] * 8)


def test_every_column_has_the_same_training_on_random_weights_and_on_the_input_as_controls() -> None:
    scores = evaluate(
        network(),
        (TRAIN, TEST),
        probe="nonlinear",
        labels_per_class=[2, "50%"],
        draws=2,
        steps=3,
        controls=("raw", "random", "rescaled", "kmeans"),
    )
    found = {(r["layer"], r["labels_per_class"], r["features"]) for r in scores}
    names = ("raw", "random", "rescaled", "kmeans", "unlabeled")
    assert found == {(m, n, f) for m in ("s3", "s4") for n in (2, "50%") for f in names}
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 and r["draws"] == 2 for r in scores)
    assert {r["detail"] for r in scores if r["features"] == "unlabeled"} == {
        f"frozen up to {layer}, 3 steps, rate 0.001" for layer in ("s3", "s4")
    }
    assert "nonlinear s3: unlabeled" in scores.verdict() and "nonlinear s4: unlabeled" in scores.verdict()


def test_the_grid_and_scaling_of_features_are_not_read_and_not_said() -> None:
    lines: list[str] = []
    options = {"labels_per_class": 2, "draws": 1, "steps": 1, "controls": (), "progress": lines.append}
    scores = evaluate(network(), (TRAIN, TEST), probe="nonlinear", features="s1:2x2:whiten", **options)
    assert "the features are s1" in lines and "2x2" not in scores.verdict() + "".join(lines)
    evaluate(network(), (TRAIN, TEST), probe=("nonlinear", "knn"), features="s1:2x2:whiten", **options)
    assert any(line.startswith("the features are s1:2x2:whiten") for line in lines)


def test_a_classifier_learns_from_informative_maps() -> None:
    scores = evaluate(
        network(), (rows(240, 2), TEST), probe="nonlinear", features="s1", steps=60, controls=()
    )
    assert scores.best["value"] > 0.9
