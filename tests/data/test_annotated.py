"""Boxes and masks beside images: every layout says the same, broken ones are named, and resizing moves them exactly."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unlabeled.check import UserError
from unlabeled.data import notes, open_data, open_splits
from unlabeled.data.image.annotated import AnnotatedImages, NoAnnotations

SHARED = Path(__file__).parents[2] / "../shared/data"
WIDTH, HEIGHT = 40, 20
TRUTH = {"a": [("cat", (4, 2, 24, 12)), ("dog", (0, 0, 40, 20))], "b": [("dog", (10, 5, 30, 15))], "c": []}
"""Boxes of three images: left, top, right and bottom edge in pixels."""


@pytest.fixture(autouse=True)
def _notes_again() -> None:
    notes.note.cache_clear()


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def xml(
    boxes: list[tuple[str, tuple[float, ...]]], size: tuple[int, int] = (WIDTH, HEIGHT), more: str = ""
) -> str:
    """VOC counts pixels from 1, both ends included."""
    things = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in boxes
    )
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return f"<annotation>{stated}{things}</annotation>"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def voc(root: Path) -> None:
    for name, boxes in TRUTH.items():
        picture(root / f"VOC2007/JPEGImages/{name}.png")
        write(root / f"VOC2007/Annotations/{name}.xml", xml(boxes))


def coco(root: Path) -> None:
    images = [
        {"id": n, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
        for n, name in enumerate(TRUTH)
    ]
    boxes = [
        {"image_id": n, "category_id": {"cat": 7, "dog": 90}[name], "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for n, things in enumerate(TRUTH.values())
        for name, (x0, y0, x1, y1) in things
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}]
    for name in TRUTH:
        picture(root / f"pictures/{name}.png")
    write(
        root / "instances.json",
        json.dumps({"images": images, "annotations": boxes, "categories": categories}),
    )


def yolo(root: Path) -> None:
    for name, boxes in TRUTH.items():
        picture(root / f"images/{name}.png")
        lines = [
            f"{['cat', 'dog'].index(kind)} {(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT} {(x1 - x0) / WIDTH} "
            f"{(y1 - y0) / HEIGHT}"
            for kind, (x0, y0, x1, y1) in boxes
        ]
        if lines:
            write(root / f"labels/{name}.txt", "\n".join(lines))
    write(root / "data.yaml", "nc: 2\nnames: {0: cat, 1: dog}\n")


def objects() -> list[dict[str, Any]]:
    return [
        {
            "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in boxes],
            "category": [["cat", "dog"].index(name) for name, _ in boxes],
        }
        for boxes in TRUTH.values()
    ]


def imagefolder(root: Path) -> None:
    rows = [{"file_name": f"{name}.png", "objects": own} for name, own in zip(TRUTH, objects())]
    for name in TRUTH:
        picture(root / f"{name}.png")
    write(root / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    write(root / "classes.txt", "cat\ndog\n")


def parquet(root: Path) -> None:
    picture(root / "a.png")
    encoded = {"bytes": (root / "a.png").read_bytes(), "path": "same.png"}  # names of images may repeat
    (root / "a.png").unlink()
    names = {"category": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    about = {"info": {"features": {"objects": {"feature": names}}}}
    table = pa.table({"image": [encoded] * 3, "objects": objects()})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), root / "train.parquet")


@pytest.mark.parametrize("layout", [voc, coco, yolo, imagefolder, parquet])
def test_every_layout_says_the_same(tmp_path: Path, layout: Any) -> None:
    layout(tmp_path)
    data = open_data(tmp_path, annotations="boxes", kind="image")
    assert isinstance(data, AnnotatedImages) and data.things is not None
    assert data.classes == ["cat", "dog"] and data.labels is None and len(data) == 3
    for things, boxes in zip(data.things, TRUTH.values()):
        assert [["cat", "dog"][label] for label in things.labels] == [name for name, _ in boxes]
        edges = torch.tensor([edges for _, edges in boxes], dtype=torch.double).view(-1, 4)
        torch.testing.assert_close(things.boxes, edges)
    assert data.present().tolist() == [[1, 1], [0, 1], [0, 0]]
    part = data.subset(torch.tensor([1]))
    assert part.present().tolist() == [[0, 1]] and part.originals.tolist() == [[HEIGHT, WIDTH]]


def test_a_voc_set_with_an_edge_at_zero_counts_from_zero(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.png")
    write(tmp_path / "Annotations/a.xml", xml([("cat", (-1, 3, 10, 10))]))
    data: Any = open_data(tmp_path, annotations="boxes")
    assert data.things[0].boxes.tolist() == [[0, 4, 10, 10]]


def test_broken_boxes_are_left_out_and_named_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nan = float("nan")
    boxes = [
        ("cat", (50.0, 2.0, 60.0, 12.0)),  # outside
        ("cat", (5.0, 5.0, 5.0, 9.0)),  # without area
        ("cat", (nan, 2.0, 9.0, 9.0)),
        ("cow", (1.0, 1.0, 9.0, 9.0)),  # no class of the list
        ("dog", (30.0, 1.0, 47.0, 9.0)),  # across the border
        ("dog", (1.0, 1.0, 9.0, 9.0)),
    ]
    for name in "ab":
        picture(tmp_path / f"JPEGImages/{name}.png")
    picture(tmp_path / "JPEGImages/unknown.png")
    write(tmp_path / "Annotations/a.xml", xml(boxes))
    write(tmp_path / "Annotations/b.xml", xml(boxes[-1:], size=(80, 60)))
    write(tmp_path / "classes.json", '["cat", "dog"]')
    with caplog.at_level(logging.WARNING):
        data: Any = open_data(tmp_path, annotations="boxes")
    assert len(data) == 1 and data.things[0].boxes.tolist() == [[30, 1, 40, 9], [1, 1, 9, 9]]
    lines = [line for line in caplog.messages if "boxes outside" in line]
    assert len(lines) == 1 and "a.png" in lines[0]
    for words in (
        "1 boxes outside their image", "1 boxes without area", "1 boxes with edges that are no numbers",
        "1 boxes of an unknown class (JPEGImages/a.png: cow)", "1 boxes cut off at the border",
        "1 images whose boxes are stated for another size (JPEGImages/b.png: 80x60, the image 40x20)",
    ):  # fmt: skip
        assert words in lines[0]
    assert any("2 of 3 images have no boxes and are skipped" in line for line in caplog.messages)


def test_boxes_of_a_category_that_coco_does_not_list_are_named_by_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coco(tmp_path)
    document = json.loads((tmp_path / "instances.json").read_text())
    document["annotations"][0]["category_id"] = 55
    del document["annotations"][1]["category_id"]
    write(tmp_path / "instances.json", json.dumps(document))
    with caplog.at_level(logging.WARNING):
        open_data(tmp_path, annotations="boxes", kind="image")
    said = " ".join(caplog.messages)
    assert "2 boxes of an unknown class" in said and "category_id 55" in said and "None" not in said


def test_a_class_of_which_all_boxes_are_difficult_is_neither_present_nor_absent(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.png")
    hard = xml([("cat", (0, 0, 9, 9))], more="<difficult>1</difficult>")
    write(tmp_path / "Annotations/a.xml", hard.replace("</annotation>", xml([("dog", (1, 1, 5, 5))])[12:]))
    write(tmp_path / "classes.json", '["cat", "dog", "cow"]')
    data: Any = open_data(tmp_path, annotations="boxes")
    assert data.present().tolist() == [[-1, 1, 0]]


@pytest.mark.parametrize(
    ("size", "store_size"), [((40, 20), 10), ((90, 10), 10), ((33, 77), 20), ((40, 20), 64)]
)
def test_boxes_move_with_resizing_in_closed_form(
    tmp_path: Path, size: tuple[int, int], store_size: int
) -> None:
    """A dark box stays where its edges say, also where an image longer than 4:1 loses its ends."""
    width, height = size
    picture(tmp_path / "JPEGImages/a.png", size)
    write(tmp_path / "Annotations/a.xml", xml([("cat", (1, 2, width - 3, height - 1))], size))
    data: Any = open_data(tmp_path, annotations="boxes", store_size=store_size)
    longest = 4 * min(size)
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    inside = min(width, longest), min(height, longest)
    stored_height, stored_width = data.sizes[0].tolist()
    across, down = stored_width / inside[0], stored_height / inside[1]
    expected = [(1 - left) * across, (2 - top) * down, (width - 3 - left) * across, (height - 1 - top) * down]
    moved = data.to_stored(0, data.things[0].boxes)
    assert moved[0].tolist() == pytest.approx(expected)
    torch.testing.assert_close(data.to_original(0, moved), data.things[0].boxes)


def test_an_image_is_where_its_box_says_after_resizing_and_turning(tmp_path: Path) -> None:
    """Pixels decide: an EXIF rotation and a shrinkage by 4 leave the white block inside its box."""
    pixels = np.zeros((80, 120), np.uint8)
    pixels[16:48, 40:80] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    (tmp_path / "JPEGImages").mkdir()
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "JPEGImages/a.png", exif=exif)
    write(tmp_path / "Annotations/a.xml", xml([("block", (40, 16, 80, 48))], (120, 80)))
    data: Any = open_data(tmp_path, annotations="boxes", store_size=20)
    left, top, right, bottom = (round(edge) for edge in data.to_stored(0, data.things[0].boxes)[0].tolist())
    image = data.batch(torch.arange(1))["image"][0, 0].clone()
    assert image[top:bottom, left:right].float().mean() > 230
    image[top - 1 : bottom + 1, left - 1 : right + 1] = 0
    assert image.max() < 20


def pairs(root: Path, values: list[np.ndarray], folders: tuple[str, str] = ("images", "masks")) -> None:
    for number, own in enumerate(values):
        picture(root / folders[0] / f"{number}.png", own.shape[1::-1], number)
        mask(root / folders[1] / f"{number}.png", own)


def test_masks_are_no_images_and_give_classes_of_pixels(tmp_path: Path) -> None:
    values = np.zeros((8, 12), int)
    values[:4, :6], values[6:] = 2, 255
    pairs(tmp_path, [values, values.T % 3], ("JPEGImages", "SegmentationClass"))
    assert len(open_data(tmp_path)) == 2
    data: Any = open_data(tmp_path, annotations="masks", store_size=4)
    assert data.classes == ["0", "2"] and data.present().tolist() == [[1, 1], [1, 1]]
    assert data.mask(0).shape == (8, 12) and data.mask(0)[:4, :6].unique().tolist() == [1]
    assert data.mask(0)[6:].unique().tolist() == [255]  # void
    assert data.mask(0, stored=True).tolist() == data.mask(0)[1::2, 1::2].tolist()
    assert data.subset(torch.tensor([1])).mask(0).shape == (12, 8)


def test_masks_of_two_values_colours_and_names(tmp_path: Path) -> None:
    pairs(tmp_path / "two", [np.array([[0, 255], [0, 255]])])
    two: Any = open_data(tmp_path / "two", annotations="masks")
    assert two.mask(0).tolist() == [[0, 1], [0, 1]]
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0], colours[1] = (128, 0, 0), (0, 128, 0)
    for name in ("x.png", "y.png"):
        picture(tmp_path / "colours/train" / name, (3, 2))
    for name in ("x_mask.png", "y_mask.png"):
        Image.fromarray(colours).save(tmp_path / "colours/train" / name)
    painted: Any = open_data(tmp_path / "colours", annotations="masks")
    assert painted.classes == ["#000000", "#008000", "#800000"]
    assert painted.mask(0).tolist() == [[2, 0, 0], [1, 1, 1]]
    write(tmp_path / "colours/classes.txt", "ground\ntree\ncar\n")
    named: Any = open_data(tmp_path / "colours", annotations="masks")
    assert named.classes == ["ground", "tree", "car"]


def test_masks_of_another_size_and_of_unknown_values_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs(tmp_path, [np.array([[0, 1], [7, 1]]), np.zeros((4, 4), int), np.ones((2, 2), int)])
    mask(tmp_path / "masks/1.png", np.zeros((4, 6), int))
    (tmp_path / "masks/2.png").write_bytes(b"nothing")
    write(tmp_path / "classes.json", '{"0": "sky", "1": "sea"}')
    with caplog.at_level(logging.WARNING):
        data: Any = open_data(tmp_path, annotations="masks")
    assert len(data) == 1 and data.mask(0).tolist() == [[0, 1], [255, 1]]
    text = "\n".join(caplog.messages)
    assert "1 masks of another size than their image (1.png: 6x4, the image 4x4)" in text
    assert "1 masks that cannot be read (2.png" in text
    assert "1 masks with values of no class, read as void (0.png: 7)" in text


def test_lists_of_voc_say_the_parts_of_their_task(tmp_path: Path) -> None:
    names = [f"00000{number}" for number in range(6)]
    for number, name in enumerate(names):
        picture(tmp_path / f"JPEGImages/{name}.jpg", value=number)
        write(tmp_path / f"Annotations/{name}.xml", xml([("cat", (0, 0, 9, 9))]))
    for name in names[:4]:
        mask(tmp_path / f"SegmentationClass/{name}.png", np.ones((HEIGHT, WIDTH)))
    lists = {
        "Main/train": names[:3],
        "Main/val": names[3:5],
        "Main/test": names[5:],
        "Main/trainval": names[:5],
    }
    lists |= {f"Main/{kind}_train": [f"{name} -1" for name in names[:3]] for kind in map(str, range(30))}
    lists |= {"Segmentation/train": names[2:4], "Segmentation/val": names[:2], "Action/train": names[5:]}
    for name, lines in lists.items():
        write(tmp_path / f"ImageSets/{name}.txt", "\n".join(lines))
    boxes, tested = open_splits(tmp_path, annotations="boxes")
    assert [Path(path).stem for path in boxes.paths] == names[:3]
    assert [Path(path).stem for path in tested.paths] == names[5:]
    masks, validation = open_splits(tmp_path, annotations="masks")
    assert [Path(path).stem for path in masks.paths] == names[2:4]
    assert [Path(path).stem for path in validation.paths] == names[:2]
    assert len(open_splits(tmp_path, kind="image")[0]) == 3


def test_a_test_part_without_boxes_gives_way_to_validation(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        picture(tmp_path / f"{part}/images/{part}.png")
        if part != "test":
            write(tmp_path / f"{part}/labels/{part}.txt", "0 0.5 0.5 0.2 0.2")
    # In YOLO an image without a file has nothing in it; in VOC nobody knows.
    assert len(open_splits(tmp_path, annotations="boxes")[1].paths) == 1
    for part in ("train", "val"):
        (tmp_path / f"{part}/labels/{part}.txt").unlink()
        write(tmp_path / f"{part}/labels/{part}.xml", xml([("cat", (0, 0, 9, 9))]))
    assert Path(open_splits(tmp_path, annotations="boxes")[1].paths[0]).stem == "val"


def test_data_without_annotations_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(NoAnnotations, match=r"data must have boxes \(VOC xml, COCO json, YOLO txt"):
        open_data(tmp_path, annotations="boxes")
    picture(tmp_path / "other/images/a.png")
    mask(tmp_path / "other/masks/a.png", np.zeros((3, 4)))
    with pytest.raises(
        NoAnnotations, match=r"without: 1 masks of another size .*a.png: 4x3, the image 40x20"
    ):
        open_data(tmp_path / "other", annotations="masks")
    with pytest.raises(UserError, match="annotations must be left out for data of kind text"):
        open_data("topics", annotations="boxes", kind="text")
    with pytest.raises(UserError, match="annotations must be those of a folder or file"):
        open_data("digits", annotations="masks")


@pytest.mark.skipif(not (SHARED / "bccd_voc").is_dir(), reason="needs ../shared/data/bccd_voc")
def test_blood_cells_in_voc_layout() -> None:
    train, test = open_splits(SHARED / "bccd_voc", annotations="boxes")
    assert isinstance(train, AnnotatedImages) and train.classes == ["RBC", "WBC", "Platelets"]
    assert (len(train), len(test)) == (205, 72) and train.things is not None
    assert sum(len(things.labels) for things in train.things) == 2804


@pytest.mark.skipif(not (SHARED / "camvid_voc").is_dir(), reason="needs ../shared/data/camvid_voc")
def test_street_scenes_in_voc_layout() -> None:
    train, test = open_splits(SHARED / "camvid_voc", annotations="masks")
    assert isinstance(train, AnnotatedImages) and train.classes is not None
    assert (len(train), len(test), len(train.classes), train.classes[3]) == (367, 233, 11, "road")
