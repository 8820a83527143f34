"""Readouts: the features that they say, fitted without labels, saved and loaded like any encoder."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.image.data import from_images
from unlabeled.data.text.data import Texts
from unlabeled.encoders import Readout, fit_readout
from unlabeled.encoders.readout import Spec, view_covariances
from unlabeled.parts.augment import Views

torch.manual_seed(0)
DATA = open_data("digits").subset(torch.arange(200))
ENCODER: Any = encoders.fitted("conv4", DATA).eval()
WHOLE = DATA.batch(torch.arange(200))
X = ENCODER.inputs(WHOLE)


def features(words: str, data=DATA, seed: int = 0) -> tuple[Readout, torch.Tensor]:
    readout = fit_readout(ENCODER, Spec.parse(words), data, seed)
    with torch.no_grad():
        return readout, readout(X)


@pytest.mark.parametrize(
    "words, spec",
    [
        ("output", Spec()),
        ("s3", Spec("s3")),
        ("s3:2x2", Spec("s3", 2)),
        ("whiten", Spec(scaling="whiten")),
        ("s3:2x2:views:64", Spec("s3", 2, "views", 64)),
        ("s3:standardize", Spec("s3", scaling="standardize")),
    ],
)
def test_words_say_which_features_are_read(words: str, spec: Spec):
    assert Spec.parse(words) == spec
    assert Spec.parse(str(spec)) == spec


@pytest.mark.parametrize("words", ["", "s3:", "s3:2x2:4x4", "s3:whiten:views", "2x2:s3", "s3:2x3"])
def test_words_that_say_nothing_or_twice_are_refused(words: str):
    with pytest.raises(ValueError, match="features must be a map or output, a grid such as 2x2"):
        Spec.parse(words)


@pytest.mark.parametrize(
    "words, message",
    [
        ("s9", "features must be one of output, s1, s2, s3, s4, got s9"),
        ("output:2x2", r"features must name a map for a grid \(s1, s2, s3, s4\), got output:2x2"),
        ("s4:2x2", "features must have a grid of at most 1x1 of s4, got s4:2x2"),
        ("s3:64", "dimensions must come with whiten, views or contrast, got s3:64"),
    ],
)
def test_what_an_encoder_does_not_have_is_named(words: str, message: str):
    with pytest.raises(ValueError, match=message):
        features(words)


def test_a_grid_averages_quarters_and_a_name_alone_is_the_layer_as_probes_read_it():
    with torch.no_grad():
        maps = ENCODER.maps(X)["s2"]
        assert torch.equal(features("s2")[1], ENCODER.features(X, "s2"))
        assert torch.equal(features("output")[1], ENCODER(X))
    quarters = [maps[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((2, 3)) for r in (0, 1) for c in (0, 1)]
    expected = torch.stack(quarters, 2).flatten(1)
    torch.testing.assert_close(features("s2:2x2")[1], expected)
    torch.testing.assert_close(features("s2:1x1")[1], maps.mean((2, 3)))


def test_standardised_features_have_mean_0_and_deviation_1_and_constant_ones_are_0():
    _, values = features("s1:standardize")
    spread = values.std(0, correction=0)
    assert values.mean(0).abs().max() < 1e-4
    assert bool(((spread - 1).abs().lt(1e-3) | (spread == 0)).all())


def test_whitened_features_are_uncorrelated_and_no_direction_is_louder_than_1():
    _, values = features("s3:2x2:whiten:20")
    covariance = values.T @ values / len(values)
    assert values.shape[1] == 20 and values.mean(0).abs().max() < 1e-3
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert bool((covariance.diag() < 1).all() and (covariance.diag().diff() < 1e-5).all())


def test_directions_of_views_hold_still_where_views_move_the_features():
    readout, _ = features("s3:2x2:views:10")
    views = Views(8, crop=0.7, jitter=0, gray=0, flip=0)  # digits are not like their mirror images

    def ratio(encoder) -> float:
        torch.manual_seed(9)
        with torch.no_grad():
            between, within = view_covariances(torch.stack([encoder(views(WHOLE)) for _ in range(4)]))
        return float(between.trace() / within.trace())

    plain, white = (features(words)[0] for words in ("s3:2x2", "s3:2x2:whiten:10"))
    assert ratio(readout) > 1.5 * max(ratio(plain), ratio(white))


def test_views_that_change_nothing_leave_no_covariance_within():
    with torch.no_grad():
        values = ENCODER(X)
        between, within = view_covariances(values.expand(3, -1, -1))
    assert within.abs().max() < 1e-9
    torch.testing.assert_close(between.float(), torch.cov(values.T, correction=0), rtol=1e-3, atol=1e-4)


def test_labels_play_no_part_and_the_seed_decides_the_views():
    other = copy.copy(DATA)
    other.labels = None
    for words in ("s3:whiten", "s3:views", "s3:contrast"):
        assert torch.equal(features(words)[0].scale.matrix, features(words, other)[0].scale.matrix)
    assert not torch.equal(features("s3:views")[1], features("s3:views", seed=1)[1])


def test_the_state_of_random_numbers_stays_as_it_was():
    before = torch.random.get_rng_state()
    features("s3:views")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "words", ["s3:2x2", "s3:2x2:views:10", "s2:2x2:standardize", "whiten", "contrast:20"]
)
def test_a_saved_readout_is_the_same_when_loaded_copied_and_asked_for_layers(words: str, tmp_path: Path):
    readout, values = features(words)
    readout.save(tmp_path / "x.safetensors")
    loaded = encoders.load(tmp_path / "x.safetensors").eval()
    assert isinstance(loaded, Readout) and loaded.config == readout.config and loaded.dim == values.shape[1]
    with torch.no_grad():
        assert torch.equal(loaded(X), values) and torch.equal(copy.deepcopy(readout)(X), values)
        assert torch.equal(loaded.features(X, "s2"), ENCODER.features(X, "s2"))
    assert (loaded.kind, loaded.image_size, list(loaded.map_dims)) == ("image", 8, ["s1", "s2", "s3", "s4"])
    assert isinstance(encoders.rebuilt(loaded), Readout)


@pytest.mark.parametrize("numbers", [[2**40], [2**20, 2**20], [-1], ["a"], [], None, [1, 1, 1]])
def test_a_file_cannot_ask_for_more_memory_than_it_fills(numbers: object, tmp_path: Path):
    config = {**ENCODER.config, "features": "output:whiten", "numbers": numbers}
    about = {"format": "pt", "unlabeled": json.dumps(config)}
    save_file(ENCODER.state_dict(), tmp_path / "x.safetensors", metadata=about)
    with pytest.raises(ValueError, match="must hold an encoder that can be built: its features"):
        encoders.load(tmp_path / "x.safetensors")


def test_encoders_of_other_data_have_readouts_of_their_layers(tmp_path: Path):
    texts = Texts([f"word{number} and more words {number % 3}" for number in range(40)])
    encoder = encoders.fitted("bert-tiny", texts, kind="text").eval()
    data = encoder.evaluation_view(texts)
    readout = fit_readout(encoder, Spec.parse("layer1:whiten:4"), data)
    with torch.no_grad():
        assert readout(readout.inputs(data.batch(torch.arange(3)))).shape == (3, 4)
    readout.save(tmp_path / "x.safetensors")
    assert encoders.load(tmp_path / "x.safetensors").kind == "text"
    for words in ("layer1:2x2", "layer1:views"):
        with pytest.raises(
            ValueError, match=r"which encoders of images have|features must be those of images"
        ):
            fit_readout(encoder, Spec.parse(words), data)


def test_contrast_is_standardised_features_directions_and_the_network_side_by_side():
    contrast, values = features("s3:2x2:contrast:10")
    plain, views = features("s3:2x2:standardize")[1], features("s3:2x2:views:10")[1]
    parts = values.split([plain.shape[1], 10, values.shape[1] - plain.shape[1] - 10], 1)
    torch.testing.assert_close(parts[0], 0.6 * F.normalize(plain, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts[1], F.normalize(views, dim=1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(parts[2].norm(dim=1), torch.ones(200))
    assert contrast.dim == values.shape[1] and contrast.spec.one_unit


def test_covariances_are_those_of_views_and_means_written_out():
    torch.manual_seed(0)
    views = torch.randn(3, 300, 4) + torch.randn(300, 4)
    between, within = view_covariances(views)
    means = views.double().mean(0)
    torch.testing.assert_close(between, torch.cov(means.T, correction=0), rtol=1e-4, atol=1e-5)
    slow = sum(
        torch.outer(view - means[row], view - means[row])
        for one in views.double()
        for row, view in enumerate(one)
    )
    torch.testing.assert_close(within, slow / (300 * 2), rtol=1e-4, atol=1e-5)


def test_views_are_mirrored_where_nothing_tells_images_from_mirror_images():
    noise = from_images(torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8))
    encoder = encoders.fitted("conv4", noise).eval()
    assert (
        "views are mirrored, as a linear classifier"
        in fit_readout(encoder, Spec.parse("views"), noise).notes[-1]
    )
    assert "views are gentle and not mirrored, as a linear classifier" in features("views")[0].notes[-1]
    assert (
        "not mirrored, as 20 images are too few"
        in features("views", DATA.subset(torch.arange(20)))[0].notes[-1]
    )
    assert not [note for note in ENCODER.notes if "mirrored" in note]
