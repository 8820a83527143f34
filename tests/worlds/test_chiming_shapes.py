"""Chiming shapes: pure in (n, seed), the class alone in common, masks that fit the pixels."""

import pytest
import torch

from unlabeled.worlds.chiming_shapes import CLASSES, PITCHES, SAMPLE_RATE, make


def test_the_same_seed_makes_the_same_pairs_and_another_one_others():
    first, again, other = make(5, 3), make(5, 3), make(5, 4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image"], other["image"])
    assert not torch.equal(first["waveform"], other["waveform"])


def test_shapes_types_and_ranges():
    made = make(6, 0, distractor=True, image_size=32)
    assert made["image"].shape == (6, 3, 32, 32) and made["image"].dtype == torch.uint8
    assert made["waveform"].shape == (6, SAMPLE_RATE) and made["waveform"].dtype == torch.float32
    assert made["masks"].shape == (6, 32, 32) and made["masks"].unique().tolist() == [0, 1, 2]
    assert made["waveform"].abs().max() <= 1 and made["waveform"].abs().amax(1).min() > 0.15
    assert torch.equal(made["shape"], made["labels"])
    assert (made["silent_shape"] != made["shape"]).all()
    assert make(4, 0)["silent_shape"].eq(-1).all() and not (make(4, 0)["masks"] == 2).any()


def test_the_mask_is_where_the_ink_is_and_around_the_noted_centre():
    made = make(40, 1, distractor=True)
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    for image, mask, x, y in zip(made["image"], made["masks"], made["x"], made["y"]):
        inside = mask == 1
        assert 60 < inside.sum() < 600
        assert abs(columns[inside].mean() / 64 - x) < 0.03 and abs(rows[inside].mean() / 64 - y) < 0.03
        # Ink is one colour, the ground is noisy.
        assert image[:, inside].float().std(1).max() == 0
        assert image[:, mask == 0].float().std(1).max() > 4


def test_the_pitch_is_the_strongest_frequency_of_a_disc_and_within_its_class():
    made = make(60, 2)
    for label, (low, high) in enumerate(PITCHES):
        pitch = made["pitch_hz"][made["labels"] == label]
        assert pitch.min() >= low and pitch.max() <= high
    discs = made["labels"] == 0
    spectrum = torch.fft.rfft(made["waveform"][discs]).abs()
    assert (spectrum.argmax(1) - made["pitch_hz"][discs]).abs().max() < 8


def test_nothing_but_the_class_is_common_to_picture_and_sound():
    made = make(1000, 5, image_size=16)
    loudness = made["waveform"].abs().amax(1)
    for factor in ("hue", "radius", "x", "y"):
        for heard in (loudness, made["waveform"].square().mean(1)):
            assert abs(torch.corrcoef(torch.stack([made[factor], heard]))[0, 1]) < 0.12
        for label in range(len(CLASSES)):
            rows = made["labels"] == label
            pair = torch.stack([made[factor][rows], made["pitch_hz"][rows]])
            assert abs(torch.corrcoef(pair)[0, 1]) < 0.2
    assert made["labels"].bincount().min() > 200


def test_the_silent_shape_looks_like_the_sounding_one():
    """Which of the two sounds cannot be told from the picture: size, place and drawing order are no hint."""
    made = make(800, 6, distractor=True, image_size=32)
    areas = [(made["masks"] == number).sum((1, 2)).float() for number in (1, 2)]
    assert abs(areas[0].mean() / areas[1].mean() - 1) < 0.07
    centre = (made["masks"][:, 16, 16] == 1).float().mean()
    assert 0.08 < centre < 0.16


@pytest.mark.parametrize("name, value", [("n", 0), ("n", 1.5), ("image_size", 8), ("image_size", 16.5)])
def test_bad_values_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        make(**({"n": 1, "seed": 0} | {name: value}))
