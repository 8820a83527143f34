"""Tables and lists beside images give their labels and parts, and a table that says nothing is named."""

import json
import unicodedata
from pathlib import Path

import pandas
import pytest
import torch
from PIL import Image

from unlabeled.data import Data, open_data, open_splits


def pictures(root: Path, names: list[str]) -> list[str]:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / name)
    return names


def labels(data: Data) -> list[str | None]:
    """The name of the class of each sample."""
    assert data.labels is not None and data.classes is not None
    return [None if label < 0 else data.classes[label] for label in data.labels.tolist()]


def numbers(data: Data) -> list[int]:
    """Which picture each sample is."""
    return [int(data.batch(torch.tensor([row]))["image"][0, 0, 0, 0]) for row in range(len(data))]


FOUR = [f"{number}.png" for number in range(4)]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("metadata.csv", "file_name,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n"),
        ("metadata.csv", "file_name;Label\n0.png;a\n1.png;b\n2.png;a\n3.png;b\n"),
        ("labels.tsv", "id\tspecies\n0\ta\n1\tb\n2\ta\n3\tb\n"),
        ("train.csv", "image_id,breed of dog\n0,a\n1,b\n2,a\n3,b\n"),
        ("labels.csv", "0.png,a\n1.png,b\n2.png,a\n3.png,b\n"),
        ("labels.csv", "label,age,file\nb,4,3.png\na,3,2.png\nb,9,1.png\na,1,0.png\n"),
        ("labels.csv", "image,a,b\n0,1.0,0.0\n1,0.0,1.0\n2,1.0,0.0\n3,0.0,1.0\n"),
        ("list.txt", "0.png a\n1.png b\n2.png a\n3.png b\n"),
        ("list.txt", "/of/another/machine/0.png,a\n./1.png,b\n2.png,a\n3.png,b\n"),
        ("m.jsonl", "".join(json.dumps({"file": f"{n}.png", "class": "ab"[n % 2]}) + "\n" for n in range(4))),
        ("m.json", json.dumps([{"file": f"{n}.png", "class": "ab"[n % 2]} for n in range(4)])),
        ("m.json", json.dumps({f"{n}.png": "ab"[n % 2] for n in range(4)})),
        ("m.json", json.dumps({"a": ["0.png", "2.png"], "b": ["1.png", "3.png"]})),
        ("m.json", json.dumps({"labels": [[f"{n}.png", "ab"[n % 2]] for n in range(4)]})),
        ("m.json", json.dumps([[f"{n}.png", "ab"[n % 2]] for n in range(4)])),
        ("m.csv", "path,label\r\nC:\\x\\0.png,a\r\nC:\\x\\1.png,b\r\nC:\\x\\2.png,a\r\nC:\\x\\3.png,b\r\n"),
        ("boxes.txt", "".join(f"{n}.png\t{'ab'[n % 2]}\t0\t0\t{n}\t9\n" for n in range(4))),
    ],
)
def test_a_table_beside_images_gives_their_labels(tmp_path, table, text):
    pictures(tmp_path, FOUR)
    (tmp_path / table).write_text(text)
    data = open_data(tmp_path, cache=False)
    assert numbers(data) == [0, 1, 2, 3] and labels(data) == ["a", "b", "a", "b"]
    assert any("labels: of its column" in reason for _, reason in data.skipped)


