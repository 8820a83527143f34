"""Key points: heat maps and PCK against slow twins, and a written world in the layout of JHMDB with exact answers."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.notes import note
from unlabeled.data.video.poses import find_poses, posed_films
from unlabeled.evaluation import evaluate
from unlabeled.evaluation.keypoints import correct, decode, heat_maps, pck, visible
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.tasks.propagation import TASK

CELL, SIZE = 4, 32
NAN = math.nan


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    note.cache_clear()


def test_heat_maps_match_a_slow_twin():
    points = torch.tensor([[0.0, 0.0], [13.4, 7.6], [29.5, 19.4], [29.6, 5.0], [-0.6, 5.0], [NAN, 3.0]])
    maps = heat_maps(points, 20, 30, 5, 6)
    for joint, (x, y) in enumerate(points.tolist()):
        inside = -0.5 <= x < 29.5 and -0.5 <= y < 19.5
        column, row = (int((x + 0.5) // 5), int((y + 0.5) // 4)) if inside else (99, 99)
        for v in range(5):
            for u in range(6):
                near = abs(u - column) <= 1 and abs(v - row) <= 1
                expected = math.exp(-2 * ((u - column) ** 2 + (v - row) ** 2)) if near else 0
                assert float(maps[joint, v, u]) == pytest.approx(expected)
    assert maps.flatten(1).amax(1).tolist() == [1, 1, 0, 0, 0, 0]
    assert visible(points, 20, 30).tolist() == [True, True, False, False, False, False]


def test_a_point_is_found_where_it_was_drawn_up_to_the_middle_of_its_cell():
    points = 5 + 20 * torch.rand(50, 2)
    found = decode(heat_maps(points, SIZE, 48, 8, 12)[None], SIZE, 48)[0]
    torch.testing.assert_close(found, ((points + 0.5) / CELL).floor() * CELL + 1.5)


def test_positions_are_the_weighted_mean_of_the_strongest_cells_and_empty_maps_have_none():
    maps = torch.zeros(1, 2, 2, 4)
    maps[0, 0, 0, :3] = torch.tensor([0.1, 0.6, 0.2])
    maps[0, 0, 1, 1] = 0.05  # the fourth
    found = decode(maps, 8, 16)[0]
    assert found[0].tolist() == pytest.approx([(0.1 * 1.5 + 0.6 * 5.5 + 0.2 * 9.5) / 0.9, 1.5])
    assert found[1].isnan().all()


def slow_pck(videos: list[tuple[Tensor, Tensor, Tensor]], threshold: float) -> float:
    """The protocol point by point: all distances of a joint in one list."""
    distances: dict[int, list[float]] = {}
    for predicted, true, counted in videos:
        for t in range(1, len(true)):
            box = [true[t, j].tolist() for j in range(true.shape[1]) if counted[t, j]]
            if not box:
                continue
            sides = [max(c) - min(c) for c in zip(*box)]
            for j in range(true.shape[1]):
                if counted[t, j]:
                    d = math.dist(predicted[t, j].tolist(), true[t, j].tolist())
                    distances.setdefault(j, []).append(d / (0.6 * math.hypot(*sides)))
    fractions = [sum(d <= threshold for d in those) / len(those) for those in distances.values()]
    return sum(fractions) / len(fractions)


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5])
def test_pck_matches_a_slow_twin(threshold):
    videos, right, counts = [], [], []
    for frames in (4, 7, 2):
        true = 40 * torch.rand(frames, 5, 2)
        predicted = true + 4 * torch.randn(frames, 5, 2)
        predicted[1, 2] = NAN
        counted = (torch.rand(5) < 0.7) & (torch.rand(frames, 5) < 0.9)
        counted[1, :3] = True
        videos.append((predicted, true, counted))
        right.append(correct(predicted, true, counted, threshold)[1:].sum(0))
        counts.append(counted[1:].sum(0))
    found = pck(torch.stack(right), torch.stack(counts))
    assert found == pytest.approx(slow_pck(videos, threshold)) and 0 < found < 1


def test_pck_in_closed_form():
    true = torch.tensor([[[0.0, 0.0], [30.0, 40.0]]])  # a diagonal of 50: points are right within 3 pixels
    all_ = torch.ones(1, 2, dtype=torch.bool)
    moved = true + torch.tensor([[3.0, 0.0], [0.0, -3.01]])
    assert correct(moved, true, all_, 0.1).tolist() == [[True, False]]
    assert correct(moved, true, all_, 0.2).tolist() == [[True, True]]
    assert not correct(true * NAN, true, all_, 0.2).any() and not correct(true, true, ~all_, 0.2).any()
    # Joints count alike, however often each is seen.
    assert pck(torch.tensor([[1, 0], [9, 1]]), torch.tensor([[1, 0], [9, 2]])) == pytest.approx((1 + 0.5) / 2)


def world(frames: int, step: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A texture that moves by whole cells to the right, and three of its points: (t, h, w, 3), (2, joints, t)."""
    texture = np.random.default_rng(shift).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    video = np.stack([np.roll(texture, t * step, 1) for t in range(frames)])
    start = np.array([[5.5, 9.5, 5.5], [9.5, 17.5, 21.5]])  # in the middle of cells
    motion = np.stack([np.arange(frames) * step, np.zeros(frames)])
    return video, start[:, :, None] + motion[:, None]


