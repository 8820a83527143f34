"""Images that Pillow cannot hold: more than 8 bits for each colour, or another number of bands than 1, 3 or 4.

Read are TIFF (of 8 to 64 bits, integers and floats, bands together or apart; compression as tifffile knows it, LZW
and the like only with imagecodecs), PNG of 16 bits in colour, and arrays, one image in each file: .npy, .npz (its only
array, or the one named `image` or `arr_0`) and .pt (a tensor, or a dictionary with one of those names), of shape
(height, width), (height, width, bands) or (bands, height, width): the axis of bands is the one of length 1 or 3, else
the shorter one of the first and the last. Nothing is unpickled but tensors, by torch's reader of weights alone.
"""

import logging
import math
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.arrays import parsed
from unlabeled.data.image.arrays import bands_are_last
from unlabeled.data.limits import refuse_unpacked

__all__ = ["ARRAYS", "Raster", "array", "is_deep_png", "is_raster_tiff", "png", "tiff"]

ARRAYS = (".npy", ".npz", ".pt", ".pth")
"""Names of files that hold one array each."""
_NAMES = ("image", "arr_0")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST, _MOST_BANDS = 2**31, 1024
"""Bytes that an image may take before it is shrunk, and bands that it may have."""
_OF_MANY = "a file of many images is opened by its own path"
_ALPHA = (1, 2)
"""Kinds of a further band of a TIFF that are opacity."""
_RGB, _INKS, _OTHER_COLOURS, _COLOURS = 2, 5, {6: "YCbCr", 8: "Lab"}, {3: (2, 6, 8), 4: (5,)}
"""Numbers by which TIFF calls RGB, CMYK, and YCbCr and Lab; what Pillow makes colours of, by the bands."""


class Raster(NamedTuple):
    """Pixels, shape (bands, height, width), of any type, and how many further pages the file has that were not read."""

    pixels: NDArray[Any]
    unread: int = 0


def is_deep_png(head: bytes) -> bool:
    """Whether a file that begins so is a PNG of 16 bits in colour or with transparency, of which Pillow keeps 8."""
    is_png = head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR"
    return is_png and head[24] == 16 and head[25] != 0


def png(content: bytes) -> list[Raster]:
    """The image of a PNG of 16 bits, by torchvision."""
    from torchvision.io import decode_png

    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    _check_size(height, width, 4, 2)
    pixels = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), apply_exif_orientation=True)
    return [Raster(_opaque(pixels.numpy()) if len(pixels) in (2, 4) else pixels.numpy())]


def _opaque(pixels: NDArray[Any]) -> NDArray[Any]:
    """Bands without the last one, which is the opacity: blended over the type's white where that is not full."""
    colours, white = pixels[:-1], _white(pixels.dtype)
    if bool((pixels[-1] == white).all()):
        return colours
    alpha = pixels[-1].astype(np.float32) / white
    blended = colours * alpha + white * (1 - alpha)
    return (np.rint(blended) if pixels.dtype.kind != "f" else blended).astype(pixels.dtype)


def _white(dtype: np.dtype[Any]) -> float:
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)


def is_raster_tiff(file: BinaryIO) -> bool:
    """Whether a file is a TIFF that is not for Pillow, by its bits and bands."""
    head = file.read(4)
    file.seek(0)
    if head not in _TIFF:
        return False
    try:
        with Image.open(file, formats=["TIFF"]) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            samples, photometric, further = tags.get(277, 1), tags.get(262), tags.get(338, (0,))
            colours = photometric in _COLOURS.get(samples, ())
            alpha = further[0] in _ALPHA and (samples == 2 or (samples == 4 and photometric == _RGB))
            signed = 2 in tags.get(339, (1,))
            return max(tags.get(258, (1,))) > 8 or signed or not (samples == 1 or colours or alpha)
    except Exception:  # Pillow knows fewer layouts than tifffile, which has the last word
        return True
    finally:
        file.seek(0)


def tiff(file: BinaryIO, all_pages: bool) -> list[Raster]:
    """The image of the first page of a TIFF, or one of every page; overviews and masks are no pages.

    Raises:
        ValueError: There is no image.
        NotImplementedError: It is compressed in a way that tifffile does not read.
    """
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it refuses is said file by file
    with tifffile.TiffFile(file) as images:
        pages: Any = images.pages
        whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
        if not whole:
            raise UserError("a TIFF without an image")
        unread = 0 if all_pages else len(whole) - 1
        return [Raster(_page(page.aspage()), unread) for page in (whole if all_pages else whole[:1])]


