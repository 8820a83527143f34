"""Encoded sounds in files and parquet tables, decoded once into one flat block of 16-bit numbers.

Channels are averaged. Integers of any width count from -1 to 1 by their type. Floats count as they are where most files
stay within 8 times full scale; where most go beyond, full scale is the smallest of 2**15, 2**23 and 2**31 that holds
them, as integers turned into floats have it. If some floats exceed full scale, all floats of the source are divided by
the same 2, 4 or 8; a file that exceeds it more than 8 times is left out.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from statistics import median_low
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.files import File, by_name, walk
from unlabeled.data.image.decode import LARGEST, TOO_LARGE
from unlabeled.data.labels import label_column, raw
from unlabeled.data.notes import note
from unlabeled.data.pool import in_order
from unlabeled.data.samples import Skipped, Temporary
from unlabeled.data.sources import Source, find_files
from unlabeled.data.tables import count_rows
from unlabeled.data.tables import one_line_errors as told
from unlabeled.data.video.decode import open_media
from unlabeled.parts.resample import resample

__all__ = [
    "FULL_SCALE",
    "SUFFIXES",
    "Encoded",
    "Scale",
    "Split",
    "decode",
    "find_splits",
    "scale_of",
    "write",
]

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd"),
    *(".caf", ".w64", ".rf64", ".mp2", ".m4a", ".m4b", ".aac", ".wma", ".amr", ".mka", ".weba", ".ac3"),
)
"""Names under which audio files are looked for."""
FILMS = (".webm", ".mp4", ".m4v", ".mov", ".mkv", ".avi", ".3gp", ".ogv", ".mpg", ".mpeg", ".wmv")
"""Names of videos, whose sound is taken where there are no audio files."""
FULL_SCALE = 2**15
_FLOATS = ("FLOAT", "DOUBLE")
_NEVER_FLOATS = (".flac", ".ogg", ".oga", ".opus", ".mp3")
_WIDTHS = (2.0**15, 2.0**23, 2.0**31)
_MOST_TIMES = 8
_QUIET = 2.0**-9
_SEEN_FOR_RATE = 1_000
_UNPACKED, _RATIO, _BLOCK = 2**28, 64, 2**20
"""Samples that any file may unpack to, which are 1.5 hours at 48 kHz and 1 GB while it is decoded, however small the
silence in it has become; how many for each byte of a larger one; and how many are read at a time."""


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
    scale: Callable[[], "Scale"]
    """By what floats of the whole source are divided, found when it is asked for."""
    stated: Callable[[Sequence[str], list[Any]], list[Any]] = lambda paths, values: values
    """Labels of samples by their paths and those that were found with them."""


class Scale(NamedTuple):
    """By what the floats of a source are divided, and above which value one of them is a mistake."""

    divisor: float = 1.0
    most: float = math.inf


def find_splits(path: Path, name: str, label: str | None = None) -> dict[str, Split]:
    """Splits of a folder or a file: of parquet tables where there are any, else of audio files, else of videos.

    Args:
        path: The folder or file.
        name: What messages call it.
        label: Column of the classes in tables; None chooses.

    Raises:
        ValueError: No sounds are there.
    """
    files = [File.of(path.name, path.stat())] if path.is_file() else walk(path).files
    root = path.parent if path.is_file() else path
    tables = [file for file in files if file.suffix == ".parquet"]
    if tables:
        columns = _Columns([root / file.path for file in tables], label)
        splits = {split: _of_tables(root, name, part, columns) for split, part in by_name(tables).items()}
    else:
        films = not any(file.path.lower().endswith(SUFFIXES) for file in files) and any(
            file.path.lower().endswith(FILMS) for file in files
        )
        found = find_files(path, name, FILMS if films else SUFFIXES, "sounds", label)
        splits = {split: _of_files(source) for split, source in found.items()}
    everything = [split.fingerprint for split in splits.values()]  # the scale is that of all splits

    @cache
    def scale() -> Scale:
        return scale_of(_peaks(chain.from_iterable(split.read() for split in splits.values())), name)

    return {
        key: split._replace(scale=scale, fingerprint=[split.fingerprint, everything])
        for key, split in splits.items()
    }


def scale_of(peaks: Sequence[float], name: str) -> Scale:
    """By what floats are divided, by the rule of this module.

    Args:
        peaks: Largest absolute value of each file of floats.
        name: What messages call the source.
    """
    peaks = [peak for peak in peaks if peak > 0]
    if not peaks:
        return Scale()
    usual = median_low(peaks)
    full = 1.0 if usual <= _MOST_TIMES else next((width for width in _WIDTHS if usual <= width), _WIDTHS[-1])
    kept = [peak for peak in peaks if peak <= _MOST_TIMES * full]
    if not kept:
        return Scale(full, _MOST_TIMES * full)
    largest = max(kept)
    divisor = full * 2.0 ** max(0, math.ceil(math.log2(largest / full)))
    if divisor != 1:
        note(f"{name}: floats reach {largest:g}; all floats are divided by {divisor:g}")
    elif largest < _QUIET:
        note(
            f"{name}: floats reach only {largest:g}, of which 16-bit numbers keep {largest * FULL_SCALE:.0f} steps"
        )
    return Scale(divisor, _MOST_TIMES * full)


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
        raise UserError(f"reading audio files needs soundfile ({error}). Install unlabeled[audio]") from error
    try:
        if isinstance(content, Path) and not content.is_file():  # a pipe would never end
            raise UserError("not a regular file" if content.exists() else "No such file or directory")
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if size > LARGEST:
            raise UserError(TOO_LARGE)
        most = max(_UNPACKED, _RATIO * size)
        try:
            file = soundfile.SoundFile(_Stream(content) if isinstance(content, bytes) else content)
        except soundfile.LibsndfileError as error:
            sound, rate, announced = _by_ffmpeg(content, most, error)
        else:
            with file:
                rate, announced = file.samplerate, file.frames
                sound = _joined(_pieces(file, most), announced, most // file.channels)
    except OSError as error:
        raise UserError(check.reason(error)) from error
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split())
        raise UserError(f"not a sound that can be read: {reason}") from error
    except (RuntimeError, MemoryError) as error:
        raise UserError(check.reason(error)) from error
    if not len(sound):
        raise UserError("no samples")
    if len(sound) < 0.9 * announced:
        raise UserError(f"breaks off after {len(sound)} of {announced} samples")
    if not sound.isfinite().all():
        raise UserError("samples that are not finite")
    return sound, rate


def _pieces(file: Any, most: int) -> Iterator[np.ndarray]:
    """The mean of the channels of a sound, piece by piece, float32."""
    while len(piece := file.read(_BLOCK // file.channels, dtype="float32", always_2d=True)):
        yield piece.mean(1)


def _joined(pieces: Iterable[np.ndarray], announced: int, most: int) -> Tensor:
    """Pieces put together; what is announced may be a lie, and memory is taken only for what comes."""
    sound, count = np.empty(min(announced, most), np.float32), 0
    for piece in pieces:
        end = count + len(piece)
        if end > most:
            raise UserError(f"unpacks to more than {most} samples, too many for a file of its size")
        if end > len(sound):
            sound = np.concatenate([sound[:count], np.empty(max(end, len(sound)), np.float32)])
        sound[count:end] = piece
        count = end
    return torch.from_numpy(sound[:count])


def _by_ffmpeg(content: Path | bytes, most: int, refused: Exception) -> tuple[Tensor, int, int]:
    """Sound, samples per second and samples that are announced, of what only FFmpeg reads.

    Args:
        content: A file or its bytes.
        most: Samples that it may unpack to.
        refused: Why soundfile does not read it, which is told where FFmpeg does not know it either.
    """
    import av

    opened = False
    try:
        with open_media(content) as container:
            opened = True
            if not container.streams.audio:
                raise UserError("no sound track")
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            rate, channels = stream.codec_context.sample_rate, max(1, stream.codec_context.channels)
            known = container.format.name.startswith("mov") and stream.duration and stream.time_base
            announced = round(float(stream.duration * stream.time_base) * rate) if known else 0
            planes = av.AudioResampler(
                format="fltp"
            )  # only its type is changed: a mixer would weigh channels
            frames = (part for frame in container.decode(stream) for part in planes.resample(frame))
            return (
                _joined((part.to_ndarray().mean(0) for part in frames), announced, most // channels),
                rate,
                announced,
            )
    except ValueError as error:
        if not opened:
            raise refused from error
        reason = str(error).rpartition("must be a video that can be read: ")[2]
        raise UserError(f"not a sound that can be read: {reason}") from error


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

    about = (source.fingerprint, read, reading.classes, reading.total, source.prefix, source.skipped)
    return Split(source.name, *about, Scale, source.stated)


class _Columns:
    """Columns of parquet files: which holds the sounds, which the labels, and what the words of others count as."""

    def __init__(self, paths: list[Path], label: str | None) -> None:
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
            raise UserError(
                f"{paths[0]} must have a column of audio, got {check.one_line(', '.join(features))}"
            )
        self.sound = sounds[0]
        labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
        usual = label_column(
            set(features) - {self.sound} if label is None else features, label, str(paths[0])
        )
        self.label = labels[0] if labels and label is None else usual
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
    fingerprint = ["parquet", os.path.realpath(root), files, columns.label, columns.words, columns.numbers]

    def read() -> Iterator[Encoded]:
        return (row for path in paths for row in columns.rows(path))

    return Split(name, fingerprint, read, columns.classes, total, os.path.join(root, ""), [], Scale)


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
        `sample_rate`, `classes`, `skipped`, and of each sound that was written `lengths`, `paths`, `labels` as they
        were found and, by name, `factors`.
    """
    rate, scale = sample_rate or _commonest_rate(split.read()), split.scale()
    lengths: list[int] = []
    read: list[Encoded] = []
    skipped: list[Skipped] = []
    decode_one = partial(_whole_or_reason, rate=rate, scale=scale)
    decoded = in_order(decode_one, split.read(), workers or os.cpu_count() or 1)
    for done, (item, sound) in enumerate(decoded, 1):
        if isinstance(sound, str):
            skipped.append(Skipped(item.path, sound))
        else:
            stream.write(sound.tobytes())
            lengths.append(len(sound))
            read.append(item._replace(content=b""))  # what is decoded need not stay
        if progress is not None:
            progress(done, split.total)
    return {
        "sample_rate": rate,
        "lengths": lengths,
        "paths": [item.path for item in read],
        "labels": [raw(item.label) for item in read],
        "classes": split.classes,
        "factors": {
            name: [item.factors[name] for item in read] for name in (read[0].factors if read else ())
        },
        "skipped": skipped,
    }


