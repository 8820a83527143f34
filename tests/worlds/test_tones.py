"""Tones: what is known of a sound is what one hears, and the rhythm is in the order alone."""

import math

import pytest
import torch

from unlabeled.evaluation import logistic
from unlabeled.parts import ragged
from unlabeled.parts.spectrogram import LogMel
from unlabeled.worlds import tones


def statistics(made: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean and deviation of log-mel bands over the frames of each sound."""
    spectrogram = LogMel(tones.SAMPLE_RATE, 40)
    bands, frames = spectrogram(made["waveform"]).mT, spectrogram.frames(made["length"])
    mean = ragged.mean(bands, frames)
    return torch.cat([mean, ragged.mean((bands - mean[:, None]).square(), frames).sqrt()], dim=1)


def test_sounds_are_within_range_and_silent_behind_their_end():
    made = tones.make(20, 0)
    waveform, length = made["waveform"], made["length"]
    assert waveform.dtype == torch.float32 and waveform.isfinite().all() and waveform.abs().max() <= 1
    behind = torch.arange(waveform.shape[1]) >= length[:, None]
    assert not waveform[behind].any() and waveform[~behind].abs().mean() > 0.01
    assert length.min() >= 0.6 * tones.SAMPLE_RATE and length.max() <= waveform.shape[1]


def test_same_seed_makes_the_same_and_another_one_others():
    first, again, other = tones.make(5, 0), tones.make(5, 0), tones.make(5, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["waveform"], other["waveform"])


def test_number_of_sounds_in_a_block_does_not_show(monkeypatch):
    whole = tones.make(7, 3)["waveform"]
    monkeypatch.setattr(tones, "BLOCK", 3)
    torch.testing.assert_close(tones.make(7, 3)["waveform"], whole)


def test_sum_of_sines_is_that():
    strength, turns = torch.rand(3, tones.OVERTONES), torch.rand(3, 1) * 40 * torch.linspace(0, 1, 200)
    number = torch.arange(1, tones.OVERTONES + 1)
    angles = 2 * math.pi * turns.double()[:, None] * number[:, None]
    expected = (strength.double()[:, :, None] * angles.sin()).sum(1)
    torch.testing.assert_close(tones._periodic(strength, turns).double(), expected, atol=5e-3, rtol=0)


def test_pitch_is_the_distance_of_the_overtones():
    made = tones.make(12, 0, noise=0.0)
    spectrum = torch.fft.rfft(made["waveform"], 2**15).abs().square()
    for row, semitone in enumerate(made["pitch"].tolist()):
        # The power spectrum repeats every fundamental: so its own spectrum, the autocorrelation, peaks at the period.
        period = torch.fft.irfft(spectrum[row])[: 2**14]
        low, high = tones.SAMPLE_RATE // 230, tones.SAMPLE_RATE // 100
        hertz = tones.SAMPLE_RATE / (low + int(period[low:high].argmax()))
        assert abs(12 * math.log2(hertz / 110) - semitone) < 0.8


def test_notes_start_where_the_rhythm_says():
    made = tones.make(12, 0, noise=0.0)
    lead = made["length"] / tones.SAMPLE_RATE - tones.BARS * 6 * made["tempo"]
    for row in range(12):
        gaps = tones.UNITS[made["rhythm"][row]].repeat(tones.BARS) * made["tempo"][row]
        onsets = lead[row] + gaps.cumsum(0) - gaps
        for onset in onsets.tolist()[1:]:
            start = round(onset * tones.SAMPLE_RATE)
            just, later = (
                made["waveform"][row, start + a : start + b].abs().max() for a, b in ((3, 6), (40, 120))
            )
            assert just < 0.5 * later, "it was silenced and rises again"


def test_rhythm_cannot_be_told_from_how_often_spectra_occur_but_pitch_can():
    train, test = tones.make(500, 0), tones.make(250, 1)
    first, second = statistics(train), statistics(test)
    found = {}
    for name in ("rhythm", "pitch"):
        classifier = logistic.fit(first, train[name], len(tones.CLASSES[name]))
        found[name] = (classifier(second).argmax(1) == test[name]).float().mean().item()
    assert found["rhythm"] < 1 / 6 + 0.1
    assert found["pitch"] > 0.9


def test_factors_are_independent():
    made = tones.make(400, 0)
    factors = torch.stack([made[name].float() for name in (*tones.LABELS, "tempo")])
    correlation = torch.corrcoef(factors) - torch.eye(5)
    assert correlation.abs().max() < 0.17


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", 1.5), ("noise", -1.0), ("noise", math.nan)])
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        tones.make(**{"n": 1, "seed": 0, name: value})
