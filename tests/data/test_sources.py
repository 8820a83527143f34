"""Every kind of source leads to the same images, and whatever is left out is told."""

import gc
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import Data, open_data, open_splits, tars
from unlabeled.data.image.containers import find_path
from unlabeled.data.opening import parts
from unlabeled.data.samples import was_meant

SHARED = Path(__file__).parents[3] / "shared" / "data"


def picture(path: Path, color: object = (1, 2, 3), size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]
    return path


def colors(data: Data) -> list[list[int]]:
    """The first pixel of every sample."""
    return [data.batch(torch.tensor([row]))["image"][0, :, 0, 0].tolist() for row in range(len(data))]


def reasons(data: Data, root: Path) -> dict[str, str]:
    return {os.path.relpath(path, root): reason for path, reason in data.skipped}


@pytest.fixture
def zoo(tmp_path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "zoo"
    picture(root / "a grey one.png", 7, mode="L")
    picture(root / "Übung 写真.jpg", size=(300, 200))
    picture(root / "deep" / "er" / "palette.gif", 1, mode="P")
    picture(root / "cmyk.jpg", (0, 255, 255, 0), mode="CMYK")
    picture(root / "rgba.webp", (9, 9, 9, 0), mode="RGBA")
    picture(root / "bits.png", 1, mode="1")
    picture(root / "point.bmp", size=(1, 1))
    Image.fromarray(np.full((4, 6), 257 * 100, np.uint16)).save(root / "sixteen.tiff")
    picture(root / "really a png.jpg.png").rename(root / "really a png.jpg")
    picture(root / "long.png", size=(900, 30))
    whole = picture(root / "whole.jpg", size=(64, 64)).read_bytes()
    (root / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "words.jpeg").write_text("no picture")
    (root / "phone.heic").write_bytes(b"ftypheic")
    (root / "notes.txt").write_text("words")
    (root / "labels.csv").write_text("a,b")
    picture(root / ".hidden.png")
    picture(root / ".git" / "x.png")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / "deep" / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        ("not an image file", False),
        ("not a .mp4 file", False),
        ("labels: of its column label", False),
        ("no labels: its columns are a, b; choose one with label", False),
        ("hidden", False),
        ("not an image that can be read", True),
        ("not a regular file", True),
    ],
)
def test_a_readme_was_never_meant_to_be_a_sample(reason: str, meant: bool) -> None:
    assert was_meant(reason) is meant


def test_a_mixed_and_partly_broken_folder_just_works(zoo):
    data = open_data(zoo, max_broken=0.5, workers=2)
    names = [os.path.relpath(path, zoo) for path in data.paths]
    assert names == sorted(names) and len(names) == 11
    assert {"Übung 写真.jpg", "a grey one.png", "deep/er/palette.gif", "really a png.jpg"} <= set(names)
    assert data.channels == 3 and data.labels is None
    sizes = dict(zip(names, data.sizes.tolist()))
    assert (
        sizes["Übung 写真.jpg"] == [160, 240]
        and sizes["point.bmp"] == [1, 1]
        and sizes["long.png"] == [30, 120]
    )
    first = dict(zip(names, colors(data)))
    assert first["a grey one.png"] == [7, 7, 7], "grey images before the first coloured one were not widened"
    assert first["rgba.webp"] == [255] * 3 and first["sixteen.tiff"] == [100] * 3
    assert first["long.png"] == [1, 2, 3] and first["bits.png"] == [255] * 3


def test_everything_left_out_is_listed_with_its_reason(zoo):
    found = reasons(open_data(zoo, max_broken=0.5), zoo)
    assert "truncated" in found.pop("truncated.jpg").lower()
    assert found == {
        "empty.png": "empty file",
        "words.jpeg": "not an image that can be read",
        "phone.heic": ".heic images cannot be read: pip install pillow-heif",
        "notes.txt": "not an image file",
        "labels.csv": "not an image file",
        ".hidden.png": "hidden",
        ".git": "hidden",
        "gone.png": "broken link",
        "deep/loop": "folder seen before, through a symbolic link",
        "pipe.png": "not a regular file",
    }


def test_too_many_broken_images_are_refused_and_other_files_do_not_count(zoo):
    with pytest.raises(
        ValueError, match=r"6 of 17 files in .*zoo cannot be read.*max_broken of 0.35.*empty\.png: empty"
    ):
        open_data(zoo, max_broken=0.35)
    assert len(open_data(zoo, max_broken=6 / 17)) == 11


