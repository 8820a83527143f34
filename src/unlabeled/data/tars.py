"""Images out of tar archives, read as a stream."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from unlabeled import check
from unlabeled.data.decode import LARGEST, SUFFIXES, TOO_LARGE, Item

__all__ = ["tar_items"]

_NUMBER = re.compile(r"-?[0-9]{1,18}")
"""Labels that are numbers, none too large for a tensor; all else are names."""
_NOTES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LONGEST_NOTE = 2**20
_UNPACKED, _RATIO = 2**28, 100
"""Bytes that any archive may unpack to, and how many for each byte of a larger one."""


class _Member(tarfile.TarInfo):
    """A member whose name and notes are of bearable length: they are read into memory before anything is known."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.type in _NOTES and self.size > _LONGEST_NOTE):
            raise tarfile.ReadError(f"a header says that {self.size} bytes follow")
        return super()._proc_member(archive)  # type: ignore[misc]


def tar_items(archives: list[Path]) -> Iterator[Item]:
    """Images of archives in the webdataset layout: files of one sample stand together and share their name.

    The name of a sample ends at its first dot. The label of an image is the .cls file of its own name, else
    that of its sample, else the folder in which it lies. A sample of several images gives each of them.
    """
    for archive in archives:
        try:
            with tarfile.open(archive, "r|*", tarinfo=_Member) as members:
                key, image, labels = "", None, {}
                most = max(_UNPACKED, _RATIO * archive.stat().st_size)
                for member in members:
                    if member.offset_data + member.size > most:
                        raise ValueError(f"it unpacks to more than {_RATIO} bytes for each of its own")
                    path = f"{archive.name}/{member.name}"
                    folder, _, file = path.rpartition("/")
                    is_image = file.lower().endswith(SUFFIXES)
                    if member.isdir() or not (is_image or file.endswith(".cls")):
                        continue
                    if reason := _refused(member, file):
                        if is_image:
                            yield Item(path, None, reason)
                        continue
                    sample = f"{folder}/{file.split('.')[0]}"
                    if image is not None and (is_image or sample != key):
                        yield _labelled(image, labels, key)
                        image = None
                    if sample != key:
                        key, labels = sample, {}
                    content = cast(IO[bytes], members.extractfile(member)).read()
                    if is_image:
                        parent = member.name.split("/")[-2] if "/" in member.name else None
                        image = Item(path, parent or None, content)
                    else:
                        text = content.decode().strip()
                        name = path.removesuffix(".cls")
                        labels[name] = int(text) if _NUMBER.fullmatch(text) else text
                if image is not None:
                    yield _labelled(image, labels, key)
        except Exception as error:  # of tarfile, of each decompressor, or of a label
            raise ValueError(f"{archive} must be a readable tar archive: {check.reason(error)}") from error


def _refused(member: tarfile.TarInfo, file: str) -> str | None:
    if file.startswith("."):
        return "hidden"
    if not member.isfile():
        return "not a regular file"
    return TOO_LARGE if member.size > LARGEST else None


def _labelled(image: Item, labels: dict[str, int | str], key: str) -> Item:
    name = image.path.rpartition(".")[0]
    return image._replace(label=labels.get(name, labels.get(key, image.label)))
