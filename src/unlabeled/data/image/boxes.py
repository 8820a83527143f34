"""Boxes beside images, as files say them: VOC, COCO, YOLO, and columns `objects` as on the Hugging Face hub.

VOC counts pixels from 1, both ends included; a set with an edge at 0 is taken to count edges from 0, as the others do.
Boxes that COCO calls crowds are difficult ones here. What the files say is checked by `annotated`.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.faults import Faults
from unlabeled.data.files import File
from unlabeled.data.image.layouts import key, unique_keys
from unlabeled.data.tables import ENDINGS, json_lines, open_table

__all__ = ["Box", "BoxFile", "Boxes", "class_names", "read_boxes"]

_LARGEST, _MOST_JSON = 2**30, 20
_NAMES = (
    "classes.json",
    "classes.txt",
    "obj.names",
    "data.yaml",
    "dataset.yaml",
    "labels.txt",
    "labels.json",
)
"""Files that list the names of classes, the likeliest first."""
_BROKEN = "files of boxes that cannot be read"
_OBJECTS = ("objects", "annotations", "object", "annotation")
_EDGES, _CLASS = (
    ("bbox", "bboxes", "box", "boxes"),
    ("category", "categories", "label", "labels", "class", "classes"),
)


class Box(NamedTuple):
    """A box as a file says it."""

    name: str | int | None
    """Its class by name, or by number in the order of the names; None where the file does not say which it is."""
    edges: tuple[float, ...]
    """Left, top, right and bottom edge in pixels of the original image, or as fractions of it."""
    difficult: bool = False
    instead: str = "no name"
    """What the file says of its class where that is not known."""


class BoxFile(NamedTuple):
    """What a file says of one image."""

    boxes: list[Box]
    size: tuple[int, int] | None = None
    """Height and width that it states, in pixels."""
    fractions: bool = False
    """Whether edges are fractions of the image."""


class Boxes(NamedTuple):
    """What files say of images.

    Attributes:
        layout: What the files are called.
        images: What is said of each image, by its path.
        classes: Names of the classes in their order; None where the names alone say what there is.
    """

    layout: str
    images: dict[str, BoxFile]
    classes: list[str] | None


def read_boxes(root: Path, files: Sequence[File], images: Sequence[str], faults: Faults) -> Boxes | None:
    """Boxes of images by the first layout that is there; None where there is none.

    Args:
        root: Folder.
        files: All files below it.
        images: Paths of the images below it; rows of tables as `FILE#ROW`.
        faults: Where what cannot be read is recorded.
    """
    for read in (_voc, _coco, _objects, _yolo):
        boxes = read(root, files, images, faults)
        if boxes is not None and boxes.images:
            return boxes
    return None


def class_names(root: Path, files: Sequence[File]) -> list[str] | None:
    """Names of the classes in the order of their numbers, as a file such as classes.json lists them."""
    candidates = [file for file in files if file.path.rpartition("/")[2].lower() in _NAMES]
    order = {name: place for place, name in enumerate(_NAMES)}
    for file in sorted(
        candidates, key=lambda file: (order[file.path.rpartition("/")[2].lower()], len(file.path))
    ):
        if names := _names_in(root / file.path):
            return names
    return None


def _names_in(path: Path) -> list[str] | None:
    """Names in one file; None where it lists none."""
    text = path.read_text("utf-8-sig", "replace")
    try:
        if path.suffix == ".yaml":
            import yaml

            names: Any = yaml.safe_load(text).get("names")
        else:
            names = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except Exception:  # not what its name says
        return None
    if isinstance(names, Mapping):
        numbers = {str(number): name for number, name in names.items()}
        if not all(number.isdigit() for number in numbers):  # names to numbers
            numbers = {str(number): name for name, number in names.items()}
        names = [numbers.get(str(place)) for place in range(len(numbers))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return [name.strip() for name in names if name.strip()] or None


def _voc(root: Path, files: Sequence[File], images: Sequence[str], faults: Faults) -> Boxes | None:
    keys, by_image = unique_keys(images), {}
    for file in files:
        if file.suffix == ".xml" and (image := keys.get(key(file.path))) is not None:
            try:
                by_image[image] = _of_xml((root / file.path).read_bytes())
            except (OSError, ValueError, ElementTree.ParseError) as error:
                faults.add(_BROKEN, file.path, check.reason(error))
    edges = [box.edges[side] for one in by_image.values() for box in one.boxes for side in (0, 1)]
    if by_image and all(edge != 0 for edge in edges):  # pixels are counted from 1
        by_image = {image: _from_first_pixel(one) for image, one in by_image.items()}
    return Boxes("VOC xml files", by_image, class_names(root, files))


def _from_first_pixel(one: BoxFile) -> BoxFile:
    return one._replace(
        boxes=[box._replace(edges=(box.edges[0] - 1, box.edges[1] - 1, *box.edges[2:])) for box in one.boxes]
    )


def _of_xml(content: bytes) -> BoxFile:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # it could expand to any size
        raise UserError("it defines entities")
    tree = ElementTree.fromstring(content)
    if tree.tag != "annotation":
        raise UserError(f"it is a {tree.tag}, not an annotation")
    boxes = []
    for thing in tree.iter("object"):
        edges = tuple(_number(thing.findtext(f"bndbox/{name}")) for name in ("xmin", "ymin", "xmax", "ymax"))
        name = (thing.findtext("name") or "").strip() or None
        boxes.append(Box(name, edges, (thing.findtext("difficult") or "").strip() == "1"))
    size = tuple(_number(tree.findtext(f"size/{name}")) for name in ("height", "width"))
    return BoxFile(boxes, (int(size[0]), int(size[1])) if all(side > 0 for side in size) else None)


def _number(value: Any) -> float:
    """A number; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _coco(root: Path, files: Sequence[File], images: Sequence[str], faults: Faults) -> Boxes | None:
    documents = [file for file in files if file.suffix == ".json"]
    names: dict[Any, str] = {}
    by_image: dict[str, BoxFile] = {}
    for file in documents if len(documents) <= _MOST_JSON else ():
        if (root / file.path).stat().st_size > _LARGEST:
            faults.add(_BROKEN, file.path, "larger than 1 GiB")
            continue
        try:
            document = json.loads((root / file.path).read_bytes())
        except ValueError as error:
            faults.add(_BROKEN, file.path, check.reason(error))
            continue
        if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= document.keys():
            continue
        names |= {entry.get("id"): str(entry.get("name")) for entry in _mappings(document["categories"])}
        by_image |= _of_coco(document, names, _finder(images, file.path), faults)
    order = sorted(names, key=lambda number: (not isinstance(number, int), number))
    return Boxes("COCO json", by_image, list(dict.fromkeys(names[number] for number in order)))


