"""Images of every kind become the uint8 arrays that they should."""

import os
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from unlabeled.data import notes
from unlabeled.data.arrays import parsed
from unlabeled.data.image import decode as decode_module
from unlabeled.data.image.decode import decode, decode_all
from unlabeled.data.limits import LARGEST
from unlabeled.data.samples import Item, Temporary

RED = (254, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_grey_stays_one_channel_and_exact():
    pixels = noise(5, 7)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), 160), pixels[None])


def test_colour_is_exact_with_channels_first():
    pixels = noise(5, 7, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), 160), pixels.transpose(2, 0, 1))


def test_transparency_is_blended_over_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [(254, 0, 0, 255), (254, 0, 0, 0), (0, 0, 0, 128)]
    got = decode(encoded(Image.fromarray(pixels)), 160)
    assert got[:, 0, 0].tolist() == [254, 0, 0]
    assert got[:, 0, 1].tolist() == [255, 255, 255]
    assert np.abs(got[:, 0, 2].astype(int) - 127).max() <= 1


def test_grey_with_transparency_stays_grey():
    pixels = np.array([[[10, 255], [10, 0]]], np.uint8)
    assert decode(encoded(Image.fromarray(pixels)), 160).tolist() == [[[10, 255]]]


def test_palette_gives_its_colours_and_a_grey_palette_gives_grey():
    pixels = np.array([[RED, (0, 9, 0)]], np.uint8)
    coloured = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(decode(encoded(coloured), 160), pixels.transpose(2, 0, 1))
    grey = np.array([[[7] * 3, [200] * 3]], np.uint8)
    palette = Image.fromarray(grey).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(encoded(palette), 160).tolist() == [[[7, 200]]]


def test_transparent_palette_is_blended():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 0, 9])
    image.putpixel((1, 0), 1)
    got = decode(encoded(image, transparency=1), 160)
    assert got[:, 0].T.tolist() == [[*RED], [255, 255, 255]]


def test_sixteen_bits_are_scaled_by_their_full_range():
    levels = np.arange(256, dtype=np.uint16) * 257
    image = Image.fromarray(levels.reshape(16, 16))
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode(encoded(image, kind), 160), np.arange(256).reshape(1, 16, 16))


def test_what_becomes_of_stills_of_sixteen_bits_is_said_once(caplog):
    notes.note.cache_clear()
    twelve = encoded(Image.fromarray(np.full((4, 4), 4095, np.uint16)))
    assert {int(decode(twelve, 160).max()) for _ in range(3)} == {16}
    said = [line for line in caplog.messages if "0..65535 become 0..255" in line]
    assert len(said) == 1 and "whatever is in use" in said[0]
    notes.note.cache_clear()
    decode(encoded(Image.new("RGB", (4, 4))), 160)
    assert said == [line for line in caplog.messages if "become 0..255" in line]


def test_float_images_are_read_in_either_range_and_refused_beyond():
    unit, levels = np.array([[0, 0.2, 1]], np.float32), np.array([[0, 51, 255]], np.float32)
    for values in (unit, levels):
        assert decode(encoded(Image.fromarray(values), "TIFF"), 160).tolist() == [[[0, 51, 255]]]
    with pytest.raises(ValueError, match=r"grey levels must be in 0\.\.255"):
        decode(encoded(Image.fromarray(levels * 2), "TIFF"), 160)


def test_cmyk_becomes_rgb():
    got = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), 160)
    assert np.abs(got[:, 4, 4].astype(int) - [255, 0, 0]).max() < 6


def test_one_bit_becomes_black_and_white():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert decode(encoded(image), 160).tolist() == [[[255, 0]]]


def test_exif_rotation_is_applied():
    image = Image.fromarray(noise(4, 6, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    got = decode(encoded(image, exif=exif), 160)
    assert np.array_equal(got, np.asarray(image.rotate(-90, expand=True)).transpose(2, 0, 1))


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, (0, 0, 254))]
    got = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 160)
    assert got[:, 0, 0].tolist() == [*RED]


def test_one_pixel_is_an_image():
    assert decode(encoded(Image.new("L", (1, 1), 3)), 160).tolist() == [[[3]]]


