"""Encoded sounds in files and parquet tables, decoded once into one flat block of 16-bit numbers."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.data.decode import LARGEST, TOO_LARGE, Temporary
from unlabeled.data.files import File, by_name, walk
from unlabeled.data.samples import Skipped
from unlabeled.data.sources import Source, find_files
from unlabeled.data.tables import count_rows, told
from unlabeled.parts.resample import resample

__all__ = ["FULL_SCALE", "SUFFIXES", "Encoded", "Split", "decode", "find_splits", "write"]

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64"),
)
"""Names under which audio files are looked for."""
FULL_SCALE = 2**15
_SEEN_FOR_RATE = 1_000
_UNPACKED, _RATIO, _BLOCK = 2**25, 64, 2**20
"""Samples that any file may unpack to, how many for each byte of a larger one, and how many are read at a time."""
_CHUNK = 32


class Encoded(NamedTuple):
    """A sound that was not decoded yet, and what is known of it."""

    path: str
    content: Path | bytes
    label: int | str | None
    factors: dict[str, float | int]


class Split(NamedTuple):
    """One split of encoded sounds; `read` may be called more than once."""

    name: str
    fingerprint: Any
    """What the content depends on, of JSON types."""
    read: Callable[[], Iterable[Encoded]]
    classes: list[str] | None
    total: int | None
    prefix: str
    skipped: list[Skipped]


def find_splits(path: Path, name: str) -> dict[str, Split]:
    """Splits of a folder or a file: of parquet tables where there are any, else of audio files.

    Args:
        path: The folder or file.
        name: What messages call it.

    Raises:
        ValueError: No sounds are there.
    """
    files = [File.of(path.name, path.stat())] if path.is_file() else walk(path).files
    root = path.parent if path.is_file() else path
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        columns = _Columns([root / file.path for file in tables])
        return {split: _of_tables(root, name, part, columns) for split, part in by_name(tables).items()}
    found = find_files(path, name, SUFFIXES, "sounds")
    return {split: _of_files(source) for split, source in found.items()}


def decode(content: Path | bytes) -> tuple[Tensor, int]:
    """Decode one sound.

    Args:
        content: A file or its bytes.

    Returns:
        The mean of its channels, float, shape (samples,), nominally in -1..1; and its samples per second.

    Raises:
        ValueError: It cannot be decoded, holds nothing, breaks off or is too large.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ValueError(
            f"reading audio files needs soundfile ({error}). Install unlabeled[audio]"
        ) from error
    try:
        if isinstance(content, Path) and not content.is_file():  # a pipe would never end
            raise ValueError("not a regular file" if content.exists() else "No such file or directory")
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size > LARGEST:
            raise ValueError(TOO_LARGE)
        with soundfile.SoundFile(_Stream(content) if isinstance(content, bytes) else content) as file:
            announced, rate = file.frames, file.samplerate
            # What is announced may be a lie, so that memory is taken only for what comes.
            most, pieces = max(_UNPACKED, _RATIO * size) // file.channels, []
            while len(piece := file.read(_BLOCK // file.channels, dtype="float32", always_2d=True)):
                pieces.append(torch.from_numpy(piece).mean(1))
                most -= len(piece)
                if most < 0:
                    raise ValueError(f"unpacks to more than {_RATIO} samples for each of its bytes")
            sound = torch.cat(pieces) if pieces else torch.zeros(0)
    except OSError as error:
        raise ValueError(check.reason(error)) from error
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split())
        raise ValueError(f"not a sound that can be read: {reason}") from error
    except (RuntimeError, MemoryError) as error:
        raise ValueError(check.reason(error)) from error
    if not len(sound):
        raise ValueError("no samples")
    if len(sound) < 0.9 * announced:
        raise ValueError(f"breaks off after {len(sound)} of {announced} samples")
    if not sound.isfinite().all():
        raise ValueError("samples that are not finite")
    return sound, rate


class _Stream(BytesIO):
    """Bytes in which a seek to before their start ends at their start: decoders try it on damaged files."""

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(max(0, origin + offset))


def _of_files(source: Source) -> Split:
    reading = source.read()

    def read() -> Iterator[Encoded]:
        for item in source.read().items:
            assert isinstance(item.content, Path)
            yield Encoded(item.path, item.content, item.label, {})

    fingerprint = source.fingerprint
    return Split(
        source.name, fingerprint, read, reading.classes, reading.total, source.prefix, source.skipped
    )


class _Columns:
    """Columns of parquet files: which holds the sounds, which the labels, and what the words of others count as."""

    def __init__(self, paths: list[Path]) -> None:
        from datasets import Audio, ClassLabel, Features
        from pyarrow.parquet import read_schema, read_table

        count_rows(paths)
        with told(paths[0]):
            features = Features.from_arrow_schema(read_schema(paths[0]))
        sounds = [
            column
            for column, feature in features.items()
            if isinstance(feature, Audio) or (isinstance(feature, dict) and "bytes" in feature)
        ]
        if not sounds:
            raise ValueError(
                f"{paths[0]} must have a column of audio, got {check.one_line(', '.join(features))}"
            )
        self.sound = sounds[0]
        labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
        labels += [column for column in ("label", "labels", "class", "target") if column in features]
        self.label = labels[0] if labels else None
        feature = features.get(self.label) if self.label else None
        self.classes: list[str] | None = feature.names if isinstance(feature, ClassLabel) else None
        self.words: dict[str, dict[str, int]] = {}
        self.numbers: list[str] = []
        for column, feature in features.items():
            dtype = str(getattr(feature, "dtype", ""))
            if column in (self.sound, self.label):
                continue
            if dtype.startswith(("int", "uint", "float", "bool")):
                self.numbers.append(column)
            elif dtype == "string":
                parts = []
                for path in paths:
                    with told(path):
                        parts.append(read_table(path, columns=[column])[column])
                with told(paths[0]):
                    found = {word for part in parts for word in part.unique().to_pylist() if word is not None}
                # A word of its own for every other sound is a name or a transcript, no property that is shared.
                if 1 < len(found) <= sum(map(len, parts)) / 2:
                    self.words[column] = {word: number for number, word in enumerate(sorted(found))}

    def rows(self, path: Path) -> Iterator[Encoded]:
        from pyarrow.parquet import ParquetFile

        columns = [self.sound, *([self.label] if self.label else []), *self.words, *self.numbers]
        number = 0
        with told(path):
            for batch in ParquetFile(path).iter_batches(64, columns=columns):
                for row in batch.to_pylist():
                    sound, label = row[self.sound] or {}, row.get(self.label or "")
                    known = {name: spelled.get(row[name], -1) for name, spelled in self.words.items()}
                    known |= {name: float("nan") if row[name] is None else row[name] for name in self.numbers}
                    place = sound.get("path") or f"{path.name}#{number}"
                    content = sound.get("bytes")
                    yield Encoded(
                        place, content if content is not None else path.parent / place, label, known
                    )
                    number += 1


def _of_tables(root: Path, name: str, files: list[File], columns: _Columns) -> Split:
    paths = [root / file.path for file in files]
    total = count_rows(paths)
    fingerprint = ["parquet", os.path.realpath(root), files, columns.words, columns.numbers]

    def read() -> Iterator[Encoded]:
        return (row for path in paths for row in columns.rows(path))

    return Split(name, fingerprint, read, columns.classes, total, os.path.join(root, ""), [])


def write(
    split: Split,
    sample_rate: int | None,
    workers: int | None,
    progress: Callable[[int, int | None], None] | None,
    stream: BinaryIO,
) -> dict[str, Any]:
    """Write all sounds of a split one after the other as 16-bit numbers, and describe them.

    Args:
        split: Where the sounds come from.
        sample_rate: What they are brought to, in hertz; None takes the commonest of the first thousand.
        workers: Threads that decode, as many as processors if None.
        progress: Called with the sounds done so far and their number, None where that is unknown.
        stream: Open file.

    Returns:
        `sample_rate`, `classes`, `skipped`, and of each sound that was written `lengths`, `paths`, `labels` and,
        by name, `factors`.
    """
    rate = sample_rate or _commonest_rate(split.read())
    lengths: list[int] = []
    read: list[Encoded] = []
    skipped: list[Skipped] = []
    decoded = _decode_all(split.read(), rate, workers or os.cpu_count() or 1)
    for done, (item, sound) in enumerate(decoded, 1):
        if isinstance(sound, str):
            skipped.append(Skipped(item.path, sound))
        else:
            stream.write(sound.tobytes())
            lengths.append(len(sound))
            read.append(item._replace(content=b""))  # what is decoded need not stay
        if progress is not None:
            progress(done, split.total)
    classes, labels = _numbered(split.classes, [item.label for item in read])
    return {
        "sample_rate": rate,
        "lengths": lengths,
        "paths": [item.path for item in read],
        "labels": labels,
        "classes": classes,
        "factors": {
            name: [item.factors[name] for item in read] for name in (read[0].factors if read else ())
        },
        "skipped": skipped,
    }


def _numbered(
    classes: list[str] | None, labels: list[int | str | None]
) -> tuple[list[str] | None, list[int] | None]:
    """Labels as numbers, -1 where there is none, and what they are called."""
    if classes is None and any(isinstance(label, str) for label in labels):
        classes = sorted({label for label in labels if isinstance(label, str)})
    numbers: dict[Any, int] = {name: number for number, name in enumerate(classes or [])}
    known = [label if isinstance(label, int) else numbers.get(label, -1) for label in labels]
    return classes, known if any(number >= 0 for number in known) else None


def _commonest_rate(items: Iterable[Encoded]) -> int:
    """The sample rate that most of the first thousand sounds have."""
    rates = Counter(_rate(item.content) for item in islice(items, _SEEN_FOR_RATE))
    del rates[0]
    return rates.most_common(1)[0][0] if rates else 1


def _rate(content: Path | bytes) -> int:
    try:
        import soundfile

        if isinstance(content, Path) and not content.is_file():  # a pipe would never end
            return 0
        with soundfile.SoundFile(_Stream(content) if isinstance(content, bytes) else content) as file:
            return file.samplerate
    except Exception:  # it is decoded later, and the reason told then
        return 0


def _decode_all(
    items: Iterable[Encoded], rate: int, workers: int
) -> Iterator[tuple[Encoded, np.ndarray | str]]:
    """Each sound as int16, shape (samples,), or the reason why there is none; in order and in bounded memory."""
    stream = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        while part := list(islice(stream, _CHUNK * workers)):
            yield from zip(part, pool.map(lambda item: _whole_or_reason(item.content, rate), part))


def _whole_or_reason(content: Path | bytes, rate: int) -> np.ndarray | str:
    try:
        sound = resample(*decode(content), rate)
    except ValueError as error:
        cause = error.__cause__
        temporary = isinstance(cause, OSError) and cause.errno is not None
        return Temporary(error) if temporary else str(error)
    return (sound * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16).numpy()
