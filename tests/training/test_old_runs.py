"""Run folders that an earlier version wrote still open, score the same, and go on to the same weights.

`simclr` was trained for 6 steps, then on to 10 by resuming, with LARS; `apc` and `skipgram` for 4. `moco` was killed
before step 10 of 21, with a checkpoint after each; `moco_whole.safetensors` is the last checkpoint of the same run left
alone. `features.npz` holds the features of the first samples of the data of each.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unlabeled
from unlabeled.data import open_data
from unlabeled.run import CHECKPOINT, SAMPLES, Run, read_checkpoint

OLD = Path(__file__).parent / "old_runs"
NETWORK = "tiny_network:make"
DATA = {"simclr": "images.npz", "moco": "images.npz", "apc": "tones", "skipgram": "texts.csv"}


@pytest.fixture(autouse=True)
def _copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def load(name: str) -> Run:
    return unlabeled.load(name, NETWORK if DATA[name] == "images.npz" else None)


@pytest.mark.parametrize("name", DATA)
def test_an_old_run_opens_with_its_log_and_its_whole_method(name: str) -> None:
    run = load(name)
    state, position = read_checkpoint(run.path / CHECKPOINT)
    assert run.history[-1]["step"] == (7 if name == "moco" else position["step"])
    assert all("metrics" in entry for entry in run.history) and run.digests is not None
    for key, value in run.method.state_dict().items():
        assert torch.equal(value, state["method"][key]), key


@pytest.mark.parametrize("name", ["simclr", "apc", "skipgram"])
def test_the_features_of_an_old_run_are_what_they_were(name: str) -> None:
    features, _ = unlabeled.embed(load(name), DATA[name], device="cpu")
    before = torch.from_numpy(np.load("features.npz")[name])
    torch.testing.assert_close(features[: len(before)], before, rtol=1e-4, atol=1e-5)


def test_the_scores_of_an_old_run_are_what_they_were() -> None:
    run = load("simclr")
    scores = unlabeled.evaluate(
        run, "images.npz", probe=("knn", "linear"), controls=("raw", "random"), device="cpu"
    )
    before = {(one["features"], one["probe"]): one["value"] for one in run.scores}
    assert {(one["features"], one["probe"]): one["value"] for one in scores.records} == before
    run.add_evaluation(scores.about, scores.records)
    assert len(run.evaluations) == 1, "it is the same evaluation"


@pytest.mark.parametrize("samples", [True, False], ids=["digests of all samples", "digests of sixteen"])
def test_an_old_run_that_was_killed_goes_on_to_the_same_weights(samples: bool) -> None:
    if not samples:  # as versions before these wrote it
        Path("moco", SAMPLES).unlink()
    unlabeled.pretrain("moco", "images.npz", out="moco", resume=True, encoder=NETWORK, quiet=True)
    before, its = read_checkpoint(Path("moco_whole.safetensors"))
    after, position = read_checkpoint(Path("moco", CHECKPOINT))
    assert position["step"] == its["step"] == 21 and before.keys() == after.keys()
    for group, tensors in before.items():
        for key, tensor in tensors.items():
            # A bias before a norm has no gradient but rounding errors, of which Adam makes steps.
            atol = 2e-4 if key.endswith(("0.bias", "3.bias", "running_mean")) else 1e-6
            torch.testing.assert_close(after[group][key], tensor, rtol=1e-4, atol=atol, msg=f"{group} {key}")


@pytest.mark.parametrize("samples", [True, False], ids=["digests of all samples", "digests of sixteen"])
def test_an_old_run_refuses_other_data_of_the_same_size(samples: bool) -> None:
    if not samples:
        Path("moco", SAMPLES).unlink()
    content: dict[str, Any] = dict(np.load("images.npz"))
    content["images"][4] = 0
    np.savez("other.npz", **content)
    with pytest.raises(
        ValueError, match=r"data must be what moco was trained on to resume it, got other\.npz"
    ):
        unlabeled.pretrain("moco", "other.npz", out="moco", resume=True, encoder=NETWORK, quiet=True)


@pytest.mark.parametrize("name", ["apc", "skipgram"])
def test_an_old_run_is_trained_longer(name: str) -> None:
    if name == "apc" and not torch.isin(load(name).digests, open_data("tones").digests()).all():
        pytest.skip("sines of this CPU differ in the last bit from those of the run, so it is other data")
    run = unlabeled.pretrain(name, DATA[name], out=name, resume=True, steps=6, quiet=True)
    assert run.config["ends"] == [4] and run.history[-1]["step"] == 6
