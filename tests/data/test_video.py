"""Videos: whole, in clips, spread, from files, arrays and worlds, always the frames that they should be."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.check import UserError
from unlabeled.data.options import OpenOptions
from unlabeled.data.video import decode
from unlabeled.data.video.data import Videos, from_videos
from unlabeled.data.video.read import find
from unlabeled.data.worlds import built_in

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "video_samples"


def numbered(counts=(10, 7, 25), **known):
    """Videos whose pixels say which video and which frame: 2 x 3 pixels of one channel."""
    frames = [
        torch.stack([torch.full((1, 2, 3), 30 * video + frame) for frame in range(count)])
        for video, count in enumerate(counts)
    ]
    return Videos(
        torch.cat(frames).to(torch.uint8).reshape(-1),
        torch.tensor(counts),
        (1, 2, 3),
        name="numbered",
        paths=[f"video{number}" for number in range(len(counts))],
        **known,
    )


def shown(data, rows=None):
    """What stands in the frames of samples, int64, shape (samples, frames)."""
    rows = torch.arange(len(data)) if rows is None else torch.tensor(rows)
    return data.batch(rows)["video"][:, :, 0, 0, 0].long()


def whole(folder, **options):
    return find(folder, OpenOptions(cache=False, **options))["all"]()


def test_whole_videos_stay_at_their_last_frame_where_others_are_longer():
    batch = numbered().batch(torch.tensor([1, 0]))
    assert batch["video"].shape == (2, 10, 1, 2, 3) and batch["video"].dtype == torch.uint8
    assert batch["frames"].tolist() == [7, 10] and batch["index"].tolist() == [1, 0]
    assert shown(numbered(), [1, 0]).tolist() == [[30, 31, 32, 33, 34, 35, 36, 36, 36, 36], [*range(10)]]
    assert "frames" not in numbered((5, 5)).batch(torch.tensor([0]))
    assert numbered().shape == {"channels": 1, "image_size": 2, "frames": 10}
    assert "3 videos" in repr(numbered())


def test_clips_lie_side_by_side_and_each_start_occurs_once():
    for count, frames, stride in [(10, 3, 1), (10, 3, 2), (25, 4, 3), (7, 7, 1), (11, 5, 1), (9, 1, 1)]:
        clips = numbered((count,)).clips(frames, stride)
        length = (frames - 1) * stride + 1
        assert len(clips) == count // length
        starts = clips.places[:, 0, None] + torch.arange(count)
        possible = [
            start for row, slack in zip(starts.tolist(), clips.slack.tolist()) for start in row[: slack + 1]
        ]
        assert possible == list(range(count - length + 1))
        assert (clips.places.diff(dim=1) == stride).all()


def test_random_clips_come_from_the_default_generator_and_reach_every_start():
    data = numbered((10, 7, 25))
    clips = data.clips(4)
    assert len(clips) == 2 + 1 + 6
    torch.manual_seed(1)
    first = shown(clips)
    torch.manual_seed(1)
    assert torch.equal(shown(clips), first)
    assert (first.diff(dim=1) == 1).all()
    seen = {tuple(row) for _ in range(300) for row in shown(clips).tolist()}
    expected = {
        tuple(30 * video + start + step for step in range(4))
        for video, count in enumerate((10, 7, 25))
        for start in range(count - 3)
    }
    assert seen == expected
    assert (first // 30 == torch.tensor([0, 0, 1, 2, 2, 2, 2, 2, 2])[:, None]).all()


def test_fixed_clips_are_the_same_each_time():
    clips = numbered().clips(4, random=False)
    assert torch.equal(shown(clips), shown(clips)) and not clips.slack.any()
    assert len(clips) == len(numbered().clips(4))
    assert clips.paths[0] == "video0[0:]"


def test_short_videos_give_no_clips_and_too_long_clips_are_refused():
    clips = numbered((10, 7, 25)).clips(9)
    assert (shown(clips) // 30).unique().tolist() == [0, 2]
    with pytest.raises(ValueError, match="at most 25"):
        numbered().clips(26)
    with pytest.raises(ValueError, match="at most 25"):
        numbered().clips(9, 4)
    for bad in ({"frames": 0}, {"frames": 4, "stride": 0}, {"frames": float("nan")}):
        with pytest.raises(ValueError, match=r"frames|stride"):
            numbered().clips(**bad)


def test_spread_and_middle_show_one_sample_for_each_video():
    data = numbered((10, 7, 2))
    assert shown(data.spread(3)).tolist() == [[0, 4, 9], [30, 33, 36], [60, 60, 61]]
    assert shown(data.spread(1)).tolist() in ([[4], [33], [60]], [[4], [33], [61]])
    assert shown(data.middle(4)).tolist() == [[3, 4, 5, 6], [31, 32, 33, 34], [60, 61, 61, 61]]
    assert shown(data.middle(3, 2)).tolist() == [[2, 4, 6], [31, 33, 35], [60, 61, 61]]
    assert data.spread(3).shape["frames"] == 3


def test_views_of_views_choose_among_their_frames():
    clips = numbered((10, 7)).clips(6, random=False)
    assert shown(clips).tolist() == [[2, 3, 4, 5, 6, 7], [30, 31, 32, 33, 34, 35]]
    assert shown(clips.spread(2)).tolist() == [[2, 7], [30, 35]]
    assert shown(clips.middle(2)).tolist() == [[4, 5], [32, 33]]
    assert shown(clips.clips(3)).tolist() == [[2, 3, 4], [5, 6, 7], [30, 31, 32], [33, 34, 35]]


def test_what_is_known_goes_with_its_video():
    factors = {"speed": torch.tensor([1.0, 2.0, 3.0]), "x": torch.arange(30).view(3, 10)}
    masks = torch.arange(3).view(3, 1, 1, 1).expand(3, 10, 2, 3)
    labels = torch.tensor([5, 6, 7])
    data = numbered((10, 10, 10), labels=labels, factors=factors, masks=masks, fps=torch.tensor([1.0, 2, 3]))
    part = data.subset(torch.tensor([2, 0]))
    assert shown(part)[:, 0].tolist() == [60, 0] and part.labels.tolist() == [7, 5]
    assert part.masks[:, 0, 0, 0].tolist() == [2, 0] and part.factors["speed"].tolist() == [3, 1]
    fixed = part.clips(4, random=False)
    assert fixed.labels.tolist() == [7, 7, 5, 5] and fixed.fps.tolist() == [3, 3, 1, 1]
    assert torch.equal(fixed.factors["x"] % 10, shown(fixed) % 30)
    assert "x" not in part.clips(4).factors and part.clips(4).masks is None
    smaller = fixed.subset(torch.tensor([False, True, True, False]))
    assert torch.equal(shown(smaller), shown(fixed, [1, 2]))
    moved = part.to("cpu")
    assert torch.equal(shown(moved), shown(part))


def test_labels_are_no_part_of_a_batch():
    batch = numbered(labels=torch.tensor([1, 2, 3])).clips(4).batch(torch.tensor([0]))
    assert set(batch) == {"video", "index", "group"}


@pytest.mark.parametrize("name", ["moving_digits:direction", "balls", "balls:reversible", "balls:static"])
def test_built_in(name):
    data = built_in(name, "test")
    assert len(data) == 500 and data.name == name and data.shape["channels"] == 1
    if data.labels is not None:
        assert sorted(data.labels.unique().tolist()) == list(range(len(data.classes)))
        assert "direction" in data.factors


def test_training_and_test_part_of_a_built_in_set_share_no_video(monkeypatch):
    monkeypatch.setattr("unlabeled.data.worlds.SIZES", {"videos": (30, 20)})
    train, test = built_in("balls", "train"), built_in("balls", "test")
    assert (len(train), len(test)) == (30, 20)
    both = torch.cat([shown.batch(torch.arange(20))["video"].flatten(1) for shown in (train, test)])
    assert len(both.unique(dim=0)) == 40
    assert torch.equal(built_in("balls", "test").table, test.table)


def test_unknown_built_in():
    with pytest.raises(ValueError, match="balls:reversible"):
        built_in("balls:nonsense", "train")


@pytest.mark.parametrize("last", [False, True])
def test_arrays(last):
    video = torch.randint(0, 256, (3, 5, 3, 8, 6), dtype=torch.uint8)
    array = video.permute(0, 1, 3, 4, 2).numpy() if last else video
    data = whole(array)
    assert torch.equal(data.batch(torch.arange(3))["video"], video)
    grey = whole(video[:, :, 0].numpy())
    assert torch.equal(grey.batch(torch.arange(3))["video"], video[:, :, :1])
    assert whole(array, channels=1).shape["channels"] == 1
    floats = whole(video.float() / 255)
    assert torch.equal(floats.batch(torch.arange(3))["video"], video)
    for bad in (video.float(), torch.zeros(3, 5), torch.zeros(2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match="array must"):
            whole(bad)


def test_array_files(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 8, 6)).astype(np.uint8)
    np.save(tmp_path / "a.npy", video)
    assert torch.equal(whole(tmp_path / "a.npy").batch(torch.arange(4))["video"], torch.from_numpy(video))
    np.savez(tmp_path / "a.npz", train_videos=video, train_labels=np.arange(4), test_videos=video[:1])
    found = find(tmp_path / "a.npz", OpenOptions())
    assert set(found) == {"train", "test"} and found["train"]().labels.tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "b.npz", videos=video, labels=np.arange(3))
    with pytest.raises(ValueError, match="must be 4 numbers or texts"):
        whole(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=video)
    with pytest.raises(ValueError, match="must hold videos"):
        find(tmp_path / "c.npz", OpenOptions())
    (tmp_path / "d.npy").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"d\.npy must be a readable array"):
        find(tmp_path / "d.npy", OpenOptions())


def encode(path: Path, count: int, height: int = 48, width: int = 64, value: int = 0) -> None:
    """A video whose frames grow brighter by 4 from one to the next."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2", "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            array = np.full((height, width, 3), value + 4 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_class_folders_of_files_with_a_cache_and_a_broken_file(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(("cats", "dogs")):
            for number in range(count):
                encode(tmp_path / "set" / split / name / f"{number}.mp4", 8 + number, value=100 * label)
    (tmp_path / "set" / "train" / "cats" / "broken.mp4").write_bytes(b"nonsense" * 10)
    how = OpenOptions(cache=tmp_path / "cache", max_broken=0.2)
    found = find(tmp_path / "set", how)
    assert set(found) == {"train", "test"}
    data = found["train"]()
    assert data.classes == ["cats", "dogs"] and data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.counts.tolist() == [8, 9, 10] * 2 and data.fps.tolist() == pytest.approx([10.0] * 6)
    assert data.shape == {"channels": 3, "image_size": 48, "frames": 9}
    assert [Path(skip.path).name for skip in data.skipped] == ["broken.mp4"]
    bright = data.batch(torch.tensor([1]))["video"][0].float().mean((1, 2, 3))
    assert bright.tolist() == pytest.approx([4.0 * number for number in range(9)], abs=2)
    again = find(tmp_path / "set", how)["train"]()
    assert torch.equal(again.table, data.table) and again.labels.tolist() == data.labels.tolist()
    with pytest.raises(ValueError, match=r"1 of 7 files .* more than a max_broken of 0.1"):
        find(tmp_path / "set", OpenOptions(cache=False))["train"]()


