"""Pixels of more than 8 bits become 8 bits by one range for all images of a data set."""

import logging

import numpy as np
import pytest
import tifffile
import torch

from unlabeled.data import open_data, open_splits
from unlabeled.data.image.levels import Ranges, described, finite, parsed, storable, to_uint8

ROWS, COLUMNS = np.mgrid[:64, :64]
RAMP = (ROWS + COLUMNS) / 126
"""0..1 in 127 steps."""


def chosen(*images: np.ndarray) -> dict[str, list[list[float]]]:
    ranges = Ranges()
    for image in images:
        ranges.add(storable(image)[None] if image.ndim == 2 else storable(image))
    return ranges.choose()


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        ((RAMP * 4095).astype(np.uint16), "integers", [0, 4095]),
        ((RAMP * 4000).astype(np.int32), "integers", [0, 4095]),
        ((RAMP * 65535).astype(np.uint16), "integers", [0, 65535]),
        ((RAMP * 255).astype(np.int64), "integers", [0, 255]),
        ((RAMP * 1000).astype(np.uint16), "integers", [0, 1023]),
        ((RAMP * 4000 - 2000).astype(np.int16), "integers", [-2000, 2000]),
        ((RAMP * 2000 + 32768).astype(np.uint16), "integers", [32768, 34768]),
        (RAMP, "floats", [0, 1]),
        (RAMP * 255, "floats", [0, 255]),
        (RAMP * 1.5, "floats", [0, 1.5]),
        (RAMP * 2 - 1, "floats", [-1, 1]),
        (RAMP / 100, "floats", [0, 0.01]),
        (np.full((8, 8), 0.25), "floats", [0, 1]),
        (np.full((8, 8), 1000, np.uint16), "integers", [0, 65535]),
    ],
)
def test_the_range_is_the_first_usual_one_that_leaves_levels_enough(image, kind, expected):
    ((low, high),) = chosen(image)[kind]
    assert [low, high] == pytest.approx(expected, rel=1e-6)


def test_whatever_the_values_are_at_least_64_levels_are_left():
    generator = np.random.default_rng(0)
    for _ in range(100):
        low, span = generator.uniform(-1e4, 1e4), 10 ** generator.uniform(0, 6)
        for image in (low + RAMP * span, np.rint(low + RAMP * (span + 200)).astype(np.int64)):
            pixels = storable(image)[None]
            mapped, beyond = to_uint8(pixels, chosen(image))
            assert beyond == 0 and len(np.unique(mapped)) >= 32 and np.ptp(mapped) >= 63
            assert (np.diff(mapped[0].astype(int), axis=1) >= 0).all(), "brighter must not become darker"


def test_few_outliers_do_not_take_the_levels_of_all_others():
    hot = (RAMP * 4095).astype(np.uint16)
    hot[3, 3] = 65535
    mapped, beyond = to_uint8(storable(hot)[None], chosen(hot))
    assert beyond == 1 and len(np.unique(mapped)) > 90 and mapped[0, 3, 3] == 255


def test_the_range_is_that_of_all_images_together():
    dark, bright = (RAMP * 900).astype(np.uint16), (RAMP * 4000).astype(np.uint16)
    assert chosen(dark, bright) == chosen(bright, dark) == {"integers": [[0.0, 4095.0]]}
    assert to_uint8(dark[None], chosen(dark, bright))[0].max() == round(900 * 255 / 4095)


def test_more_than_three_bands_have_a_range_each_and_colours_one_together():
    bands = np.stack([(RAMP * top).astype(np.uint16) for top in (4000, 900, 60000, 200)])
    assert chosen(bands) == {"integers": [[0, 4095], [0, 1023], [0, 65535], [0, 255]]}
    assert chosen(bands[:3]) == {"integers": [[0, 65535]]}
    assert [band.max() for band in to_uint8(bands, chosen(bands))[0]] == [249, 224, 233, 200]


def test_mapping_is_linear_rounded_and_clipped():
    pixels = np.array([[[-5, 0, 8, 9, 2040, 4095, 5000]]], np.int16)
    mapped, beyond = to_uint8(pixels, {"integers": [[0.0, 4095.0]]})
    assert mapped.tolist() == [[[0, 0, 0, 1, 127, 255, 255]]] and beyond == 2


def test_what_is_not_finite_takes_the_end_of_its_image():
    pixels, replaced = finite(np.array([np.nan, 2, np.inf, -np.inf, 7], np.float32))
    assert replaced and pixels.tolist() == [2, 2, 7, 2, 7]
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        finite(np.full(3, np.nan, np.float32))


