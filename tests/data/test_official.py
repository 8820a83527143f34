"""Official splits of UCF101, HMDB51 and JHMDB: which video is in which part, and what is said of every other line."""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabeled.data import open_data, open_splits
from unlabeled.data.notes import note
from unlabeled.data.video.official import listing, recordings


@pytest.fixture(autouse=True)
def _fresh_notes():
    note.cache_clear()


def video(path: Path, shade: int = 0, frames: int = 3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.full((frames, 8, 8, 1), shade, np.uint8))
        return
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def lists(folder: Path, **content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / f"{name}.txt").write_bytes(text.encode())


def ucf(root: Path, ending: str = ".npy") -> Path:
    """Three classes, of which one has a space in its name, with four videos each of two groups."""
    for shade, label in enumerate(("Archery", "Bowling", "Cliff Diving")):
        name = label.replace(" ", "")
        for group in (1, 2):
            for clip in (1, 2):
                video(root / "UCF-101" / label / f"v_{name}_g0{group}_c0{clip}{ending}", 20 * shade + group)
    return root


CLASSES = "1 Archery\r\n2 Bowling\r\n3 Cliff Diving\r\n"
TRAIN = "".join(
    f"{label}/v_{label.replace(' ', '')}_g02_c0{clip}.avi {number}\r\n"
    for number, label in enumerate(("Archery", "Bowling", "Cliff Diving"), 1)
    for clip in (1, 2)
)
TEST = TRAIN.replace("_g02_", "_g01_")
TEST = "".join(f"{line.rsplit(None, 1)[0]}\r\n" for line in TEST.splitlines())


def opened(root: Path, **options):
    train, test = open_splits(root, kind="video", cache=False, **options)
    return [
        [(Path(path).stem, name) for path, name in zip(part.paths, part.class_names())]
        for part in (train, test)
    ]


def test_lists_of_ucf101_with_crlf_numbers_and_spaces(tmp_path, caplog):
    lists(ucf(tmp_path) / "ucfTrainTestlist", trainlist01=TRAIN, testlist01=TEST, classInd=CLASSES)
    train, test = opened(tmp_path)
    names = [("Archery", "Archery"), ("Bowling", "Bowling"), ("CliffDiving", "Cliff Diving")]
    assert train == [(f"v_{stem}_g02_c0{clip}", label) for stem, label in names for clip in (1, 2)]
    assert test == [(f"v_{stem}_g01_c0{clip}", label) for stem, label in names for clip in (1, 2)]
    data = open_data(tmp_path, kind="video", cache=False)
    assert data.classes == ["Archery", "Bowling", "Cliff Diving"] and data.other_splits == ("test",)
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2] and data.group_unit == "recordings"
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: official split 1, 6 videos to train and 6 to test"
    ]


def test_without_class_numbers_and_names_the_folders_are_the_classes(tmp_path):
    bare = "".join(f"{line.rsplit(None, 1)[0]}\n" for line in TRAIN.splitlines())
    lists(ucf(tmp_path), trainlist01="﻿" + bare, testlist01=TEST)
    assert opened(tmp_path)[0] == [
        (f"v_{label.replace(' ', '')}_g02_c0{clip}", label)
        for label in ("Archery", "Bowling", "Cliff Diving")
        for clip in (1, 2)
    ]


def test_the_order_of_classes_is_that_of_their_numbers(tmp_path):
    lists(ucf(tmp_path), trainlist01=TRAIN.replace(" 1\r", " 9\r"), testlist01=TEST, classInd="9 Archery\n2 Bowling\n"
          "3 Cliff Diving\n4 Diving\n")  # fmt: skip
    assert open_data(tmp_path, kind="video", cache=False).classes == ["Archery", "Bowling", "Cliff Diving"]


