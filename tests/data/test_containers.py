"""Tables and archives of every usual layout give their images, every member is accounted for, and most wins."""

import base64
import io
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from unlabeled import encoders
from unlabeled.data import Data, open_data, open_splits, tars
from unlabeled.data.opening import parts
from unlabeled.evaluation import evaluate


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, number: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))
    return str(path)


def numbers(data: Data) -> list[int]:
    """Which picture each sample is."""
    return [int(data.batch(torch.tensor([row]))["image"][0, 0, 0, 0]) for row in range(len(data))]


def labels(data: Data) -> list[str | None]:
    assert data.labels is not None and data.classes is not None
    return [None if label < 0 else data.classes[label] for label in data.labels.tolist()]


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> bytearray:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return bytearray(path.read_bytes())


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """A tar or zip archive, as its ending says."""
    if path.suffix == ".tar":
        write_tar(path, members)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


FOUR = [png(number) for number in range(4)]
COLUMNS = {
    "bytes": FOUR,
    "struct": [{"bytes": content, "path": None} for content in FOUR],
    "bytes alone in a struct": [{"bytes": content} for content in FOUR],
    "numbers": [list(content) for content in FOUR],
    "base64": [base64.b64encode(content).decode() for content in FOUR],
    "data links": ["data:image/png;base64," + base64.b64encode(content).decode() for content in FOUR],
    "paths": [f"pictures/{number}.png" for number in range(4)],
    "paths in a struct": [{"bytes": None, "path": f"pictures/{number}.png"} for number in range(4)],
}


@pytest.mark.parametrize("ending", ["parquet", "feather"])
@pytest.mark.parametrize("form", COLUMNS)
def test_a_table_gives_the_column_whose_values_are_images(tmp_path, form, ending):
    for number in range(4 if form.startswith("paths") else 0):
        put(tmp_path / "pictures" / f"{number}.png", number)
    columns = {
        "id": [b"x"] * 4,
        "note": ["no picture"] * 4,
        "vector": [[1, 2, 3]] * 4,
        "shown": COLUMNS[form],
        "Category": [True, False, True, False],
    }
    getattr(pandas.DataFrame(columns), f"to_{ending}")(tmp_path / f"x.{ending}")
    for source in (tmp_path / f"x.{ending}", tmp_path):
        data = open_data(source, cache=False)
        assert numbers(data) == [0, 1, 2, 3] and labels(data) == ["True", "False", "True", "False"]
    assert not any("pictures" in path for path, _ in data.skipped)


def test_paths_in_a_table_are_relative_to_it_or_to_the_root(tmp_path):
    put(tmp_path / "a" / "images" / "1.png", 1)
    put(tmp_path / "images" / "2.png", 2)
    rows = [{"bytes": None, "path": f"images/{number}.png"} for number in (1, 2)]
    pandas.DataFrame({"image": rows}).to_parquet(tmp_path / "a" / "x.parquet")
    assert numbers(open_data(tmp_path, cache=False)) == [1, 2]


def test_a_referenced_file_that_changed_is_decoded_anew(tmp_path):
    put(tmp_path / "d" / "1.png", 1)
    pandas.DataFrame({"image": [{"bytes": None, "path": "1.png"}]}).to_parquet(tmp_path / "d" / "x.parquet")
    assert numbers(open_data(tmp_path / "d", cache=tmp_path / "cache")) == [1]
    put(tmp_path / "d" / "1.png", 9)
    assert numbers(open_data(tmp_path / "d", cache=tmp_path / "cache")) == [9]


def test_shards_may_differ_in_columns_and_types(tmp_path):
    pandas.DataFrame({"image": FOUR[:2], "label": ["a", "b"]}).to_parquet(tmp_path / "0.parquet")
    other = {
        "n": [1, 2],
        "img": [{"bytes": content, "path": None} for content in FOUR[2:]],
        "Label": ["c", "a"],
    }
    pandas.DataFrame(other).to_parquet(tmp_path / "1.parquet")
    data = open_data(tmp_path, cache=False)
    assert numbers(data) == [0, 1, 2, 3] and labels(data) == ["a", "b", "c", "a"]