def test_channels_can_be_asked_for():
    grey, red = encoded(Image.new("L", (2, 2), 9)), encoded(Image.new("RGB", (2, 2), (255, 0, 0)))
    assert (decode(grey, 160, 3) == 9).all() and decode(grey, 160, 3).shape == (3, 2, 2)
    assert decode(red, 160, 1).tolist() == [[[76, 76], [76, 76]]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_large_images_shrink_with_true_proportions(kind):
    image = Image.new("RGB", (600, 400), RED)
    got = decode(encoded(image, kind), 100)
    assert got.shape == (3, 100, 150)
    assert np.abs(got.astype(int) - np.array(RED)[:, None, None]).max() <= 2


@pytest.mark.parametrize("size", [(1024, 1024), (640, 640)])
def test_shrinking_averages_over_areas(size):
    """Picking pixels of a fine checkerboard would give black or white."""
    board = (np.indices(size).sum(0) % 2 * 255).astype(np.uint8)
    got = decode(encoded(Image.fromarray(board)), 64)
    assert np.abs(got.astype(int) - 128)[:, 2:-2, 2:-2].max() <= 2


def test_shrinking_a_jpeg_in_its_decoder_equals_shrinking_afterwards():
    rows, columns = np.indices((512, 512))
    smooth = (127 + 60 * np.sin(rows / 40) + 60 * np.cos(columns / 30)).astype(np.uint8)
    file = encoded(Image.fromarray(smooth), "JPEG", quality=95)
    whole = Image.open(BytesIO(file)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.abs(decode(file, 64)[0].astype(int) - np.asarray(whole)).max() <= 3


@pytest.mark.parametrize("shape", [(301, 401, 3), (301, 401)])
def test_shrinking_is_bicubic_over_areas(shape):
    image = Image.fromarray(noise(*shape))
    expected = np.asarray(image.resize((133, 100), Image.Resampling.BICUBIC)).reshape(100, 133, -1)
    got = decode(encoded(image), 100).transpose(1, 2, 0).astype(int)
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_far_larger_images_shrink_in_place(channels):
    """Sides that blocks do not divide, and a slope on which a shift of two pixels shows."""
    rows, columns = np.indices((1003, 1777))
    image = Image.fromarray((255 * (rows / 1003 + columns / 1777) / 2).astype(np.uint8))
    expected = np.asarray(image.resize((113, 64), Image.Resampling.BOX))
    got = decode(encoded(image.convert("L" if channels == 1 else "RGB")), 64).astype(int)
    assert got.shape == (channels, 64, 113) and np.abs(got - expected).max() <= 1


def test_an_opened_image_is_left_as_it_is():
    image = Image.fromarray(noise(8, 6, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    before = image.copy()
    assert decode(image, 3, 1).shape == (1, 3, 4)
    assert image.getexif() == exif and np.array_equal(np.asarray(image), np.asarray(before))


def test_memory_that_lacks_while_shrinking_is_told_as_a_passing_reason(monkeypatch):
    def refuse(*arguments, **options):
        raise MemoryError("no memory")

    monkeypatch.setattr(decode_module.F, "interpolate", refuse)
    ((_, reason),) = decode_all([Item("x", None, encoded(Image.new("RGB", (9, 9))))], 4, 1)
    assert isinstance(reason, Temporary) and reason == "no memory"


def test_small_images_are_kept_and_long_ones_cut_to_their_middle():
    assert decode(encoded(Image.new("L", (30, 20))), 160).shape == (1, 20, 30)
    pixels = noise(4, 100, 3)
    middle = pixels[:, 42:58].transpose(2, 0, 1)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels)), 160), middle)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels[..., 0])), 160), middle[:1])
    assert decode(encoded(Image.new("L", (50, 3000))), 25).shape == (1, 100, 25)


def test_format_is_found_from_the_content(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4), RED), "BMP"))
    assert decode(path, 160)[:, 0, 0].tolist() == [*RED]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"plain words", "not an image"),
        (encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")[:900], "truncated"),
        (encoded(Image.fromarray(noise(64, 64, 3)))[:900], "truncated"),
        (encoded(Image.new("RGB", (4, 4)), "EPS"), "not an image"),
    ],
)
def test_broken_images_are_refused_with_the_reason(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode(content, 160)


def test_decompression_bombs_are_refused_before_decoding(monkeypatch):
    file = encoded(Image.new("L", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    decode(file, 160)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match=r"bomb: 64 x 64 pixels"),
    ):
        decode(file, 160)


def test_missing_files_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        decode(tmp_path / "gone.png", 160)


def test_huge_files_are_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    path.touch()
    os.truncate(path, LARGEST + 1)
    with pytest.raises(ValueError, match="larger than 512 MB"):
        decode(path, 160)


@pytest.mark.parametrize("workers", [1, 3])
def test_streams_keep_their_order_and_are_read_as_needed(workers):
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            broken = number % 10 == 3
            yield Item(str(number), None, b"" if broken else encoded(Image.new("L", (2, 2), number % 256)))

    stream = decode_all(items(), 160, workers)
    first = next(stream)
    assert len(read) < 500, "the whole stream was read before the first image came out"
    results = [first, *stream]
    assert [item.path for item, _ in results] == [str(number) for number in range(1000)]
    for number, (_, image) in enumerate(results):
        assert image == "empty file" if number % 10 == 3 else np.all(image.pixels == number % 256)


def test_a_header_that_fails_while_other_threads_parse_is_read_again() -> None:
    answers = iter([SystemError("AST constructor recursion depth mismatch"), 3])

    def read() -> int:
        answer = next(answers)
        if isinstance(answer, SystemError):
            raise answer
        return answer

    assert parsed(read) == 3
