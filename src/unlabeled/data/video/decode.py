"""From video files to uint8 frames: which frame is which follows from time stamps, never from counting.

Read are all files that FFmpeg reads (through PyAV), animated GIFs, folders of frames and .npy arrays of shape
(frames, height, width, channels). Frames are numbered from 0 in the order in which they are shown, which is
exact for constant and variable frame rates, for frames that depend on later ones and for clocks that do not
start at 0. Rotations that a telephone records beside the pixels are applied, and so are pixels that are not
square. Every file that is opened is closed, also after an error.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import read_npy
from unlabeled.data.files import FILMS
from unlabeled.data.image import decode

__all__ = ["SUFFIXES", "Index", "fitting", "frames", "has_pictures", "index", "open_media", "read_all"]

SUFFIXES = (*FILMS, ".ts", ".flv", ".gif")
"""Names under which videos are looked for."""

_FOLDER_FPS = 25.0
_READABLE = 0.5
_WHOLE = 2**30
_HIDING = ("vp8", "libvpx")
_LARGEST = 2**25
"""Pixels of a frame, above which it is a mistake: those of 8K video."""
_LONGEST = 32
"""Longer side of a frame over its shorter side, above which it is a mistake."""
# Only these: playlists and scripts, for example, would open whatever other files and addresses they name.
_FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "ivf"),
    *("ogg", "asf", "flv", "wav", "w64", "flac", "mp3", "aiff", "aac", "caf", "au", "amr"),
    *("ac3", "eac3"),
)

Size = int | tuple[int, int] | None
"""Shorter side in pixels to which larger frames are shrunk, height and width to cut out of the centre, or as is."""


@dataclass(frozen=True)
class Index:
    """What a video holds, without its pixels.

    Attributes:
        times: When each frame is shown, in seconds on the clock of the file, float64, shape (frames,).
        fps: Frames per second on average.
        height: Height of a frame as shown, in pixels.
        width: Width of a frame as shown, in pixels.
    """

    times: NDArray[np.float64]
    fps: float
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.times)


def index(path: Path) -> Index:
    """What a video holds, without decoding it where its time stamps can be trusted.

    Args:
        path: A file, or a folder of frames, which count as 25 in a second.

    Raises:
        ValueError: It is no video that can be read.
    """
    if (kind := _kind(path)) != "file":
        return _regular(*_describe_still(path, kind))
    with _opened(path) as (container, stream):
        stamps = [packet.pts for packet in _demuxed(container, stream) if not packet.is_discard]
        height, width, codec = stream.height, stream.width, stream.codec_context.name
        time_base, rate = stream.time_base, float(stream.average_rate or _FOLDER_FPS)
    with _opened(path) as (container, stream):
        decoded = _decoded(container, stream, path)
        first = next(decoded, None)
        if first is not None:
            height, width = _shown_size(first, stream)
        # AVI among others does not say when a frame is shown, VP8 has packets that show nothing: only decoding tells.
        if first is None or not _are_exact(stamps) or codec in _HIDING:
            stamps = [frame.pts for frame in chain([first] if first else [], decoded)]
    if not stamps or time_base is None:
        raise UserError(f"{path} must hold at least one frame that can be decoded")
    if max(height, width) > _LONGEST * min(height, width):
        raise UserError(f"{path} must have sides of at most {_LONGEST}:1, got {height} x {width} pixels")
    numbers = np.unique(np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64))
    if not _are_exact(stamps):
        gaps = np.diff(numbers)
        step = float(np.median(gaps)) * float(time_base) if len(gaps) else 1 / rate
        return _regular(np.full(len(stamps), step), height, width)
    times = (numbers * float(time_base)).astype(np.float64)
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / rate
    return Index(times, float(1 / step), height, width)


def _are_exact(stamps: list[int | None]) -> bool:
    """Whether each frame has a time of its own."""
    return None not in stamps and len(set(stamps)) == len(stamps)


def _regular(durations: NDArray[np.float64], height: int, width: int) -> Index:
    """Index of frames by how long each is shown, in seconds."""
    ends = durations.cumsum().astype(np.float64)
    return Index(np.concatenate([[0.0], ends[:-1]]), len(ends) / float(ends[-1]), height, width)


def frames(path: Path, size: Size = None) -> Iterator[NDArray[np.uint8]]:
    """All frames of a video in the order in which they are shown.

    Damaged parts of a file are omitted, as players do.

    Args:
        path: A file or a folder of frames.
        size: As in `fitting`.

    Yields:
        uint8, shape (3, height, width), all of one size; (1, height, width) where a .npy file is grey.

    Raises:
        ValueError: It is no video that can be read.
    """
    if (kind := _kind(path)) != "file":
        for image in _still_frames(path, kind):
            if not isinstance(size, tuple):  # frames of other sizes become as the first one
                size = fitting(image.shape[1], image.shape[2], size)
            yield _resized(image, size)
        return
    with _opened(path) as (container, stream):
        fit: tuple[int, int] | None = None
        for frame in _decoded(container, stream, path):
            fit = fit or fitting(*_shown_size(frame, stream), size)  # a stream may change its size on its way
            yield _pixels(frame, size, fit)


def read_all(path: Path, store_size: Size = None) -> NDArray[np.uint8]:
    """All frames of a video.

    Args:
        path: A file or a folder of frames.
        store_size: As in `fitting`.

    Returns:
        uint8, shape (frames, channels, height, width), three channels but for grey .npy files.

    Raises:
        ValueError: It is no video that can be read, or less than half of its frames can.
    """
    if not (decoded := list(frames(path, store_size))):
        raise UserError(f"{path} must hold at least one frame that can be decoded")
    return np.stack(decoded)


def fitting(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width to which frames are resized; with both given, what is over is cut off around the centre.

    Args:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        size: Shorter side in pixels to which larger frames are shrunk, height and width to cover exactly, or
            None for the size that they have.
    """
    if size is None:
        return height, width
    if isinstance(size, int):
        scale = min(1.0, size / min(height, width))
    else:
        scale = max(size[0] / height, size[1] / width)
        return max(size[0], round(scale * height)), max(size[1], round(scale * width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def _kind(path: Path) -> str:
    """How a path is read: file (by FFmpeg), folder, gif or npy."""
    if path.is_dir():
        return "folder"
    if path.suffix.lower() == ".npy":
        return "npy"
    try:
        with path.open("rb") as file:
            return "gif" if file.read(4) == b"GIF8" else "file"
    except OSError as error:
        raise UserError(f"{path} must be a video that can be read: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream, closed at the end."""
    with open_media(path) as container:
        pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not pictures:
            raise UserError(f"{path} must hold a video, got a file without a video stream")
        # One thread each: whole videos are decoded side by side.
        pictures[0].codec_context.thread_count = 1
        pictures[0].codec_context.options = {"max_pixels": str(_LARGEST)}
        yield container, pictures[0]


@contextmanager
def open_media(path: Path | bytes) -> Iterator[Any]:
    """A file of video or sound, or its bytes, opened by FFmpeg and closed at the end.

    Raises:
        ValueError: It cannot be read, which may come out at any moment.
    """
    import av

    av.logging.set_level(None)  # type: ignore[attr-defined]
    options = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
    try:
        if isinstance(path, Path) and path.exists() and not path.is_file():  # a pipe would never end
            raise UserError("not a regular file")
        source = f"file:{path}" if isinstance(path, Path) else BytesIO(path)
        with closing(av.open(source, options=options)) as container:
            yield container
    except Exception as error:  # FFmpeg's errors share no class below Exception, and some surprise PyAV
        name = str(path) if isinstance(path, Path) else "its content"
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        raise UserError(f"{name} must be a video that can be read: {check.reason(error)}") from error


def has_pictures(path: Path) -> bool:
    """Whether a file holds pictures that move, which is also assumed of one that cannot be read."""
    try:
        with open_media(path) as container:
            return any(not _is_cover(stream) for stream in container.streams.video)
    except ValueError:
        return True


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the picture of an album instead of a video."""
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream that hold anything; a damaged end of the file ends them."""
    from av.error import FFmpegError

    packets = container.demux(stream)
    with suppress(FFmpegError):
        while (packet := next(packets, None)) is not None:
            if packet.size:
                yield packet


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """Frames in the order in which they are shown, without the packets that are damaged."""
    from av.error import FFmpegError

    good = bad = 0
    for packet in chain(
        _demuxed(container, stream), [None]
    ):  # None asks for the frames that the decoder holds back
        try:
            decoded = stream.codec_context.decode(packet)
        except FFmpegError:
            bad += packet is not None
            continue
        for frame in decoded:
            good += 1
            yield frame
    if good < _READABLE * (good + bad):
        raise UserError(f"{path} is damaged: {bad} of {good + bad} frames cannot be decoded")


def _shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    """Height and width of a frame with square pixels, after its rotation."""
    ratio = stream.sample_aspect_ratio  # width over height of a pixel
    width = round(frame.width * ratio) if ratio else frame.width
    return (width, frame.height) if frame.rotation % 180 else (frame.height, width)


def _pixels(frame: Any, size: Size, fit: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB of a frame, uint8, shape (3, height, width)."""
    turns = round(frame.rotation / 90) % 4
    height, width = fit[::-1] if turns % 2 else fit
    shrinks = (height, width) != (frame.height, frame.width)
    interpolation = "AREA" if shrinks and height <= frame.height and width <= frame.width else "BICUBIC"
    array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=interpolation)
    array = np.rot90(array, turns)
    return np.ascontiguousarray(_centre(rearrange(array, "height width rgb -> rgb height width"), size))


def _centre(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    if not isinstance(size, tuple):
        return image
    top, left = (image.shape[1] - size[0]) // 2, (image.shape[2] - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]


def _resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Frame (channels, height, width) at the size of `fitting`."""
    height, width = fitting(image.shape[1], image.shape[2], size)
    if (height, width) != image.shape[1:]:
        picture = Image.fromarray(image[0] if len(image) == 1 else rearrange(image, "rgb h w -> h w rgb"))
        array = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
        image = array[None] if array.ndim == 2 else rearrange(array, "h w rgb -> rgb h w")
    return _centre(image, size)


def _still_frames(path: Path, kind: str) -> Iterator[NDArray[np.uint8]]:
    """Frames of what FFmpeg does not read, each (channels, height, width)."""
    if kind == "folder":
        yield from map(_still, _frame_files(path))
    elif kind == "gif":
        with _gif(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield decode.decode(frame.copy(), _WHOLE, 3)
    else:
        array = _array(path)
        for frame in array:
            yield np.ascontiguousarray(rearrange(frame, "height width channels -> channels height width"))


def _still(path: Path) -> NDArray[np.uint8]:
    try:
        return decode.decode(path, _WHOLE, 3)
    except ValueError as error:
        raise UserError(f"{path} must be a frame that can be read: {error}") from error


def _frame_files(path: Path) -> list[Path]:
    files = [entry for entry in path.iterdir() if entry.suffix.lower() in decode.SUFFIXES]
    files = sorted((file for file in files if not file.name.startswith(".")), key=_by_number)
    if not files:
        raise UserError(f"{path} must hold frames such as 000001.jpg, got none")
    return files


def _by_number(file: Path) -> tuple[str, int, str]:
    """Order of frames: frame2 comes before frame10."""
    digits = len(file.stem) - len(file.stem.rstrip("0123456789"))
    number = file.stem[len(file.stem) - digits :]
    return file.stem[: len(file.stem) - digits], int(number or 0), file.name


@contextmanager
def _gif(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=["GIF"]) as image:
            if image.width * image.height > _LARGEST:
                raise UserError(f"{image.height} x {image.width} pixels are more than {_LARGEST}")
            if max(image.size) > _LONGEST * min(image.size):
                raise UserError(f"{image.height} x {image.width} pixels are more than {_LONGEST}:1")
            yield image
    except Exception as error:  # Pillow's readers raise anything on bytes that they did not expect
        raise UserError(f"{path} must be a video that can be read: {check.reason(error)}") from error


def _array(path: Path) -> NDArray[np.uint8]:
    array = read_npy(path)
    array = array[..., None] if array.ndim == 3 else array
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise UserError(
            f"{path} must be uint8 of shape (frames, height, width, channels) with 1 or 3 channels, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array


def _describe_still(path: Path, kind: str) -> tuple[NDArray[np.float64], int, int]:
    """Seconds that each frame is shown, and the size of the frames."""
    if kind == "folder":
        files = _frame_files(path)
        height, width = _still(files[0]).shape[1:]
        return np.full(len(files), 1 / _FOLDER_FPS, np.float64), height, width
    if kind == "npy":
        array = _array(path)
        return np.full(len(array), 1 / _FOLDER_FPS), array.shape[1], array.shape[2]
    with _gif(path) as image:
        durations = [frame.info.get("duration", 0) / 1000 or 0.1 for frame in ImageSequence.Iterator(image)]
        return np.array(durations), image.height, image.width
