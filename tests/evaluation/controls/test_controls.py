"""Every control: no label and no test sample is looked at, and the seed decides everything."""

import copy
import re
from functools import partial

import pytest
import torch

from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import Data, from_images
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.text.data import Texts
from unlabeled.data.video.data import from_videos
from unlabeled.encoders import image, stages
from unlabeled.encoders.readout import Spec, fit_readout
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.plan import controls_for
from unlabeled.methods.patch_dictionary import PatchDictionary
from unlabeled.parts import view_contrast


def samples(kind: str, seed: int, count: int = 12) -> Data:
    noise = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    if kind == "image":
        return from_images(
            torch.randint(256, (count, 3, 16, 16), generator=noise).to(torch.uint8), labels, name="noise"
        )
    if kind == "video":
        videos = torch.randint(256, (count, 4, 3, 16, 16), generator=noise).to(torch.uint8)
        return from_videos(videos, labels=labels)
    if kind == "audio":
        return from_waveforms(torch.rand(count, 3000, generator=noise) - 0.5, 8000, labels=labels)
    words = torch.randint(5, (count, 6), generator=noise)
    return Texts(
        [" ".join(["red", "green", "tree", "sun", "moon"][w] for w in row) for row in words], labels=labels
    )


pytestmark = pytest.mark.usefixtures("small_networks")
with pytest.MonkeyPatch.context() as patch:
    patch.setitem(image.NAMES, "conv4", partial(stages.conv4, share=4))
    ENCODERS = {
        "image": encoders.build("conv4", image_size=16),
        "video": encoders.build("frames-conv4", kind="video", image_size=16, frames=4),
        "audio": encoders.build("audio-conv", kind="audio", sample_rate=8000),
        "text": encoders.fitted("bert-tiny", samples("text", 0), kind="text"),
    }
PAIRS = [
    (kind, name)
    for kind in ENCODERS
    for name in controls_for(["all"], kind)
    if CONTROLS.load(name).make is not None
]


@pytest.fixture(autouse=True)
def small_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatchDictionary, "defaults", {"encoder": "dictionary-16", "steps": 2})
    monkeypatch.setattr(view_contrast, "PASSES", 2)


def features(kind: str, name: str, train: Data, *tests: Data) -> list[torch.Tensor]:
    encoder, make = ENCODERS[kind].eval(), CONTROLS.load(name).make
    assert make is not None
    if name == "contrast":  # which stands beside encoders that read it
        encoder = fit_readout(encoder, Spec.parse("s3:2x2:contrast:4"), encoder.evaluation_view(train))
    with torch.no_grad():
        made = make(encoder, encoder.evaluation_view(train), 3)
        assert made is not None
        return [made.features(encoder.evaluation_view(data)) for data in (train, *tests)]


def test_contrast_is_not_learned_for_random_weights_but_by_its_own_control() -> None:
    train = samples("image", 1)
    network = ENCODERS["image"].eval()
    encoder = fit_readout(network, Spec.parse("s3:2x2:contrast:4"), train)
    random, rescaled, contrast = (CONTROLS.load(name).make for name in ("random", "rescaled", "contrast"))
    assert random is not None and rescaled is not None and contrast is not None
    for control in (random, rescaled):
        assert control(encoder, train, 0).encoder.spec == Spec.parse("s3:2x2:standardize")
    assert contrast(encoder, train, 0).encoder.spec == encoder.spec
    assert contrast(network, train, 0) is None


