"""Images of any bands and bits come out of their files as they were written."""

import os
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin

from unlabeled.data import open_data, open_splits
from unlabeled.data.image.decode import decode, read

GENERATOR = np.random.default_rng(0)


def noise(*shape: int, top: int = 4096, dtype: str = "uint16") -> np.ndarray:
    return GENERATOR.integers(0, top, shape).astype(dtype)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, of pixels of shape (height, width, channels)."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def only(content, **options) -> np.ndarray:
    (image,) = read(content, 160, **options)
    return image.pixels


@pytest.mark.parametrize("bands", [2, 4, 5, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_many_bands_is_read_exactly(tmp_path, bands, dtype, planar, compression):
    pixels = noise(bands, 9, 12, top=200, dtype=dtype)
    written = pixels if planar == "separate" else pixels.transpose(1, 2, 0)
    how = {"photometric": "minisblack", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(tmp_path / "x.tif", written, **how)
    got = only(tmp_path / "x.tif")
    assert got.dtype == dtype and np.array_equal(got, pixels)
    assert np.array_equal(only((tmp_path / "x.tif").read_bytes()), pixels)


def test_colours_of_16_bits_and_floats_keep_all_bits(tmp_path):
    pixels = noise(6, 7, 3)
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb")
    assert np.array_equal(only(tmp_path / "x.tif"), pixels.transpose(2, 0, 1))
    assert np.array_equal(only(png16(pixels)), pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "y.tif", pixels / np.float32(4096), photometric="rgb")
    assert np.array_equal(only(tmp_path / "y.tif"), pixels.transpose(2, 0, 1) / np.float32(4096))


def test_signed_bytes_are_no_grey_levels_of_their_bits(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[-100, 0, 100]], np.int8))
    assert only(tmp_path / "x.tif").tolist() == [[[-100, 0, 100]]]


def test_opacity_is_blended_over_white_and_further_bands_are_kept(tmp_path):
    pixels = noise(5, 6, 4, top=65536)
    pixels[0, :, 3], pixels[1, :, 3] = 65535, 0
    got = only(png16(pixels))
    assert got.shape == (3, 5, 6)
    assert np.array_equal(got[:, 0], pixels[0, :, :3].T) and (got[:, 1] == 65535).all()
    for dtype in (np.uint8, np.uint16):
        given = pixels.astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", extrasamples=["unassalpha"])
        tifffile.imwrite(tmp_path / "b.tif", given, photometric="rgb", extrasamples=["unspecified"])
        assert only(tmp_path / "a.tif").shape == (3, 5, 6)
        assert np.array_equal(only(tmp_path / "b.tif"), given.transpose(2, 0, 1))


def test_pages_are_one_image_or_images_or_bands(tmp_path):
    for dtype in ("uint8", "uint16"):
        pages = noise(3, 8, 9, top=256, dtype=dtype)
        tifffile.imwrite(tmp_path / f"{dtype}.tif", pages, photometric="minisblack")
        (first,) = read(tmp_path / f"{dtype}.tif", 160)
        assert (
            np.array_equal(first.pixels, pages[:1])
            and "only the first of several pages is read" in first.notes[0]
        )
        images = read(tmp_path / f"{dtype}.tif", 160, "all")
        assert np.array_equal(np.concatenate([image.pixels for image in images]), pages)
        assert np.array_equal(only(tmp_path / f"{dtype}.tif", pages="bands"), pages)
    (tmp_path / "uint16.tif").unlink()
    data = open_data(tmp_path, pages="all")
    assert [os.path.basename(path) for path in data.paths] == [f"uint8.tif#{page}" for page in range(3)]
    assert open_data(tmp_path, pages="bands").channels == 3 and len(open_data(tmp_path)) == 1
    with pytest.raises(ValueError, match="pages must be one of first, all, bands, got some"):
        open_data(tmp_path, pages="some")


def test_overviews_are_no_pages(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(noise(32, 32), subfiletype=0)
        file.write(noise(16, 16), subfiletype=1)
    (image,) = read(tmp_path / "x.tif", 160, "all")
    assert image.pixels.shape == (1, 32, 32) and not image.notes


def test_a_tiff_that_is_turned_is_shown_upright(tmp_path):
    pixels = noise(4, 6)
    turned = {2: pixels[:, ::-1], 3: np.rot90(pixels, 2), 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    for code, expected in turned.items():
        tifffile.imwrite(tmp_path / "x.tif", pixels, extratags=[(274, "H", 1, code, True)])
        assert np.array_equal(only(tmp_path / "x.tif")[0], expected), code


def test_pixels_that_are_no_data_take_the_lowest_value(tmp_path):
    pixels = noise(4, 6, dtype="float32")
    empty = np.where(np.arange(6) < 2, np.float32(-9999), pixels)
    tifffile.imwrite(tmp_path / "x.tif", empty, extratags=[(42113, "s", 0, "-9999", True)])
    assert only(tmp_path / "x.tif").min() == pixels[:, 2:].min()


@pytest.mark.parametrize("write", ["npy", "npz", "pt"])
@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), (3, 9, 8), (5, 9, 8), (9, 8, 5)])
def test_an_array_is_one_image(tmp_path, write, shape):
    pixels = noise(*shape)
    for number in range(3):
        if write == "pt":
            torch.save(torch.from_numpy(pixels.astype(np.int32)), tmp_path / f"{number}.pt")
        else:
            {"npy": np.save, "npz": np.savez}[write](tmp_path / f"{number}.{write}", pixels)
    data = open_data(tmp_path)
    expected = (
        pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1) if shape[2] in (3, 5) else pixels
    )
    assert len(data) == 3 and data.levels == {"integers": [[0.0, 4095.0]]}
    mapped = np.rint(expected * (255 / 4095)).astype(np.uint8)
    assert np.array_equal(data.batch(torch.tensor([1]))["image"][0].numpy(), mapped)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("x.npy", lambda path: np.save(path, np.zeros((2, 3, 4, 3))), "must have axes height, width"),
        ("x.npy", lambda path: np.save(path, np.array([[Trap()]])), "allow_pickle=False"),
        (
            "x.npz",
            lambda path: np.savez(path, a=np.zeros((4, 4)), b=np.zeros((4, 4))),
            "image or arr_0, got a, b",
        ),
        ("x.pt", lambda path: torch.save(Trap(), path), "[Ww]eights"),
        ("x.pt", lambda path: torch.save([1], path), "must hold one tensor, got list"),
        ("x.npy", lambda path: np.save(path, np.zeros((4, 4), complex)), "must be real numbers"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=reason):
        read(tmp_path / name, 160)


