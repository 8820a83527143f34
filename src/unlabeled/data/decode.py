"""From encoded images of any kind to uint8 arrays of one kind.

Grey stays one channel; palettes, CMYK and the like become RGB. Transparency is blended over white. 16-bit
images are scaled to 8 bits by their full range, animations give their first frame, EXIF rotations are
applied. The format is found from the content, whatever the file is called.
"""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F

from unlabeled import check

__all__ = ["LARGEST", "SUFFIXES", "TOO_LARGE", "Item", "Temporary", "decode", "decode_all"]

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".jp2", ".jfif", ".jpe", ".mpo", ".tga", ".ico", ".dib"),
)
"""Names under which images are looked for."""

LARGEST = 512 * 2**20
"""Bytes of the largest file that is read as one image."""
TOO_LARGE = f"larger than {LARGEST // 2**20} MB"

Image.init()
# Only these: EPS, for one, would start an interpreter on whatever the file holds.
_FORMATS = [
    name
    for name in (
        "JPEG",
        "PNG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "PPM",
        "AVIF",
        "JPEG2000",
        "MPO",
        "TGA",
        "ICO",
        "DIB",
    )
    if name in Image.OPEN
]
_LONGEST = 4
_GAP = 3.0
"""Times the stored size to which far larger images are averaged over blocks before they are resized; Pillow averages
over whole pixels, so over two at least."""
_CHUNK = 32
_STRIP = 2**22
"""Pixels that are worked on at a time where the work takes several times their memory."""


class Item(NamedTuple):
    """An image that was not decoded yet."""

    path: str
    label: int | str | None
    content: Path | bytes | Image.Image | str
    """A file, its bytes, an opened image, or the reason why there is none."""


class Temporary(str):
    """A reason that may be gone the next time: of the machine, not of the image."""


def decode(content: Path | bytes | Image.Image, store_size: int, channels: int | None = None) -> np.ndarray:
    """Decode one image and shrink it to what is worth storing.

    Args:
        content: A file, its bytes or an opened image.
        store_size: Shorter side in pixels to which larger images are resized; smaller ones are kept.
        channels: 1 or 3; None keeps grey images grey and makes everything else colour.

    Returns:
        uint8, shape (channels, height, width). Images longer than 4:1 are cut to their middle.

    Raises:
        ValueError: It cannot be decoded, is larger than `LARGEST`, or its header announces more than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    try:
        if isinstance(content, Path):
            if not stat.S_ISREG(content.stat().st_mode):  # a pipe would never end
                raise ValueError("not a regular file")
            with content.open("rb") as file:
                if os.fstat(file.fileno()).st_size > LARGEST:
                    raise ValueError(TOO_LARGE)
                image = _opened(file, store_size)
        else:
            image = _opened(BytesIO(content) if isinstance(content, bytes) else content, store_size)
        if channels is not None:
            image = _in_mode(image, "L" if channels == 1 else "RGB")
        return _shrunk(image, store_size)
    except Image.DecompressionBombError as error:
        raise ValueError(f"decompression bomb: {check.reason(error)}") from error
    except UnidentifiedImageError as error:
        raise ValueError("not an image that can be read") from error
    except Exception as error:  # Pillow's readers raise anything on bytes that they did not expect
        raise ValueError(check.reason(error)) from error


def _opened(content, store_size: int) -> Image.Image:
    """Open and decode; grey ("L") or colour ("RGB")."""
    if isinstance(content, Image.Image):
        image = content
    elif not content.read(1):
        raise ValueError("empty file")
    else:
        content.seek(0)
        image = Image.open(content, formats=_FORMATS)
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**27):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    scale = store_size / min(image.size)
    if scale < 0.5:  # JPEG decodes to a half, quarter or eighth for a fraction of the time
        image.draft(None, (int(2 * scale * image.width), int(2 * scale * image.height)))
    image.load()
    with suppress(Exception):  # a broken EXIF block says nothing about the pixels
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return _plain(image)


def _shrunk(image: Image.Image, store_size: int) -> np.ndarray:
    """Cut long ones to their middle and resize large ones, shape (channels, height, width)."""
    width, height = (min(side, _LONGEST * min(image.size)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    box = (left, top, left + width, top + height)
    scale = min(1, store_size / min(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if image.mode == "L" or 2 * _GAP * scale < 1:  # grey is as fast, and what is far larger takes less memory
        image = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=_GAP)
    elif box != (0, 0, *image.size):
        image = image.crop(box)
    pixels = np.array(image)
    if image.mode == "L":
        return pixels[None]
    pixels = rearrange(pixels, "height width channels -> channels height width")
    if image.size != (width, height):  # torch weighs as Pillow does, in a fraction of the time
        images = torch.from_numpy(pixels)[None]
        pixels = F.interpolate(images, (height, width), mode="bicubic", antialias=True)[0].numpy()
    return np.ascontiguousarray(pixels)


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in 8 bits without palette or transparency: grey ("L") or colour ("RGB")."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _eight_bits(np.asarray(image))
    grey = image.mode in ("1", "L", "LA", "La")
    palette = image.mode in ("P", "PA")
    image = (
        _over_white(image, grey) if image.has_transparency_data else _in_mode(image, "L" if grey else "RGB")
    )
    if palette:
        red, green, blue = (band.tobytes() for band in image.split())
        image = image.getchannel(0) if red == green == blue else image
    return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image itself where it has that mode; Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _over_white(image: Image.Image, grey: bool) -> Image.Image:
    """A transparent picture on white, grey or in colour."""
    found = Image.new("L" if grey else "RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        white.alpha_composite(strip)
        found.paste(white.convert(found.mode), (0, top))
    return found


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Grey levels of 16 bits, or floats in 0..1 or 0..255, scaled to 0..255."""
    low, high = float(values.min()), float(values.max())
    full = 65535.0 if values.dtype.kind != "f" else 255.0 if high > 1 else 1.0
    if not (low >= 0 and high <= full):
        raise ValueError(f"grey levels must be in 0..{full:g}, got {low:g}..{high:g}")
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP // values.shape[1])
    for top in range(0, len(values), rows):
        scaled[top : top + rows] = np.rint(values[top : top + rows] * (255.0 / full))
    return Image.fromarray(scaled)


def decode_all(
    items: Iterable[Item], store_size: int, channels: int | None, workers: int
) -> Iterator[tuple[Item, np.ndarray | str]]:
    """Decode a stream in parallel, in order and in bounded memory.

    Args:
        items: Images to decode.
        store_size: As in `decode`.
        channels: As in `decode`.
        workers: Threads, at least 1.

    Yields:
        Each item with its uint8 array, shape (channels, height, width), or with the reason why there is none.
    """

    def chunk(part: list[Item]) -> list[tuple[Item, np.ndarray | str]]:
        return [(item, _array_or_reason(item, store_size, channels)) for item in part]

    stream = iter(items)
    pending = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        while True:
            while len(pending) < 2 * workers and (part := list(islice(stream, _CHUNK))):
                pending.append(pool.submit(chunk, part))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _array_or_reason(item: Item, store_size: int, channels: int | None) -> np.ndarray | str:
    if isinstance(item.content, str):
        return item.content
    try:
        return decode(item.content, store_size, channels)
    except ValueError as error:
        cause = error.__cause__
        temporary = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        return Temporary(error) if temporary else str(error)