def test_random_weights_start_with_atoms_if_the_encoder_did() -> None:
    train, make = samples("image", 1), CONTROLS.load("random").make
    assert make is not None
    encoder = encoders.fitted("conv4", train, init="dictionary").eval()
    before = torch.get_rng_state()
    twin = make(encoder, train, 3)
    assert twin.encoder is not None and torch.equal(torch.get_rng_state(), before)
    plain = make(encoders.fitted("conv4", train).eval(), train, 3)
    assert "a first layer of atoms" in twin.detail and "atoms" not in plain.detail
    assert torch.equal(twin.features(train), make(encoder, train, 3).features(train))
    states = twin.encoder.state_dict(), plain.encoder.state_dict()
    weights = [name for name in states[0] if name.endswith(".0.weight")]
    assert [torch.equal(*(state[name] for state in states)) for name in weights] == [False, True, True, True]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_labels_do_not_matter_and_the_seed_decides_everything(kind: str, name: str) -> None:
    train, test = samples(kind, 1), samples(kind, 2)
    unlabelled = copy.copy(train)
    unlabelled.labels = None
    before = torch.get_rng_state()
    first = features(kind, name, train, test)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    for one, other in zip(first, features(kind, name, unlabelled, test)):
        assert torch.equal(one, other) and one.isfinite().all()


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_a_changed_test_sample_changes_only_its_own_row(kind: str, name: str) -> None:
    train, test = samples(kind, 1), samples(kind, 2, 6)
    rows = [test.subset(torch.tensor([row])) for row in range(3)]
    fitted, together, others, *alone = features(kind, name, train, test, samples(kind, 4, 6), *rows)
    for row, one in enumerate(alone):
        assert torch.allclose(one[0], together[row], atol=1e-4)
    assert not torch.allclose(others, together, atol=1e-2)
    assert len(fitted) == 12


def test_default_controls_take_seconds_and_all_means_all() -> None:
    assert controls_for(["default"], "image") == ["raw", "whitened", "hog", "random", "rescaled", "kmeans"]
    assert controls_for(["default"], "audio") == ["raw", "mfcc", "random"]
    assert controls_for(["default"], "text") == ["raw", "tfidf", "lsa", "random"]
    assert controls_for(["default"], "trajectory") == ["raw", "random"]
    assert {*controls_for(["all"], "image")} == {
        *controls_for(["default"], "image"),
        "contrast",
        "dictionary",
        "gaussian_mixture",
        "kmeans_codes",
        "maps",
        "pca",
        "supervised",
        "supervised_pretraining",
    }
    assert controls_for(["baselines"], "text") == ["pca", "gaussian_mixture", "kmeans_codes"]
    assert controls_for(["baselines", "raw"], "image") == ["raw", "pca", "gaussian_mixture", "kmeans_codes"]
    assert controls_for(["supervised", "raw", "raw"], "audio") == ["raw", "supervised"]
    assert controls_for([], "image") == []
    with pytest.raises(UserError, match=r"controls must be of gaussian_mixture.* for text encoders, got hog"):
        controls_for(["hog"], "text")


def test_scores_and_verdict_name_all_controls() -> None:
    data = samples("image", 1), samples("image", 2)
    scores = evaluate(ENCODERS["image"], data, probe="knn", k=3)
    names = [record["features"] for record in scores]
    assert names == ["raw", "whitened", "hog", "random", "rescaled", "kmeans", "unlabeled"]
    listed = "raw input; whitened pixels; HOG and colours; random weights; rescaled random weights; K-means filters"
    assert f"Controls: {listed}." in scores.verdict() and "HOG and colours" in scores.table()
    assert all("margin_low" in record for record in scores if record["features"] != "unlabeled")
    assert scores.about["options"]["controls"] == names[:-1]


def test_the_chosen_map_is_named_and_compared_only_with_the_output() -> None:
    data = samples("image", 1), samples("image", 2)
    scores = evaluate(ENCODERS["image"], data, probe=("knn", "layers"), controls=("raw", "maps"), k=3)
    knn, *others = [record for record in scores if record["features"] == "maps"]
    assert re.search("map s[0-9], chosen on held-out training labels", knn["detail"]) and not others


def test_controls_without_layers_are_probed_once_for_all_layers() -> None:
    data = samples("image", 1), samples("image", 2)
    scores = evaluate(ENCODERS["image"], data, probe="layers", controls=("raw", "hog"))
    for name in ("raw", "hog"):
        values = [record["value"] for record in scores if record["features"] == name]
        assert len(values) == len(ENCODERS["image"].map_dims) + 1 and len(set(values)) == 1