def test_shards_that_name_their_classes_in_another_order_agree_by_name(tmp_path):
    import datasets

    for number, names in enumerate((["a", "b"], ["b", "a"])):
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
        rows = [{"bytes": png(number), "path": None}]
        table = datasets.Dataset.from_dict({"image": rows, "label": [0]}, features=features)
        table.to_parquet(tmp_path / f"{number}.parquet")
    assert labels(open_data(tmp_path, cache=False)) == ["a", "b"]


def test_links_are_not_fetched_and_said(tmp_path):
    pandas.DataFrame({"url": ["https://example.org/1.png"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x\.parquet has links in the column url, which are not fetched"):
        open_data(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([-1, 1, 1, -1], ["-1", "1", "1", "-1"]),
        ([True, False, None, True], ["True", "False", None, "True"]),
        ([0.0, 1.0, np.nan, 1.0], ["0", "1", None, "1"]),
        ([10**12, 5, 5, 5], [str(10**12), "5", "5", "5"]),
        (["b ", "a", "", "b"], ["b", "a", None, "b"]),
        ([[3], [4], [3], []], ["3", "4", "3", None]),
    ],
)
def test_labels_of_any_type_are_classes(tmp_path, values, names):
    pandas.DataFrame({"image": FOUR, "Target": values}).to_parquet(tmp_path / "x.parquet")
    data = open_data(tmp_path / "x.parquet", cache=False)
    assert labels(data) == names and data.labels is not None and int(data.labels.max()) < 2


def test_columns_are_listed_where_none_is_of_labels_and_others_where_several_are(tmp_path):
    pandas.DataFrame({"image": FOUR, "age": range(4), "sex": list("mfmf")}).to_parquet(tmp_path / "x.parquet")
    data = open_data(tmp_path / "x.parquet", cache=False)
    assert [reason for _, reason in data.skipped] == [
        "no labels: its columns are age, sex; choose one with --label"
    ]
    assert labels(open_data(tmp_path / "x.parquet", cache=False, label="sex")) == ["m", "f", "m", "f"]
    with pytest.raises(ValueError, match=r"label must be a column of .*, which has age, sex, got size"):
        open_data(tmp_path / "x.parquet", cache=False, label="size")
    pandas.DataFrame({"image": FOUR, "coarse_label": range(4), "fine_label": list("abab")}).to_parquet(
        tmp_path / "x.parquet"
    )
    data = open_data(tmp_path / "x.parquet", cache=False)
    assert labels(data) == ["a", "b", "a", "b"]
    assert [reason for _, reason in data.skipped] == [
        "labels: of the column fine_label; other candidates, chosen with label: coarse_label"
    ]


def test_data_sets_that_were_saved_to_disk_are_read(tmp_path):
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["n", "y"]))
    rows = {"image": [{"bytes": content, "path": None} for content in FOUR], "label": [1, 0, 1, 0]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved, test=saved.select([3])).save_to_disk(tmp_path / "two")
    assert labels(open_data(tmp_path / "one", cache=False)) == ["y", "n", "y", "n"]
    train, test = open_splits(tmp_path / "two", cache=False)
    assert (numbers(train), numbers(test)) == ([0, 1, 2, 3], [3])


def test_a_damaged_arrow_file_is_refused_in_one_line(tmp_path):
    pandas.DataFrame({"image": FOUR}).to_feather(tmp_path / "x.feather")
    whole = (tmp_path / "x.feather").read_bytes()
    for content in (b"", b"ARROW1", whole[: len(whole) // 2], whole[:-60] + bytes(50) + whole[-10:]):
        (tmp_path / "x.feather").write_bytes(content)
        with pytest.raises(ValueError) as caught:
            open_data(tmp_path / "x.feather", cache=False)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "zip"])
