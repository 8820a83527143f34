"""Prosody: pitch of known tones and of slow correlations, silence, noise, and what padding must not change."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabeled.parts.prosody import FLOOR, Prosody, lags, pitch

RATES = [8_000, 16_000]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def seconds(rate: int, length: float = 0.2) -> Tensor:
    return torch.arange(round(rate * length)) / rate


def described(waveform: Tensor, rate: int = 8_000) -> Tensor:
    return Prosody(rate, rate // 100)(waveform[None], torch.tensor([len(waveform)]))[0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hertz", [65.0, 110.0, 173.3, 250.0, 333.0, 395.0])
def test_pitch_of_pure_tones_and_of_their_overtones(hertz: float, rate: int) -> None:
    angle = 2 * math.pi * hertz * seconds(rate)
    vowel = sum((torch.sin(k * angle + k) / k for k in range(1, 8)), torch.zeros_like(angle))
    missing = torch.sin(2 * angle + 1) + torch.sin(3 * angle) + torch.sin(4 * angle + 2)
    for sound in (torch.sin(angle), 1e-2 * vowel, missing):
        values = described(sound, rate)
        np.testing.assert_allclose(math.sqrt(24_000) * 2 ** values[:, 0].numpy(), hertz, rtol=0.01)
        assert (values[:, 1] > 0.95).all()


def test_energy_and_crossings_of_a_pure_tone() -> None:
    values = described(0.5 * torch.sin(2 * math.pi * 300 * seconds(8_000)) + 0.2)
    np.testing.assert_allclose(values[:, 2], math.log(0.125), atol=0.05)
    np.testing.assert_allclose(values[:, 3], 2 * 300 / 8_000, atol=0.005)


def test_silence_and_a_constant_have_no_pitch_no_voice_and_the_least_energy() -> None:
    for level in (0.0, 0.7):
        values = described(torch.full((1_600,), level))
        torch.testing.assert_close(
            values[:, 2], torch.full((len(values),), math.log(FLOOR)), atol=1e-3, rtol=0
        )
        assert not values[:, [0, 3]].any() and (values[:, 1] < 0.01).all()


def test_noise_has_no_voice_at_any_level() -> None:
    for level in (1e-3, 1.0, 100.0):
        values = described(level * torch.randn(8_000))
        assert (values[:, 1] < 0.5).float().mean() > 0.98
        assert values[:, 3].mean().item() == pytest.approx(0.5, abs=0.02)


def test_tones_outside_the_range_are_not_taken_for_their_own_pitch() -> None:
    low = described(torch.sin(2 * math.pi * 40 * seconds(8_000, 0.5)))
    assert (low[:, 1] < 0.5).all()
    high = described(torch.sin(2 * math.pi * 700 * seconds(8_000)))
    np.testing.assert_allclose(math.sqrt(24_000) * 2 ** high[:, 0].numpy(), 350, rtol=0.01)  # an octave below


@pytest.mark.parametrize("rate", RATES)
def test_correlations_equal_a_slow_loop(rate: int) -> None:
    shortest, longest = lags(rate)
    windows = torch.randn(5, 2 * longest + 1).cumsum(1)
    windows = windows - windows.mean(1, keepdim=True)
    hertz, voicing = pitch(windows, rate)
    for window, found, strength in zip(windows.double().numpy(), hertz, voicing):
        values = np.zeros(longest + 2)
        for lag in range(shortest - 1, longest + 2):
            first, second = window[:longest], window[lag : lag + longest]
            both = np.stack([first - first.mean(), second - second.mean()])
            squares = both @ both.T
            least = 1e-4 * window @ window + longest * FLOOR
            values[lag] = squares[0, 1] / (math.sqrt(squares[0, 0] * squares[1, 1]) + least)
        peaks = [
            lag
            for lag in range(shortest, longest + 1)
            if values[lag] >= max(values[lag - 1], values[lag + 1]) and values[lag] > 0
        ]
        best = max((values[lag] for lag in peaks), default=0.0)
        assert strength.item() == pytest.approx(best, abs=1e-4)
        if peaks:
            lag = next(lag for lag in peaks if values[lag] >= 0.85 * best)
            a, b, _ = np.polyfit([-1, 0, 1], values[lag - 1 : lag + 2], 2)
            assert found.item() == pytest.approx(rate / (lag - b / (2 * a)), rel=1e-2)


def test_pitch_goes_on_lines_where_there_is_no_voice() -> None:
    sound = torch.cat(
        [torch.sin(2 * math.pi * f * seconds(8_000)) if f else torch.zeros(1_600) for f in (100, 0, 200, 0)]
    )
    values = described(sound)
    octaves, voiced = values[:, 0], values[:, 1] > 0.5
    known = voiced.nonzero()[:, 0].numpy()
    expected = np.interp(np.arange(len(values)), known, octaves[known])
    np.testing.assert_allclose(octaves, expected, atol=1e-5)
    np.testing.assert_allclose(
        octaves[voiced].diff().abs().sum(), 1, atol=0.02
    )  # one step, from 100 to 200 Hz
    assert (~voiced[20:38]).all() and (octaves[20:38].diff() > 0.04).all(), "a line between them"
    assert octaves[-1].item() == pytest.approx(octaves[voiced][-1].item())


def test_padding_changes_no_frame_of_a_sound() -> None:
    module, length = Prosody(8_000, 80), torch.tensor([4_000, 2_500])
    waveform = torch.sin(2 * math.pi * 150 * seconds(8_000, 0.5)) * torch.linspace(
        0, 1, 4_000
    ) + 0.3 * torch.randn(2, 4_000)
    together = module(waveform, length)
    for row, samples in enumerate(length.tolist()):
        alone = module(waveform[[row], :samples], length[[row]])[0]
        assert len(alone) == 1 + (samples - module.window) // 80
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_loudness_changes_energy_alone() -> None:
    sound = torch.sin(2 * math.pi * 150 * seconds(8_000)) + 0.3 * torch.randn(1_600)
    quiet, loud = described(0.1 * sound), described(10 * sound)
    torch.testing.assert_close(quiet[:, [0, 1, 3]], loud[:, [0, 1, 3]], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        loud[:, 2] - quiet[:, 2], torch.full((len(loud),), math.log(1e4)), atol=1e-3, rtol=0
    )
