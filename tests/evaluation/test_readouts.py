"""Named and chosen features: controls get the same, and nothing but the labels at hand chooses."""

import copy
from functools import partial
from typing import Any

import pytest
import torch

from unlabeled import encoders
from unlabeled.data import open_splits
from unlabeled.data.image.data import from_images
from unlabeled.encoders import Readout, fit_readout, image, stages
from unlabeled.encoders.readout import Spec
from unlabeled.evaluation import evaluate, readout
from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import knn
from unlabeled.evaluation.readouts import Chooser, candidates, named
from unlabeled.method import Method
from unlabeled.methods.simclr import SimCLR
from unlabeled.parts import view_contrast
from unlabeled.reporting.tables import arrange

pytestmark = pytest.mark.usefixtures("small_networks")
torch.manual_seed(0)
TRAIN, TEST = (part.subset(torch.arange(240)) for part in open_splits("digits"))
with pytest.MonkeyPatch.context() as patch:
    patch.setitem(image.NAMES, "conv4", partial(stages.conv4, share=4))
    ENCODER: Any = encoders.fitted("conv4", TRAIN).eval()


def values(scores, features: str, probe: str = "knn") -> list[float]:
    return [
        record["value"] for record in scores if (record["features"], record["probe"]) == (features, probe)
    ]


def test_named_features_are_those_of_the_readout_and_the_scores_say_so():
    lines: list[str] = []
    columns = ("raw", "random", "rescaled")
    named = evaluate(ENCODER, (TRAIN, TEST), features="s3:2x2:views", controls=columns, progress=lines.append)
    fitted = fit_readout(ENCODER, Spec.parse("s3:2x2:views"), TRAIN)
    plain = evaluate(fitted, (TRAIN, TEST), controls=columns)
    for features in ("unlabeled", *columns):
        for probe in ("knn", "linear"):
            assert values(named, features, probe) == values(plain, features, probe)
    assert named.about["options"]["features"] == "s3:2x2:views"
    scaled = (
        "the features are s3:2x2:views, scaled by the 240 training images without their labels; views are "
    )
    assert any(line.startswith(scaled) for line in lines)
    assert "the features are s3:2x2:views" in named.verdict()


def test_the_features_of_twins_are_scaled_by_themselves_and_the_raw_input_stays_as_it_is():
    fitted = fit_readout(ENCODER, Spec.parse("s3:whiten:16"), TRAIN)
    for name in ("random", "rescaled"):
        one = CONTROLS.load(name).make(fitted, TRAIN, 0)
        features = one.features(TRAIN)
        assert features.shape[1] == 16 and features.mean(0).abs().max() < 1e-3 and one.one_unit
        covariance = features.T @ features / len(features)
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-3, name
    raw = CONTROLS.load("raw").make(fitted, TRAIN, 0).features(TRAIN)
    assert torch.equal(raw, CONTROLS.load("raw").make(ENCODER, TRAIN, 0).features(TRAIN))


class Planted(encoders.Encoder):
    """Layers of noise and of the class, which the pixels hold."""

    kind = "text"

    def __init__(self, good: str):
        super().__init__({"name": "planted"}, 4, {"early": 4, "middle": 4})
        self.good = good
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def inputs(self, batch):
        return batch["image"].float().flatten(1)

    def forward(self, x):
        return self.features(x, None)

    def features(self, x, layer=None):
        return x[:, :4] if layer == self.good else x[:, 4:8]


def noisy(samples: int = 120) -> Any:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 3, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(samples) % 2
    images.view(samples, 9)[:, :4] = (100 * labels + 50)[:, None] + images.view(samples, 9)[:, :4] // 16
    return from_images(images, labels)


@pytest.mark.parametrize("by", ["votes", "loss"])
def test_the_layer_that_holds_the_class_is_chosen_by_the_labels_at_hand_alone(by):
    data = noisy()
    rows = torch.arange(40)
    encoder = Planted("early").eval()
    representation = Representation("unlabeled", of_encoder(encoder), encoder)
    chosen = Chooser(representation, data, data.labels, 2, [rows], Settings())
    picked, words = chosen.pick(rows, by)
    assert words.startswith("features early") and picked.encoder is not None
    labels = data.labels.clone()
    labels[40:] = 1 - labels[40:]  # nothing else may be looked at
    assert Chooser(representation, data, labels, 2, [rows], Settings()).pick(rows, by)[1] == words
    single = Chooser(representation, data, data.labels, 2, [rows[:2]], Settings())
    assert "with one label per class nothing can be held out to choose by" in single.pick(rows[:2], by)[1]


