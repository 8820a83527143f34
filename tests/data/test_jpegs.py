"""Plain JPEGs skip what Pillow does around its decoder, and every JPEG gives what Pillow gives."""

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from unlabeled.data.image import decode as decode_module
from unlabeled.data.image import jpegs
from unlabeled.data.image.decode import read
from unlabeled.data.options import Pages


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(
        0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8
    )
    return Image.fromarray(pixels).resize((width, height)).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def with_segment(content: bytes, marker: int, inner: bytes) -> bytes:
    return content[:2] + segment(marker, inner) + content[2:]


def patched(content: bytes, offset: int, value: int) -> bytes:
    """The same file with another byte in its frame segment, which begins with its marker."""
    changed = bytearray(content)
    changed[content.index(b"\xff\xc0") + offset] = value
    return bytes(changed)


def by_pillow(content: bytes) -> np.ndarray:
    """Shape (channels, height, width)."""
    pixels = np.asarray(Image.open(BytesIO(content)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def result(content: bytes, side: int, pages: Pages = "first") -> tuple[object, ...]:
    """Pixels, notes and sizes, or why there are none."""
    try:
        return tuple((one.pixels.tobytes(), *one[1:]) for one in read(content, side, pages))
    except ValueError as error:
        return (str(error),)


BASE = encoded(picture(40, 30))
PROGRESSIVE = encoded(picture(40, 30), progressive=True)


def plain() -> Iterator[bytes]:
    for width, height in ((1, 1), (7, 5), (17, 33), (161, 121)):
        image = picture(width, height)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
            yield encoded(image, subsampling=subsampling)
            yield encoded(image, subsampling=subsampling, progressive=True, optimize=True)
        yield from (encoded(image.convert("L")), encoded(image.convert("L"), progressive=True))
        yield encoded(image, restart_marker_blocks=2)
        yield encoded(image, restart_marker_rows=1, progressive=True)
        yield from (encoded(image, keep_rgb=True), encoded(image, quality=100, comment=b"a comment"))
    for transform in range(2):
        yield with_segment(BASE, 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    yield with_segment(BASE, 0xEC, b"Ducky")
    yield from (BASE + b"further bytes" * 99, BASE + PROGRESSIVE, PROGRESSIVE + BASE)
    yield encoded(picture(500, 400), quality=98)  # more than Pillow reads at a time


def test_plain_files_skip_opening_and_have_the_pixels_of_pillow(tmp_path: Path) -> None:
    for number, content in enumerate(plain()):
        assert jpegs.plain(content, 1000) is not None, f"file {number}"
        path = tmp_path / "image"
        path.write_bytes(content)
        for source in (content, path):
            [image] = read(source, 1000)
            assert np.array_equal(image.pixels, by_pillow(content)), f"file {number}"
            assert image.pixels.flags.c_contiguous and image.pixels.flags.writeable
            assert image.original == image.pixels.shape[1:] and not image.notes


ADOBE, MPO = b"http://ns.adobe.com/xap/1.0/\0", [picture(40, 30), picture(40, 31)]
LEFT_TO_PILLOW = {
    "cmyk": encoded(picture(40, 30, "CMYK")),
    "profile": encoded(picture(40, 30), icc_profile=b"x" * 99),
    "pictures": encoded(MPO[0], "MPO", save_all=True, append_images=MPO[1:]),
    "xmp": with_segment(BASE, 0xE1, ADOBE + b'<x tiff:Orientation="6"/>'),
    "photoshop": with_segment(BASE, 0xED, b"Photoshop 3.0\x008BIM"),
    "short Adobe": with_segment(BASE, 0xEE, b"Adobe"),
    "short JFIF": with_segment(BASE, 0xE0, b"JFIF"),
    "two frames": BASE[:-2].replace(b"\xff\xc0", BASE[BASE.index(b"\xff\xc0") :][:19] + b"\xff\xc0", 1),
    "12 bits": patched(BASE, 4, 12),
    "2 components": patched(BASE, 9, 2),
    "no width": patched(patched(BASE, 7, 0), 8, 0),
    "arithmetic": patched(BASE, 1, 0xC9),
    "lossless": patched(BASE, 1, 0xC3),
    "fill": BASE[:2] + b"\xff" + BASE[2:],
    "junk": BASE[:20] + b"junk" + BASE[20:],
    "short segment": BASE[:20] + b"\xff\xfe\0\0" + BASE[20:],
    "truncated": BASE[:-2],
    "header": BASE[: BASE.index(b"\xff\xda")],
    "nothing": BASE[:3],
}


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
@pytest.mark.parametrize("pages", ["first", "all"])
def test_other_files_are_left_to_pillow(name: str, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    content = LEFT_TO_PILLOW[name]
    assert jpegs.plain(content, 1000) is None
    got = result(content, 1000, pages)
    monkeypatch.setattr(jpegs, "plain", lambda *_: None)
    assert got == result(content, 1000, pages)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(40, 30), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(content)))
    assert np.array_equal(read(content, 160)[0].pixels, np.asarray(upright).transpose(2, 0, 1))


@pytest.mark.parametrize("content", [BASE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_truncated_files_are_refused(content: bytes, part: float) -> None:
    with pytest.raises(ValueError, match=r"(?i)truncated"):
        read(content[: int(part * len(content))], 160)


def damaged(content: bytes, generator: random.Random) -> bytes:
    changed, place = bytearray(content), generator.randrange(len(content))
    match generator.randrange(4):
        case 0:
            return content[:place] + b"\xff\xd9"
        case 1:
            del changed[place : place + generator.randrange(1, 50)]
        case 2:
            changed[place:place] = generator.randbytes(generator.randrange(1, 50))
        case _:
            for _ in range(generator.randrange(1, 9)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def test_damaged_files_are_read_or_refused_as_by_pillow_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    generator = random.Random(0)
    files = [damaged(content, generator) for content in [BASE, PROGRESSIVE] * 150]
    assert 50 < sum(jpegs.plain(content, 1000) is not None for content in files) < 250
    got = [result(content, 1000) for content in files]
    monkeypatch.setattr(jpegs, "plain", lambda *_: None)
    assert got == [result(content, 1000) for content in files]
    assert capfd.readouterr().err == ""


def test_far_larger_files_are_shrunk_while_they_are_decoded() -> None:
    assert jpegs.plain(BASE, 30) is not None
    assert jpegs.plain(BASE, 29) is None


def test_bombs_are_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30)
    assert jpegs.plain(BASE, 1000) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)
    assert jpegs.plain(BASE, 1000) is None
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match="bomb: 40 x 30 pixels"),
    ):
        read(BASE, 160)


def test_larger_files_and_a_pillow_that_decodes_nothing_apart_give_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(BASE)
    with monkeypatch.context() as patch:
        patch.setattr(decode_module, "_SMALL", len(BASE))
        patch.setattr(jpegs, "plain", lambda *_: pytest.fail("read at once"))
        assert np.array_equal(read(path, 160)[0].pixels, by_pillow(BASE))

    def refuse(*_: object) -> None:
        raise ValueError("decoder jpeg not available")

    monkeypatch.setattr(Image, "frombytes", refuse)
    assert np.array_equal(read(path, 160)[0].pixels, by_pillow(BASE))