def test_unreadable_folders_and_files_are_skipped(tmp_path, monkeypatch):
    picture(tmp_path / "data" / "a" / "1.png")
    picture(tmp_path / "data" / "b" / "2.png")
    scan, opened = os.scandir, Path.open

    def refuse(path, *rest, **options):
        if os.fspath(path).endswith(("/b", "1.png")):
            raise PermissionError(13, "Permission denied")
        return (scan if os.path.isdir(path) else opened)(path, *rest, **options)

    monkeypatch.setattr(os, "scandir", refuse)
    data = open_data(tmp_path / "data", max_broken=0.5)
    assert reasons(data, tmp_path / "data") == {"b": "Permission denied"} and len(data) == 1
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"1.png: Permission denied"):
        open_data(tmp_path / "data", max_broken=1, cache=False)


@pytest.mark.parametrize("link", ["a", "z"])
def test_a_folder_is_known_by_its_own_name_and_not_by_a_link(tmp_path, link):
    picture(tmp_path / "data" / "b" / "1.png")
    (tmp_path / "data" / link).symlink_to("b")
    data = open_data(tmp_path / "data")
    assert data.paths == [str(tmp_path / "data" / "b" / "1.png")]
    assert reasons(data, tmp_path / "data") == {link: "folder seen before, through a symbolic link"}


def test_names_that_are_no_words_are_read_and_found_again(tmp_path):
    (tmp_path / "data").mkdir()
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/data/\xff.png"))
    picture(tmp_path / "x.png").rename(path)
    assert open_data(tmp_path / "data").paths == open_data(tmp_path / "data").paths == [str(path)]


def test_garbage_is_collected_again_after_a_folder_was_read(tmp_path):
    picture(tmp_path / "data" / "x.png")
    (tmp_path / "empty").mkdir()
    find_path(tmp_path / "data", "data")
    assert gc.isenabled()
    with pytest.raises(ValueError, match="no images in empty"):
        find_path(tmp_path / "empty", "empty")
    assert gc.isenabled()


def test_a_folder_without_images_says_what_it_found(tmp_path):
    folder = tmp_path / "photos of me"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.heic").write_bytes(b"x")
    (folder / "README").touch()
    with pytest.raises(
        ValueError, match=r"no images in .*photos of me; expected \.jpg, .*found 12 \.heic, 1 without"
    ):
        open_data(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found nothing"):
        open_data(tmp_path / "empty")
    (tmp_path / "empty" / "only.png").write_text("words")
    with pytest.raises(ValueError, match=r"1 could not be decoded: only\.png: not an image"):
        open_data(tmp_path / "empty")


def test_class_folders_give_labels_at_any_depth(tmp_path):
    for name in ("dog/2.png", "cat/old/1.png", "cat/3.png"):
        picture(tmp_path / name)
    data = open_data(tmp_path)
    assert data.classes == ["cat", "dog"]
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1]
    picture(tmp_path / "loose.png")
    assert open_data(tmp_path).labels is None


def test_folders_that_are_called_by_numbers_are_classes_of_these_names(tmp_path):
    for number, name in enumerate(["1", "2", "10", "100"]):
        picture(tmp_path / name / "x.png", (number, 0, 0))
    data = open_data(tmp_path, cache=False)
    assert data.labels is not None and data.classes == ["1", "2", "10", "100"]
    assert [(row[0], label) for row, label in zip(colors(data), data.labels.tolist())] == [
        (0, 0),
        (2, 2),
        (3, 3),
        (1, 1),
    ]


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("X_train", "Y_train", "X_test", "Y_test"),
     ("train_data", "train_targets", "val_data", "val_targets")],
)  # fmt: skip
@pytest.mark.parametrize("form", ["npz", "dict"])
def test_arrays_by_usual_names_are_images_and_labels_of_splits(tmp_path, names, form):
    values = [IMAGES, np.arange(5) % 2, IMAGES[:3], np.arange(3) % 2]
    source = dict(zip(names, values))
    np.savez(tmp_path / "x.npz", **source)
    train, test = open_splits(source if form == "dict" else tmp_path / "x.npz")
    assert train.labels is not None and train.labels.tolist() == [0, 1, 0, 1, 0] and len(test) == 3
    assert test.labels is not None and test.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("shape", "bands"),
    [
        ((5, 5, 9), 9),
        ((9, 5, 5), 9),
        ((5, 5, 4), 4),
        ((3, 9, 7), 3),
        ((7, 9, 3), 3),
        ((6, 9, 8), 6),
        ((8, 9, 6), 6),
    ],
)
def test_the_bands_of_an_array_are_the_axis_beside_a_square_else_the_smaller_one(tmp_path, shape, bands):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    assert open_data(tmp_path, cache=False).shape["channels"] == bands
    assert open_data(np.zeros((2, *shape), np.uint8)).shape["channels"] == bands


def test_a_file_of_many_images_in_a_folder_is_no_image_of_many_bands(tmp_path):
    np.save(tmp_path / "x_train.npy", np.zeros((2000, 8, 8), np.uint8))
    with pytest.raises(
        ValueError, match=r"at most 1024 bands, got .*; a file of many images is opened by its own path"
    ):
        open_data(tmp_path, cache=False)