def test_folders_inside_an_archive_are_what_they_are_outside(tmp_path, ending):
    members = {
        f"./set/{split}/{name}/deep{number}/{number}.png": png(number)
        for split in ("train", "test")
        for name in ("cat", "dog")
        for number in range(2)
    }
    for name, content in members.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    path = tmp_path / f"x.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        mode = {"z2": "w:bz2", "xz": "w:xz", "gz": "w:gz"}.get(ending[-2:], "w")
        write_tar(path, members, mode)
    for inside, outside in zip(
        open_splits(path, cache=False), open_splits(tmp_path / "d", cache=False), strict=True
    ):
        assert inside.classes == outside.classes == ["cat", "dog"]
        assert (labels(inside), numbers(inside)) == (labels(outside), numbers(outside))


def test_archives_of_a_name_each_are_classes_and_shards_are_not(tmp_path):
    os.mkdir(tmp_path / "a")
    for name in ("cat", "dog"):
        write_tar(tmp_path / "a" / f"{name}.tar", {"1.png": png(1)})
    assert labels(open_data(tmp_path / "a", cache=False)) == ["cat", "dog"]
    os.mkdir(tmp_path / "b")
    for number in range(2):
        write_tar(tmp_path / "b" / f"shard-0{number}.tar", {"1.png": png(1)})
    assert open_data(tmp_path / "b", cache=False).labels is None


