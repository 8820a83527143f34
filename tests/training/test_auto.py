"""The choice of a method, and features that a run keeps beside its encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import unlabeled
from unlabeled import methods
from unlabeled.check import UserError
from unlabeled.cli import main
from unlabeled.data import open_data
from unlabeled.encoders import Readout
from unlabeled.evaluation import candidates
from unlabeled.evaluation.readouts import readout
from unlabeled.methods.simclr import SimCLR
from unlabeled.reporting.entry import Entry
from unlabeled.run import ENCODER, FEATURES
from unlabeled.training import auto
from unlabeled.training.train import preview

SMALL = {"encoder": "dictionary-16", "patches": 200, "steps": 3, "batch_size": 8, "quiet": True}


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (60, 3, 16, 16), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("kind", auto.USUAL)
def test_every_kind_has_a_method_that_learns_from_it(kind: str, cuda: bool) -> None:
    choice = auto.choose(kind, cuda)
    assert methods.describe(choice.method).kind == kind
    assert choice.method in choice.reason and f"for {kind} on a {'GPU' if cuda else 'CPU'}" in choice.reason


def test_in_little_time_a_dictionary_has_one_layer() -> None:
    short, long = (auto.choose("image", False, minutes=minutes) for minutes in (4.9, 5.0))
    assert short.settings == {"encoder": "dictionary-400"} and "less than 5 minutes" in short.reason
    assert long == auto.choose("image", False) and long.settings["encoder"] == "dictionary2-400"
    assert auto.choose("image", True, minutes=1.0).method == auto.choose("image", True).method == "simclr"
    assert auto.choose("text", False, minutes=1.0) == auto.choose("text", False)
    first, *_ = candidates.parse((), "image", False, {}, 8 * 4.9)
    assert first.settings == short.settings


def test_a_kind_without_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of image, text"):
        auto.choose("smell", False)


def test_auto_trains_its_choice_and_logs_it_and_given_settings_take_precedence(
    tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "unlabeled"):
        run = unlabeled.pretrain("auto", images(), device="cpu", **SMALL)
    assert run.path == Path("runs/auto-array")  # whatever is chosen, as the guides promise
    assert "auto: patch_dictionary, features contrast" in caplog.text
    assert run.config["method"] == "patch_dictionary"
    settings = run.config["settings"]
    assert (settings["features"], settings["encoder"], settings["steps"]) == ("contrast", "dictionary-16", 3)


def test_a_run_keeps_the_features_and_its_bare_encoder(tmp_path: Path) -> None:
    data = open_data(images())
    run = unlabeled.pretrain("patch_dictionary", data, out=tmp_path / "run", features="whiten:5", **SMALL)
    plain = unlabeled.pretrain("patch_dictionary", data, out=tmp_path / "plain", **SMALL)
    assert isinstance(run.encoder, Readout) and run.encoder.dim == 5
    assert not isinstance(plain.encoder, Readout) and not (plain.path / FEATURES).exists()
    first, second = (unlabeled.encoders.load(one.path / ENCODER).state_dict() for one in (run, plain))
    assert all(torch.equal(first[name], second[name]) for name in second), "features change no training"
    assert not isinstance(run.method.encoder, Readout)
    features, _ = unlabeled.embed(run, images())
    assert features.shape == (60, 5)


def test_a_resumed_run_fits_its_features_again(tmp_path: Path) -> None:
    data = open_data(images())
    settings = SMALL | {"features": "standardize"}
    unlabeled.pretrain("patch_dictionary", data, out=tmp_path / "run", **settings)
    run = unlabeled.pretrain(
        "patch_dictionary", data, out=tmp_path / "run", resume=True, **settings | {"steps": 5}
    )
    assert Entry(run, [], None).facts["Features"] == "standardize"
    trained = unlabeled.encoders.load(run.path / ENCODER).state_dict()
    inner = unlabeled.encoders.load(run.path / FEATURES).encoder.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(inner[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("features", "words"),
    [("layer9", "features must be one of output, atoms, got layer9"), ("choose", "features must")],
)
def test_features_that_do_not_exist_are_refused_before_the_training(
    features: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        unlabeled.pretrain("patch_dictionary", images(), out=tmp_path / "run", features=features, **SMALL)
    assert not (tmp_path / "run" / ENCODER).exists()


def test_auto_works_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "auto", "--help"])
    text = capsys.readouterr().out
    assert not end.value.code and "Usage: unlabeled pretrain auto DATA" in text and "--features" in text


def stop_at(step: int) -> Callable[[int], None]:
    def stop(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return stop


def test_features_belong_to_the_encoder_beside_them_or_are_reported_missing(tmp_path: Path) -> None:
    data, settings = open_data(images()), SMALL | {"features": "standardize", "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        unlabeled.pretrain("patch_dictionary", data, on_step=stop_at(1), **settings)
    with pytest.warns(UserWarning, match="lacks its features standardize, which were not fitted"):
        assert not isinstance(unlabeled.load(tmp_path / "run").encoder, Readout)
    run = unlabeled.pretrain("patch_dictionary", data, resume=True, **settings)
    assert isinstance(run.encoder, Readout)
    with pytest.raises(KeyboardInterrupt):
        unlabeled.pretrain(
            "patch_dictionary", data, resume=True, on_step=stop_at(4), **settings | {"steps": 8}
        )
    with pytest.warns(UserWarning, match="lacks its features"):
        encoder = unlabeled.load(tmp_path / "run").encoder
    trained = unlabeled.encoders.load(tmp_path / "run" / ENCODER).state_dict()
    assert all(torch.equal(encoder.state_dict()[name], trained[name]) for name in trained)


def test_a_network_of_ones_own_and_a_method_have_the_features_at_once(tmp_path: Path) -> None:
    settings = {"features": "whiten:3", "steps": 2, "batch_size": 8, "quiet": True}
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
    own = unlabeled.pretrain("simclr", images(), out=tmp_path / "own", encoder=network, **settings)
    method = SimCLR(unlabeled.encoders.build("conv4", image_size=16))
    instance = unlabeled.pretrain(method, images(), out=tmp_path / "instance", **settings)
    assert (own.encoder.dim, instance.encoder.dim) == (3, 3)
    assert not isinstance(instance.method.encoder, Readout)


def test_images_that_are_too_few_or_equal_are_refused_with_a_reason(tmp_path: Path) -> None:
    settings = SMALL | {"features": "contrast"}
    with pytest.raises(
        UserError, match="data must have at least 2 images for features output:contrast, got 1"
    ):
        unlabeled.pretrain("patch_dictionary", images()[:1], out=tmp_path / "one", **settings)
    equal = torch.full((20, 3, 16, 16), 9, dtype=torch.uint8)
    with pytest.raises(UserError, match="features must vary for contrast, got 20 equal ones"):
        unlabeled.pretrain("patch_dictionary", equal, out=tmp_path / "equal", **settings)
    with pytest.warns(UserWarning, match="lacks its features"):
        assert unlabeled.load(tmp_path / "equal").encoder.dim > 0


def test_a_preview_refuses_features_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="features must be one of output, atoms, got layer9"):
        preview("patch_dictionary", images(), features="layer9", encoder="dictionary-16", steps=2)


def test_auto_resumes_and_repeats_runs_as_they_were(tmp_path: Path, caplog) -> None:
    data, settings = open_data(images()), SMALL | {"features": "whiten:5", "device": "cpu"}
    first = unlabeled.pretrain("auto", data, out=tmp_path / "run", **settings)
    longer = {"steps": 5, "quiet": True, "device": "cpu"}
    caplog.clear()
    with caplog.at_level("INFO", "unlabeled"):
        resumed = unlabeled.pretrain("auto", data, out=tmp_path / "run", resume=True, **longer)
    assert resumed.config["settings"]["steps"] == 5 and "auto:" not in caplog.text
    config = first.path / "run.toml"
    again = unlabeled.pretrain("auto", data, out=tmp_path / "again", config=config, quiet=True)
    for run in (resumed, again):
        named = run.config["settings"]
        assert (named["encoder"], named["features"]) == ("dictionary-16", "whiten:5")


def test_auto_names_only_what_it_chose() -> None:
    choice = auto.choose("image", False, ["encoder", "steps"])
    assert choice.settings == {"features": "contrast"}
    assert "auto: patch_dictionary, features contrast for image on a CPU" in choice.reason


def test_the_output_of_a_run_with_features_can_be_read(tmp_path: Path) -> None:
    settings = SMALL | {"features": "whiten:5"}
    run = unlabeled.pretrain("patch_dictionary", images(), out=tmp_path / "run", **settings)
    bare = unlabeled.encoders.load(run.path / ENCODER)
    assert unlabeled.embed(run, images())[0].shape == (60, 5)
    for source in (run, run.encoder):
        features, _ = unlabeled.embed(source, images(), features="output")
        torch.testing.assert_close(features, unlabeled.embed(bare, images())[0])
    file = tmp_path / "labelled.npz"
    np.savez(file, images=images().numpy(), labels=np.arange(60) % 2)
    scores = unlabeled.evaluate(run, file, features="output", probe="knn", controls="raw", device="cpu")
    assert "the features are output" in scores.about["note"]
    assert not isinstance(readout(run, "output"), Readout)
