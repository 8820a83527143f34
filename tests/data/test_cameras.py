"""Scenes: what a batch shows, which moments are drawn, and what is found on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled.data.cameras import Scenes, from_views, read
from unlabeled.data.options import OpenOptions
from unlabeled.data.worlds import built_in


def scenes(count: int = 5, views: int = 3, frames: int = 9) -> Scenes:
    """Every pixel says which scene (red), camera (green) and frame (blue) it is from."""
    made = torch.zeros(count, views, frames, 3, 4, 4, dtype=torch.uint8)
    made[:, :, :, 0] = torch.arange(count)[:, None, None, None, None]
    made[:, :, :, 1] = torch.arange(views)[:, None, None, None]
    made[:, :, :, 2] = torch.arange(frames)[:, None, None]
    return from_views(made, factors={"progress": torch.rand(count, frames), "weight": torch.rand(count)})


def told(views: Tensor) -> Tensor:
    """Scene, camera and frame of images made above, int64, shape (batch, cameras, frames, 3)."""
    return views[..., 0, 0].long()


def test_batch_gives_whole_scenes_in_the_order_asked_for() -> None:
    batch = scenes().batch(torch.tensor([3, 1]))
    assert batch["views"].shape == (2, 3, 9, 3, 4, 4) and batch["views"].dtype == torch.uint8
    assert torch.equal(told(batch["views"])[..., 0], torch.tensor([3, 1])[:, None, None].expand(2, 3, 9))
    assert torch.equal(told(batch["views"])[..., 2], batch["time"])
    assert torch.equal(batch["index"], torch.tensor([3, 1]))


def test_shorter_scenes_repeat_their_last_frame() -> None:
    whole = scenes(2, 2, 5)
    lengths = torch.tensor([5, 3])
    pixels = torch.cat([whole.pixels[:10], whole.pixels[10:13], whole.pixels[15:18]])
    data = Scenes(pixels, lengths, cameras=2, name="ragged", paths=["a", "b"])
    shown = told(data.batch(torch.tensor([0, 1]))["views"])
    assert shown[1, :, :, 2].tolist() == [[0, 1, 2, 2, 2]] * 2 and bool((shown[1, 1, :, 1] == 1).all())
    assert len(data.frames()) == 16 and data.shape["frames"] == 3


def test_two_cameras_show_the_same_distinct_moments() -> None:
    data = scenes().moments(4)
    pairs = set()
    for seed in range(40):
        torch.manual_seed(seed)
        shown = told(data.batch(torch.tensor([0, 2]))["views"])
        assert bool((shown[..., 0] == torch.tensor([0, 2])[:, None, None]).all())
        assert torch.equal(shown[:, 0, :, 2], shown[:, 1, :, 2])
        assert bool((shown[:, 0, 1:, 2] > shown[:, 0, :-1, 2]).all())
        assert bool((shown[:, 0, :, 1] != shown[:, 1, :, 1]).all())
        pairs |= {tuple(pair) for pair in shown[:, :, 0, 1].tolist()}
    assert len(pairs) == 6  # both orders of every two of three cameras


def test_one_camera_shows_other_moments_within_the_radius() -> None:
    data, distances = scenes().moments(9, radius=2), []
    for seed in range(60):
        torch.manual_seed(seed)
        batch = data.batch(torch.tensor([0, 2]))
        shown = told(batch["views"])
        assert torch.equal(shown[..., 2], batch["time"])
        assert bool((shown[:, 0, :, 1] == shown[:, 1, :, 1]).all())
        distances.append(shown[:, 1, :, 2] - shown[:, 0, :, 2])
    counts = torch.stack(distances)[..., 4].flatten().add(2).bincount(minlength=5)
    assert counts[2] == 0 and bool((counts[[0, 1, 3, 4]] > 15).all())  # uniform, never the moment itself
    assert int(torch.stack(distances).abs().max()) == 2


def test_draws_follow_the_default_generator_alone() -> None:
    data = scenes().moments(4)
    torch.manual_seed(5)
    first = data.batch(torch.arange(3))
    torch.manual_seed(5)
    np.random.seed(1)
    assert torch.equal(first["views"], data.batch(torch.arange(3))["views"])


def test_frames_are_images_that_know_their_place_and_factors() -> None:
    data = scenes().subset(torch.tensor([4, 2]))
    images, places = data.frames(), data.places()
    assert len(images) == len(places) == 2 * 3 * 9 and images.labels is None
    shown = images.batch(torch.arange(len(images)))["image"][..., 0, 0].long()
    assert torch.equal(shown[:, 1:], places[:, 1:])
    assert torch.equal(shown[:, 0], torch.tensor([4, 2])[places[:, 0]])
    assert torch.equal(images.factors["progress"], data.factors["progress"][places[:, 0], places[:, 2]])
    assert torch.equal(images.factors["weight"], data.factors["weight"][places[:, 0]])


def test_subset_of_moments_shows_the_same_scenes() -> None:
    part = scenes().moments(4).subset(torch.tensor([3]))
    assert len(part) == 1 and bool((told(part.batch(torch.tensor([0]))["views"])[..., 0] == 3).all())


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="moments must be at most 9"):
        scenes().moments(10)
    with pytest.raises(ValueError, match="at least 2 cameras"):
        scenes(views=1).moments(3)
    assert scenes(views=1).moments(3, radius=1).batch(torch.tensor([0]))["views"].shape[1] == 2


@pytest.mark.parametrize("name", ["orbit", "orbit:still"])
def test_built_in_scenes(name: str) -> None:
    data = built_in(name, "test")
    assert len(data) == 20 and data.shape == {"channels": 3, "image_size": 48, "cameras": 2, "frames": 24}
    assert set(data.factors) == {"progress", "angle_sin", "angle_cos"}


def picture(level: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12, 3), level, np.uint8)).save(path)


def test_folders_of_images_are_cameras(tmp_path: Path) -> None:
    for scene in range(4):
        for camera in range(2):
            for frame in range(3 + camera):
                picture(
                    40 * scene + 10 * camera + frame, tmp_path / f"train/s{scene}/cam{camera}/{frame:03d}.png"
                )
        picture(200, tmp_path / f"test/s{scene}/cam0/000.png")
        picture(201, tmp_path / f"test/s{scene}/cam1/000.png")
    picture(0, tmp_path / "train/alone/cam0/000.png")
    found = read.find(tmp_path, OpenOptions(store_size=6, max_broken=0.3))
    assert set(found) == {"train", "test"}
    data = found["train"]()
    assert len(data) == 4 and data.cameras == 2 and data.lengths.tolist() == [3] * 4
    assert [skip.path for skip in data.skipped] == [str(tmp_path / "train/alone")]
    assert data.batch(torch.tensor([2]))["views"].shape == (1, 2, 3, 3, 6, 6)
    assert data.batch(torch.tensor([2]))["views"][0, 1, :, 0, 0, 0].tolist() == [90, 91, 92]
    assert found["test"]().lengths.tolist() == [1] * 4


def test_videos_are_cameras(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    for camera in range(2):
        path = tmp_path / "scene" / f"camera{camera}.mp4"
        path.parent.mkdir(exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for frame in range(5):
                level = np.full((32, 32, 3), 40 * frame + 20 * camera + 20, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
            container.mux(stream.encode(None))
    data = read.find(tmp_path, OpenOptions(store_size=16))["all"]()
    shown = data.batch(torch.tensor([0]))["views"][0].float().mean((2, 3, 4))
    wanted = 40 * torch.arange(5) + 20 * torch.arange(2)[:, None] + 20.0
    assert shown.shape == (2, 5) and (shown - wanted).abs().max() < 6


def test_arrays_on_disk(tmp_path: Path) -> None:
    views = np.random.default_rng(0).integers(0, 255, (6, 2, 4, 5, 5, 3), np.uint8)
    speed = np.arange(6.0)
    np.savez(tmp_path / "one.npz", train_views=views[:4], test_views=views[4:], train_speed=speed[:4])
    found = read.find(tmp_path / "one.npz", OpenOptions())
    train, test = found["train"](), found["test"]()
    assert len(train) == 4 and len(test) == 2 and train.factors["speed"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(train.batch(torch.tensor([1]))["views"][0].permute(0, 1, 3, 4, 2).numpy(), views[1])
    folder = tmp_path / "many"
    folder.mkdir()
    for row in range(6):
        np.savez(folder / f"{row}.npz", views=views[row, :, : 2 + row % 2])
    (folder / "broken.npz").write_bytes(b"no")
    data = read.find(folder, OpenOptions(max_broken=0.2))["all"]()
    assert len(data) == 6 and data.lengths.tolist() == [2, 3] * 3 and len(data.skipped) == 1


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scenes in"):
        read.find(tmp_path, OpenOptions())
    np.savez(tmp_path / "odd.npz", pictures=np.zeros(3))
    with pytest.raises(ValueError, match=r"must hold views or train_views, got pictures"):
        read.find(tmp_path / "odd.npz", OpenOptions())
    with pytest.raises(ValueError, match="views of array must be uint8 of 6 axes"):
        from_views(np.zeros((2, 3, 4, 4, 3), np.uint8))


@pytest.mark.parametrize("shape", [(5, 4), (4,), (5, 9, 2)])
def test_factors_must_be_of_scenes_or_of_their_moments(shape: tuple[int, ...]) -> None:
    views = torch.zeros(5, 2, 9, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"progress of array must have shape \(5,\) or \(5, 9\), got"):
        from_views(views, factors={"progress": torch.zeros(shape)})


def test_a_full_disk_is_no_broken_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was half written must not stay between scenes that count as whole."""
    for scene in ("a", "b"):
        for camera in ("left", "right"):
            picture(9, tmp_path / scene / camera / "0.png")

    class Full:
        def write(self, content: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(read, "load_or_build", lambda key, write, folder: write(Full()))
    with pytest.raises(OSError, match="No space left"):
        read.find(tmp_path, OpenOptions())["all"]()