def test_every_line_that_is_not_used_is_counted_and_named(tmp_path, caplog):
    odd = (
        "Archery/v_Archery_g09_c01.avi 1\nArchery/v_Archery_g09_c02.avi 1\nBowling/v_Bowling_g02_c01.avi 2\n"
        "Sailing/v_Archery_g01_c01.avi 4\nBowling/v_Bowling_g01_c02.avi 1\nv_Bowling_g01_c02.avi 2\n"
    )
    test = TEST.replace("Bowling/v_Bowling_g01_c02.avi\r\n", "")
    lists(ucf(tmp_path), trainlist01=TRAIN + odd, testlist01=test, classInd=CLASSES)
    train, test = opened(tmp_path, max_broken=0.3)
    assert len(train) == 6 and len(test) == 5
    say = f"{tmp_path}: skipped {{}} of 17 lines of official split 1, {{}}: {{}}".format
    assert [record.message for record in caplog.records][1:] == [
        say(2, "no such video", "Archery/v_Archery_g09_c01, Archery/v_Archery_g09_c02"),
        say(1, "listed before", "Bowling/v_Bowling_g02_c01"),
        say(1, "class not in classInd.txt", "Sailing/v_Archery_g01_c01"),
        say(1, "number of another class in classInd.txt", "Bowling/v_Bowling_g01_c02"),
        say(1, "no class before the name", "v_Bowling_g01_c02"),
    ]
    skipped = {Path(skip.path).name: skip.reason for skip in open_data(
        tmp_path, kind="video", cache=False, max_broken=0.3).skipped}  # fmt: skip
    assert skipped["v_Bowling_g01_c02.npy"] == "not in official split 1"
    assert skipped["v_Archery_g09_c01"] == "no such video" and "trainlist01.txt" not in skipped
    with pytest.raises(
        ValueError, match=r"2 of 8 files .* more than a max_broken of 0.1 .*v_Archery_g09_c01: no such video"
    ):
        opened(tmp_path)


def test_broken_videos_are_counted_and_named(tmp_path, caplog):
    lists(ucf(tmp_path, ".avi"), trainlist01=TRAIN, testlist01=TEST)
    (tmp_path / "UCF-101" / "Bowling" / "v_Bowling_g02_c02.avi").write_bytes(b"no video" * 9)
    assert len(opened(tmp_path, max_broken=0.5)[0]) == 5
    broken = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert broken == [
        f"{tmp_path}: skipped 1 of 6 videos that cannot be read: UCF-101/Bowling/v_Bowling_g02_c02.avi"
    ]


def test_fold_chooses_among_official_splits(tmp_path, caplog):
    lists(
        ucf(tmp_path),
        trainlist01=TRAIN,
        testlist01=TEST,
        trainlist02=TEST,
        testlist02=TRAIN,
        trainlist03=TRAIN,
    )
    first, second = opened(tmp_path), opened(tmp_path, fold=2)
    assert second == first[::-1] and opened(tmp_path, fold=1) == first
    assert caplog.records[0].message.endswith(
        "official split 1 of 1, 2 (--fold takes another), 6 videos to train and 6 to test"
    )
    with pytest.raises(ValueError, match="fold must be one of 1, 2, got 3"):  # which has no list for testing
        opened(tmp_path, fold=3)
    for name in ("balls", tmp_path / "UCF-101"):
        with pytest.raises(
            ValueError, match="fold must be left out for data without official splits, got 2 for"
        ):
            open_data(name, kind="video", fold=2)
    with pytest.raises(ValueError, match="label must be left out for videos with official splits"):
        open_data(tmp_path, kind="video", label="kind")


def test_a_cache_of_one_split_is_none_of_another(tmp_path):
    lists(ucf(tmp_path / "set"), trainlist01=TRAIN, testlist01=TEST, trainlist02=TRAIN.replace("Archery/", "Bowling/"),
          testlist02=TEST)  # fmt: skip
    first, second = (
        open_data(tmp_path / "set", kind="video", cache=tmp_path / "cache", fold=fold) for fold in (1, 2)
    )
    assert first.paths == second.paths and first.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert second.class_names() == ["Bowling"] * 4 + ["Cliff Diving"] * 2


FILM = "_{}_u_nm_np1_ba_goo_{}.avi"


