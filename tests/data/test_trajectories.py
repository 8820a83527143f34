"""Trajectories: stretches, poses beside frames, and what is found on disk."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled import pretrain
from unlabeled.data import open_data
from unlabeled.data.options import OpenOptions
from unlabeled.data.trajectories import Trajectories, from_trajectories
from unlabeled.data.trajectories.read import find
from unlabeled.data.worlds import built_in
from unlabeled.worlds import pans


def walks(count: int = 4, frames: int = 12) -> Trajectories:
    """Red says which walk, blue which frame, and so does the pose."""
    video = torch.zeros(count, frames, 3, 4, 4, dtype=torch.uint8)
    video[:, :, 0] = torch.arange(count)[:, None, None, None]
    video[:, :, 2] = torch.arange(frames)[:, None, None]
    row, time = torch.meshgrid(torch.arange(count), torch.arange(frames), indexing="ij")
    pose = torch.stack([row.float(), time.float(), 0.1 * time], -1)
    room = (time > 5).long()
    return from_trajectories(
        {"video": video, "pose": pose, "action": pose[..., :2], "room": room}, name="walks"
    )


def test_batch_gives_whole_walks_with_their_poses() -> None:
    batch = walks().batch(torch.tensor([2, 0]))
    assert batch["video"].shape == (2, 12, 3, 4, 4) and batch["action"].shape == (2, 12, 2)
    assert torch.equal(batch["video"][:, :, 0, 0, 0].float(), batch["pose"][..., 0])
    assert torch.equal(batch["video"][:, :, 2, 0, 0].float(), batch["pose"][..., 1])
    assert "room" not in batch and "depth" not in batch


def test_stretches_begin_anywhere_and_keep_frames_and_poses_together() -> None:
    data, starts = walks().spans(4, 2), []
    for seed in range(80):
        torch.manual_seed(seed)
        batch = data.batch(torch.tensor([1, 3]))
        assert bool((batch["pose"][:, 1:, 1] - batch["pose"][:, :-1, 1] == 2).all())
        assert torch.equal(batch["video"][:, :, 2, 0, 0].float(), batch["pose"][..., 1])
        assert torch.equal(batch["time"].float(), batch["pose"][..., 1])
        assert bool((batch["pose"][..., 0] == torch.tensor([[1.0], [3.0]])).all())
        starts += batch["time"][:, 0].tolist()
    counts = torch.tensor(starts).bincount()
    assert len(counts) == 12 - 6 and bool((counts > 12).all())


def test_draws_follow_the_default_generator_alone() -> None:
    data = walks().spans(3)
    torch.manual_seed(5)
    first = data.batch(torch.arange(4))
    torch.manual_seed(5)
    np.random.seed(1)
    assert torch.equal(first["time"], data.batch(torch.arange(4))["time"])


def test_frames_are_images_with_rooms_and_poses() -> None:
    data = walks().subset(torch.tensor([3, 1]))
    images, places = data.frames(), data.places()
    assert len(images) == 24 and images.classes == ["room 0", "room 1"]
    shown = images.batch(torch.arange(24))["image"][..., 0, 0].long()
    assert torch.equal(shown[:, 2], places[:, 1])
    assert torch.equal(shown[:, 0], torch.tensor([3, 1])[places[:, 0]])
    assert images.labels is not None and torch.equal(images.labels, (places[:, 1] > 5).long())
    torch.testing.assert_close(images.factors["heading_sin"], (0.1 * places[:, 1]).sin())
    assert torch.equal(images.factors["x"], shown[:, 0].float())


def test_subset_of_stretches_is_of_the_same_walks() -> None:
    part = walks().spans(4).subset(torch.tensor([2]))
    assert bool((part.batch(torch.tensor([0]))["pose"][..., 0] == 2).all())


def test_too_long_a_stretch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 12 steps.*got 5 frames of stride 3"):
        walks().spans(5, 3)
    assert walks().spans(4, 3).batch(torch.tensor([0]))["time"].shape == (1, 4)


def test_built_in_walks() -> None:
    data = built_in("rooms", "test")
    assert len(data) == 16 and data.shape == {"channels": 3, "image_size": 32, "frames": 128}
    assert {"pose", "depth", "action"} <= set(data.batch(torch.tensor([0])))


def arrays(seed: int, frames: int = 6) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "video": draw.integers(0, 255, (frames, 5, 5, 3), np.uint8),
        "pose": draw.normal(size=(frames, 3)),
        "depth": draw.random((frames, 5, 5)).astype(np.float16),
        "room": draw.integers(0, 3, frames),
    }


def test_folders_of_arrays_may_have_splits_and_lengths_of_their_own(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        (tmp_path / split).mkdir()
        for row in range(count):
            np.savez(tmp_path / split / f"{row}.npz", **arrays(row, 6 + row))
    (tmp_path / "train" / "x.npz").write_bytes(b"no")
    np.savez(tmp_path / "train" / "y.npz", **arrays(0) | {"pose": np.full((6, 3), np.nan)})
    found = find(tmp_path, OpenOptions(max_broken=0.4))
    train = found["train"]()
    assert len(train) == 4 and len(found["test"]()) == 2 and len(train.skipped) == 2
    assert train.lengths.tolist() == [6, 7, 8, 9]
    batch, wanted = train.batch(torch.tensor([2, 3])), arrays(2, 8)
    assert np.array_equal(batch["video"][0, :8].permute(0, 2, 3, 1).numpy(), wanted["video"])
    assert bool((batch["pose"][0, 8] == batch["pose"][0, 7]).all()) and batch["depth"].dtype == torch.float32
    np.testing.assert_allclose(batch["pose"][0, :8].numpy(), wanted["pose"], rtol=1e-6)


def test_one_file_may_have_splits(tmp_path: Path) -> None:
    content = {f"train_{key}": np.stack([value] * 3) for key, value in arrays(0).items()}
    content |= {f"test_{key}": value[None] for key, value in arrays(1).items()}
    np.savez(tmp_path / "all.npz", **content)
    found = find(tmp_path / "all.npz", OpenOptions())
    assert len(found["train"]()) == 3 and len(found["test"]()) == 1
    np.savez(tmp_path / "one.npz", **arrays(1))
    assert len(find(tmp_path / "one.npz", OpenOptions())["all"]()) == 1


def test_parquet_has_a_row_for_each_frame(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = []
    for walk in range(2):
        for time in range(3):
            stream = BytesIO()
            Image.fromarray(np.full((6, 8, 3), 50 * walk + time, np.uint8)).save(stream, "PNG")
            rows.append(
                {"walk": walk, "image": stream.getvalue(), "x": 1.0 * walk, "y": 2.0 * time, "heading": 0.5}
            )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "walks.parquet")
    data = find(tmp_path, OpenOptions())["all"]()
    batch = data.batch(torch.tensor([1]))
    assert batch["video"].shape == (1, 3, 3, 6, 6) and batch["video"][0, :, 0, 0, 0].tolist() == [50, 51, 52]
    assert batch["pose"][0].tolist() == [[1, 0, 0.5], [1, 2, 0.5], [1, 4, 0.5]]


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trajectories in"):
        find(tmp_path, OpenOptions())
    with pytest.raises(ValueError, match="pose is missing"):
        from_trajectories({"video": np.zeros((1, 2, 4, 4, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"pose of array must have shape \(1, 2, 3\), got \(1, 2, 2\)"):
        from_trajectories({"video": np.zeros((1, 2, 4, 4, 3), np.uint8), "pose": np.zeros((1, 2, 2))})


@pytest.mark.parametrize("key", ["pose", "depth", "action"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(key: str, wrong: float) -> None:
    content = {
        "video": np.zeros((1, 4, 8, 8, 3), np.uint8),
        "pose": np.zeros((1, 4, 3)),
        "depth": np.ones((1, 4, 8, 8)),
        "action": np.zeros((1, 4, 2)),
    }
    content[key][0, 1, 0] = wrong
    with pytest.raises(ValueError, match=f"{key} of array must be finite"):
        from_trajectories(content)


def test_headings_in_degrees_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    pose = np.zeros((1, 4, 3))
    pose[..., 2] = [0, 90, 180, 270]
    content = {"video": np.zeros((1, 4, 8, 8, 3), np.uint8), "pose": pose}
    from_trajectories(content, name="compass")
    assert caplog.messages == ["compass: headings reach 270; they must be in radians"]
    caplog.clear()
    from_trajectories({**content, "pose": np.deg2rad(pose)}, name="circles")
    assert not caplog.messages


@pytest.mark.parametrize("room", [0.5, float("nan"), -2, 10**9])
def test_rooms_are_small_whole_numbers(room: float) -> None:
    content = {"video": np.zeros((1, 2, 4, 4, 3), np.uint8), "pose": np.zeros((1, 2, 3))}
    with pytest.raises(
        ValueError, match=r"room of array must be whole numbers from -1 \(unknown\) to 9999, got"
    ):
        from_trajectories(content | {"room": np.array([[0, room]])})
    assert from_trajectories(content | {"room": np.array([[-1.0, 2.0]])}).frames().classes == [
        "room 0",
        "room 1",
        "room 2",
    ]


def test_pans_over_images_of_a_folder_show_them_from_the_poses_that_they_name(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, shape in {"b/wide": (40, 60, 3), "a/tall": (50, 36, 3)}.items():
        (tmp_path / "pictures" / name).parent.mkdir(parents=True)
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")
    source = f"pans:{tmp_path / 'pictures'}"
    data, images = open_data(source), open_data(tmp_path / "pictures")
    assert isinstance(data, Trajectories) and data.kind == "trajectory" and len(data) == len(images) == 2
    assert data.paths == images.paths and data.paths[0].endswith("a/tall.png")
    for row, (height, width) in enumerate([(50, 36), (40, 60)]):
        batch = data.batch(torch.tensor([row]))
        picture = images.batch(torch.tensor([row]))["image"][0, :, :height, :width]
        seen = pans.look(picture, batch["pose"][0], 36)
        assert torch.equal(batch["video"][0], (255 * seen).round().to(torch.uint8))
        assert batch["video"].shape == (1, 8, 3, 36, 36)
        assert data.room is not None and data.room[8 * row : 8 * row + 8].unique().tolist() == [row]
    assert open_data(source, store_size=16).batch(torch.tensor([0]))["video"].shape[-1] == 16
    with pytest.raises(ValueError, match="nowhere"):
        open_data("pans:nowhere")


def test_pans_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr("unlabeled.data.worlds.available_memory", lambda: 2 * 8 * 3 * 16**2 - 1)
    with pytest.raises(ValueError, match="images of pans must be few enough for half of the"):
        open_data(f"pans:{tmp_path}")
    monkeypatch.setattr("unlabeled.data.worlds.available_memory", lambda: 2 * 8 * 3 * 16**2)
    assert len(open_data(f"pans:{tmp_path}")) == 1


def test_egomotion_learns_from_motions_over_images_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for row in range(12):
        pixels = np.random.default_rng(row).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{row}.png")
    settings: dict[str, Any] = {"encoder": "conv4", "batch_size": 4, "steps": 2, "quiet": True}
    run = pretrain("egomotion", f"pans:{tmp_path / 'pictures'}", out=tmp_path / "run", **settings)
    assert run.kind == "trajectory" and run.history[-1]["step"] == 2