def test_split_folders_are_splits_and_share_the_class_numbers(tmp_path):
    for name in ("Train/b/1.png", "Train/c/2.png", "VAL/a/3.png", "VAL/c/4.png"):
        picture(tmp_path / name)
    train, test = open_splits(tmp_path)
    assert train.classes == test.classes == ["a", "b", "c"]
    assert train.labels is not None and test.labels is not None
    assert train.labels.tolist() == [1, 2] and test.labels.tolist() == [0, 2]
    assert open_data(tmp_path).paths == train.paths
    assert open_data(tmp_path, split="val").paths == test.paths
    with pytest.raises(ValueError, match="must be one of train, validation, got test"):
        open_data(tmp_path, split="test")


def test_whatever_lies_beside_train_and_test_stays_out_of_both(tmp_path):
    names = [
        "train/b/1.png",
        "train/c/2.png",
        "test/b/3.png",
        "test/c/4.png",
        "extra/x/5.png",
        "extra/y/6.png",
    ]
    for name in (*names, "extra/7.png", "preview.png"):
        picture(tmp_path / name)
    train, test = open_splits(tmp_path)
    extra = open_data(tmp_path, split="extra")
    found = [[os.path.relpath(path, tmp_path) for path in data.paths] for data in (train, test, extra)]
    assert found == [names[:2], names[2:4], ["extra/7.png", *names[4:]]]
    assert train.classes == test.classes == ["b", "c"] and extra.labels is None
    assert reasons(train, tmp_path) == {"preview.png": "beside the splits"}
    assert open_data(tmp_path).paths == train.paths
    (tmp_path / "extra" / "7.png").unlink()
    assert open_data(tmp_path, split="extra").classes == ["x", "y"]


def test_secret_test_labels_make_the_validation_part_the_test(tmp_path):
    for name in ("train/b/1.png", "train/c/2.png", "val/b/3.png", "val/c/4.png", "test/5.png"):
        picture(tmp_path / name)
    train, test = open_splits(tmp_path)
    assert train.labels is not None and train.labels.tolist() == [0, 1]
    assert test.paths == open_data(tmp_path, split="val").paths
    arrays = {f"{split}_images": IMAGES for split in ("train", "val", "test")}
    labels = {"train_labels": np.arange(5), "val_labels": np.arange(5), "test_labels": np.full(5, -1)}
    np.savez(tmp_path / "x.npz", **arrays, **labels)
    test = open_splits(tmp_path / "x.npz")[1]
    assert test.labels is not None and test.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_a_logo_beside_data_files_is_not_the_data(tmp_path, ending):
    import datasets

    picture(tmp_path / "logo.png")
    if ending == ".parquet":
        write_parquet(
            tmp_path / "x.parquet", {"image": datasets.Value("binary")}, {"image": [png((1, 0, 0))]}
        )
    else:
        write_tar(tmp_path / "x.tar", {"1.png": png((1, 0, 0))})
    data = open_data(tmp_path)
    assert colors(data) == [[1, 0, 0]] and reasons(data, tmp_path) == {"logo.png": f"not a {ending} file"}


def test_both_splits_are_coloured_where_one_is(tmp_path):
    picture(tmp_path / "train" / "1.png", 9, mode="L")
    picture(tmp_path / "test" / "2.png", (1, 2, 3))
    train, test = open_splits(tmp_path)
    assert train.channels == test.channels == 3 and colors(train) == [[9, 9, 9]]


def test_only_grey_images_make_grey_data(tmp_path):
    picture(tmp_path / "1.png", 9, mode="L")
    assert open_data(tmp_path).channels == 1
    assert open_data(tmp_path, channels=3).channels == 3


def test_without_splits_a_fifth_of_each_class_is_for_testing():
    labels = torch.arange(100) % 3
    images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    from unlabeled.data import from_images

    data = from_images(images, labels)
    train, test = open_splits(data)
    assert train.labels is not None and test.labels is not None
    assert train.labels.bincount().tolist() == [27, 26, 26] and test.labels.bincount().tolist() == [7, 7, 7]
    rows = [value for part in (train, test) for value, *_ in colors(part)]
    assert sorted(rows) == list(range(100))
    assert colors(open_splits(data)[1]) == colors(test)


def test_every_class_of_two_images_is_tested():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    from unlabeled.data import from_images

    train, test = open_splits(from_images(images, torch.tensor([0, 0, 1, 1, 1, 2])))
    assert train.labels is not None and test.labels is not None
    assert train.labels.tolist() == [0, 1, 1, 2] and test.labels.tolist() == [0, 1]
    with pytest.raises(
        ValueError, match=r"at least 2 images of a class to be divided .*, got 6 of 6 classes"
    ):
        open_splits(from_images(images, torch.arange(6)))


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(file, "PNG")
    return file.getvalue()


