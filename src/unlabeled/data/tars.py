"""Images out of tar and zip archives, read as a stream, every member accounted for."""

import json
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import SYSTEM_FOLDERS, without_shard
from unlabeled.data.image.decode import SUFFIXES
from unlabeled.data.labels import NO_LABELS
from unlabeled.data.limits import LARGEST, TOO_LARGE, refuse_unpacked
from unlabeled.data.samples import Item, Skipped

__all__ = ["ENDINGS", "TarIndex", "count_images", "inner_paths", "tar_index", "tar_items"]

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".zip")
_NOTES = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LONGEST_NOTE = 2**20
_ABOUT = (".cls", ".class", ".label", ".json", ".txt")
"""Endings of members that say what a sample of the webdataset layout is."""
_LONGEST_ABOUT, _LONGEST_VALUE, _MOST_VALUES = 2**20, 100, 64
_MOST_IMAGES = 16
"""Images of one sample that wait for its label."""


class _Member(NamedTuple):
    """A member that was not read yet."""

    name: str
    size: int
    end: int
    """Bytes unpacked when it has been read."""
    reason: str | None
    """Why it is not read."""
    read: Callable[[], bytes]
    lost: bool = False
    """Whether it is not even known what it was."""


class TarIndex(NamedTuple):
    """Where the samples of a tar archive are in its file."""

    names: list[str]
    places: list[tuple[int, int]]
    """Where each begins, and its size, in bytes."""
    skipped: list[Skipped]
    """Samples that cannot be read, and damaged headers."""


