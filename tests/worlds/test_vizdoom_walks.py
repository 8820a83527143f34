"""ViZDoom walks: the same seed gives the same walk, and pictures, depths and poses belong together."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data.opening import How
from unlabeled.data.trajectories import find
from unlabeled.worlds.vizdoom_walks import record

needs_vizdoom = pytest.mark.skipif(not importlib.util.find_spec("vizdoom"), reason="vizdoom is not installed")


@needs_vizdoom
def test_same_seed_same_walks_that_open_as_walks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        files = record(name, 2, 25, seed, size=24)
    assert [path.name for path in files] == ["0000.npz", "0001.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "one",
        "three",
        "two",
    ]  # the engine left nothing
    one, two, three = (
        find(tmp_path / name, How())["all"]().batch(torch.arange(2)) for name in ("one", "two", "three")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["pose"], three["pose"]) and not torch.equal(one["pose"][0], one["pose"][1])
    assert one["video"].shape == (2, 25, 3, 24, 24) and one["depth"].shape == (2, 25, 24, 24)
    assert one["pose"][..., 2].abs().max() <= np.pi + 1e-5
    moved = one["pose"][:, :, :2].diff(dim=1).norm(dim=-1)
    torch.testing.assert_close(one["action"][:, :-1, 0], moved, atol=1e-4, rtol=1e-4)
    assert moved.sum(1).min() > 0.3 and moved.max() < 3
    assert one["depth"].min() > 0.3 and one["depth"].max() < 60
    # Who walks goes where it looks: the way and the heading agree.
    steps = one["pose"][:, :, :2].diff(dim=1)
    way = torch.atan2(steps[..., 1], steps[..., 0])
    agree = (way - one["pose"][:, 1:, 2]).cos()[moved > 0.6]
    assert len(agree) > 5 and agree.median() > 0.9


@needs_vizdoom
def test_unknown_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scenario must be one of .*my_way_home.*, got nowhere"):
        record(tmp_path, 1, 5, 0, scenario="nowhere")


def test_bad_values_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="walks must be at least 1"):
        record(tmp_path, 0, 5, 0)
    with pytest.raises(ValueError, match="size must be at most 240"):
        record(tmp_path, 1, 5, 0, size=300)
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ValueError, match=r"pip install 'unlabeled\[embodied\]'"):
        record(tmp_path, 1, 5, 0)