def test_all_frames_get_one_size_and_the_usual_aspect(tmp_path):
    for number, (height, width) in enumerate([(48, 64), (48, 64), (96, 96), (40, 80)]):
        encode(tmp_path / f"{number}.mp4", 5, height, width)
    data = whole(tmp_path, store_size=24)
    assert data.table.shape[1:] == (3, 24, 32) and data.labels is None
    assert whole(tmp_path).table.shape[1:] == (3, 48, 64)
    assert whole(tmp_path, channels=1, store_size=24).table.shape == (20, 1, 24, 32)


def test_one_file_and_films_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    encode(tmp_path / "a.mp4", 12)
    usual = whole(tmp_path / "a.mp4")
    assert usual.counts.tolist() == [12]
    monkeypatch.setattr("unlabeled.data.video.read._LARGEST", 100)
    assert torch.equal(whole(tmp_path / "a.mp4").table, usual.table)


def test_folders_of_frames(tmp_path):
    for name in ("walk", "jump"):
        for video in range(2):
            folder = tmp_path / "classes" / name / f"video{video}"
            folder.mkdir(parents=True)
            for number in range(3 + video):
                Image.new("RGB", (16, 12), (number, 0, 0)).save(folder / f"{number:03}.png")
    data = whole(tmp_path / "classes")
    assert data.classes == ["jump", "walk"] and data.labels.tolist() == [0, 0, 1, 1]
    assert data.counts.tolist() == [3, 4, 3, 4]
    assert shown(data.subset(torch.tensor([1]))).tolist() == [[0, 1, 2, 3]]
    plain = whole(tmp_path / "classes" / "walk")
    assert len(plain) == 2 and plain.labels is None
    single = whole(tmp_path / "classes" / "walk" / "video1")
    assert len(single) == 1 and single.counts.tolist() == [4]


