"""Files below a folder, and the splits that their names tell apart."""

import gc
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from unlabeled.data.samples import Skipped
from unlabeled.files import RUN_FILES

__all__ = [
    "FILMS",
    "SOUNDS",
    "SPLITS",
    "SYSTEM_FOLDERS",
    "File",
    "Walk",
    "by_folder",
    "by_name",
    "davis_frames",
    "digest",
    "gc_paused",
    "is_davis",
    "parents",
    "separate",
    "split_column",
    "split_words",
    "walk",
    "without_shard",
]

SPLITS = {
    **{"train": "train", "training": "train", "test": "test", "testing": "test"},
    **{"val": "validation", "valid": "validation", "validation": "validation", "dev": "validation"},
}
SOUNDS = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".mp2", ".m4a", ".m4b", ".aac", ".wma", ".amr", ".mka", ".weba", ".ac3"),
)
"""Endings of audio files."""
FILMS = (".mp4", ".m4v", ".mkv", ".avi", ".webm", ".mov", ".mpg", ".mpeg", ".ogv", ".wmv", ".3gp")
"""Endings of video files that are those of nothing else."""
_SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "fold")
_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_./ ])({'|'.join(SPLITS)})(?=\d*(?:[-_./ ]|$))")
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle"}
"""Folders that systems make: copies and thumbnails of files (macOS, Synology), deleted ones, parts of lost ones."""
_RUN = "run.toml"
"""What makes a folder a run."""
_OUTPUTS = {
    *RUN_FILES,
    *("report.html", "pictures.png", "predictions-detection.png", "predictions-segmentation.png"),
}
"""What a run consists of."""
_WORDNET = re.compile(r"(^|[/\\])n\d{8}$")
_FEATURES = b"path,split,label,group,0,"
"""How a table of features begins."""
_SHARD = re.compile(r"[-_]?\d+(-of-\d+)?$")


class File(NamedTuple):
    """A file and what changes when its content does."""

    path: str
    state: str
    """Its size in bytes, its times in ns and its number on the disk, in one text that takes little memory."""

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> "File":
        return cls(path, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.path)[1].lower()

    def ends(self, endings: tuple[str, ...]) -> bool:
        """Whether its name has one of some endings, which are in lower case."""
        return self.path.lower().endswith(endings)