def _mappings(entries: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in entries or () if isinstance(entry, Mapping)]


def _of_coco(
    document: Mapping[str, Any], names: Mapping[Any, str], find: Callable[[Any], str | None], faults: Faults
) -> dict[str, BoxFile]:
    paths: dict[Any, str | None] = {}
    by_image: dict[str, BoxFile] = {}
    for entry in _mappings(document["images"]):
        path = paths[entry.get("id")] = find(entry.get("file_name"))
        if path is None:
            faults.add("images of COCO json that are not there", str(entry.get("file_name")))
            continue
        height, width = _number(entry.get("height")), _number(entry.get("width"))
        by_image[path] = BoxFile([], (int(height), int(width)) if height > 0 and width > 0 else None)
    for entry in _mappings(document["annotations"]):
        if (image := entry.get("image_id")) not in paths:
            faults.add("boxes of images that COCO json does not list", str(image))
        elif (path := paths[image]) is not None:
            number, crowd = entry.get("category_id"), bool(entry.get("iscrowd"))
            instead = "no category_id" if number is None else f"category_id {number}"
            by_image[path].boxes.append(Box(names.get(number), _corners(entry.get("bbox")), crowd, instead))
    return by_image


def _corners(box: Any) -> tuple[float, ...]:
    """Edges of a box given by its left and top edge, width and height; NaN where it is none."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return (math.nan,) * 4
    left, top, width, height = map(_number, box)
    return left, top, left + width, top + height


def _finder(images: Sequence[str], table: str) -> Callable[[Any], str | None]:
    """Finds the one image that a name in a table means: below the folder of the table, by path, or by name."""
    folder, paths = table.rpartition("/")[0], {*images}
    by_name: dict[str, list[str]] = {}
    for image in images:
        by_name.setdefault(image.rpartition("/")[2], []).append(image)

    def find(value: Any) -> str | None:
        if not isinstance(value, str):
            return None
        name = value.replace("\\", "/").removeprefix("./")
        direct = next((path for path in (f"{folder}/{name}".lstrip("/"), name) if path in paths), None)
        near = [path for path in by_name.get(name.rpartition("/")[2], []) if f"/{path}".endswith(f"/{name}")]
        # Of train2017/1.jpg and val2017/1.jpg, instances_val2017.json means the second.
        own = [path for path in near if path.rpartition("/")[0].rpartition("/")[2] in table] or near
        return direct or (own[0] if len(own) == 1 else near[0] if len(near) == 1 else None)

    return find


def _objects(root: Path, files: Sequence[File], images: Sequence[str], faults: Faults) -> Boxes | None:
    """Columns of boxes in tables: parquet with its images, metadata.jsonl beside them."""
    by_image: dict[str, BoxFile] = {}
    classes = None
    for file in files:
        try:
            if file.ends(ENDINGS):
                table = open_table(root / file.path)
                column = next((name for name in _OBJECTS if name in table.schema.names), "")
                rows = enumerate(table.records([column])) if column else ()
                classes = classes or _feature_names(table.features.get(column))
                by_image |= {f"{file.path}#{number}": _of_objects(row[column]) for number, row in rows}
            elif file.path.rpartition("/")[2].lower() in ("metadata.jsonl", "metadata.ndjson"):
                find = _finder(images, file.path)
                for _, row in json_lines((root / file.path).read_text("utf-8-sig", "replace")).rows:
                    column = next(
                        (name for name in _OBJECTS if isinstance(row, Mapping) and name in row), None
                    )
                    if column is not None and (path := find(row.get("file_name"))) is not None:
                        by_image[path] = _of_objects(row[column])
        except ValueError as error:
            faults.add(_BROKEN, file.path, check.reason(error))
    return Boxes("columns of objects", by_image, classes or class_names(root, files))


def _feature_names(feature: Any) -> list[str] | None:
    """Names of the classes in what `datasets` has noted of a column, wherever they stand in it."""
    if isinstance(feature, Mapping):
        if isinstance(feature.get("names"), list):
            return [str(name) for name in feature["names"]]
        return next(filter(None, map(_feature_names, feature.values())), None)
    if isinstance(feature, list):
        return next(filter(None, map(_feature_names, feature)), None)
    return None


def _of_objects(value: Any) -> BoxFile:
    """A list of records, or a record of lists, with boxes as left, top, width and height."""
    if isinstance(value, Mapping):
        edges = next((value[name] for name in _EDGES if name in value), None) or []
        names = next((value[name] for name in _CLASS if name in value), None) or []
        names = [*names, *[None] * (len(edges) - len(names))]
        return BoxFile([Box(name, _corners(box)) for name, box in zip(names, edges)])
    boxes = []
    for record in _mappings(value):
        name = next((record[name] for name in _CLASS if name in record), None)
        boxes.append(Box(name, _corners(next((record[edge] for edge in _EDGES if edge in record), None))))
    return BoxFile(boxes)


def _yolo(root: Path, files: Sequence[File], images: Sequence[str], faults: Faults) -> Boxes | None:
    keys, by_image = unique_keys(images), {}
    for file in files:
        image = keys.get(key(file.path)) if file.suffix == ".txt" else None
        if image is not None:
            lines = (root / file.path).read_text("utf-8", "replace").splitlines()
            by_image[image] = BoxFile(list(_of_lines(lines, file.path, faults)), fractions=True)
    if not any(one.boxes for one in by_image.values()):
        return None
    empty = {image: BoxFile([], fractions=True) for image in images}  # no file: nothing is there
    return Boxes("YOLO txt files", empty | by_image, class_names(root, files))


def _of_lines(lines: Sequence[str], path: str, faults: Faults) -> Iterator[Box]:
    """Boxes of a class, centre, width and height each; polygons give the boxes around them."""
    for line in lines:
        if not (cells := line.split()):
            continue
        if not re.fullmatch(r"\d+", cells[0]) or len(cells) < 5:
            faults.add("lines that are no boxes", path, check.one_line(line)[:40])
            continue
        numbers = [*map(_number, cells[1:])]
        if len(numbers) > 5 and len(numbers) % 2 == 0:
            across, down = numbers[::2], numbers[1::2]
            yield Box(int(cells[0]), (min(across), min(down), max(across), max(down)))
        else:  # a fifth number is a confidence
            x, y, width, height = numbers[:4]
            yield Box(int(cells[0]), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
