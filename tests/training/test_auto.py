"""The choice of a method, and features that a run keeps beside its encoder."""

from pathlib import Path

import pytest
import torch

import unlabeled
from unlabeled import methods
from unlabeled.cli import main
from unlabeled.data import open_data
from unlabeled.encoders import Readout
from unlabeled.run import ENCODER, FEATURES
from unlabeled.training import auto

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


def test_a_kind_without_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of image, text"):
        auto.choose("smell", False)


def test_auto_trains_its_choice_and_says_so_and_what_is_named_takes_precedence(
    tmp_path: Path, caplog
) -> None:
    with caplog.at_level("INFO", "unlabeled"):
        run = unlabeled.pretrain("auto", images(), out=tmp_path / "run", device="cpu", **SMALL)
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


def test_a_run_that_is_resumed_fits_its_features_anew(tmp_path: Path) -> None:
    data = open_data(images())
    settings = SMALL | {"features": "standardize"}
    unlabeled.pretrain("patch_dictionary", data, out=tmp_path / "run", **settings)
    run = unlabeled.pretrain(
        "patch_dictionary", data, out=tmp_path / "run", resume=True, **settings | {"steps": 5}
    )
    trained = unlabeled.encoders.load(run.path / ENCODER).state_dict()
    inner = unlabeled.encoders.load(run.path / FEATURES).encoder.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(inner[name], trained[name]) for name in trained)


@pytest.mark.parametrize(
    ("features", "words"),
    [("layer9", "features must be one of output, atoms, got layer9"), ("choose", "features must")],
)
def test_features_that_are_not_there_are_refused_before_the_training(
    features: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        unlabeled.pretrain("patch_dictionary", images(), out=tmp_path / "run", features=features, **SMALL)
    assert not (tmp_path / "run" / ENCODER).exists()


def test_the_command_line_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "auto", "--help"])
    text = capsys.readouterr().out
    assert not end.value.code and "Usage: unlabeled pretrain auto DATA" in text and "--features" in text