@pytest.mark.parametrize("damage", ["checksum", "zeros", "last"])
def test_a_damaged_header_costs_its_own_image_and_is_listed(tmp_path, damage):
    path = tmp_path / "x.tar"
    content = write_tar(path, {f"{number}.png": png(number) for number in range(20)})
    header = {"checksum": 1024 * 5, "zeros": 1024 * 9, "last": 1024 * 19}[damage]  # an image takes one block
    content[header : header + 512] = bytes(512) if damage == "zeros" else b"\xff" * 512
    path.write_bytes(content)
    data = open_data(path, cache=False)
    assert numbers(data) == [number for number in range(20) if number != header // 1024]
    assert [reason for _, reason in data.skipped] == ["damaged header: the file behind it is lost"]
    assert data.skipped[0].path.endswith(f"x.tar/byte {header}")


def test_an_archive_that_ends_without_zeros_is_whole_and_one_cut_in_a_header_is_not(tmp_path):
    path = tmp_path / "x.tar"
    content = write_tar(path, {f"{number}.png": png(number) for number in range(3)})
    path.write_bytes(content[: 1024 * 3])
    data = open_data(path, cache=False)
    assert len(data) == 3 and data.skipped == []
    path.write_bytes(content[: 1024 * 2 + 100])
    with pytest.raises(ValueError, match="it ends in the middle of a header"):
        open_data(path, cache=False)


def test_labels_of_the_webdataset_layout_are_in_cls_json_or_txt(tmp_path):
    def archive(about: dict[str, list[bytes]]) -> Path:
        write_tar(
            tmp_path / "x.tar",
            {
                f"{number:03}.{ending}": values[number]
                for number in range(4)
                for ending, values in ({"png": FOUR} | about).items()
            },
        )
        return tmp_path / "x.tar"

    records = [json.dumps({"w": 3, "Species": name}).encode() for name in "abab"]
    assert labels(open_data(archive({"json": records}), cache=False)) == ["a", "b", "a", "b"]
    assert labels(open_data(archive({"json": records}), cache=False, label="w")) == ["3"] * 4
    assert labels(open_data(archive({"txt": [b"y", b"x", b"y", b"y"]}), cache=False)) == ["y", "x", "y", "y"]
    assert open_data(archive({"txt": [b"one", b"two", b"three", b"four"]}), cache=False).labels is None
    assert labels(open_data(archive({"label": [b"2", b"10", b"2", b"2"]}), cache=False)) == [
        "2",
        "10",
        "2",
        "2",
    ]
    both = archive({"json": records, "cls": [b"-1", b"1", b"1", b"1"]})
    assert labels(open_data(both, cache=False)) == ["-1", "1", "1", "1"]
    unnamed = open_data(archive({"json": [b'{"a": 1, "b": 2}'] * 4}), cache=False)
    assert [reason for _, reason in unnamed.skipped] == [
        "no labels: what is known of the images is a, b; choose one with --label"
    ]
    with pytest.raises(ValueError, match=r"label must be a column of .*, which has a, b, got c"):
        open_data(tmp_path / "x.tar", cache=False, label="c")


def test_members_of_a_zip_that_are_not_read_are_listed(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1.png", FOUR[1])
        archive.writestr("__MACOSX/._1.png", b"fork")
        archive.writestr("2.png", b"broken")
        link = zipfile.ZipInfo("3.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "1.png")
    data = open_data(tmp_path / "x.zip", cache=False, max_broken=0.9)
    found = {os.path.relpath(path, tmp_path / "x.zip"): reason for path, reason in data.skipped}
    assert numbers(data) == [1] and found == {
        "__MACOSX/._1.png": "hidden",
        "2.png": "not an image that can be read",
        "3.png": "not a regular file",
    }


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_a_bomb_is_refused(tmp_path, monkeypatch, ending):
    from unlabeled.data import limits

    monkeypatch.setattr(limits, "UNPACKED", 2**16)
    path = tmp_path / f"x.{ending}.gz" if ending == "tar" else tmp_path / "x.zip"
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("1.png", bytes(2**20))
    else:
        write_tar(path, {"1.png": bytes(2**20)}, "w:gz")
    with pytest.raises(ValueError, match=r"unpacks to [0-9]+ bytes or more, over 100 times its size"):
        open_data(path, cache=False)


def test_what_holds_the_most_images_is_taken_and_the_rest_is_said(tmp_path, caplog):
    for number in range(6):
        put(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", number)
    write_tar(tmp_path / "masks.tar.gz", {f"{number}.png": png(9) for number in range(3)}, "w:gz")
    write_tar(tmp_path / "attributes.tgz", {"attributes.txt": b"no picture"}, "w:gz")
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    pandas.DataFrame({"path": ["x"], "split": ["all"], "embedding": [[0.5]]}).to_parquet(
        tmp_path / "features.parquet"
    )
    data = open_data(tmp_path, cache=False)
    assert len(data) == 6 and data.classes == ["a", "b"]
    found = {os.path.relpath(path, tmp_path): reason for path, reason in data.skipped}
    assert (
        found["masks.tar.gz"] == "archive of 3 images" and found["attributes.tgz"] == "archive of no images"
    )
    assert found["features.parquet"] == "no column of images among path, split, embedding"
    assert "readable" in found["broken.parquet"] and "cannot be read" in found["broken.tar"]
    assert "6 image files used; ignored: 3 images of archives" in caplog.text
    write_tar(tmp_path / "more.tar", {f"{number}.png": png(9) for number in range(7)})
    (tmp_path / "broken.tar").unlink()
    assert len(open_data(tmp_path, cache=False)) == 10


def test_what_our_own_commands_wrote_is_no_data(tmp_path):
    for number in range(4):
        put(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    run = tmp_path / "runs" / "simclr"
    put(run / "pictures.png")
    (run / "run.toml").write_text("method = 'simclr'")
    (run / "log.jsonl").write_text("{}")
    paths = [str(tmp_path / "ab"[number % 2] / f"{number}.png") for number in range(4)]
    table = pandas.DataFrame({"path": paths, "split": ["all"] * 4, "embedding": [[0.5]] * 4})
    table.to_parquet(tmp_path / "features.parquet")
    data = open_data(tmp_path, cache=False)
    assert len(data) == 4 and data.classes == ["a", "b"]
    assert (str(tmp_path / "runs" / "simclr"), "folder of a run") in data.skipped
    (tmp_path / "run.toml").write_text("method = 'simclr'")
    put(tmp_path / "pictures.png")
    assert open_data(tmp_path, cache=False).classes == ["a", "b"]


def test_a_path_is_never_a_name_and_a_name_that_is_both_is_said(tmp_path, monkeypatch, caplog):
    from unlabeled.data.notes import note

    monkeypatch.chdir(tmp_path)
    put(tmp_path / "digits" / "1.png")
    note.cache_clear()
    assert len(open_data(Path("digits"), cache=False)) == len(open_data(Path("digits/"), cache=False)) == 1
    assert caplog.text == "" and len(open_data("digits")) == 1297
    assert "digits is the built-in set; ./digits would be the folder of that name" in caplog.text


def test_a_column_of_splits_tells_the_parts_of_tables_apart(tmp_path):
    words = ["train", "test", "val", "train"]
    for shard, few in enumerate([FOUR[:2], FOUR[2:]]):
        own = words[2 * shard : 2 * shard + 2]
        pandas.DataFrame({"image": few, "split": own}).to_parquet(tmp_path / f"{shard}.parquet")
    read = {split: open_part() for split, open_part in parts(tmp_path).items()}
    assert {split: numbers(data) for split, data in read.items()} == {
        "train": [0, 3],
        "test": [1],
        "validation": [2],
    }
    assert read["train"].paths == [f"{tmp_path}/0.parquet#0", f"{tmp_path}/1.parquet#1"]
    pandas.DataFrame({"image": FOUR[:1], "split": ["extra"]}).to_parquet(tmp_path / "2.parquet")
    assert [*parts(tmp_path)] == ["all"]


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_a_table_without_rows_has_no_images_and_does_no_harm_beside_others(tmp_path, ending):
    whole = pyarrow.table({"image": FOUR, "split": ["train", "test"] * 2})
    write = pyarrow.parquet.write_table if ending == "parquet" else pyarrow.feather.write_feather
    write(whole.slice(0, 0), tmp_path / f"0.{ending}")
    with pytest.raises(ValueError, match=f"no images in .*0.{ending}"):
        open_data(tmp_path / f"0.{ending}")
    write(whole, tmp_path / f"1.{ending}")
    assert sorted(len(part()) for part in parts(tmp_path).values()) == [2, 2]


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_a_label_behind_several_images_of_a_sample_is_that_of_all(tmp_path, ending):
    members = {}
    for sample in range(3):
        members |= {f"{sample}.{name}.png": png(2 * sample + place) for place, name in enumerate("ab")}
        members |= {f"{sample}.cls": str(sample % 2).encode(), f"@eaDir/{sample}.png": png(9)}
    write_archive(tmp_path / f"x.{ending}", members)
    data = open_data(tmp_path / f"x.{ending}")
    assert numbers(data) == [*range(6)] and labels(data) == ["0", "0", "1", "1", "0", "0"]


def test_many_images_of_one_name_do_not_wait_for_a_label(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "_MOST_IMAGES", 2)
    members = {f"x.{number}.png": png(number) for number in range(5)} | {"x.cls": b"7"}
    write_tar(tmp_path / "x.tar", members)
    items = [*tars.tar_items([("x.tar", tmp_path / "x.tar")])]
    assert [item.label for item in items] == [None, None, None, "7", "7"]
    assert [item.path for item in items] == [f"x.tar/x.{number}.png" for number in range(5)]


def test_labels_apart_from_their_images_are_said(tmp_path):
    members = {f"{number}.png": png(number) for number in range(3)}
    write_tar(
        tmp_path / "x.tar", members | {f"{number}.cls": b"1" for number in range(3)} | {"notes.txt": b"hi"}
    )
    data = open_data(tmp_path / "x.tar")
    assert len(data) == 3 and data.labels is None
    reason = r"no labels: 3 files of labels, such as x.tar/0.cls, are not next to the images of their names; pack .*"
    assert [bool(re.fullmatch(reason, skip.reason)) for skip in data.skipped] == [True]
    with pytest.raises(ValueError, match=r"3 files of labels, such as .*0.cls, are not next to the images"):
        evaluate(encoders.build("conv4", image_size=8), data, probe="knn", controls=())