def write(root: Path, label: str, name: str, video: np.ndarray, points: np.ndarray) -> None:
    (root / "Rename_Images" / label / name).mkdir(parents=True)
    (root / "joint_positions" / label / name).mkdir(parents=True)
    for number, frame in enumerate(video):
        Image.fromarray(frame).save(root / "Rename_Images" / label / name / f"{number + 1:05}.png")
    file = root / "joint_positions" / label / name / "joint_positions.mat"
    savemat(file, {"pos_img": points + 1, "pos_world": points})  # MATLAB counts from 1


def jhmdb(root: Path) -> Path:
    write(root, "run", "a film_run_f_nm_np1_ri_med_0", *world(5, CELL))
    write(root, "sit", "b_sit_f_nm_np1_ri_med_0", *world(9, 0, 1))
    write(root, "sit", "c_sit_f_nm_np1_ri_med_0", *world(3, 0, 2))
    return root


def model() -> EvaluatedModel:
    return EvaluatedModel(encoders.build("conv4", image_size=SIZE).eval())


def values(data: str | Path, **options: object) -> dict[tuple[str, str], float]:
    scores = evaluate(model().encoder, str(data), probe="propagation", **options)
    return {(r["features"], r["unit"]): r["value"] for r in scores}


def test_points_of_a_world_that_moves_by_whole_cells_are_found_exactly(tmp_path):
    found = TASK(model(), str(jhmdb(tmp_path)))
    names = ["unlabeled", "random", "raw", "copy first frame"]
    assert [(m.features, m.unit) for m in found] == [
        (name, unit) for name in names for unit in ("PCK@0.1", "PCK@0.2")
    ]
    by = {(m.features, m.unit): m for m in found}
    assert by["raw", "PCK@0.1"].values.item() == 1.0
    # Four of fourteen frames move, by more than 0.2 * 0.6 times the diagonal of the box, 12.6 pixels.
    assert by["copy first frame", "PCK@0.2"].values.item() == pytest.approx(10 / 14)
    for one in found:
        assert one.samples == 3 * 14 and one.counted == "recordings" and one.left_out is not None
        assert len(one.left_out.values) == 3 and one.detail.startswith("32 pixels, ")
        assert one.left_out.fractions.tolist() == pytest.approx([4 / 14, 8 / 14, 2 / 14])
    assert by["copy first frame", "PCK@0.1"].left_out.values.tolist() == pytest.approx([1, 2 / 6, 8 / 12])
    assert by["unlabeled", "PCK@0.2"].values.item() > by["copy first frame", "PCK@0.2"].values.item()


def test_points_of_later_frames_are_never_looked_at(tmp_path):
    video, points = world(5, CELL)
    points[:, :, 1:] = points[:, :, :1]
    write(tmp_path, "run", "claims to stay", video, points)
    found = values(tmp_path)
    assert found["raw", "PCK@0.2"] == 0 and found["copy first frame", "PCK@0.1"] == 1


