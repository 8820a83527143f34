"""Files below a folder, and the splits that their names tell apart."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from unlabeled.data.decode import SUFFIXES
from unlabeled.data.samples import Skipped

__all__ = ["SPLITS", "File", "Walk", "by_folder", "by_name", "davis_frames", "is_davis", "walk"]

SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"},
}
_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_./])({'|'.join(SPLITS)})(?=\d*(?:[-_./]|$))")
_SHARD = re.compile(r"[-_]?\d+(-of-\d+)?$")


class File(NamedTuple):
    """A file and what changes when its content does."""

    path: str
    size: int
    time: int
    changed: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> "File":
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()


class Walk(NamedTuple):
    """Files by their paths below a folder, whatever else was met, and how much of that were images."""

    files: list[File]
    skipped: list[Skipped]
    broken: int


def walk(root: Path) -> Walk:
    """All regular files below a folder in the order of their paths, and whatever else was met."""
    files: list[File] = []
    skipped: list[Skipped] = []
    broken, seen, folders = 0, set(), [""]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                skipped.append(Skipped(folder, "folder seen before, through a symbolic link"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(Skipped(folder, error.strerror or str(error)))
            broken += 1
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            try:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    skipped.append(Skipped(path, "hidden"))
                elif entry.is_dir():  # links come last, so that a folder is known by its own name
                    folders.insert(0 if entry.is_symlink() else len(folders), path)
                elif entry.is_file():
                    files.append(File.of(path, entry.stat()))
                else:
                    skipped.append(
                        Skipped(path, "broken link" if entry.is_symlink() else "not a regular file")
                    )
                    broken += entry.name.lower().endswith(SUFFIXES)
            except OSError as error:
                skipped.append(Skipped(path, error.strerror or str(error)))
                broken += entry.name.lower().endswith(SUFFIXES)
    return Walk(sorted(files), skipped, broken)


def by_folder(files: list[File]) -> tuple[dict[str, list[File]], list[File]]:
    """Files by the split that their first folder is, and those that lie beside the splits.

    Beside a training part and a test part every other folder is a split of its own name. Without these two,
    all files are together unless each lies in a folder that names a split.
    """
    named: dict[str, list[File]] = {}
    beside: list[File] = []
    for file in files:
        top, below, _ = file.path.partition(os.sep)
        (named.setdefault(SPLITS.get(top.lower(), top), []) if below else beside).append(file)
    if _separate(named) or (not beside and named.keys() <= set(SPLITS.values())):
        return named, beside
    return {"all": files}, []


def by_name(files: list[File]) -> dict[str, list[File]]:
    """Files by the split that their path names.

    Beside a training part and a test part all others are splits of their own names, without the numbers of
    shards. Without these two, one file that names no split puts all together.
    """
    named: dict[str, list[File]] = {}
    others: dict[str, list[File]] = {}
    for file in files:
        if found := _SPLIT_IN_NAME.findall(file.path.lower()):
            named.setdefault(SPLITS[found[-1]], []).append(file)
        else:
            folder, name = os.path.split(file.path)
            stem = name.split(".")[0]
            others.setdefault(_SHARD.sub("", stem) or os.path.basename(folder) or stem, []).append(file)
    return named | others if _separate(named) or not others else {"all": files}


def is_davis(root: Path) -> bool:
    """Whether a folder has the layout of DAVIS: JPEGImages/SIZE/NAME/*.jpg and Annotations/SIZE/NAME/*.png.

    YouTube-VOS has the same without SIZE.
    """
    return (root / "JPEGImages").is_dir() and (root / "Annotations").is_dir()


def davis_frames(root: Path) -> Path:
    """Folder of the videos in a folder that has the layout of DAVIS, those of 480p where there are several sizes."""
    images = root / "JPEGImages"
    sizes = sorted({folder.parent for folder in images.glob("*/*/") if folder.is_dir()})
    return min(sizes, key=lambda folder: (folder.name != "480p", folder.name), default=images)


def _separate(splits: dict[str, list[File]]) -> bool:
    return "train" in splits and ("test" in splits or "validation" in splits)
