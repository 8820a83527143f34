"""How folders lay out images beside what is known of them: which file belongs to which image, by names alone.

Paths are those below the folder that the user named. Folders such as JPEGImages and Annotations say what files are, so
a file belongs to the image whose path is the same without them and without its ending, as in VOC (JPEGImages,
Annotations, SegmentationClass), YOLO (images, labels) and pairs of folders (images, masks). Masks may also lie beside
their images under names such as cell_mask.png.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from unlabeled.data.files import SPLITS, File
from unlabeled.data.samples import Skipped

__all__ = ["image_sets", "is_instances", "key", "mask_pairs", "separate_masks", "unique_keys"]

_IMAGES = frozenset(["jpegimages", "images", "image", "imgs", "img", "img_dir", "leftimg8bit", "inputs"])
_BOXES = frozenset(["annotations", "annotation", "ann", "anns", "xml", "xmls", "labels", "label", "bboxes"])
_MASKS = frozenset(
    [
        *("segmentationclass", "segmentationclassaug", "masks", "mask", "labels", "label", "annotations"),
        *("annotation", "ann_dir", "gt", "gts", "gtfine", "groundtruth", "ground_truth", "segmentation"),
        *("segmentations", "seg", "targets"),
    ]
)
_INSTANCES = "segmentationobject"
"""Folder of VOC whose masks number things, not classes."""
_MASK_NAME = re.compile(
    r"[-_](?:gtFine_labelIds|gtFine_labelTrainIds|labelIds|masks?|labels?|seg|segmentation|gt)$"
)
_IMAGE_NAME = re.compile(r"_leftImg8bit$")


def key(path: str) -> tuple[str, ...]:
    """What is alike in the paths of an image and of the files about it."""
    *folders, name = path.replace(os.sep, "/").split("/")
    words = _IMAGES | _BOXES | _MASKS | {_INSTANCES}
    stem = _MASK_NAME.sub("", _IMAGE_NAME.sub("", os.path.splitext(name)[0]))
    return (*(folder for folder in folders if folder.lower() not in words), stem)


def unique_keys(paths: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Paths by their keys, without those that share one."""
    paths = list(paths)
    counts = Counter(map(key, paths))
    return {key(path): path for path in paths if counts[key(path)] == 1}


def mask_pairs(paths: Sequence[str]) -> dict[str, str]:
    """Masks of classes among the paths of images, each with the path of its image.

    None where fewer than half of the files that are named like masks have an image.
    """
    named = [path for path in paths if _is_named_mask(path)]
    images = unique_keys(path for path in paths if not _is_named_mask(path))
    pairs = {path: images[key(path)] for path in named if key(path) in images}
    return pairs if 2 * len(pairs) >= len(named) else {}


def separate_masks(files: Sequence[File]) -> tuple[list[File], list[Skipped]]:
    """Files that are images, and those that are masks of others, with the image of each in words."""
    pairs = mask_pairs([file.path for file in files])
    masks = [Skipped(mask, f"mask of {image}") for mask, image in pairs.items()]
    return [file for file in files if file.path not in pairs], masks


def is_instances(path: str) -> bool:
    """Whether a mask numbers things, not classes."""
    return _INSTANCES in path.lower().split(os.sep)[:-1]


def _is_named_mask(path: str) -> bool:
    *folders, name = path.replace(os.sep, "/").lower().split("/")
    in_folder = any(folder in _MASKS or folder == _INSTANCES for folder in folders)
    return in_folder or _MASK_NAME.search(os.path.splitext(name)[0]) is not None


def image_sets(files: Sequence[File], masks: bool) -> list[Skipped]:
    """Lists below a folder ImageSets that do not say the parts: of other tasks, and of single classes.

    Args:
        files: All files.
        masks: Whether the parts are those of Segmentation, else those of Main; where there are none, of any other.
    """
    lists = {file.path: file.path.split(os.sep) for file in files if file.suffix == ".txt"}
    tasks = {
        path: parts[parts.index("ImageSets") + 1]
        for path, parts in lists.items()
        if "ImageSets" in parts[:-1]
    }
    order = ["Segmentation", "Main"] if masks else ["Main", "Segmentation"]
    split_task = next((task for task in order if task in tasks.values()), next(iter(tasks.values()), ""))
    unused = []
    for path, task in tasks.items():
        stem = os.path.splitext(os.path.basename(path))[0].lower()
        if task != split_task and not task.endswith(".txt"):
            unused.append(Skipped(path, f"list of {task}; the parts are those of {split_task}"))
        elif stem not in SPLITS and stem != "trainval":
            unused.append(Skipped(path, "list of one class"))
    return unused
