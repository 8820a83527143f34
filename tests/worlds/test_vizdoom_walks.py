"""ViZDoom walks: the same seed gives the same walk, and pictures, depths and poses belong together."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabeled.data.options import OpenOptions
from unlabeled.data.trajectories.read import find
from unlabeled.worlds import vizdoom_walks
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
        find(tmp_path / name, OpenOptions())["all"]().batch(torch.arange(2))
        for name in ("one", "two", "three")
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


@pytest.mark.parametrize("scenario", ["nowhere", "cig", "doom"])
def test_unknown_levels_and_those_that_end_the_process_are_refused(scenario: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"scenario must be one of .*my_way_home.*, got {scenario}"):
        record(tmp_path, 1, 5, 0, scenario=scenario)


@needs_vizdoom
@pytest.mark.parametrize("scenario", vizdoom_walks.SCENARIOS)
def test_every_level_that_is_offered_is_there(scenario: str) -> None:
    import vizdoom

    assert (Path(vizdoom.scenarios_path) / f"{scenario}.cfg").is_file()


def test_bad_values_and_a_missing_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="trajectories must be at least 1"):
        record(tmp_path, 0, 5, 0)
    with pytest.raises(ValueError, match="size must be at most 240"):
        record(tmp_path, 1, 5, 0, size=300)
    with pytest.raises(ValueError, match=r"steps must be a whole number, got 2.5"):
        record(tmp_path, 1, 2.5, 0)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ValueError, match=r"pip install 'unlabeled\[embodied\]'"):
        record(tmp_path, 1, 5, 0)


@needs_vizdoom
def test_no_walk_of_one_seed_is_also_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 1,009th walk of seed 0 is not the first one of seed 1, which may be test data."""
    draws: list[str] = []
    monkeypatch.setattr(
        vizdoom_walks, "_walk", lambda game, steps, size, seed: draws.append(seed) or {"video": np.zeros(1)}
    )
    record(tmp_path / "one", 1010, 1, 0)
    record(tmp_path / "two", 3, 1, 1)
    assert len(set(draws)) == 1013
    monkeypatch.undo()
    with vizdoom_walks._game("my_way_home") as game:
        poses = [
            vizdoom_walks._walk(game, 6, 8, seed)["pose"] for seed in (draws[1009], draws[1010], draws[1009])
        ]
    assert np.array_equal(poses[0], poses[2]) and not np.array_equal(poses[0], poses[1])


def test_walks_are_not_mixed_with_older_ones(tmp_path: Path) -> None:
    (tmp_path / "0007.npz").touch()
    with pytest.raises(ValueError, match=r"out must be a folder without .npz files"):
        record(tmp_path, 1, 5, 0)
