"""Resampling: a sine stays that sine, what cannot be held vanishes, and SciPy agrees."""

import math

import numpy as np
import pytest
import torch

from unlabeled.parts.resample import resample

RATES = [
    (16_000, 8_000),
    (8_000, 16_000),
    (44_100, 16_000),
    (22_050, 8_000),
    (11_127, 16_000),
    (48_000, 44_100),
]


def sine(hertz: float, rate: int, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(
        2 * math.pi * hertz * torch.arange(round(rate * seconds), dtype=torch.float64) / rate + 0.3
    )


def middle(signal: torch.Tensor, share: float = 0.2) -> torch.Tensor:
    edge = round(share * signal.shape[-1])
    return signal[..., edge:-edge]


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.85])
def test_a_sine_stays_that_sine(old, new, share):
    hertz = share * min(old, new) / 2
    found, expected = resample(sine(hertz, old), old, new), sine(hertz, new)
    length = min(len(found), len(expected))
    assert (middle(found[:length]) - middle(expected[:length])).abs().max() < 2e-4


@pytest.mark.parametrize(("old", "new"), [pair for pair in RATES if pair[0] > pair[1]])
def test_what_the_new_rate_cannot_hold_vanishes(old, new):
    hertz = min(1.1 * new / 2, 0.99 * old / 2)
    assert middle(resample(sine(hertz, old), old, new)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("old", "new"), [(16_000, 8_000), (8_000, 16_000), (44_100, 16_000), (22_050, 8_000)]
)
def test_agrees_with_scipy_on_what_both_rates_hold(old, new):
    signal = pytest.importorskip("scipy.signal")
    waveform = sum(
        (sine(share * min(old, new) / 2, old) for share in (0.05, 0.21, 0.4, 0.6)), torch.zeros(())
    )
    divisor = math.gcd(old, new)
    theirs = torch.from_numpy(
        np.asarray(signal.resample_poly(waveform.numpy(), new // divisor, old // divisor))
    )
    ours = resample(waveform, old, new)
    assert ours.shape == theirs.shape
    assert (middle(ours) - middle(theirs)).abs().max() < 5e-3


@pytest.mark.parametrize("samples", [0, 1, 7, 100])
@pytest.mark.parametrize(("old", "new"), RATES)
def test_length_is_that_of_the_same_seconds_rounded_up(old, new, samples):
    found = resample(torch.ones(3, samples), old, new)
    assert found.shape == (3, math.ceil(samples * new / old)) and found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_constant_stays_constant(old, new):
    found = middle(resample(torch.full((old // 4,), 0.7), old, new))
    torch.testing.assert_close(found, torch.full_like(found, 0.7))


def test_same_rate_changes_no_bit_and_rows_are_apart():
    waveforms = torch.randn(2, 3, 500)
    assert torch.equal(resample(waveforms, 8_000, 8_000), waveforms)
    together = resample(waveforms, 8_000, 11_025)
    torch.testing.assert_close(together[1, 2], resample(waveforms[1, 2], 8_000, 11_025))


def test_blocks_do_not_show(monkeypatch):
    waveform = torch.randn(1, 3_000)
    whole = resample(waveform, 16_000, 11_025)
    monkeypatch.setattr("unlabeled.parts.resample.BLOCK", 10_000)
    torch.testing.assert_close(resample(waveform, 16_000, 11_025), whole)


def test_there_and_back_is_the_sound_again():
    waveform = sine(700, 8_000) + sine(2_900, 8_000)
    back = resample(resample(waveform, 8_000, 22_050), 22_050, 8_000)[: len(waveform)]
    assert (middle(back) - middle(waveform)).abs().max() < 1e-3


@pytest.mark.parametrize("value", [0, -8_000, 8_000.5, math.nan])
def test_rates_that_are_no_rates_are_refused(value):
    with pytest.raises(ValueError, match=r"^new_rate must"):
        resample(torch.zeros(1, 10), 8_000, value)
