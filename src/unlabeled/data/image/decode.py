"""From encoded images of any kind to arrays of pixels.

Grey stays one channel; palettes, CMYK and the like become RGB; other numbers of bands stay as they are. Transparency
is blended over white. Pixels of more than 8 bits keep their values, which the range of the data set maps to 8 bits
later (see `levels`). Animations and files of several pages give their first, unless all are asked for. EXIF rotations
are applied. The format is found from the content, whatever the file is called; text and colour profiles of a PNG that
are refused for their size are ignored. Images longer than 4:1 are cropped to their middle, larger ones are shrunk to
what is worth storing.
"""

import importlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.image import jpegs, levels, rasters
from unlabeled.data.image.data import with_channels
from unlabeled.data.limits import LARGEST, TOO_LARGE
from unlabeled.data.notes import note
from unlabeled.data.options import Pages
from unlabeled.data.pool import in_order, reason_of
from unlabeled.data.samples import Item

__all__ = ["OPTIONAL", "SUFFIXES", "Decoded", "decode", "decode_all", "is_image", "read", "window"]

Image.init()
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": ""}
"""Modules that teach Pillow further formats where they are installed, and the function that does it, if any."""
for _module, _function in _PLUGINS.items():
    with suppress(Exception):  # one that cannot be loaded leaves its format unread, as one that is not there
        _plugin = importlib.import_module(_module)
        if _function:
            getattr(_plugin, _function)()
