"""From an encoded sound to the mean of its channels: by soundfile, else by FFmpeg.

Integers of any width count from -1 to 1 by their type. Floats count as they are where most files stay within 8 times
full scale; where most go beyond, full scale is the smallest of 2**15, 2**23 and 2**31 that holds them, as integers
turned into floats have it. If some floats exceed full scale, all floats of the source are divided by the same 2, 4 or
8; a file that exceeds it more than 8 times is omitted.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.audio.data import FULL_SCALE
from unlabeled.data.limits import LARGEST, TOO_LARGE, most_samples
from unlabeled.data.notes import note
from unlabeled.data.video.decode import open_media

__all__ = ["Header", "Scale", "decode", "header", "scale_of"]

_FLOATS = ("FLOAT", "DOUBLE")
_WIDTHS = (2.0**15, 2.0**23, 2.0**31)
_MOST_TIMES = 8
_QUIET = 2.0**-9
_BLOCK = 2**20
"""Samples that are read at a time."""
_CANCELLED = 0.01
"""Energy of the mean of the channels, as a fraction of that of the channels, below which they cancel each other."""


class Scale(NamedTuple):
    """By what the floats of a source are divided, and above which value one of them is a mistake."""

    divisor: float = 1.0
    most: float = math.inf


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
    plausible = [peak for peak in peaks if peak <= _MOST_TIMES * full]
    if not plausible:
        return Scale(full, _MOST_TIMES * full)
    largest = max(plausible)
    divisor = full * 2.0 ** max(0, math.ceil(math.log2(largest / full)))
    if divisor != 1:
        note(f"{name}: floats reach {largest:g}; all floats are divided by {divisor:g}")
    elif largest < _QUIET:
        steps = f"{largest * FULL_SCALE:.0f} steps"
        note(f"{name}: floats reach only {largest:g}, so 16-bit storage keeps only {steps}")
    return Scale(divisor, _MOST_TIMES * full)


class Header(NamedTuple):
    """What a file says of its sound."""

    sample_rate: int
    floats: bool


def header(content: Path | bytes) -> Header:
    """Sample rate of a sound, in hertz, and whether it holds floats.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        _size(content)
        with _opened(content) as file:
            return Header(file.samplerate, file.subtype in _FLOATS)
    except Exception as error:
        with open_media(content) as container:
            if not container.streams.audio:
                raise UserError("no sound track") from error
            return Header(container.streams.audio[0].codec_context.sample_rate, False)


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
        raise UserError(f"reading audio files needs soundfile, which cannot be loaded: {error}") from error
    try:
        sound, rate, announced = _decoded(content)
    except soundfile.LibsndfileError as error:
        reason = " ".join(error.error_string.split())
        raise UserError(f"not a sound that can be read: {reason}") from error
    except (OSError, RuntimeError, MemoryError) as error:
        raise UserError(check.reason(error)) from error
    if not len(sound):
        raise UserError("no samples")
    if len(sound) < 0.9 * announced:
        raise UserError(f"is truncated after {len(sound)} of {announced} samples")
    if not sound.isfinite().all():
        raise UserError("samples that are not finite")
    return sound, rate


class _Downmix:
    """The mean of the channels, piece by piece, and whether they cancel each other, as in stereo of inverted phase."""

    def __init__(self) -> None:
        self.channels, self.mean = 0.0, 0.0

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """From shape (channels, samples) to shape (samples,)."""
        mean = piece.mean(0)
        if len(piece) > 1:
            self.channels += float(np.vdot(piece, piece)) / len(piece)
            self.mean += float(np.vdot(mean, mean))
        return mean

    def check(self) -> None:
        """Say so if they do."""
        if self.mean < _CANCELLED * self.channels:
            note("channels of a sound cancel each other: their mean, which is read, is nearly silent")


def _size(content: Path | bytes) -> int:
    """Bytes of a sound, refused where it is no regular file: a pipe would never end."""
    if isinstance(content, bytes):
        return len(content)
    if not content.is_file():
        raise UserError("not a regular file" if content.exists() else "No such file or directory")
    return content.stat().st_size


def _opened(content: Path | bytes) -> Any:
    import soundfile

    return soundfile.SoundFile(_Stream(content) if isinstance(content, bytes) else content)


class _Stream(BytesIO):
    """Bytes in which a seek to before their start ends at their start: decoders try it on damaged files."""

    def seek(self, offset: int, whence: int = 0) -> int:
        origin = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(max(0, origin + offset))


def _decoded(content: Path | bytes) -> tuple[Tensor, int, int]:
    """Sound, samples per second, and samples that the file announces."""
    import soundfile

    if (size := _size(content)) > LARGEST:
        raise UserError(TOO_LARGE)
    try:
        file = _opened(content)
    except soundfile.LibsndfileError as error:
        return _by_ffmpeg(content, most_samples(size), error)
    with file:
        downmix = _Downmix()
        sound = _joined(map(downmix, _pieces(file)), file.frames, most_samples(size) // file.channels)
        downmix.check()
        return sound, file.samplerate, file.frames


def _pieces(file: Any) -> Iterator[np.ndarray]:
    """The channels of a sound, piece by piece, float32, shape (channels, samples)."""
    while len(piece := file.read(_BLOCK // file.channels, dtype="float32", always_2d=True)):
        yield piece.T


def _joined(pieces: Iterable[np.ndarray], announced: int, most: int) -> Tensor:
    """Pieces put together; what is announced may be a lie, so memory is only taken for what comes."""
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


def _by_ffmpeg(content: Path | bytes, most: int, refusal: Exception) -> tuple[Tensor, int, int]:
    """As `_decoded`, of what only FFmpeg reads.

    Args:
        content: A file or its bytes.
        most: Samples that it may unpack to.
        refusal: Why soundfile does not read it, which is raised where FFmpeg does not know it either.
    """
    import av

    container = None
    try:
        with open_media(content) as container:
            if not container.streams.audio:
                raise UserError("no sound track")
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            rate, channels = stream.codec_context.sample_rate, max(1, stream.codec_context.channels)
            exact = container.format.name.startswith("mov") and stream.duration and stream.time_base
            announced = round(float(stream.duration * stream.time_base) * rate) if exact else 0
            # Only its type is changed: a mixer would weigh channels.
            planes = av.AudioResampler(format="fltp")
            frames = (part for frame in container.decode(stream) for part in planes.resample(frame))
            downmix = _Downmix()
            means = (downmix(part.to_ndarray()) for part in frames)
            sound = _joined(means, announced, most // channels)
            downmix.check()
            return sound, rate, announced
    except ValueError as error:
        if container is None:
            raise refusal from error
        reason = str(error).rpartition("must be a video that can be read: ")[2]
        raise UserError(f"not a sound that can be read: {reason}") from error