def write_parquet(path: Path, features: dict, columns: dict) -> None:
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(path)


def test_parquet_folder_gives_splits_labels_and_skips_broken_rows(tmp_path):
    import datasets

    features = {"label": datasets.ClassLabel(names=["no", "yes"]), "image": datasets.Image(decode=False)}
    images = [{"bytes": png((row, 0, 0)), "path": f"{row}.png"} for row in range(10)]
    images[4] = {"bytes": b"broken", "path": "4.png"}
    columns = {"label": [row % 2 for row in range(10)], "image": images}
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", features, columns)
    write_parquet(
        tmp_path / "data" / "test-00000-of-00001.parquet",
        features,
        {name: rows[:2] for name, rows in columns.items()},
    )
    train, test = open_splits(tmp_path)
    assert [color[0] for color in colors(train)] == [0, 1, 2, 3, 5, 6, 7, 8, 9] and len(test) == 2
    assert train.classes == ["no", "yes"]
    assert train.labels is not None and train.labels.tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 1]
    assert train.skipped == [(f"{tmp_path}/4.png", "not an image that can be read")]


def test_data_files_beside_train_and_test_are_splits_of_their_own(tmp_path):
    import datasets

    names = ["train-00000-of-00001", "test00", "unsupervised-00000-of-00002", "unsupervised-00001-of-00002"]
    for row, name in enumerate([*names, "more/0000"]):
        content = {"image": [png((row, 0, 0))]}
        write_parquet(tmp_path / f"{name}.parquet", {"image": datasets.Value("binary")}, content)
    train, test = open_splits(tmp_path)
    assert (colors(train), colors(test)) == ([[0, 0, 0]], [[1, 0, 0]])
    assert colors(open_data(tmp_path, split="unsupervised")) == [[2, 0, 0], [3, 0, 0]]
    assert colors(open_data(tmp_path, split="more")) == [[4, 0, 0]]


def test_parquet_file_of_plain_bytes_and_words_as_labels(tmp_path):
    import datasets

    features = {"picture": datasets.Value("binary"), "label": datasets.Value("string")}
    columns = {"picture": [png((1, 0, 0)), png((2, 0, 0))], "label": ["zebra", "ant"]}
    write_parquet(tmp_path / "x.parquet", features, columns)
    data = open_data(tmp_path / "x.parquet")
    assert colors(data) == [[1, 0, 0], [2, 0, 0]] and data.paths[1].endswith("x.parquet#1")
    assert data.classes == ["ant", "zebra"] and data.labels is not None and data.labels.tolist() == [1, 0]


def test_broken_and_imageless_parquet_files_are_refused(tmp_path):
    import datasets

    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"x\.parquet must be a readable parquet"):
        open_data(tmp_path / "x.parquet")
    write_parquet(tmp_path / "y.parquet", {"size": datasets.Value("int64")}, {"size": [1]})
    with pytest.raises(ValueError, match="must have a column of images, got size"):
        open_data(tmp_path / "y.parquet")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_webdataset_archives_give_images_with_their_labels(tmp_path, ending):
    members = {
        "01.cls": b"1",
        "01.png": png((1, 0, 0)),
        "02.jpg": png((2, 0, 0)),
        "02.cls": b"0",
        "02.json": b"{}",
    }
    write_tar(tmp_path / f"train-0.{ending}", members)
    write_tar(tmp_path / f"train-1.{ending}", {"03.png": b"broken", "03.cls": b"0", "04.png": png((4, 0, 0))})
    data = open_data(tmp_path, max_broken=0.3)
    assert [color[0] for color in colors(data)] == [1, 2, 4]
    assert data.labels is not None and data.labels.tolist() == [1, 0, -1]
    assert [reason for _, reason in data.skipped] == ["not an image that can be read"]


def test_folders_in_an_archive_are_classes(tmp_path):
    write_tar(tmp_path / "x.tar", {"all/b/1.png": png((1, 0, 0)), "all/a/1.png": png((2, 0, 0))})
    data = open_data(tmp_path / "x.tar")
    assert data.classes == ["a", "b"] and data.labels is not None and data.labels.tolist() == [1, 0]