def test_a_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(ValueError, match=r"no videos in .*1 \.txt"):
        find(tmp_path, OpenOptions())


@pytest.mark.skipif(not REAL.exists(), reason="real videos lie beside the repository")
def test_real_clips():
    data = whole(REAL / "clips", store_size=32)
    assert len(data) == 4 and data.shape["image_size"] == 32
    assert data.clips(8, 2).batch(torch.arange(4))["video"].shape[:2] == (4, 8)


def test_from_videos_keeps_its_frames():
    video = torch.randint(0, 256, (2, 3, 1, 4, 5), dtype=torch.uint8)
    assert torch.equal(from_videos(video).batch(torch.tensor([1]))["video"], video[1:])


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (4, 5, 3)])
def test_arrays_without_the_axes_of_videos_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="must have axes samples, frames, channels, height, width"):
        find(tmp_path / "odd.npy", OpenOptions())["all"]()


def test_videos_too_short_for_a_clip_are_listed():
    clips = numbered().clips(8)
    assert [(Path(skip.path).name, skip.reason) for skip in clips.skipped] == [
        (numbered().paths[1], "7 frames, fewer than the 8 of a clip")
    ]
    assert not numbered().skipped


def test_a_failing_disk_is_not_remembered_as_a_broken_video(tmp_path, monkeypatch):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, 8, 8, 3), np.uint8))
    read = decode.read_npy

    def failing(path):
        if path.name == "b.npy":
            raise UserError(f"{path} cannot be read") from OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_npy", failing)
        assert len(find(tmp_path, OpenOptions(max_broken=0.5))["all"]()) == 1
    assert len(find(tmp_path, OpenOptions())["all"]()) == 2


def test_a_column_of_labels_is_refused_for_folders_of_frames(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"label must be left out for frames in .*, got kind"):
        find(tmp_path, OpenOptions(label="kind"))
