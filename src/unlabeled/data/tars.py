"""Images out of tar archives, read as a stream."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from unlabeled.data.decode import LARGEST, SUFFIXES, TOO_LARGE, Item

__all__ = ["tar_items"]


def tar_items(archives: list[Path]) -> Iterator[Item]:
    """Images of archives in the webdataset layout: files of one sample stand together and share their name.

    The name of a sample ends at its first dot. The label of an image is the .cls file of its own name, else
    that of its sample, else the folder in which it lies. A sample of several images gives each of them.
    """
    for archive in archives:
        try:
            with tarfile.open(archive, "r|*") as members:
                key, image, labels = "", None, {}
                for member in members:
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
                        labels[name] = int(text) if text.lstrip("-").isdigit() else text
                if image is not None:
                    yield _labelled(image, labels, key)
        except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{archive} must be a readable tar archive: {error}") from error


def _refused(member: tarfile.TarInfo, file: str) -> str | None:
    if file.startswith("."):
        return "hidden"
    if not member.isfile():
        return "not a regular file"
    return TOO_LARGE if member.size > LARGEST else None


def _labelled(image: Item, labels: dict[str, int | str], key: str) -> Item:
    name = image.path.rpartition(".")[0]
    return image._replace(label=labels.get(name, labels.get(key, image.label)))