def test_archives_of_imagenet_are_classes_by_their_numbers(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("n01440764", "n01443537"):
        write_tar(tmp_path / "train" / f"{name}.tar", {f"{name}_{n}.JPEG": png((n, 0, 0)) for n in range(2)})
    data = open_data(tmp_path, cache=False)
    assert data.classes == ["n01440764", "n01443537"] and data.labels.tolist() == [0, 0, 1, 1]


def test_an_archive_of_archives_is_refused_by_what_it_holds(tmp_path):
    write_tar(tmp_path / "all.tar", {"a.tar": b"x", "b.tar": b"y", "read": b"z"})
    with pytest.raises(
        ValueError, match=r"must hold images, got 2 .tar, 1 without ending; unpack the archives"
    ):
        open_data(tmp_path / "all.tar", cache=False)


def test_names_with_dots_in_an_archive_hide_no_image(tmp_path):
    members = {
        "1.cls": b"7",
        "1.left.png": png((1, 0, 0)),
        "1.right.png": png((2, 0, 0)),
        "shot.01.png": png((3, 0, 0)),
        "shot.01.cls": b"8",
        "shot.02.png": png((4, 0, 0)),
        "shot.02.cls": b"9",
    }
    write_tar(tmp_path / "x.tar", members)
    data = open_data(tmp_path / "x.tar")
    assert [color[0] for color in colors(data)] == [1, 2, 3, 4]
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1, 2]
    assert data.classes == ["7", "8", "9"]


def test_images_of_an_archive_that_are_not_read_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST", 1000)
    members = {"._1.png": b"resource fork", "1.png": png((1, 0, 0)), "2.png": bytes(1001), "3.txt": b""}
    write_tar(tmp_path / "x.tar", members)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        link = tarfile.TarInfo("4.png")
        link.type, link.linkname = tarfile.LNKTYPE, "1.png"
        archive.addfile(link)
    data = open_data(tmp_path / "x.tar", max_broken=2 / 3)
    assert colors(data) == [[1, 0, 0]]
    assert reasons(data, tmp_path / "x.tar") == {
        "._1.png": "hidden",
        "2.png": "larger than 512 MB",
        "4.png": "not a regular file",
    }


def test_truncated_archives_are_refused(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"x" * 5000})
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"x\.tar must be a readable tar archive"):
        open_data(tmp_path / "x.tar")


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES.transpose(0, 2, 3, 1), IMAGES),
        (IMAGES[:, 0], IMAGES[:, :1]),
        ((IMAGES / 255).astype(np.float64), IMAGES),
        (np.tile(IMAGES, (1, 4, 3, 4)), np.tile(IMAGES, (1, 4, 3, 4))),
        (torch.from_numpy(IMAGES), IMAGES),
        (torch.from_numpy(IMAGES[:, :, :, :1]), IMAGES[:, :, :, :1]),
    ],
)
def test_arrays_of_every_accepted_form_are_the_same_images(tmp_path, array, expected):
    sources = [array]
    if isinstance(array, np.ndarray):
        np.save(tmp_path / "x.npy", array)
        np.savez(tmp_path / "x.npz", images=array, labels=np.arange(5))
        sources += [tmp_path / "x.npy", str(tmp_path / "x.npz")]
    for source in sources:
        data = open_data(source)
        assert np.array_equal(data.batch(torch.arange(5))["image"].numpy(), expected)
    if len(sources) == 3:
        assert data.labels is not None and data.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IMAGES.astype(np.complex64), "pixels must be real numbers of at most 64 bits, got complex64"),
        (np.full((1, 2, 2), np.nan), "no pixel is a finite number"),
        (IMAGES[0, 0], r"got shape \(6, 4\)"),
        (IMAGES[:0], r"got shape \(0, 3, 6, 4\)"),
        (np.full((2, 2, 2), None), "object"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    for source in (array, tmp_path / "x.npy"):
        with pytest.raises(ValueError, match=message):
            open_data(source)


def test_pickled_arrays_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.save(tmp_path / "x.npy", np.array([Trap()]), allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=np.array([Trap()]))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match="without pickled objects"):
            open_data(tmp_path / name)