def hmdb(root: Path) -> Path:
    for shade, label in enumerate(("brush_hair", "wave")):
        for number in range(2):
            for film in ("April 09", "#20_Rhythm"):
                video(root / label / f"{film}{FILM.format(label, number)}".replace(".avi", ".npy"), shade)
    return root


def test_lists_of_hmdb51(tmp_path, caplog):
    content = {
        label: f"April 09{FILM.format(label, 0)} 1 \r\nApril 09{FILM.format(label, 1)} 2 \r\n"
        f"#20_Rhythm{FILM.format(label, 0)} 0 \r\n#20_Rhythm{FILM.format(label, 1)} 3 \r\n#20_Rhythm.avi\r\n"
        for label in ("brush_hair", "wave")
    }
    lists(
        hmdb(tmp_path) / "testTrainMulti_7030_splits",
        **{f"{label}_test_split1": text for label, text in content.items()},
    )
    train, test = opened(tmp_path)
    assert [label for _, label in train] == [label for _, label in test] == ["brush_hair", "wave"]
    assert [name for name, _ in train] == [f"April 09{FILM.format(label, 0)}"[:-4] for label in content]
    told = [record.message for record in caplog.records]
    assert told[0].endswith("official split 1, 2 videos to train and 2 to test")
    assert told[1].startswith(
        f"{tmp_path}: skipped 4 of 10 lines of official split 1, no 0, 1 or 2 at its end: brush_h"
    )
    assert told[2] == f"{tmp_path}: 2 of 2 test videos are of recordings that are in training too"
    reasons = [skip.reason for skip in open_data(tmp_path, kind="video", cache=False).skipped]
    assert reasons.count("0 in its list, so in neither part") == 2


def test_frames_of_jhmdb_are_videos_of_the_lists(tmp_path):
    for label in ("catch", "wave"):
        for number in range(2):
            folder = tmp_path / "Rename_Images" / label / f"Tape{FILM.format(label, number)}"[:-4]
            folder.mkdir(parents=True)
            for frame in range(number + 2):
                Image.new("RGB", (8, 8), (frame, 0, 0)).save(folder / f"{frame + 1:05}.png")
        lists(tmp_path / "splits", **{
            f"{label}_test_split1": f"Tape{FILM.format(label, 0)} 1\nTape{FILM.format(label, 1)} 2\n"
        })  # fmt: skip
    train, test = open_splits(tmp_path, kind="video", cache=False)
    assert train.counts.tolist() == [2, 2] and test.counts.tolist() == [3, 3]
    assert train.class_names() == test.class_names() == ["catch", "wave"]
    assert test.groups.tolist() == [0, 0]  # one tape


def test_no_group_of_ucf101_names_is_on_both_sides_of_a_division(tmp_path):
    train, test = opened(ucf(tmp_path))
    groups = [{name.rpartition("_")[0] for name, _ in part} for part in (train, test)]
    assert len(groups[0]) == len(groups[1]) == 3 and not groups[0] & groups[1]


def test_recordings_are_read_from_names():
    paths = [
        "a/v_YoYo_g25_c01.avi", "b/v_YoYo_g25_c05", "v_YoYo_g24_c05.mp4", "c/holiday.mp4", "d/party.mp4",
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "wave/April_09_wave_f_cm_np2_le_med_11.avi",
        "wave/April_10_wave_f_cm_np2_le_bad_0.avi",
    ]  # fmt: skip
    assert recordings(paths).tolist() == [0, 0, 1, 2, 3, 4, 4, 5]
    assert recordings(paths[3:5]) is None and recordings([]) is None


def test_listings_are_short():
    assert listing(["a", "b", "c"]) == "a, b, c" and listing([*"abcdef"]) == "a, b, c and 3 more"


def test_folders_of_classes_alone_are_divided_as_before(tmp_path, caplog):
    for label in ("run", "walk"):
        for number in range(5):
            video(tmp_path / label / f"{number}.npy", number + 5 * (label == "run"))
    caplog.set_level(logging.WARNING)
    train, test = opened(tmp_path)
    assert len(train) == 8 and len(test) == 2 and {label for _, label in test} == {"run", "walk"}
    assert not [record for record in caplog.records if "official" in record.message]
