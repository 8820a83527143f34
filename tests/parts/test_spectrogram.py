"""Log-mel spectrograms against transformers' NumPy twin, and what must not change them."""

import math

import numpy as np
import pytest
import torch

from unlabeled.parts.spectrogram import FLOOR, LogMel, hertz_to_mel, mel_filters, scale_bands


def noise(samples: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


@pytest.mark.parametrize(
    ("rate", "bins", "window"), [(16_000, 80, "povey"), (8_000, 40, "hamming"), (22_050, 64, "hann")]
)
def test_equals_the_numpy_implementation_of_transformers(rate, bins, window):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    ours = LogMel(rate, bins, window=window)
    waveform = noise(rate // 2, 2) * torch.linspace(0.01, 1, rate // 2)
    size = ours.fft_size
    filters = audio_utils.mel_filter_bank(
        size // 2 + 1, bins, 20.0, rate / 2, rate, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    rounded, exact = ours(waveform), ours.double()(waveform.double())
    torch.testing.assert_close(rounded.double(), exact, atol=1e-3, rtol=0)  # faint bands of float32
    for row, found in zip(waveform, exact, strict=True):
        theirs = audio_utils.spectrogram(
            row.numpy().astype(np.float64) * 2**15,
            audio_utils.window_function(ours.window, window, periodic=False),
            frame_length=ours.window,
            hop_length=ours.hop,
            fft_length=size,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=filters,
            log_mel="log",
            mel_floor=FLOOR,
            remove_dc_offset=True,
        )
        assert found.shape == theirs.shape == (bins, ours.frames(rate // 2))
        torch.testing.assert_close(found, torch.from_numpy(theirs).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 561, 16_000])
def test_frames_are_the_windows_that_fit_and_at_least_one(samples):
    spectrogram = LogMel()
    expected = max(1, 1 + math.floor((samples - 400) / 160))
    assert spectrogram.frames(samples) == expected == int(spectrogram.frames(torch.tensor(samples)))
    assert spectrogram(torch.zeros(2, samples)).shape == (2, 80, expected)


def test_each_frame_depends_on_its_window_alone():
    spectrogram, waveform = LogMel(8_000, 40), noise(1_000)
    longer = torch.cat([waveform, 100 + noise(321)], dim=1)
    torch.testing.assert_close(spectrogram(longer)[..., : spectrogram.frames(1_000)], spectrogram(waveform))
    torch.testing.assert_close(spectrogram(waveform[:, 80:]), spectrogram(waveform)[..., 1:])


def test_a_short_sound_is_the_same_alone_and_padded_in_a_batch():
    spectrogram, waveform = LogMel(8_000, 40), noise(150)
    padded = torch.cat([waveform, torch.zeros(1, 850)], dim=1)
    torch.testing.assert_close(spectrogram(padded)[..., :1], spectrogram(waveform))


def test_a_constant_and_silence_are_at_the_floor():
    values = LogMel()(torch.tensor([[0.0], [0.5]]).expand(2, 4_000))
    assert torch.equal(values, torch.full_like(values, math.log(FLOOR)))


def test_twice_as_loud_adds_the_logarithm_of_four():
    spectrogram, waveform = LogMel(), noise(4_000)
    change = spectrogram(2 * waveform) - spectrogram(waveform)
    torch.testing.assert_close(change, torch.full_like(change, math.log(4)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("hertz", [200.0, 1_000.0, 3_000.0])
def test_a_sine_is_loudest_in_its_own_band(hertz):
    spectrogram = LogMel(8_000, 40)
    found = spectrogram(0.3 * torch.sin(2 * math.pi * hertz * torch.arange(4_000) / 8_000)[None])
    edges = hertz_to_mel(torch.tensor([20.0, hertz, 4_000.0]))
    expected = (edges[1] - edges[0]) / (edges[2] - edges[0]) * 41 - 1
    assert (found.argmax(1) - expected).abs().max() <= 1


def test_triangles_add_up_to_one_between_the_outermost_peaks():
    filters = mel_filters(16_000, 20, 4_096)
    total = filters.sum(0)
    first, last = (int(filters[row].argmax()) for row in (0, -1))
    torch.testing.assert_close(total[first + 1 : last], torch.ones(last - first - 1))
    assert filters.min() == 0 and filters.max() <= 1


def test_empty_bands_are_refused_with_the_number_that_fits():
    with pytest.raises(ValueError, match=r"bins must be at most \d+ .* got 100") as error:
        LogMel(8_000, 100)
    most = int(str(error.value).split("at most ")[1].split()[0])
    assert 80 <= most < 100
    assert (LogMel(8_000, most).filters.sum(1) > 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate", 0),
        ("sample_rate", 8_000.5),
        ("bins", 0),
        ("window_seconds", math.nan),
        ("window_seconds", 1e-6),
        ("hop_seconds", -1),
        ("hop_seconds", 1e-6),
        ("low_hz", 9_000),
        ("low_hz", math.nan),
        ("preemphasis", 1.5),
        ("window", "square"),
    ],
)
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        LogMel(**{name: value})


def test_half_precision_around_it_changes_nothing_and_gradients_flow():
    spectrogram, waveform = LogMel(8_000, 20), noise(800).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = spectrogram(waveform)
    assert torch.equal(value, spectrogram(waveform))
    value.sum().backward()
    assert waveform.grad is not None and waveform.grad.isfinite().all() and waveform.grad.abs().sum() > 0
    assert not spectrogram.state_dict(), "nothing that could not be made again is saved"


@pytest.mark.parametrize("samples", [150, 2_000, 2_040])
def test_scaling_no_band_changes_nothing_and_all_bands_the_level(samples):
    audio, waveform = LogMel(8_000, 40), noise(samples, 2)
    change = torch.zeros(2, 40, audio.frames(samples))
    torch.testing.assert_close(scale_bands(waveform, change, audio), waveform, atol=1e-5, rtol=0)
    louder = scale_bands(waveform, change + math.log(4), audio)
    inside = slice(0, 4_000)
    # Nothing is added below the first triangle and above the last one.
    decibels = 20 * (louder[:, inside].norm() / waveform[:, inside].norm()).log10()
    assert 5.7 < decibels < 6.03


def test_bands_scaled_to_those_of_another_sound_become_those_bands():
    audio, waveform = LogMel(8_000, 40), noise(4_000)
    other = noise(4_000).roll(1_000, 1) * torch.linspace(0.02, 1, 4_000)
    other = torch.nn.functional.avg_pool1d(other[None], 5, 1, 2)[0]  # duller too
    target = audio(other)
    result = scale_bands(waveform, target - audio(waveform), audio)
    before, after = ((audio(one) - target).abs().mean() for one in (waveform, result))
    assert after < 0.25 * before


def test_bands_change_at_the_time_of_their_frames():
    audio, waveform = LogMel(8_000, 40), torch.ones(1, 4_000).cumsum(1).mul(2.1).sin()
    change = torch.zeros(1, 40, audio.frames(4_000))
    change[:, :, 20:30] = -20
    silent = scale_bands(waveform, change, audio)
    first, last = 20 * audio.hop + audio.window // 2, 29 * audio.hop + audio.window // 2
    assert silent[:, first + 100 : last - 100].abs().max() < 0.02
    torch.testing.assert_close(silent[:, : first - 300], waveform[:, : first - 300], atol=0.02, rtol=0)
    torch.testing.assert_close(silent[:, last + 300 :], waveform[:, last + 300 :], atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [120, 200, 1_234])
def test_frames_that_samples_touch_are_those_whose_bands_they_change(size):
    audio, waveform = LogMel(8_000, 40), noise(size)
    for place in range(0, size, 97):
        changed = waveform.clone()
        changed[0, place] += 1
        expected = (audio(changed) != audio(waveform)).any(1)
        # The shape of a window is 0 at its ends, where a sample only shifts the mean.
        assert torch.equal(audio.touched(torch.arange(size)[None] == place), expected)
