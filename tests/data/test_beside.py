"""Tables beside sounds, texts and videos say what these are, as they do beside images."""

from pathlib import Path

import numpy as np
import pytest

from unlabeled.data import open_data, open_splits


def sounds(folder: Path, count: int = 8) -> None:
    soundfile = pytest.importorskip("soundfile")
    folder.mkdir(parents=True)
    for number in range(count):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.sin(np.arange(800) * (number + 1) / 9), 8_000)


def names(data) -> list[str | None]:
    if data.labels is None:
        return [None] * len(data)
    return [data.classes[label] if label >= 0 else None for label in data.labels.tolist()]


def test_labels_of_sounds_are_those_of_the_table_beside_them(tmp_path: Path) -> None:
    sounds(tmp_path / "audio")
    rows = [f"{n}.wav,{n % 5},{n % 2},{'ab'[n % 2]}" for n in range(8)]
    (tmp_path / "meta.csv").write_text("\n".join(["filename,fold,target,category", *rows]))
    assert names(open_data(tmp_path, kind="audio")) == ["0", "1"] * 4
    assert names(open_data(tmp_path, kind="audio", label="category")) == ["a", "b"] * 4
    (tmp_path / "meta.csv").write_text(
        "\n".join(["filename,label", *[f"{n}.wav,{n % 2 * 2 - 1}" for n in range(8)]])
    )
    assert names(open_data(tmp_path, kind="audio")) == ["-1", "1"] * 4, "cached sounds get new labels"


def test_sentences_that_were_read_aloud_are_no_classes(tmp_path: Path) -> None:
    sounds(tmp_path / "clips")
    rows = [f"{n}.wav\tThis is what speaker {n} said\tUS" for n in range(8)]
    (tmp_path / "validated.tsv").write_text("\n".join(["path\tsentence\taccent", *rows]))
    assert open_data(tmp_path, kind="audio").labels is None


def test_parts_of_the_table_are_those_of_the_data(tmp_path: Path) -> None:
    sounds(tmp_path / "clips")
    rows = [f"{n}.wav,{'ab'[n % 2]},{'test' if n > 5 else 'train'}" for n in range(8)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
    train, test = open_splits(tmp_path, kind="audio")
    assert (len(train), len(test)) == (6, 2) and names(test) == ["a", "b"]


def test_labels_of_texts_and_videos_too(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(8):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Text number {number} " * 50)
    rows = [f"{n}.txt,{n % 2 == 0}" for n in range(8)]
    (tmp_path / "texts" / "labels.csv").write_text("\n".join(["file,label", *rows]))
    assert names(open_data(tmp_path / "texts", kind="text")) == ["True", "False"] * 4
    (tmp_path / "videos").mkdir()
    for number in range(4):
        np.save(tmp_path / "videos" / f"{number}.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "videos" / "labels.csv").write_text("name,label\n0.npy,a\n1.npy,b\n2.npy,a\n3.npy,\n")
    assert names(open_data(tmp_path / "videos", kind="video")) == ["a", "b", "a", None]


def test_lists_of_the_parts_to_test_on_leave_the_rest_for_training(tmp_path: Path) -> None:
    sounds(tmp_path / "no", 6)
    sounds(tmp_path / "yes", 6)
    (tmp_path / "testing_list.txt").write_text("no/4.wav\nyes/4.wav\n")
    (tmp_path / "validation_list.txt").write_text("no/5.wav\nyes/5.wav\n")
    train, test = open_splits(tmp_path, kind="audio")
    assert [Path(path).name for path in test.paths] == ["4.wav", "4.wav"] and names(test) == ["no", "yes"]
    assert len(train) == 8 and names(train) == ["no"] * 4 + ["yes"] * 4
    assert "names files of the test part" in [skip.reason for skip in test.skipped]


def test_a_table_whose_names_fit_several_files_is_said_and_gives_no_labels(tmp_path: Path) -> None:
    sounds(tmp_path / "a", 2)
    sounds(tmp_path / "b", 2)
    (tmp_path / "labels.csv").write_text("filename,label\n0.wav,x\n1.wav,y\n")
    data = open_data(tmp_path, kind="audio")
    assert names(data) == ["a", "a", "b", "b"]
    (reason,) = [skip.reason for skip in data.skipped]
    assert reason == "no labels: 0.wav of its column filename may be a/0.wav or b/0.wav; give paths"


def test_silence_alone_is_said_and_a_single_sound_in_it_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile = pytest.importorskip("soundfile")
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(800), 8_000)
    assert len(open_data(tmp_path, kind="audio")) == 3
    assert caplog.messages == [f"{tmp_path}: all 3 sounds are silent"]
    caplog.clear()
    sounds(tmp_path / "heard", 1)
    assert len(open_data(tmp_path, kind="audio")) == 4 and not caplog.messages


def test_what_groups_are_called_goes_with_texts_to_their_tokens(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text(
        "text,label,author\n" + "".join(f"Words of text {n},{n % 2},a{n % 3}\n" for n in range(12))
    )
    texts = open_data(tmp_path / "texts.csv", kind="text", group="author")
    tokens = texts.starts(lambda parts: [[1, 2] for _ in parts], 8)
    assert texts.group_unit == tokens.group_unit == "groups"
    assert open_data(tmp_path / "texts.csv", kind="text").group_unit == "documents"


@pytest.mark.parametrize("name", ["{}.mp3", "{}.WAV", "clips/{}.mp3", "/old/place/clips/{}.mp3"])
def test_names_in_a_table_may_have_the_endings_that_files_had_before(tmp_path: Path, name: str) -> None:
    sounds(tmp_path / "clips", 6)
    rows = [f"{name.format(n)},{'ab'[n % 2]}" for n in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    assert names(open_data(tmp_path, kind="audio")) == ["a", "b"] * 3


def test_a_table_of_labels_that_names_no_file_is_said(tmp_path: Path) -> None:
    sounds(tmp_path / "clips", 3)
    (tmp_path / "labels.csv").write_text("path,label\n000.wav,a\n001.wav,b\n")
    data = open_data(tmp_path, kind="audio")
    assert data.labels is None
    assert [skip.reason for skip in data.skipped] == ["no labels: 000.wav of its column path is no file"]


def test_features_that_embed_wrote_are_no_data(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(f"Text number {number}")
    rows = [f"{n}.txt,all,x,,{'0.25,' * 99}1" for n in range(6)]
    head = f"path,split,label,group,{','.join(map(str, range(100)))}"
    (tmp_path / "features.csv").write_text("\n".join([head, *rows]))
    data = open_data(tmp_path, kind="text")
    assert len(data) == 6 and data.labels is None