def test_npz_with_splits_and_without_images(tmp_path):
    np.savez(
        tmp_path / "x.npz", train_images=IMAGES, train_labels=np.arange(5)[:, None], val_images=IMAGES[:2]
    )
    train, test = open_splits(tmp_path / "x.npz")
    assert len(train) == 5 and len(test) == 2 and test.labels is None
    assert train.labels is not None and train.labels.tolist() == [0, 1, 2, 3, 4]
    np.savez(tmp_path / "y.npz", pictures=IMAGES)
    with pytest.raises(ValueError, match="must hold images, train_images, x_train or arr_0, got pictures"):
        open_data(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", images=IMAGES, labels=np.arange(4))
    with pytest.raises(ValueError, match=r"labels of .*z.npz must be 5 numbers or texts, got 4"):
        open_data(tmp_path / "z.npz")


@pytest.mark.parametrize(
    "names",
    [
        "x_train y_train x_test y_test",
        "X_train Y_train X_test Y_test",
        "train_x train_y test_x test_y",
        "image_train label_train image_valid label_valid",
        "train_data train_targets val_data val_targets",
        "arr_0 arr_1 arr_2 arr_3",
    ],
)
def test_npz_with_the_usual_names_of_both_parts_is_read(tmp_path, names):
    arrays = IMAGES, np.arange(5) + 3, IMAGES[:2], np.array([4, 3])
    np.savez(tmp_path / "x.npz", **dict(zip(names.split(), arrays, strict=True)))
    train, test = open_splits(tmp_path / "x.npz")
    assert torch.equal(train.batch(torch.arange(5))["image"], torch.from_numpy(IMAGES))
    classes = [[part.classes[number] for number in part.labels.tolist()] for part in (train, test)]
    assert classes == [["3", "4", "5", "6", "7"], ["4", "3"]]


@pytest.mark.parametrize(
    "names", ["images labels", "image label", "x y", "X y", "data target", "arr_0 arr_1", "arr_0"]
)
def test_npz_with_the_usual_names_of_one_part_is_read(tmp_path, names):
    arrays = dict(zip(names.split(), (IMAGES, np.arange(5) % 2)))
    np.savez(tmp_path / "x.npz", **arrays)
    data = open_data(tmp_path / "x.npz")
    assert len(data) == 5 and (data.labels is not None) == (len(arrays) == 2)


def test_npz_prefers_the_usual_names_and_refuses_arrays_without_meaning(tmp_path):
    np.savez(
        tmp_path / "x.npz", x=np.zeros((3, 2)), images=IMAGES, y=np.zeros(3), labels=np.arange(5), more=IMAGES
    )
    assert open_data(tmp_path / "x.npz").labels.tolist() == [0, 1, 2, 3, 4]
    for arrays in ([IMAGES, IMAGES], [IMAGES, np.arange(5), IMAGES], [np.arange(5), IMAGES]):
        np.savez(tmp_path / "y.npz", *arrays)
        with pytest.raises(ValueError, match="must hold images, train_images, x_train or arr_0, got arr_0"):
            open_data(tmp_path / "y.npz")


def test_damaged_and_misnamed_array_files_are_refused_in_one_line(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES)
    np.save(tmp_path / "x.npy", IMAGES)
    whole = (tmp_path / "x.npz").read_bytes()
    contents = {
        "cut.npz": whole[:300],
        "flipped.npz": whole[:150] + b"\xff" * 20 + whole[170:],
        "other.npy": whole,
        "other.npz": (tmp_path / "x.npy").read_bytes(),
        "empty.npz": b"",
        "short.npy": (tmp_path / "x.npy").read_bytes()[:200],
    }
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("images", "no array")
    for name in [*contents, "text.npz"]:
        if name in contents:
            (tmp_path / name).write_bytes(contents[name])
        with pytest.raises(ValueError, match=rf"{name} must be a readable array without.*: \S") as caught:
            open_data(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_arrays_of_odd_types_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.arange(5) * 1j)
    with pytest.raises(
        ValueError, match=r"labels of .*x\.npz must be 5 numbers or texts, got 5 of type complex"
    ):
        open_data(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="array: pixels must be real numbers of at most 64 bits, got"):
        open_data(np.zeros((1, 2, 2), np.longdouble))
    np.savez(tmp_path / "y.npz", images=IMAGES, labels=np.arange(5, dtype=">u4"))
    labels = open_data(tmp_path / "y.npz").labels
    assert labels is not None and labels.tolist() == [0, 1, 2, 3, 4]


def test_arrays_change_their_channels_when_asked():
    assert torch.equal(
        open_data(IMAGES[:, 0], channels=3).batch(torch.tensor([0]))["image"][0, 2],
        torch.from_numpy(IMAGES[0, 0]),
    )
    grey = open_data(IMAGES, channels=1).batch(torch.tensor([0]))["image"][0, 0]
    pillow = np.asarray(Image.fromarray(IMAGES[0].transpose(1, 2, 0)).convert("L"))
    assert np.abs(grey.numpy().astype(int) - pillow).max() <= 1


def test_torchvision_data_sets_are_opened_by_name(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 4), ("t10k", 2)):
        images, labels = np.arange(count * 784).astype(np.uint8), np.arange(count, dtype=np.uint8)
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            b"\x00\x00\x08\x01" + count.to_bytes(4, "big") + labels.tobytes()
        )
    train, test = open_splits(f"torchvision:FashionMNIST:{tmp_path}")
    assert (len(train), len(test), train.channels, train.image_size) == (4, 2, 1, 28)
    assert train.labels is not None and train.labels.tolist() == [0, 1, 2, 3]
    assert train.classes is not None and train.classes[0] == "T-shirt/top"


