"""Groups: which samples come from one source, and that every view of them knows it."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from unlabeled.data import from_images, open_data, open_splits
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.cameras import from_views
from unlabeled.data.groups import folder_groups, group_by, numbers_of
from unlabeled.data.text.data import Texts
from unlabeled.data.trajectories import from_trajectories
from unlabeled.data.video.data import from_videos


def named(paths: list[str], **known):
    data = from_images(torch.arange(len(paths), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2))
    data.paths = paths
    data.factors = known
    return data


def letters(texts: list[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def test_numbers_are_those_of_equal_keys_and_unknown_ones_stand_alone():
    assert numbers_of(["b", None, "a", "b", None]).tolist() == [0, 1, 2, 0, 3]
    assert numbers_of([]).dtype == torch.int64


@pytest.mark.parametrize(
    ("group", "groups"),
    [
        (r"(speaker\d+)_", [0, 0, 1, 2]),
        (r"speaker(\d)", [0, 0, 1, 1]),
        (r"^(\w+)/", [0, 1, 1, 1]),
        (r"_(?:x|y)(\d)", [0, 1, 2, 0]),
        ("folder", [0, 1, 1, 1]),
        ("take", [0, 1, 0, 1]),
    ],
)
def test_groups_are_named_by_pattern_folder_or_factor(group, groups):
    paths = ["a/speaker1_x1.wav", "b/speaker1_x2.wav", "b/speaker2_y3.wav", "b/speaker23_y1.wav"]
    data = named([f"/data/speaker9_/{path}" for path in paths], take=torch.tensor([3, 5, 3, 5]))
    group_by(data, group, "/data/speaker9_/")
    assert data.groups.tolist() == groups


def test_what_matches_nothing_is_refused_with_an_example():
    data = named(["/x/a_1.png", "/x/a_2.png"], size=torch.tensor([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"group must match paths such as a_1.png, got \(b\)_"):
        group_by(data, "(b)_", "/x/")
    with pytest.raises(ValueError, match=r"one capture group, got 2 in \(a\)_\(\\d\)"):
        group_by(data, r"(a)_(\d)")
    with pytest.raises(ValueError, match=r"must be a regular expression, got \(a: "):
        group_by(data, "(a")
    with pytest.raises(
        ValueError, match=r"one of none, folder, size, or a regular expression .* got speaker"
    ):
        group_by(data, "speaker")
    with pytest.raises(ValueError, match="got the quantity size"):
        group_by(data, "size")


def test_what_a_pattern_leaves_out_stands_alone_and_is_counted(caplog):
    data = named(["a1_0", "b", "a1_1", "c"])
    with caplog.at_level(logging.WARNING):
        group_by(data, r"(a\d)_")
    assert data.groups.tolist() == [0, 1, 0, 2]
    assert caplog.messages == [r"2 of 4 images have no group: (a\d)_ does not match b"]


def test_folders_below_those_of_classes_are_recordings():
    paths = ["dog/1/a.wav", "dog/1/b.wav", "dog/2/a.wav", "cat/3/a.wav", "cat/4/a.wav"]
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert folder_groups(paths, labels).tolist() == [0, 0, 1, 2, 3]
    assert folder_groups(paths, None) is None
    assert folder_groups(["dog/a.wav", "dog/b.wav", "cat/c.wav"], torch.tensor([0, 0, 1])) is None


def test_clips_of_one_recording_are_on_one_side_and_speakers_by_option(tmp_path):
    generator = np.random.default_rng(0)
    for label in ("yes", "no"):
        for recording in range(6):
            for clip in range(3):
                file = tmp_path / "sounds" / label / f"take{recording}" / f"{clip}_speaker{clip % 2}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(file, generator.uniform(-0.5, 0.5, 80), 8000)
    data = open_data(tmp_path / "sounds")
    assert len(data.groups.unique()) == 12
    train, test = open_splits(tmp_path / "sounds")
    assert not {*train.groups.tolist()} & {*test.groups.tolist()} and len(test) == 6
    assert test.labels.bincount().tolist() == [3, 3]
    train, test = open_splits(tmp_path / "sounds", group=r"(speaker\d)\.")
    assert {path[-5] for path in test.paths} == {"1"} and {path[-5] for path in train.paths} == {"0"}
    assert open_data(tmp_path / "sounds", group="none").groups is None


def test_parts_of_one_text_file_are_not_divided_unless_the_user_says_so(tmp_path):
    book = "\n\n".join(f"Paragraph {number}. " + "word " * 500 for number in range(20))
    (tmp_path / "book.txt").write_text(book)
    assert open_data(tmp_path / "book.txt").groups.tolist() == [0] * 20
    with pytest.raises(ValueError, match=r"at least 2 documents .* 20 texts of 1 documents .*--group none"):
        open_splits(tmp_path / "book.txt")
    train, test = open_splits(tmp_path / "book.txt", group="none")
    assert len(train) == 16 and len(test) == 4


def test_options_group_what_is_opened_already():
    data = named([f"a{row // 5}_{row}" for row in range(20)])
    _, test = open_splits(data, group=r"(a\d)_")
    assert data.groups is None
    assert len(test) == 5 and len({path[:2] for path in test.paths}) == 1


def test_blocks_and_starts_of_texts_know_their_document():
    texts = Texts(["one " * 9, "two " * 9, "three " * 9, "four"], documents=torch.tensor([5, 5, 6, 7]))
    assert texts.groups.tolist() == [5, 5, 6, 7]
    blocks = texts.blocks(letters, 10)
    assert (blocks.groups == blocks.documents).all() and len(blocks.groups.unique()) == 3
    assert texts.starts(letters, 10).groups.tolist() == [5, 5, 6, 7]
    alone = Texts(["one " * 9, "two " * 9])
    assert alone.groups is None and alone.blocks(letters, 10).groups.unique().tolist() == [0, 1]


def test_stretches_of_words_that_share_a_document_belong_together():
    texts = Texts(["a " * 15, "b " * 25, "c " * 20, "d " * 40])
    words = texts.words(["a", "b", "c", "d"], 20)
    # 15 + 25 fill two stretches, of which the first holds words of both; the others begin with their document.
    assert words.groups.tolist() == [0, 0, 1, 2, 2]
    texts.groups = torch.tensor([1, 2, 3, 1])
    assert texts.words(["a", "b", "c", "d"], 20).groups.tolist() == [0, 0, 1, 0, 0]


def test_frames_and_clips_know_what_they_are_cut_from():
    walks = from_trajectories(
        {"video": torch.zeros(3, 4, 3, 8, 8, dtype=torch.uint8), "pose": torch.zeros(3, 4, 3)}
    )
    assert walks.frames().groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    walks.groups = torch.tensor([8, 9, 8])
    assert walks.subset(torch.tensor([2, 1])).frames().groups.tolist() == [8] * 4 + [9] * 4
    assert walks.spans(2).groups.tolist() == [8, 9, 8]
    scenes = from_views(torch.zeros(2, 2, 3, 3, 8, 8, dtype=torch.uint8))
    assert scenes.frames().groups.tolist() == [0] * 6 + [1] * 6
    scenes.groups = torch.tensor([4, 4])
    assert scenes.moments(2).groups.tolist() == [4, 4] and scenes.frames().groups.tolist() == [4] * 12
    videos = from_videos(torch.zeros(3, 9, 3, 8, 8, dtype=torch.uint8))
    assert videos.clips(4).groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert videos.clips(4).clips(2).groups.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert videos.middle(4).groups is None and videos.spread(4).groups is None
    videos.groups = torch.tensor([7, 7, 3])
    assert videos.clips(4).groups.tolist() == [7, 7, 7, 7, 3, 3] and videos.middle(2).groups.tolist() == [
        7,
        7,
        3,
    ]


def test_as_many_clips_as_videos_are_still_of_their_own_videos():
    videos = from_videos(torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8))
    videos.counts = torch.tensor([1, 4])  # the first is too short
    assert videos.clips(2).groups.tolist() == [1, 1]


def test_crops_and_other_rates_keep_the_groups_of_sounds():
    sounds = from_waveforms(torch.rand(3, 800) - 0.5, 8000)
    sounds.groups = torch.tensor([1, 1, 0])
    assert sounds.crops(0.01).resampled(4000).groups.tolist() == [1, 1, 0]


def test_folders_below_those_of_classes_are_suggested_for_images(tmp_path, caplog):
    for label in "ab":
        for source in range(5):
            for frame in range(2):
                file = tmp_path / label / f"video{source}" / f"{frame}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng([ord(label), source, frame]).integers(
                    0, 256, (4, 4, 3), np.uint8
                )
                Image.fromarray(pixels).save(file)
    with caplog.at_level(logging.WARNING):
        open_splits(tmp_path)
    assert (
        "has 10 folders below those of the classes; --group folder keeps each of them in one part"
        in caplog.text
    )
    caplog.clear()
    train, test = open_splits(tmp_path, group="folder")
    assert caplog.messages == [f"{tmp_path} divided 80 to 20 by 10 groups"] and len(test) == 4
    assert not {path[:-5] for path in train.paths} & {path[:-5] for path in test.paths}