@pytest.mark.parametrize("twice", [False, True])
def test_categories_of_coco_are_classes_where_each_image_has_one(tmp_path, twice):
    pictures(tmp_path / "images", FOUR)
    said = [{"image_id": 10 + n, "category_id": 5 + n % 2} for n in (0, 0, 1, 2)]
    said += [{"image_id": 10, "category_id": 6}] if twice else []
    coco = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "width": 4} for n in range(4)],
        "annotations": said,
        "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(coco))
    data = open_data(tmp_path, cache=False)
    if twice:
        assert data.labels is None and any(
            "several labels for one sample" in skip.reason for skip in data.skipped
        )
    else:
        assert labels(data) == ["a", "b", "a", None]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_list_from_another_machine_finds_its_images_by_the_ends_of_their_paths(tmp_path, ending, caplog):
    pictures(tmp_path / "set", ["a/0.png", "b/0.png", "b/1.png"])
    columns = {
        "path": ["/home/x/set/b/0.png", "/home/x/set/b/1.png", "/home/x/set/a/0.png"],
        "label": [3, 4, 4],
    }
    frame, table = pandas.DataFrame(columns), tmp_path / "set" / f"list.{ending}"
    frame.to_csv(table, index=False) if ending == "csv" else frame.to_parquet(table)
    data = open_data(table, kind="image", cache=False)
    assert numbers(data) == [1, 2, 0] and labels(data) == ["3", "4", "4"]
    assert "are found by the ends of these paths" in caplog.text


def test_a_flat_part_to_test_on_has_the_labels_of_its_table_beside_folders_of_classes(tmp_path):
    pictures(tmp_path, [f"train/{name}/images/{n}.png" for name in ("n1", "n2") for n in range(2)])
    pictures(tmp_path, [f"val/images/v{n}.png" for n in range(2)] + ["test/images/t0.png"])
    (tmp_path / "val" / "val.txt").write_text("v0.png\tn2\t0\t3\nv1.png\tn2\t1\t3\n")
    train, test = open_splits(tmp_path, cache=False)
    assert labels(train) == ["n1", "n1", "n2", "n2"] and labels(test) == ["n2", "n2"]
    secret = open_data(tmp_path, split="test", cache=False)
    assert secret.labels is None
    assert any(
        "images, the only folder of its test part, is no class" in skip.reason for skip in secret.skipped
    )


def test_a_byte_order_mark_and_utf_16_are_read(tmp_path):
    pictures(tmp_path, FOUR)
    text = "file_name,label\n0.png,a\n1.png,b\n2.png,é\n3.png,\n"
    for coding in ("utf-8-sig", "utf-16"):
        (tmp_path / "labels.csv").write_bytes(text.encode(coding))
        assert labels(open_data(tmp_path, cache=False)) == ["a", "b", "é", None]


def test_a_metadata_parquet_beside_images_gives_their_labels(tmp_path):
    import pandas

    pictures(tmp_path, FOUR)
    pandas.DataFrame({"file_name": FOUR, "label": [0.0, 1.0] * 2}).to_parquet(tmp_path / "metadata.parquet")
    data = open_data(tmp_path, cache=False)
    assert labels(data) == ["0", "1", "0", "1"]


def test_the_asked_column_wins_and_without_a_usual_name_the_columns_are_listed(tmp_path):
    pictures(tmp_path, FOUR)
    (tmp_path / "x.csv").write_text("file,age,sex\n0.png,1,m\n1.png,2,f\n2.png,3,m\n3.png,4,f\n")
    bare = open_data(tmp_path, cache=False)
    assert bare.labels is None
    assert [reason for _, reason in bare.skipped] == [
        "no labels: its columns are file, age, sex; choose one with --label"
    ]
    assert labels(open_data(tmp_path, cache=False, label="Sex")) == ["m", "f", "m", "f"]
    with pytest.raises(
        ValueError, match=r"label must be a column of a table beside .*, got size and .* age, sex"
    ):
        open_data(tmp_path, cache=False, label="size")
    (tmp_path / "x.csv").unlink()
    with pytest.raises(ValueError, match="got size and no such table"):
        open_data(tmp_path, cache=False, label="size")