def test_torchvision_data_sets_of_files_are_decoded(tmp_path):
    for row, name in enumerate(("eurosat/2750/Forest/1.jpg", "eurosat/2750/River/2.jpg")):
        picture(tmp_path / name, (200 * row, 0, 0))
    data = open_data(f"torchvision:EuroSAT:{tmp_path}")
    assert data.classes == ["Forest", "River"] and data.labels is not None and data.labels.tolist() == [0, 1]
    assert data.paths[1].endswith("River/2.jpg")


def test_torchvision_mistakes_are_explained(tmp_path):
    with pytest.raises(ValueError, match="torchvision has no data set CIFAR11; the nearest name is CIFAR10"):
        open_data("torchvision:CIFAR11")
    with pytest.raises(ValueError, match=r"torchvision:CIFAR10 must lie below .*: Dataset not found"):
        open_data(f"torchvision:CIFAR10:{tmp_path}")


def test_hub_data_sets_are_streamed(monkeypatch):
    import datasets
    from huggingface_hub import constants

    rows = [{"image": {"bytes": png((row, 0, 0)), "path": None}, "label": row % 2} for row in range(3)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows), features=features)

    class Builder:
        hash = "1"
        info = datasets.DatasetInfo(splits=None)

        def as_streaming_dataset(self):
            return {"train": stream}

    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *names: asked.append(names) or Builder())
    data = open_data("hub:owner/name:small")
    assert asked == [("owner/name", "small")]
    assert [color[0] for color in colors(data)] == [0, 1, 2] and data.classes == ["a", "b"]

    def fail(*names):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(ValueError, match="cannot open hub:owner/name: offline mode is on; no network"):
        open_data("hub:owner/name")


def test_a_name_that_is_nothing_is_answered_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holidays").mkdir()
    with pytest.raises(ValueError, match=r"got digit, which does not exist; did you mean digits\?"):
        open_data("digit")
    with pytest.raises(ValueError, match=r"got holiday, which does not exist; did you mean holidays\?"):
        open_data("holiday")
    with pytest.raises(
        ValueError,
        match=r"data must be a path that exists, one of digits.*got xyzzy, which does not exist$",
    ):
        open_data("xyzzy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_broken": 1.5}, "max_broken must be between 0 and 1, got 1.5"),
        ({"channels": 4}, "channels must be 1, as the images have, got 4"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"store_size": 0}, "store_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 1, got -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        open_data("digits", **options)


def test_digits_are_the_handwritten_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    train, test = open_splits("digits")
    assert (len(train), len(test), train.channels, train.image_size) == (1297, 500, 1, 8)
    assert test.labels is not None and test.labels.bincount().tolist() == [50] * 10
    original = {(image * 255 / 16).round().astype(np.uint8).tobytes() for image in load_digits().images}
    ours = {
        image.numpy().tobytes()
        for data in (train, test)
        for image in data.batch(torch.arange(len(data)))["image"]
    }
    assert ours == original


def test_a_built_in_name_wins_over_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "digits" / "1.png")
    assert len(open_data("digits")) == 1297
    assert len(open_data("./digits")) == 1


def test_photos_are_the_same_patches_each_time_and_splits_share_none():
    train, test = open_splits("photos")
    assert (len(train), len(test), train.channels, train.image_size) == (1600, 400, 3, 64)
    assert train.labels is not None and train.labels.bincount().tolist() == [160] * 10
    assert test.classes is not None and len(test.classes) == 10
    assert torch.equal(train.pixels, open_data("photos").pixels)


def test_photo_patches_are_cut_from_separate_parts():
    from unlabeled.data.image import builtin

    columns = torch.arange(400).div(2, rounding_mode="floor").to(torch.uint8).expand(3, 384, 400)
    assert builtin._cut(columns, "train", 0).max() < builtin._cut(columns, "test", 0).min()


def test_data_is_returned_as_it_is():
    data = open_data("digits")
    assert open_data(data) is data


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="the shared data is not there")
def test_cifar10_in_the_hub_layout():
    data = open_data(SHARED / "cifar10", split="test")
    assert (len(data), data.channels, data.image_size) == (10_000, 3, 32)
    assert data.classes is not None and data.classes[3] == "cat"
    assert data.labels is not None and data.labels.bincount().tolist() == [1000] * 10


@pytest.mark.parametrize("above", ["", "audio", "data/all of it"])
def test_a_folder_that_stands_alone_is_no_class(tmp_path, above):
    for name, color in {"a/1.png": 10, "a/deep/2.png": 20, "b/3.png": 30}.items():
        picture(tmp_path / above / name, (color,) * 3)
    (tmp_path / "readme.txt").write_text("words")
    data = open_data(tmp_path)
    assert data.classes == ["a", "b"] and data.labels is not None and data.labels.tolist() == [0, 0, 1]
    assert data.paths == [str(tmp_path / above / name) for name in ("a/1.png", "a/deep/2.png", "b/3.png")]