def test_test_labels_choose_nothing():
    swapped = copy.copy(TEST)
    swapped.labels = TEST.labels[torch.randperm(len(TEST), generator=torch.Generator().manual_seed(1))]
    details = [
        [record["detail"] for record in evaluate(ENCODER, (TRAIN, test), features="choose", controls="raw")]
        for test in (TEST, swapped)
    ]
    assert details[0] == details[1] and all("; features " in detail for detail in details[0])


def test_held_out_errors_are_those_of_a_loop_over_folds():
    points, labels = torch.randn(60, 3), torch.arange(60) % 3
    points[labels == 0] += 1
    fold, count = knn.logistic.group_folds(labels, None, 0)
    wrong = 0
    for row in range(60):
        rest = fold != fold[row]
        wrong += int(knn.predict(points[rest], labels[rest], points[row : row + 1], 3) != labels[row])
    assert count == 5 and knn.held_out_errors(points, labels, 3) == pytest.approx(wrong / 60)
    assert knn.held_out_errors(points, labels, 3, groups=torch.zeros(60)) != wrong / 60


def test_candidates_fit_their_maps_and_the_output_is_last():
    names = [str(spec) for spec in candidates(ENCODER)]
    assert names == [
        *("s1:1x1", "s1:2x2", "s1:4x4", "s2:1x1", "s2:2x2", "s2:4x4", "s3:1x1", "s3:2x2", "s4:1x1", "output")
    ]
    assert candidates(None) == [Spec()]


def test_a_readout_is_made_of_a_run_or_encoder_and_refuses_what_is_not_there():
    lines: list[str] = []
    fitted = readout(ENCODER, "s3:2x2:whiten", TRAIN, progress=lines.append)
    assert isinstance(fitted, Readout) and "s3:2x2:whiten, scaled by the 192 training images" in lines[0]
    chosen = readout(ENCODER, "choose", TRAIN, progress=lines.append)
    assert "by which neighbours predict held-out labels of 192 training images best" in lines[1]
    assert chosen.dim > 0
    unlabelled = from_images(torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8))
    with pytest.raises(ValueError, match="data must have labels for features choose"):
        readout(ENCODER, "choose", unlabelled)
    with pytest.raises(ValueError, match="data must be named for the features s3"):
        readout(ENCODER, "s3")


def test_a_method_may_declare_its_features(monkeypatch: pytest.MonkeyPatch):
    method = SimCLR(copy.deepcopy(ENCODER))
    assert Method.readout is None and named(method, None) is None
    monkeypatch.setattr(SimCLR, "readout", "s3:whiten")
    assert named(method, None) == "s3:whiten"
    assert named(method, None, "views") == "s3:views" and named(method, "s2", "views") == "s2:views"
    assert named(method, "output") is None and named(method, "s2") == "s2"
    with pytest.raises(ValueError, match="directions must be one of views, contrast, got up"):
        named(method, "s2", "up")
    with pytest.raises(ValueError, match="features must be a map or output"):
        named(method, "s2:whiten", "views")
    with pytest.raises(ValueError, match="directions must be left out with features choose"):
        named(method, "choose", "views")


def test_fine_tuning_trains_on_through_a_readout_and_its_control_is_the_whole_network():
    scores = evaluate(
        ENCODER,
        (TRAIN, TEST),
        probe="finetune",
        labels_per_class=5,
        draws=1,
        steps=3,
        features="s3:2x2:views",
    )
    plain = evaluate(ENCODER, (TRAIN, TEST), probe="finetune", labels_per_class=5, draws=1, steps=3)
    assert values(scores, "supervised", "finetune") == values(plain, "supervised", "finetune")
    assert values(scores, "unlabeled", "finetune") != values(plain, "unlabeled", "finetune")


def test_a_run_that_reads_contrast_says_which_control_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(view_contrast, "PASSES", 2)
    contrast = fit_readout(ENCODER, Spec.parse("s3:2x2:contrast:8"), TRAIN)
    words = "the control contrast (the same on top of random weights) was not measured"
    alone = evaluate(contrast, (TRAIN, TEST), probe="knn", controls="raw")
    assert words in alone.verdict() and "samples, contrast in unlabeled only, [95" in alone.table()
    assert "contrast in unlabeled only" in arrange([("", alone.records)])[0].note
    asked = evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls="raw", features="s3:2x2:contrast:8")
    assert words in asked.verdict() and "contrast in unlabeled only" in asked.table()
    both = evaluate(contrast, (TRAIN, TEST), probe="knn", controls=("raw", "contrast"))
    assert "contrast in random weights with contrast and unlabeled only" in both.table()
    assert words not in both.verdict() and "random weights with contrast" in both.verdict().lower()
    assert words not in evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls="raw").verdict()