@pytest.mark.parametrize(
    "levels", ["0", "5,5", "9,1", "a,b", "0,inf", (1,), {"shades": [[0, 1]]}, {"floats": []}]
)
def test_bad_ranges_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be LOW,HIGH with LOW below HIGH"):
        parsed(levels)
    with pytest.raises(ValueError, match="levels must be"):
        open_data(RAMP[None], levels=levels)


def test_ranges_are_written_in_words():
    assert described({"integers": [[0, 4095]]}) == "integers in 0..4095"
    words = described({"floats": [[0, 1], [0, 2], [0, 3], [0, 4]]})
    assert words == "floats in 0..1, 0..2, 0..3 and 1 more, one range for each of 4 bands"


def folder(root, tops, dtype=np.uint16, bands=1):
    for split, top in tops.items():
        for number in range(4):
            path = root / split / f"{'ab'[number % 2]}" / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = (
                np.stack([(RAMP * top).astype(dtype)] * bands) if bands > 1 else (RAMP * top).astype(dtype)
            )
            tifffile.imwrite(
                path, image, photometric="minisblack", planarconfig="separate" if bands > 1 else None
            )
    return root


def test_a_folder_of_12_bits_keeps_its_levels_and_says_by_which_rule(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "unlabeled.data"):
        data = open_data(folder(tmp_path / "twelve", {"": 4095}))
    assert data.levels == {"integers": [[0.0, 4095.0]]} and len(data.pixels.unique()) == 127
    expected = torch.from_numpy(np.rint((RAMP * 4095).astype(np.uint16) * (255 / 4095)).astype(np.uint8))
    assert torch.equal(data.batch(torch.tensor([2]))["image"][0, 0], expected)
    assert "integers in 0..4095 are mapped to 0..255, the same in all images" in caplog.text


def test_the_test_part_is_mapped_by_the_range_of_the_training_part(tmp_path):
    train, test = open_splits(folder(tmp_path, {"train": 4095, "test": 1000}))
    assert train.levels == test.levels == {"integers": [[0.0, 4095.0]]}
    assert test.pixels.max() == round(1000 * 255 / 4095)
    assert open_data(tmp_path, split="test").levels == {"integers": [[0.0, 1023.0]]}
    np.savez(
        tmp_path / "x.npz",
        **{f"{split}_images": np.stack([RAMP * top] * 4) for split, top in (("train", 20), ("test", 5))},
    )
    train, test = open_splits(tmp_path / "x.npz")
    assert train.levels == test.levels and test.pixels.max() == 64


def test_a_range_can_be_given_and_what_lies_beyond_is_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "unlabeled.data"):
        data = open_data(folder(tmp_path / "given", {"": 4000}), levels="0,2000")
    share = (RAMP * 4000).astype(np.uint16) > 2000
    assert data.levels == {"integers": [[0.0, 2000.0]]} and data.pixels.max() == 255
    assert f"{share.mean():.2%} of the values lie beyond and are clipped" in caplog.text


def test_eight_bits_are_left_alone_beside_others(tmp_path):
    for number, image in enumerate([(RAMP * 200).astype(np.uint8), (RAMP * 4095).astype(np.uint16), RAMP]):
        tifffile.imwrite(tmp_path / f"{number}.tif", image)
    data = open_data(tmp_path)
    assert data.levels == {"integers": [[0.0, 4095.0]], "floats": [[0.0, 1.0]]}
    first = data.batch(torch.tensor([0]))["image"][0, 0]
    assert torch.equal(first, torch.from_numpy((RAMP * 200).astype(np.uint8)))


@pytest.mark.parametrize("form", ["array", "tensor", "npy"])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64", "float32", "bool", ">u2"])
def test_arrays_of_any_numbers_are_mapped_alike(tmp_path, form, dtype):
    top = 1 if dtype in ("float32", "bool") else 4095
    array = np.stack([RAMP, RAMP / 2])[:, None].repeat(5, 1) * top
    array = (array > 0.5 if dtype == "bool" else array).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    native = array.astype(np.dtype(dtype).newbyteorder("="))
    source = {"array": array, "tensor": torch.from_numpy(native), "npy": tmp_path / "x.npy"}[form]
    data = open_data(source)
    expected = np.rint(array.astype(np.float64) * (255 / top)).astype(np.uint8)
    assert data.channels == 5 and np.array_equal(data.batch(torch.arange(2))["image"].numpy(), expected)