class Walk(NamedTuple):
    """Files by their paths below a folder, and whatever else lies there, both in the order of their paths."""

    root: Path
    files: list[File]
    skipped: list[Skipped]
    unreadable: list[str]
    """Those of the skipped that are no regular files or raise errors; folders end with a separator."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, which would look at each of many new objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def walk(path: Path) -> Walk:
    """All regular files below a folder, or a file alone.

    Folders of runs are omitted; where the folder itself is one, only what a run consists of.
    """
    if path.is_file():
        return Walk(path.parent, [File.of(path.name, path.stat())], [], [])
    result = Walk(path, [], [], [])
    if not path.is_dir() and path.exists():
        result.skipped.append(Skipped("", "not a regular file"))
        return result
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, path.resolve().parents)}  # no way up
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(path / folder)
            if (status.st_dev, status.st_ino) in seen:
                result.skipped.append(Skipped(folder, "folder seen before, through a symbolic link"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path / folder) as scan:
                entries = list(scan)
        except OSError as error:
            result.skipped.append(Skipped(folder, error.strerror or str(error)))
            result.unreadable.append(os.path.join(folder, ""))
            continue
        is_run = any(entry.name == _RUN for entry in entries)
        if is_run and folder:
            result.skipped.append(Skipped(folder, "folder of a run"))
        else:
            below = _sort_entries(entries, folder, is_run, result)
            for name, linked in sorted(below):  # links come last, so that a folder is known by its own name
                folders.insert(0 if linked else len(folders), name)
    result.files.sort(key=attrgetter("path"))
    result.skipped.sort()
    return result


def _sort_entries(
    entries: list[os.DirEntry[str]], folder: str, is_run: bool, result: Walk
) -> list[tuple[str, bool]]:
    """Add the entries of a folder to a walk; returns the folders among them, and whether each is a link."""
    before, below = os.path.join(folder, ""), []
    for entry in entries:
        name, path = entry.name, before + entry.name
        reason, unreadable = "", False
        try:
            if name.startswith(".") or name in SYSTEM_FOLDERS:
                reason = "hidden"
            elif is_run and name in _OUTPUTS:
                reason = "part of a run"
            elif entry.is_dir():
                below.append((path, entry.is_symlink()))
            elif name.lower().endswith(".csv") and _begins(entry, _FEATURES):
                reason = "features that embed wrote"
            elif entry.is_file():
                result.files.append(File.of(path, entry.stat()))
            else:
                reason, unreadable = "broken link" if entry.is_symlink() else "not a regular file", True
        except OSError as error:
            reason, unreadable = error.strerror or str(error), True
        if reason:
            result.skipped.append(Skipped(path, reason))
        if unreadable:
            result.unreadable.append(path)
    return below


def _begins(entry: os.DirEntry[str], start: bytes) -> bool:
    if not entry.is_file():
        return False
    with open(entry.path, "rb") as file:
        return file.read(len(start)) == start


def parents(files: Iterable[File]) -> set[str]:
    """The folders that files lie in, "" for the one that was walked."""
    return {file.path.rpartition(os.sep)[0] for file in files}


def digest(files: Iterable[File]) -> str:
    """A text that changes when a file does, comes or goes."""
    return sha256("\0".join(chain.from_iterable(files)).encode(errors="surrogateescape")).hexdigest()


def by_folder(files: list[File]) -> tuple[dict[str, list[File]], list[File]]:
    """Files by the split that their first folder is, and those that are beside the splits.

    Beside a training part and a test part every other folder is a split of its own name. Without these two,
    all files are together unless each is in a folder that names a split, perhaps among other words (`train2017`).
    """
    tops = {folder.partition(os.sep)[0] for folder in parents(files)}
    splits = {top: SPLITS.get(top.lower(), top) for top in tops if top}
    words = {top: _SPLIT_IN_NAME.findall(top.lower()) for top in tops}
    if all(map(len, words.values())) and separate([SPLITS[matches[-1]] for matches in words.values()]):
        splits = {top: SPLITS[matches[-1]] for top, matches in words.items()}
    if not (separate(splits.values()) or ("" not in tops and {*splits.values()} <= {*SPLITS.values()})):
        return {"all": files}, []
    parts: dict[str, list[File]] = {}
    beside: list[File] = []
    for file in files:
        top, below, _ = file.path.partition(os.sep)
        (parts.setdefault(splits[top], []) if below else beside).append(file)
    return parts, beside


def by_name(files: list[File]) -> dict[str, list[File]]:
    """Files by the split that their path names.

    Beside a training part and a test part all others are splits of their own names, without the numbers of
    shards. Without these two, one file that names no split puts all together.
    """
    parts: dict[str, list[File]] = {}
    others: dict[str, list[File]] = {}
    for file in files:
        if words := _SPLIT_IN_NAME.findall(file.path.lower()):
            parts.setdefault(SPLITS[words[-1]], []).append(file)
        else:
            folder, name = os.path.split(file.path)
            stem = name.split(".")[0]
            others.setdefault(without_shard(stem) or os.path.basename(folder) or stem, []).append(file)
    return parts | others if separate(parts) or not others else {"all": files}


def without_shard(stem: str) -> str:
    """The name of a file without its ending and without the number of a shard, such as -00001-of-00010.

    The numbers of WordNet, by which archives of ImageNet are called, are no numbers of shards.
    """
    return stem if _WORDNET.search(stem) else _SHARD.sub("", stem)


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


def separate(splits: Collection[str]) -> bool:
    """Whether some splits are a part for training and one to test on."""
    return "train" in splits and ("test" in splits or "validation" in splits)


def split_column(columns: Iterable[str]) -> str | None:
    """The column of a table that tells parts apart by its name, None where there is none; see `split_words`."""
    return next((column for column in columns if column.strip().lower() in _SPLIT_COLUMNS), None)


def split_words(values: Iterable[object]) -> list[str] | None:
    """Splits of the rows of a table by what its column says; None where a value names no split."""
    words = ["" if value is None else str(value).strip().lower() for value in values]
    return [SPLITS[word] for word in words] if {*words} <= SPLITS.keys() else None
