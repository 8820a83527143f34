"""MFCC against a transform, a lifter and lines fitted by other means."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dct

from unlabeled.parts.mfcc import MFCC, deltas
from unlabeled.parts.spectrogram import LogMel


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_coefficients_are_the_liftered_cosine_transform_of_23_bands() -> None:
    waveform = torch.randn(2, 4_000) * 0.1
    values, frames = MFCC(16_000)(waveform, torch.tensor([4_000, 4_000]))
    bands = LogMel(16_000, 23)(waveform).mT.double().numpy()
    lifter = [1 + 11 * math.sin(math.pi * number / 22) for number in range(13)]
    expected: Any = dct(bands, type=2, norm="ortho", axis=2)
    assert values.shape == (2, 23, 39) and frames.tolist() == [23, 23]
    np.testing.assert_allclose(values[:, :, :13], expected[:, :, :13] * lifter, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(values[:, :, 13:26], deltas(values[:, :, :13], frames))
    torch.testing.assert_close(values[:, :, 26:], deltas(values[:, :, 13:26], frames))


def test_slopes_are_those_of_the_best_line_through_five_frames_and_ends_are_repeated() -> None:
    values, frames = torch.randn(2, 9, 3).double(), torch.tensor([9, 6])
    found = deltas(values, frames)
    for row, count in enumerate(frames.tolist()):
        padded = np.pad(values[row, :count].numpy(), ((2, 2), (0, 0)), mode="edge")
        for place in range(count):
            slope = np.polyfit(np.arange(5), padded[place : place + 5], 1)[0]
            np.testing.assert_allclose(found[row, place], slope, atol=1e-12)


def test_loudness_changes_the_first_coefficient_alone() -> None:
    waveform, length = torch.randn(1, 2_000) * 0.01, torch.tensor([2_000])
    quiet, loud = (MFCC(8_000)(gain * waveform, length)[0] for gain in (1, 20))
    shift = 2 * math.log(20) * math.sqrt(23)
    torch.testing.assert_close(loud[:, :, 0] - quiet[:, :, 0], torch.full((1, 23), shift))
    torch.testing.assert_close(loud[:, :, 1:], quiet[:, :, 1:], atol=2e-3, rtol=1e-4)


def test_padding_changes_no_frame_of_a_sound() -> None:
    waveform, length = torch.randn(2, 3_000), torch.tensor([3_000, 1_700])
    together, frames = MFCC(8_000)(waveform, length)
    for row, samples in enumerate(length.tolist()):
        alone, count = MFCC(8_000)(waveform[[row], :samples], length[[row]])
        assert count == frames[row] == alone.shape[1]
        torch.testing.assert_close(together[row, : alone.shape[1]], alone[0], atol=1e-4, rtol=1e-5)


def test_mixed_precision_changes_nothing() -> None:
    waveform, length = torch.randn(2, 2_000), torch.tensor([2_000, 900])
    expected = MFCC(8_000)(waveform, length)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MFCC(8_000)(waveform, length)[0], expected)