def test_an_array_that_claims_more_than_its_file_holds_takes_no_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((9, 8)))
    content = (tmp_path / "x.npy").read_bytes().replace(b"(9, 8), }", b"(9999999, 9999999), }", 1)
    with pytest.raises(ValueError, match=r"\(9999999, 9999999\) cannot be in|header"):
        read(content, 160)


def test_shrinking_many_bands_averages_and_never_overshoots():
    board = (np.indices((400, 400)).sum(0) % 2 * 4000).astype(np.uint16)
    board = np.stack([board] * 5 + [np.full_like(board, 77)])
    stream = BytesIO()
    np.save(stream, board)
    (image,) = read(stream.getvalue(), 50)
    assert image.pixels.shape == (6, 50, 50) and (image.pixels[5] == 77).all()
    assert np.abs(image.pixels[:5, 2:-2, 2:-2].astype(int) - 2000).max() <= 20


def test_other_numbers_of_bands_than_the_first_image_has_are_left_out(tmp_path):
    for number in range(20):
        bands = 13 if number == 7 else 4
        how = {"photometric": "minisblack", "planarconfig": "separate"}
        tifffile.imwrite(tmp_path / f"{number:02}.tif", noise(bands, 8, 8, top=256, dtype="uint8"), **how)
    data = open_data(tmp_path)
    assert data.channels == 4 and len(data) == 19
    assert [skip.reason for skip in data.skipped] == ["13 channels, where 00.tif has 4"]
    with pytest.raises(ValueError, match=r"channels of .* must be 4, as its images have, got 3"):
        open_data(tmp_path, channels=3)


def test_texts_and_profiles_of_any_size_do_not_cost_the_image(tmp_path):
    pixels = noise(8, 8, 3, top=256, dtype="uint8")
    about = PngImagePlugin.PngInfo()
    about.add_text("workflow", "node " * 400_000, zip=True)
    late = Image.fromarray(pixels)
    late.save(tmp_path / "text.png", pnginfo=about)
    late.save(tmp_path / "profile.png", icc_profile=bytes(2_000_000))
    whole = (tmp_path / "text.png").read_bytes()
    broken = chunk(b"tEXt", b"key\0words")[:-1] + b"?"
    (tmp_path / "damaged text.png").write_bytes(whole[:33] + broken + whole[33:])
    (tmp_path / "deep.png").write_bytes(png16(pixels.astype(np.uint16) * 257))
    for path in tmp_path.iterdir():
        assert np.array_equal(decode(path, 160), pixels.transpose(2, 0, 1)), path.name


def test_files_of_any_name_are_images_by_how_they_begin(tmp_path):
    image = Image.fromarray(noise(8, 8, top=256, dtype="uint8"))
    for name, kind in (
        ("plain", "JPEG"),
        ("a.001", "PNG"),
        ("b.dat", "TIFF"),
        ("c.jpg!d", "WEBP"),
        ("d.x", "BMP"),
    ):
        image.save(tmp_path / name, kind)
    (tmp_path / "notes").write_text("words")
    image.save(tmp_path / "picture.txt", "PNG")
    data = open_data(tmp_path)
    assert sorted(map(os.path.basename, data.paths)) == ["a.001", "b.dat", "c.jpg!d", "d.x", "plain"]
    assert {os.path.basename(skip.path) for skip in data.skipped} == {"notes", "picture.txt"}


def test_long_images_are_said_to_be_cut(tmp_path, caplog):
    Image.fromarray(noise(2, 100, top=256, dtype="uint8")).save(tmp_path / "x.png")
    open_data(tmp_path)
    assert "1 of 1 images: longer than 4:1, cropped to the middle" in caplog.text


def test_pages_have_the_label_of_their_file_and_stay_together(tmp_path):
    for name in "abcd":
        tifffile.imwrite(
            tmp_path / f"{name}.tif", noise(2, 8, 9, top=256, dtype="uint8"), photometric="minisblack"
        )
    (tmp_path / "labels.csv").write_text("file,label\na.tif,x\nb.tif,y\nc.tif,x\nd.tif,y\n")
    data = open_data(tmp_path, pages="all")
    assert data.classes == ["x", "y"] and data.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and data.group_unit == "files"
    train, test = open_splits(tmp_path, pages="all")  # pages of one file are not independent
    assert not {*train.groups.tolist()} & {*test.groups.tolist()} and test.labels.tolist() == [0, 0, 1, 1]
    assert open_data(tmp_path, pages="all", group="none").groups is None
    assert open_data(tmp_path).groups is None