def test_folders_that_stand_alone_lie_above_and_below_splits(tmp_path):
    for split, names in {"train": ("a", "b"), "test": ("b", "c")}.items():
        for name in names:
            picture(tmp_path / "set" / split / "images" / name / "1.png")
    picture(tmp_path / "set" / "logo.png")
    train, test = open_splits(tmp_path)
    assert train.classes == test.classes == ["a", "b", "c"] and train.labels is not None
    assert train.labels.tolist() == [0, 1] and test.labels is not None and test.labels.tolist() == [1, 2]
    assert str(tmp_path / "set" / "logo.png") in {skip.path for skip in train.skipped}


@pytest.mark.parametrize(
    ("one", "other", "splits"),
    [
        ("images_train", "images_test", ["test", "train"]),
        ("train2017", "val2017", ["train", "validation"]),
        ("Training Images", "Test Images", ["test", "train"]),
        ("bullet_train", "dog", ["all"]),
        ("restaurant", "testament", ["all"]),
    ],
)
def test_folders_that_all_have_the_word_of_a_split_in_their_names_are_splits(tmp_path, one, other, splits):
    for name in (one, other):
        picture(tmp_path / name / "1.png")
    assert sorted(parts(tmp_path, cache=False)) == splits


def test_a_file_beside_the_folders_of_classes_is_named_as_why_there_are_no_labels(tmp_path):
    for name in ("a/1.png", "b/1.png", "logo.png"):
        picture(tmp_path / name)
    data = open_data(tmp_path, cache=False)
    assert data.labels is None
    assert (str(tmp_path), "no labels: logo.png lies beside the folders of classes") in data.skipped


def test_a_link_to_a_folder_above_leads_nowhere(tmp_path):
    picture(tmp_path / "above.png")
    picture(tmp_path / "set" / "1.png")
    (tmp_path / "set" / "up").symlink_to("..")
    data = open_data(tmp_path / "set", cache=False)
    assert (
        len(data) == 1
        and reasons(data, tmp_path / "set")["up"] == "folder seen before, through a symbolic link"
    )


def test_one_class_alone_and_files_beside_a_folder_give_no_classes(tmp_path):
    picture(tmp_path / "one" / "cats" / "1.png")
    assert open_data(tmp_path / "one").classes is None
    picture(tmp_path / "two" / "1.png")
    picture(tmp_path / "two" / "cats" / "2.png")
    assert open_data(tmp_path / "two").classes is None
    picture(tmp_path / "three" / "train" / "a" / "1.png")
    picture(tmp_path / "three" / "train" / "b" / "1.png")
    assert open_data(tmp_path / "three", split="train").classes == ["a", "b"]


def test_splits_in_the_folders_of_classes_are_splits(tmp_path):
    for number, name in enumerate(["cat/Train/1", "cat/test/2", "dog/Train/sub/3", "dog/test/4"]):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
    train, test = open_splits(tmp_path)
    assert [train.class_names(), test.class_names()] == [["cat", "dog"], ["cat", "dog"]]
    assert [path.rpartition("/")[2] for path in train.paths + test.paths] == [
        "1.png",
        "3.png",
        "2.png",
        "4.png",
    ]
    (tmp_path / "dog" / "Train").rename(tmp_path / "dog" / "more")  # one that names no split: no folder does
    assert [*parts(tmp_path)] == ["all"]


@pytest.mark.parametrize("folder", ["@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information"])
def test_folders_of_systems_hold_no_data(tmp_path, folder):
    for name in ("a/1.png", "b/2.png", f"{folder}/3.png", f"a/{folder}/1.png/thumb.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    data = open_data(tmp_path)
    assert len(data) == 2 and data.classes == ["a", "b"]
    assert [(skip.path, skip.reason) for skip in data.skipped] == [
        (f"{tmp_path}/{name}", "hidden") for name in sorted([folder, f"a/{folder}"])
    ]


def test_an_empty_name_and_what_is_no_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("here.png")
    with pytest.raises(ValueError, match=r"data must be a name or a path, got an empty one"):
        open_data("")
    os.mkfifo("pipe.png")
    with pytest.raises(ValueError, match=r"no images in pipe.png; .*pipe.png: not a regular file"):
        open_data("pipe.png")


@pytest.mark.parametrize("bands", [3, 4])
def test_one_image_is_not_taken_for_many_grey_ones(bands):
    with pytest.raises(ValueError, match=rf"got one image of shape \(32, 20, {bands}\)"):
        open_data(np.zeros((32, 20, bands), np.uint8))
    assert len(open_data(np.zeros((1, 32, 20, bands), np.uint8))) == 1