def _page(page: Any) -> NDArray[Any]:
    _check_size(page.imagelength, page.imagewidth, page.samplesperpixel, page.bitspersample // 8 or 1)
    if page.imagedepth > 1:
        raise UserError(f"a page of depth {page.imagedepth}")
    try:
        pixels = page.asarray(maxworkers=1)
    except Exception as error:
        if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
            raise
        name = getattr(page.compression, "name", page.compression)
        reason = f"TIFF compressed by {name} is read where imagecodecs is installed (pip install imagecodecs)"
        raise NotImplementedError(reason) from error
    pixels = np.squeeze(pixels, tuple(axis for axis, name in enumerate(page.axes) if name not in "YXS"))
    axes = [name for name in page.axes if name in "YXS"]
    if "S" in axes and axes[0] != "S":
        pixels = rearrange(pixels, "height width bands -> bands height width")
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    if page.nodata and (pixels == page.nodata).any() and not (pixels == page.nodata).all():
        pixels = np.where(pixels == page.nodata, pixels[pixels != page.nodata].min(), pixels)
    if page.photometric == 0 and pixels.dtype.kind == "u":  # white is zero
        pixels = pixels.dtype.type(2**page.bitspersample - 1) - pixels
    tag = page.tags.get(274)
    return _upright(_in_rgb(pixels, page), tag.value if tag else 1)


def _in_rgb(pixels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Red, green and blue of a page whose bands are colours in another form; other bands as they are."""
    if page.photometric == _RGB and len(pixels) == 4 and page.extrasamples and page.extrasamples[0] in _ALPHA:
        return _opaque(pixels)
    if page.photometric == _INKS and len(pixels) == 4 and pixels.dtype.kind == "u":
        white = _white(pixels.dtype)
        light = 1 - pixels.astype(np.float32) / white
        return np.rint(light[:3] * light[3:] * white).astype(pixels.dtype)
    if page.photometric in _OTHER_COLOURS:
        raise UserError(f"colours of {_OTHER_COLOURS[page.photometric]} in more than 8 bits cannot be read")
    return pixels


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels as they are to be seen, by the EXIF number of their orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels[:, ::-1] if orientation in (3, 4, 7, 8) else pixels


def array(file: BinaryIO, suffix: str) -> list[Raster] | None:
    """The image of a .npy, .npz or .pt file; None where a file is none of these."""
    head = file.read(6)
    file.seek(0)
    if head == b"\x93NUMPY":
        return [Raster(_bands_first(_numpy(file)))]
    zipped = head.startswith(b"PK\x03\x04")
    names = zipfile.ZipFile(file).namelist() if zipped else []
    file.seek(0)
    if suffix in (".pt", ".pth") or any(name.endswith("/data.pkl") for name in names):
        return [Raster(_bands_first(_tensor(file)))]
    if any(name.endswith(".npy") for name in names):
        return [Raster(_bands_first(_zipped(file)))]
    return None


def _numpy(file: BinaryIO) -> NDArray[Any]:
    return parsed(lambda: _array(file))


def _array(file: BinaryIO) -> NDArray[Any]:
    """An array whose file holds as much as its header claims, before memory is taken for it."""
    file.seek(0)
    version, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    start, end = file.tell(), file.seek(0, 2)
    if math.prod(shape) * dtype.itemsize > end - start:
        raise UserError(f"an array of shape {shape} cannot be in {end - start} bytes")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _zipped(file: BinaryIO) -> NDArray[Any]:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        member = _only(members)
        refuse_unpacked(member.file_size, file.seek(0, 2))
        return _numpy(BytesIO(archive.read(member)))


def _tensor(file: BinaryIO) -> NDArray[Any]:
    loaded = torch.load(BytesIO(file.read()), map_location="cpu", weights_only=True)
    tensor = _only(loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise UserError(f"a .pt file must hold one tensor, got {type(tensor).__name__}")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _only(content: Mapping[str, Any]) -> Any:
    """The one entry, or the one that is called an image."""
    name = next((name for name in _NAMES if name in content), next(iter(content), ""))
    if len(content) != 1 and name not in _NAMES:
        listing = check.one_line(", ".join(map(str, content))) or "nothing"
        expected = f"one array or {' or '.join(_NAMES)}"
        raise UserError(f"a file of one image must hold {expected}, got {listing}; {_OF_MANY}")
    return content[name]


def _bands_first(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise UserError(f"an image must have axes height, width and perhaps bands, got shape {pixels.shape}")
    if bands_are_last(*pixels.shape):
        pixels = rearrange(pixels, "height width bands -> bands height width")
    if len(pixels) > _MOST_BANDS:
        raise UserError(
            f"an image must have at most {_MOST_BANDS} bands, got shape {pixels.shape}; {_OF_MANY}"
        )
    _check_size(pixels.shape[1], pixels.shape[2], pixels.shape[0], pixels.itemsize)
    return pixels


def _check_size(height: int, width: int, bands: int, size: int) -> None:
    if height * width > (Image.MAX_IMAGE_PIXELS or 2**27) or height * width * bands * size > _MOST:
        raise Image.DecompressionBombError(f"{width} x {height} pixels of {bands} bands")