def test_joints_outside_the_first_frame_do_not_count(tmp_path):
    video, points = world(4, CELL)
    points[0, 2] -= 40
    write(tmp_path, "run", "one outside", video, points)
    found = TASK(model(), str(tmp_path))
    assert {one.samples for one in found} == {2 * 3} and found[4].values.item() == 1
    points[:] = -9
    write(tmp_path / "none", "run", "all outside", video, points)
    with pytest.raises(ValueError, match="key points must be in the first frame, got none there"):
        TASK(model(), str(tmp_path / "none"))


def test_official_splits_choose_the_videos(tmp_path, caplog):
    jhmdb(tmp_path)
    (tmp_path / "splits").mkdir()
    for label, lines in {"run": "a film_run_f_nm_np1_ri_med_0.avi 2\n", "sit": "b_sit_f_nm_np1_ri_med_0.avi 1\r\n"
                         "c_sit_f_nm_np1_ri_med_0.avi 2\r\nd_sit_f_nm_np1_ri_med_0.avi 2\r\n"}.items():  # fmt: skip
        (tmp_path / "splits" / f"{label}_test_split1.txt").write_text(lines)
        (tmp_path / "splits" / f"{label}_test_split2.txt").write_text(lines.replace(" 2", " 1"))
    names = [file.name for file in find_poses(tmp_path) or []]
    assert names == ["run/a film_run_f_nm_np1_ri_med_0", "sit/c_sit_f_nm_np1_ri_med_0"]
    assert any(
        "1 of 4 lines of official split 1, no such video: sit/d_sit" in r.message for r in caplog.records
    )
    with pytest.raises(ValueError, match="must hold videos with key points"):
        find_poses(tmp_path, fold=2)
    assert values(tmp_path, fold=1)["copy first frame", "PCK@0.2"] == pytest.approx(2 / 6)


def test_what_cannot_be_used_is_counted_and_named(tmp_path, caplog):
    jhmdb(tmp_path)
    mats = {path.parent.name[0]: path for path in tmp_path.glob("joint_positions/*/*/*.mat")}
    mats["a"].write_bytes(b"no matrix")
    savemat(mats["c"], {"pos_img": np.zeros((2, 5, 3))})
    assert [file.name[:5] for file in find_poses(tmp_path) or []] == ["sit/b"]
    said = caplog.records[-1].message
    assert said.startswith(
        f"{tmp_path}: skipped 2 of 3 videos: run/a film_run_f_nm_np1_ri_med_0 (joint_positions.mat "
    )
    assert said.endswith("sit/c_sit_f_nm_np1_ri_med_0 (5 joints, not 3)")
    savemat(mats["b"], {"pos_img": np.zeros((2, 15))})
    savemat(mats["c"], {"pos": 0})
    with pytest.raises(
        ValueError, match=r"must hold videos with key points, got run/a film.*without pos_img"
    ):
        find_poses(tmp_path)
    assert find_poses("blobs") is None and find_poses(tmp_path / "splits") is None


def test_frames_may_be_a_video_and_have_another_number(tmp_path, caplog):
    av = pytest.importorskip("av")
    video, points = world(6, 0)
    write(tmp_path, "run", "walk [1]", video[:1], points)
    for file in (tmp_path / "Rename_Images" / "run" / "walk [1]").iterdir():
        file.unlink()
    (tmp_path / "ReCompress_Videos" / "run").mkdir(parents=True)
    with av.open(str(tmp_path / "ReCompress_Videos" / "run" / "walk [1].avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(video[number], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    (film,) = posed_films(find_poses(tmp_path) or [])
    assert film.frames.shape == (5, 3, SIZE, SIZE) and film.points.shape == (5, 3, 2)
    assert film.points[0, 1].tolist() == [9.5, 17.5]
    assert caplog.records[-1].message == "run/walk [1]: the first 5 of 5 frames, as key points are known in 6"