# Only these: EPS, for one, would start an interpreter on whatever the file holds.
_FORMATS = [
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "MPO", "TGA", "ICO", "DIB"),
    *("HEIF", "JXL"),
]
_FORMATS = [name for name in _FORMATS if name in Image.OPEN]
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".jp2", ".jfif", ".jpe", ".mpo", ".tga", ".ico", ".dib"),
    *((".heic", ".heif") if "HEIF" in _FORMATS else ()),
    *((".jxl",) if "JXL" in _FORMATS else ()),
)
"""Names under which images are looked for."""
OPTIONAL = [name for name in ("HEIF", "JXL") if name in _FORMATS]
OPTIONAL += ["imagecodecs"] if find_spec("imagecodecs") else []
"""Decoders that need not be there but are: which files can be read depends on them."""
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_MAGIC = (
    *(_JPEG, _PNG, b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    *(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
)
"""How files begin that are images, whatever they are called."""
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_SUBFILE, _DERIVED = 254, 1 | 4
"""The tag of a TIFF that says what a page is, and its bits for overviews and masks."""
_UNREAD = (
    "only the first of several pages is read (pages all: each page is an image; bands: each is a band of one)"
)
_NOT_FINITE = "non-finite pixels are set to the minimum or maximum of their image"
_LONGEST = 4
_GAP = 3.0
"""Times the stored size to which far larger images are averaged over blocks before they are resized; Pillow averages
over whole pixels, so over two at least."""
_SMALL = 2**20
"""Bytes below which a JPEG is read at once."""
_CHUNK = 32
_STRIP = 2**22
"""Pixels that are worked on at a time where the work takes several times their memory."""


class Decoded(NamedTuple):
    """An image as `levels.storable` gives it, shape (bands, height, width), and remarks on it."""

    pixels: NDArray[Any]
    notes: tuple[str, ...] = ()
    original: tuple[int, int] = (0, 0)
    """Height and width in pixels before it was cut and shrunk, after EXIF rotation."""


def is_image(head: bytes) -> bool:
    """Whether a file that begins with some bytes, at least 16 of them, is an image."""
    in_box = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis")
    return head.startswith(_MAGIC) or in_box or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")


def decode(content: Path | bytes | Image.Image, store_size: int, channels: int | None = None) -> np.ndarray:
    """The first image of a file as uint8, shape (channels, height, width); 16 bits are scaled by their full range.

    Args:
        content: As in `read`.
        store_size: As in `read`.
        channels: 1 or 3; None keeps grey images grey and colour colour.

    Raises:
        ValueError: As in `read`, or its numbers are no grey levels, or it has other bands.
    """
    pixels = _eight_bits(read(content, store_size)[0].pixels)
    return pixels if channels is None else with_channels(pixels, channels)


def read(content: Path | bytes | Image.Image, store_size: int, pages: Pages = "first") -> list[Decoded]:
    """The image of a file, or one for each of its pages.

    Args:
        content: A file, its bytes or an opened image.
        store_size: Shorter side in pixels to which larger images are shrunk.
        pages: Of several pages, the first, each as an image (all), or one image whose bands they are (bands).

    Raises:
        ValueError: It cannot be decoded, is larger than `LARGEST`, or its header announces more than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    every = pages != "first"
    try:
        if isinstance(content, Image.Image):
            images = [_loaded(content, store_size)]
        elif isinstance(content, bytes):
            images = _images(BytesIO(content), "", store_size, every)
        else:
            if not stat.S_ISREG(content.stat().st_mode):  # a pipe would never end
                raise UserError("not a regular file")
            with content.open("rb") as file:
                if os.fstat(file.fileno()).st_size > LARGEST:
                    raise UserError(TOO_LARGE)
                images = _images(file, content.suffix.lower(), store_size, every)
        if pages == "bands" and len(images) > 1:
            sizes = sorted({image.pixels.shape[1:] for image in images})
            if len(sizes) > 1:
                raise UserError(f"pages that are bands must have one size, got {sizes[:3]}")
            images = [images[0]._replace(pixels=np.concatenate([image.pixels for image in images]))]
        return [_finite(image) for image in images]
    except Image.DecompressionBombError as error:
        raise UserError(f"decompression bomb: {check.reason(error)}") from error
    except UnidentifiedImageError as error:
        raise UserError("not an image that can be read") from error
    except Exception as error:  # readers raise anything on bytes that they did not expect
        raise UserError(check.reason(error)) from error


def _finite(image: Decoded) -> Decoded:
    pixels, replaced = levels.finite(image.pixels)
    return image._replace(pixels=pixels, notes=(*image.notes, _NOT_FINITE)) if replaced else image


def _images(file: BinaryIO, suffix: str, store_size: int, every: bool) -> list[Decoded]:
    """The first or every image of a file, by the reader that loses none of its bits and bands."""
    head = file.read(32)
    file.seek(0)
    if not head:
        raise UserError("empty file")
    if head.startswith(_JPEG) and (image := _plain_jpeg(file, store_size)) is not None:
        return [image]
    if rasters.is_deep_png(head):
        return _stored(rasters.png(_without_texts(file.read())), store_size)
    if (arrays := rasters.array(file, suffix)) is not None:
        return _stored(arrays, store_size)
    lossy = None
    if rasters.is_raster_tiff(file):
        try:
            return _stored(rasters.tiff(file, every), store_size)
        except NotImplementedError as error:
            lossy = error
            file.seek(0)
    try:
        images = _opened(file, store_size, every)
    except Image.DecompressionBombError:
        raise
    except Exception:
        file.seek(0)
        content = file.read()
        if (bare := _without_texts(content)) == content:
            raise
        images = _opened(BytesIO(bare), store_size, every)
    if lossy is not None and images[0].pixels.dtype == np.uint8:  # Pillow has thrown half of the bits away
        raise lossy
    return images


def _plain_jpeg(file: BinaryIO, store_size: int) -> Decoded | None:
    """The image of a small file that need not be opened by Pillow; None for others, and the file is at its start."""
    content = file.read(_SMALL)
    file.seek(0)
    image = jpegs.plain(content, 2 * store_size) if len(content) < _SMALL else None
    if image is None:
        return None
    return Decoded(_shrunk(image, store_size), _cut(image.size), (image.height, image.width))


def _stored(images: list[rasters.Raster], store_size: int) -> list[Decoded]:
    shrunk = [_shrunk_bands(levels.storable(image.pixels), store_size) for image in images]
    sides = [(image.pixels.shape[1], image.pixels.shape[2]) for image in images]
    notes = [(*_cut(own), *([_UNREAD] if image.unread else [])) for own, image in zip(sides, images)]
    return [*map(Decoded, shrunk, notes, sides)]


def _without_texts(content: bytes) -> bytes:
    """A PNG with nothing but its pixels, palette, transparency and EXIF; anything else as it is.

    Readers refuse a file for the size of its texts and colour profiles, which say nothing about the pixels.
    """
    start = len(_PNG)
    if not content.startswith(_PNG):
        return content
    parts = [_PNG]
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] in _PIXEL_CHUNKS:
            parts.append(content[start:end])
        start = end
    return b"".join(parts)


def _opened(file: BinaryIO, store_size: int, every: bool) -> list[Decoded]:
    """Images of a file that Pillow reads."""
    image = Image.open(file, formats=_FORMATS)
    is_tiff = image.format == "TIFF"
    pages = list(range(getattr(image, "n_frames", 1))) if every or is_tiff else [0]
    if is_tiff:
        pages = [page for page in pages if not _is_derived(image, page)]
    images = []
    for page in (pages if every else pages[:1]) or [0]:
        image.seek(page)
        images.append(_loaded(image if is_tiff or len(pages) == 1 else image.copy(), store_size))
    unread = (_UNREAD,) if len(pages) > len(images) else ()
    return [image._replace(notes=(*image.notes, *unread)) for image in images]


def _is_derived(image: Any, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(_SUBFILE, 0) & _DERIVED)


def _loaded(image: Image.Image, store_size: int) -> Decoded:
    """Pixels of an image that is opened, shrunk; a file's own object is left as it was."""
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 2**27):
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    width, height = image.size
    scale = store_size / min(image.size)
    if scale < 0.5:  # JPEG decodes to a half, quarter or eighth for a fraction of the time
        image.draft(None, (int(2 * scale * image.width), int(2 * scale * image.height)))
    image.load()
    with suppress(Exception):  # a broken EXIF block says nothing about the pixels
        if (orientation := image.getexif().get(ExifTags.Base.Orientation, 1)) != 1:
            image = ImageOps.exif_transpose(image)
            width, height = (height, width) if orientation >= 5 else (width, height)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        pixels = _shrunk_bands(levels.storable(np.asarray(image)[None]), store_size)
    else:
        pixels = _shrunk(_plain(image), store_size)
    return Decoded(pixels, _cut(image.size), (height, width))


def window(height: int, width: int) -> tuple[int, int, int, int]:
    """What is stored of an image of some size in pixels: top, left, height and width of its middle, at most 4:1."""
    longest = _LONGEST * min(height, width)
    inside = min(height, longest), min(width, longest)
    return (height - inside[0]) // 2, (width - inside[1]) // 2, *inside


def _cut(sides: Sequence[int]) -> tuple[str, ...]:
    """What to say of an image of some height and width in pixels that is not stored as a whole."""
    return (f"longer than {_LONGEST}:1, cropped to the middle",) if max(sides) > _LONGEST * min(sides) else ()


def _shrunk(image: Image.Image, store_size: int) -> np.ndarray:
    """Cut long ones to their middle and resize large ones, shape (channels, height, width)."""
    top, left, height, width = window(image.height, image.width)
    box = (left, top, left + width, top + height)
    scale = min(1, store_size / min(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if image.mode == "L" or 2 * _GAP * scale < 1:  # grey is as fast, and what is far larger takes less memory
        image = image.resize((width, height), Image.Resampling.BICUBIC, box, reducing_gap=_GAP)
    elif box != (0, 0, *image.size):
        image = image.crop(box)
    if image.mode == "L":
        return np.array(image)[None]
    if image.size == (width, height):
        return np.asarray(image).transpose(2, 0, 1).copy()
    pixels = rearrange(np.array(image), "height width channels -> channels height width")
    # torch weighs as Pillow does, in a fraction of the time
    images = torch.from_numpy(pixels)[None]
    pixels = F.interpolate(images, (height, width), mode="bicubic", antialias=True)[0].numpy()
    return np.ascontiguousarray(pixels)


def _shrunk_bands(pixels: NDArray[Any], store_size: int) -> NDArray[Any]:
    """The same cut and size as `_shrunk` for pixels of any type, shape (bands, height, width)."""
    top, left, height, width = window(*pixels.shape[1:])
    pixels = pixels[:, top : top + height, left : left + width]
    scale = min(1, store_size / min(height, width))
    if scale == 1:
        return np.ascontiguousarray(pixels)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    exact = np.float64 if pixels.dtype.itemsize > 4 or pixels.dtype == np.int32 else np.float32
    shrunk = np.empty((len(pixels), *size), pixels.dtype)
    for band, values in enumerate(pixels):  # one at a time, for this takes several times their memory
        values, _ = levels.finite(np.ascontiguousarray(values))
        low, high = values.min(), values.max()
        image = torch.from_numpy(values.astype(exact))[None, None]
        resized = F.interpolate(image, size, mode="bicubic", antialias=True)[0, 0].numpy()
        shrunk[band] = np.clip(resized if values.dtype.kind == "f" else np.rint(resized), low, high)
    return shrunk


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in 8 bits without palette or transparency: grey ("L") or colour ("RGB")."""
    grey, palette = image.mode in ("1", "L", "LA", "La"), image.mode in ("P", "PA")
    mode = "L" if grey else "RGB"
    if image.has_transparency_data:
        image = _over_white(image, mode)
    elif image.mode != mode:  # else Pillow would copy it
        image = image.convert(mode)
    if palette:
        red, green, blue = (band.tobytes() for band in image.split())
        image = image.getchannel(0) if red == green == blue else image
    return image


def _over_white(image: Image.Image, mode: str) -> Image.Image:
    """A transparent picture on white."""
    result = Image.new(mode, image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        white.alpha_composite(strip)
        result.paste(white.convert(mode), (0, top))
    return result


def _eight_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Integers of 16 bits, or floats in 0..1 or 0..255, scaled to 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    full = 65535.0 if pixels.dtype.kind != "f" else 255.0 if high > 1 else 1.0
    if not (low >= 0 and high <= full):
        raise UserError(f"grey levels must be in 0..{full:g}, got {low:g}..{high:g}")
    note(
        f"stills of more than 8 bits of videos, trajectories or cameras: 0..{full:g} become 0..255, whatever is in use"
    )
    return levels.to_uint8(pixels, {kind: [[0.0, full]] for kind in ("integers", "floats")})[0]


def decode_all(
    items: Iterable[Item], store_size: int, workers: int, pages: Pages = "first"
) -> Iterator[tuple[Item, Decoded | str]]:
    """Each item with its image, or with the reason why there is none: decoded by threads, in order, as needed.

    Further images of a file are items of their own, with their number in the path. The options are those of `read`.
    """

    def chunk(part: list[Item]) -> list[tuple[Item, Decoded | str]]:
        return [pair for item in part for pair in _decoded(item, store_size, pages)]

    stream = iter(items)
    for _, pairs in in_order(chunk, iter(lambda: list(islice(stream, _CHUNK)), []), workers):
        yield from pairs


def _decoded(item: Item, store_size: int, pages: Pages) -> list[tuple[Item, Decoded | str]]:
    if isinstance(item.content, str):
        return [(item, item.content)]
    try:
        images = read(item.content, store_size, pages)
    except ValueError as error:
        return [(item, reason_of(error))]
    if len(images) == 1:
        return [(item, images[0])]
    return [(item._replace(path=f"{item.path}#{page}"), image) for page, image in enumerate(images)]