class _Header(tarfile.TarInfo):
    """A member whose name and notes are of bearable length: they are read into memory before anything is known.

    Where a header is damaged `tarfile` would end as if the archive did; this goes on to the next one that is whole.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        """The next member; where something else is before it, the archive's `damaged` says so.

        An archive ends at two blocks of zeros or where the file ends.
        """
        searching, zeros, stream = False, 0, cast(IO[bytes], archive.fileobj)
        while True:
            block = stream.read(tarfile.BLOCKSIZE)
            try:
                header = cls.frombuf(block, archive.encoding, archive.errors)  # type: ignore[arg-type]
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                zeros += 1
                if zeros == 2 and not searching:
                    raise
            except tarfile.InvalidHeaderError:  # type: ignore[attr-defined]
                if archive.offset == 0:
                    raise
                searching = searching or cast(_Archive, archive).lost()
            except tarfile.TruncatedHeaderError as error:  # type: ignore[attr-defined]
                raise tarfile.ReadError("it ends in the middle of a header") from error
            else:
                if zeros and not searching:
                    cast(_Archive, archive).lost()
                if header.size < 0 or (header.type in _NOTES and header.size > _LONGEST_NOTE):
                    raise tarfile.ReadError(f"a header says that {header.size} bytes follow")
                archive.fileobj = _Unread(block, stream)  # type: ignore[assignment]
                try:
                    return super().fromtarfile(archive)
                finally:
                    archive.fileobj = stream  # type: ignore[assignment]


class _Unread:
    """A stream of which one block comes again."""

    def __init__(self, block: bytes, stream: IO[bytes]) -> None:
        self.block, self.stream = block, stream

    def read(self, size: int) -> bytes:
        """The block, whose size the first caller asks for, then what follows."""
        block, self.block = self.block, b""
        return block or self.stream.read(size)

    def tell(self) -> int:
        return self.stream.tell() - len(self.block)


class _Archive(tarfile.TarFile):
    tarinfo = _Header

    def __init__(self, *rest: Any, **options: Any) -> None:
        self.damaged: list[int] = []
        super().__init__(*rest, **options)

    def lost(self) -> bool:
        """Note that there is no header where one should be."""
        self.damaged.append(self.offset)
        return True

    def lost_members(self) -> Iterator[_Member]:
        """A member for each damaged header since the last call."""
        reason = "damaged header: the file behind it is lost"
        while self.damaged:
            yield _Member(f"byte {self.damaged.pop(0)}", 0, 0, reason, bytes, lost=True)


def tar_items(archives: Sequence[tuple[str, Path]]) -> Iterator[Item]:
    """Images of archives, of which each has a name and a path.

    In the webdataset layout files of one sample are together and share their name, which ends at its first dot. The
    label of an image is the .cls file of its own name, else that of its sample, else a record of what the .json and
    .txt files say. A sample of several images gives each of them. A damaged header is an item with its reason.

    Raises:
        ValueError: An archive cannot be read to its end.
    """
    others: Counter[str] = Counter()
    count = 0
    for name, archive in archives:
        try:
            for item in _items_of(name, archive, others):
                count += 1
                yield item
        except Exception as error:  # of tarfile, of zipfile or of each decompressor
            kind = "zip" if archive.suffix.lower() == ".zip" else "tar"
            raise UserError(f"{archive} must be a readable {kind} archive: {check.reason(error)}") from error
    if not count:
        listing = ", ".join(f"{number} {ending}" for ending, number in others.most_common(5)) or "nothing"
        inner = "; unpack the archives in it first" if any(ending in ENDINGS for ending in others) else ""
        raise UserError(f"{archives[0][1]} must hold images, got {listing}{inner}")


def tar_index(archive: Path, endings: tuple[str, ...] = SUFFIXES) -> TarIndex:
    """Where the samples of an uncompressed tar archive are, without reading them.

    Args:
        archive: The archive.
        endings: Endings of their names, in lower case.

    Raises:
        ValueError: It cannot be read to its end.
    """
    index = TarIndex([], [], [])
    try:
        with _Archive.open(archive, "r:") as members:
            for member in _lost_and_found(members):
                if isinstance(member, tarfile.TarInfo):
                    sparse = "a sparse file" if member.issparse() else None
                    reason = sparse if member.isfile() else "not a regular file"
                    known = _member(member.name, member.size, 0, reason, bytes)
                    if not known.name.lower().endswith(endings):
                        continue
                    if not known.reason:
                        index.names.append(known.name)
                        index.places.append((member.offset_data, member.size))
                        continue
                else:
                    known = member
                index.skipped.append(Skipped(known.name, known.reason or ""))
        end = max((start + size for start, size in index.places), default=0)
        if end > (size := archive.stat().st_size):
            raise tarfile.ReadError(f"it ends after {size:,} bytes, in the middle of a file")
    except FileNotFoundError:
        raise
    except Exception as error:  # of tarfile
        raise UserError(f"{archive} must be a readable tar archive: {check.reason(error)}") from error
    return index


def count_images(archive: Path, most: int) -> int:
    """How many images an archive holds, counted up to a number."""
    try:
        images = (member for member in _members(archive) if member.name.lower().endswith(SUFFIXES))
        return sum(1 for _ in islice((member for member in images if not member.reason), most))
    except Exception as error:
        raise UserError(f"cannot be read: {check.reason(error)}") from error


def inner_paths(paths: Sequence[str], archives: Sequence[str]) -> list[str]:
    """Paths inside archives; where these are no shards of one name, each is a folder of its own name around them.

    Args:
        paths: Paths that begin with that of an archive, those of one archive together.
        archives: The paths of the archives.
    """
    longest = {name: max(filter(name.lower().endswith, ENDINGS), key=len, default="") for name in archives}
    stems = {name: without_shard(name.lower().removesuffix(longest[name])) for name in archives}
    folders = {name: name[: len(stem)] for name, stem in stems.items()}
    several, current, inner = len(set(folders.values())) > 1, "", []
    for path in paths:
        if not current or not path.startswith(f"{current}/"):
            current = max((name for name in archives if path.startswith(f"{name}/")), key=len)
        below = path[len(current) + 1 :]
        inner.append(f"{folders[current]}/{below}".lstrip("/") if several else below)
    return inner


def _items_of(name: str, archive: Path, others: Counter[str]) -> Iterator[Item]:
    """Images of an archive; how many other files it has of each ending is counted in `others`.

    Labels that stand apart from the images of their samples are an item with that reason.
    """
    sample, apart, count = _Sample(""), list[str](), 0
    size = archive.stat().st_size
    for member in _members(archive):
        refuse_unpacked(member.end, size)
        path = f"{name}/{member.name}"
        ending = path[path.rfind(".") :].lower()
        is_image = ending in SUFFIXES
        if not is_image and not member.reason:
            others[ending if "." in member.name.rpartition("/")[2] else "without ending"] += 1
        if not (is_image or ending in _ABOUT or member.lost):
            continue
        if member.reason:
            if is_image or member.lost:
                yield Item(path, None, member.reason)
            continue
        if (key := _Sample.key_of(path)) != sample.key:
            yield from sample.end(apart)
            sample = _Sample(key)
        if is_image:
            count += 1
            yield from sample.add(Item(path, None, member.read()))
        elif member.size <= _LONGEST_ABOUT:
            sample.tell(path, ending, member.read())
    yield from sample.end(apart)
    if count and 2 * len(apart) >= count:
        files = (
            f"{len(apart):,} files of labels, such as {apart[0]}, are not next to the images of their names"
        )
        yield Item(name, None, f"{NO_LABELS}{files}; pack the files of each sample one after the other")


class _Sample:
    """Images that follow each other and share their name up to its first dot, and what files beside them say.

    Args:
        key: Path up to that dot.
    """

    def __init__(self, key: str) -> None:
        self.key, self.count = key, 0
        self.images: list[Item] = []
        self.known: dict[str, dict[str, Any]] = {}
        self.labels: list[str] = []

    @staticmethod
    def key_of(path: str) -> str:
        folder, _, file = path.rpartition("/")
        return f"{folder}/{file.split('.')[0]}"

    def add(self, image: Item) -> Iterator[Item]:
        """Keep an image until all is known of it; too many, as where all names share their first word, do not wait."""
        self.count += 1
        self.images.append(image)
        if len(self.images) > _MOST_IMAGES:
            yield self._labelled(self.images.pop(0))

    def tell(self, path: str, ending: str, content: bytes) -> None:
        """Keep what a file says of the images."""
        self.known.setdefault(path[: path.rfind(".")], {}).update(_about(ending, content))
        if ending != ".txt":
            self.labels.append(path)

    def end(self, apart: list[str]) -> Iterator[Item]:
        """The images that are left; labels without images are added to `apart`."""
        yield from map(self._labelled, self.images)
        if not self.count:
            apart += self.labels

    def _labelled(self, image: Item) -> Item:
        record = self.known.get(self.key, {}) | self.known.get(image.path.rpartition(".")[0], {})
        return image._replace(label=record.get("cls", record or None))


def _members(archive: Path) -> Iterator[_Member]:
    """All members that are no folders, and one that is lost for each damaged header."""
    return _zip_members(archive) if archive.suffix.lower() == ".zip" else _tar_members(archive)


def _lost_and_found(members: _Archive) -> Iterator[tarfile.TarInfo | _Member]:
    """Members that are no folders, and one that is lost for each damaged header."""
    for member in members:
        yield from members.lost_members()
        if not member.isdir():
            yield member
    yield from members.lost_members()


def _tar_members(archive: Path) -> Iterator[_Member]:
    with _Archive.open(archive, "r|*") as members:
        for member in _lost_and_found(members):
            if isinstance(member, _Member):
                yield member
            else:
                reason = None if member.isfile() else "not a regular file"
                end, read = member.offset_data + member.size, partial(_content, members, member)
                yield _member(member.name, member.size, end, reason, read)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return cast(IO[bytes], archive.extractfile(member)).read()


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as members:
        end = 0
        for member in members.infolist():
            if member.is_dir():
                continue
            end += member.file_size
            mode = member.external_attr >> 16
            reason = "not a regular file" if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG) else None
            reason = "encrypted" if member.flag_bits & 1 else reason
            yield _member(member.filename, member.file_size, end, reason, partial(members.read, member))


def _member(name: str, size: int, end: int, reason: str | None, read: Callable[[], bytes]) -> _Member:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if any(part.startswith(".") or part in SYSTEM_FOLDERS for part in parts):
        reason = "hidden"
    return _Member("/".join(parts), size, end, reason or (TOO_LARGE if size > LARGEST else None), read)


def _about(ending: str, content: bytes) -> dict[str, Any]:
    """What a file of the webdataset layout says, by column; a label alone is `cls`."""
    text = content.decode("utf-8", "replace").strip()
    if ending == ".json":
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        if isinstance(record, dict):
            short = ((name, value) for name, value in record.items() if len(str(value)) <= _LONGEST_VALUE)
            return dict(islice(short, _MOST_VALUES))
        return {"cls": record} if isinstance(record, str | int | float) else {}
    return {ending[1:]: text} if ending == ".cls" or len(text) <= _LONGEST_VALUE else {}
