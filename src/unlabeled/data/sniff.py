"""Which files of a folder are images: by the endings of their names, else by how they begin."""

from collections.abc import Sequence
from pathlib import Path

from unlabeled.data.files import File
from unlabeled.data.image.decode import SUFFIXES, is_image
from unlabeled.data.image.rasters import ARRAYS
from unlabeled.data.notes import note

__all__ = ["UNREADABLE", "image_files", "unreadable"]

UNREADABLE = (
    *(".heic", ".heif", ".jxl", ".svg", ".psd", ".dcm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
)
"""Endings of images that nothing here reads, but for those that a plugin of Pillow adds to `SUFFIXES`."""
_OTHERS = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".yaml", ".yml", ".toml", ".log"),
    *(".py", ".parquet", ".arrow", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip", ".7z", ".rar", ".pkl"),
    *(".safetensors", ".wav", ".flac", ".ogg", ".mp3", ".mp4", ".mkv", ".avi", ".mov", ".webm", ".pdf"),
    *(".h5", ".hdf5", ".mat", ".cls"),
    *UNREADABLE,
    *ARRAYS,
)
"""Endings of files whose content is not looked at, as they are something else or cannot be read."""
_HEAD = 32
_HELP = {
    **dict.fromkeys((".heic", ".heif"), "pip install pillow-heif"),
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"), "convert them, such as with rawpy"),
    ".dcm": "convert them, such as with pydicom",
}
"""What helps to read images of some endings."""


def image_files(root: Path, files: Sequence[File]) -> list[File]:
    """Files that are images, in their order: by their ending, or by their content where that is no usual one.

    Where there are none, arrays of one image each are taken (see `rasters`).

    Args:
        root: The folder.
        files: Files below it.
    """
    found = [file for file in files if file.path.lower().endswith(SUFFIXES) or _begins_as_image(root, file)]
    if not found:
        found = [file for file in files if file.suffix in ARRAYS]
        if kinds := sorted({file.suffix for file in found}):
            note(f"{root}: every {' or '.join(kinds)} file is read as one image")
    return found


def unreadable(suffix: str) -> str:
    """Why images of an ending cannot be read, and what would help."""
    return f"{suffix} images cannot be read: {_HELP.get(suffix, 'convert them to PNG or TIFF')}"


def _begins_as_image(root: Path, file: File) -> bool:
    if file.suffix in _OTHERS:
        return False
    try:
        with (root / file.path).open("rb") as content:
            return is_image(content.read(_HEAD))
    except OSError:
        return False