def test_a_label_that_cannot_be_looked_up_is_refused():
    for source in ("digits", "topics", "balls", torch.zeros(2, 1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="label must be left out for"):
            open_data(source, label="x")
    with pytest.raises(ValueError, match="label must be left out for data of kind cameras"):
        open_data("orbit", label="x")


def test_tables_of_folders_name_the_images_in_them(tmp_path):
    pictures(tmp_path, ["train/1.png", "train/2.png", "test/1.png", "test/2.png"])
    (tmp_path / "train.csv").write_text("id,label\n1,a\n2,b\n")
    (tmp_path / "test.csv").write_text("id\n1\n2\n")
    (tmp_path / "sample_submission.csv").write_text("id,label\n1,a\n2,a\n")
    train, test = open_splits(tmp_path, cache=False)
    assert labels(train) == ["a", "b"] and test.labels is None


def test_a_column_of_splits_or_tables_of_splits_tell_parts_apart(tmp_path):
    pictures(tmp_path, FOUR)
    (tmp_path / "x.csv").write_text(
        "file,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,test\n3.png,b,val\n"
    )
    train, test = open_splits(tmp_path, cache=False)
    assert (numbers(train), numbers(test)) == ([0, 1], [2]) and labels(test) == ["a"]
    (tmp_path / "x.csv").unlink()
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1\n")
    (tmp_path / "val.txt").write_text("2.png 1\n")
    train, test = open_splits(tmp_path, cache=False)
    assert (numbers(train), numbers(test)) == ([0, 1], [2]) and labels(test) == ["1"]
    assert (str(tmp_path / "3.png"), "in no split of the tables") in train.skipped


def test_named_labels_go_before_folders_and_guessed_ones_behind(tmp_path):
    pictures(tmp_path, ["x/0.png", "x/1.png", "y/2.png", "y/3.png"])
    (tmp_path / "t.csv").write_text("0.png,p\n1.png,q\n2.png,p\n3.png,q\n")
    assert labels(open_data(tmp_path, cache=False)) == ["x", "x", "y", "y"]
    (tmp_path / "t.csv").write_text("file,label\n0.png,p\n1.png,q\n2.png,p\n3.png,q\n")
    assert labels(open_data(tmp_path, cache=False)) == ["p", "q", "p", "q"]


def test_files_beside_images_that_are_no_tables_say_nothing(tmp_path):
    pictures(tmp_path, FOUR)
    for name, text in {"a.csv": "x,y\n1,2\n", "b.json": "{", "c.txt": "words, words", "d.tsv": ""}.items():
        (tmp_path / name).write_text(text)
    for number in range(4):  # captions of their own
        (tmp_path / f"caption{number}.json").write_text('{"label": 1}')
    data = open_data(tmp_path, cache=False)
    assert data.labels is None and len(data.skipped) == 8
    (tmp_path / "ids.csv").write_text("file,caption\n" + "".join(f"{n}.png,text {n}\n" for n in range(4)))
    assert open_data(tmp_path, cache=False).labels is None


def test_several_labels_of_one_image_are_said_to_be_too_many(tmp_path):
    pictures(tmp_path, FOUR)
    (tmp_path / "boxes.csv").write_text("file,label\n0.png,a\n0.png,b\n1.png,b\n2.png,b\n3.png,a\n")
    data = open_data(tmp_path, cache=False)
    assert data.labels is None
    assert any("several labels for one sample are not supported" in reason for _, reason in data.skipped)


def test_labels_are_read_anew_without_decoding_anew(tmp_path, monkeypatch):
    from unlabeled.data.image import store

    pictures(tmp_path / "d", FOUR)
    (tmp_path / "d" / "x.csv").write_text("file,label\n" + "".join(f"{name},a\n" for name in FOUR))
    assert labels(open_data(tmp_path / "d", cache=tmp_path / "c")) == ["a"] * 4
    monkeypatch.setattr(store, "decode_all", lambda *_: pytest.fail("decoded again"))
    (tmp_path / "d" / "x.csv").write_text("file,label\n" + "".join(f"{name},b\n" for name in FOUR))
    assert labels(open_data(tmp_path / "d", cache=tmp_path / "c")) == ["b"] * 4


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.lst"])
def test_a_list_of_paths_is_a_source(tmp_path, monkeypatch, name):
    pictures(tmp_path / "d", ["b/0.png", "a/1.png", "b/2.png"])
    lines = [str(tmp_path / "d" / "b" / "0.png"), "d/a/1.png", "d/b/2.png"]
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    data = open_data(tmp_path / name, kind="image", cache=False)
    assert numbers(data) == [0, 1, 2] and labels(data) == ["b", "a", "b"]
    mark = "," if name == "list.csv" else " "
    (tmp_path / name).write_text("".join(f"{line}{mark}{'xyx'[row]}\n" for row, line in enumerate(lines)))
    assert labels(open_data(tmp_path / name, kind="image", cache=False)) == ["x", "y", "x"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert len(open_data(f"elsewhere/{name}", kind="image", cache=False)) == 3


def test_paths_of_a_list_that_are_not_there_are_counted(tmp_path):
    pictures(tmp_path, FOUR)
    (tmp_path / "list.txt").write_text("0.png\n1.png\ngone.png\n")
    with pytest.raises(ValueError, match=r"1 of 3 files .* cannot be read.*gone\.png: No such file"):
        open_data(tmp_path / "list.txt", kind="image", cache=False)
    assert len(open_data(tmp_path / "list.txt", kind="image", cache=False, max_broken=0.5)) == 2
    (tmp_path / "list.txt").write_text("words\n")
    with pytest.raises(ValueError, match=r"list\.txt must name images below .*, got words"):
        open_data(tmp_path / "list.txt", kind="image", cache=False)


def test_both_unicode_forms_of_a_name_are_one_class(tmp_path):
    for split in ("train", "test"):
        form = {"train": "NFC", "test": "NFD"}[split]
        pictures(tmp_path / split, [f"{unicodedata.normalize(form, 'café')}/1.png", "thé/2.png"])
    train, test = open_splits(tmp_path, cache=False)
    assert train.classes == test.classes == ["café", "thé"] and labels(test) == ["café", "thé"]


def test_a_table_of_few_files_does_not_take_the_folders_away(tmp_path):
    pictures(tmp_path, [f"{'xy'[number % 2]}/{number}.png" for number in range(8)])
    (tmp_path / "t.csv").write_text("file,label\n0.png,p\n1.png,q\n2.png,p\n")
    data = open_data(tmp_path, cache=False)
    assert labels(data) == ["x"] * 4 + ["y"] * 4
    reason = "labels: of its column label, but folders of classes take precedence"
    assert (str(tmp_path / "t.csv"), reason) in data.skipped
    assert labels(open_data(tmp_path, cache=False, label="label")).count(None) == 5


def test_names_in_another_case_are_found_where_one_file_has_them_and_others_counted(tmp_path):
    pictures(tmp_path, ["One.png", "two.PNG", "deep/x.png", "deep/X.png"])
    names = ["ONE.PNG", "Two", "DEEP/X.PNG", "nowhere.png"]
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(names))
    )
    data = open_data(tmp_path)
    named = {path.removeprefix(f"{tmp_path}/"): label for path, label in zip(data.paths, labels(data))}
    assert named == {"One.png": "0", "two.PNG": "1", "deep/x.png": None, "deep/X.png": None}
    remark = "labels: of its column label; 2 of its 4 rows name no file, such as DEEP/X.PNG"
    assert [skip.reason for skip in data.skipped] == [remark]


def test_tables_that_disagree_are_said(tmp_path, caplog):
    pictures(tmp_path, FOUR)
    (tmp_path / "a.csv").write_text("file,label\n0.png,x\n1.png,y\n2.png,x\n3.png,y\n")
    (tmp_path / "b.csv").write_text("file,label\n0.png,x\n1.png,y\n2.png,y\n3.png,x\n")
    assert labels(open_data(tmp_path)) == ["x", "y", "x", "y"]
    assert "b.csv: 2 of its labels differ from those of a.csv, which are used" in caplog.text