def _commonest_rate(items: Iterable[Encoded]) -> int:
    """The sample rate that most of the first thousand sounds have."""
    rates = Counter(_rate(item.content) for item in islice(items, _SEEN_FOR_RATE))
    del rates[0]
    return rates.most_common(1)[0][0] if rates else 1


def _rate(content: Path | bytes) -> int:
    try:
        return _about(content)[0]
    except ValueError:  # it is decoded later, and the reason told then
        return 0


def _about(content: Path | bytes) -> tuple[int, bool]:
    """Samples per second of a sound, and whether it holds floats.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        import soundfile

        if isinstance(content, Path) and not content.is_file():  # a pipe would never end
            raise UserError("not a regular file")
        with soundfile.SoundFile(_Stream(content) if isinstance(content, bytes) else content) as file:
            return file.samplerate, file.subtype in _FLOATS
    except Exception as error:
        with open_media(content) as container:
            if not container.streams.audio:
                raise UserError("no sound track") from error
            return container.streams.audio[0].codec_context.sample_rate, False


def _peaks(items: Iterable[Encoded]) -> list[float]:
    """Largest absolute value of each file of floats that can be read."""

    def peak(item: Encoded) -> float:
        try:
            return float(decode(item.content)[0].abs().max()) if _about(item.content)[1] else 0.0
        except ValueError:  # it is decoded later, and the reason told then
            return 0.0

    possible = (item for item in items if not item.path.lower().endswith(_NEVER_FLOATS))
    return [found for _, found in in_order(peak, possible, os.cpu_count() or 1)]


def _whole_or_reason(item: Encoded, rate: int, scale: Scale) -> np.ndarray | str:
    """A sound as int16, shape (samples,), or the reason why there is none."""
    content = item.content
    try:
        sound, native = decode(content)
        if scale != Scale() and _about(content)[1]:
            if (peak := float(sound.abs().max())) > scale.most:
                return f"floats up to {peak:g}, where full scale of the others is {scale.divisor:g}"
            sound /= scale.divisor
        sound = resample(sound, native, rate)
    except ValueError as error:
        cause = error.__cause__
        # Libraries can be installed, and disks mended, before the next start.
        temporary = isinstance(cause, ImportError) or (isinstance(cause, OSError) and cause.errno is not None)
        return Temporary(error) if temporary else str(error)
    numbers = np.empty(len(sound), np.int16)
    for start in range(0, len(sound), _BLOCK):  # a long one would take several times its memory at once
        part = sound[start : start + _BLOCK] * FULL_SCALE
        numbers[start : start + _BLOCK] = (
            part.round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16).numpy()
        )
    return numbers
