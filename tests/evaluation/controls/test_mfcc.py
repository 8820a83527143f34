"""Statistics of sounds: the cosine transform of scipy, slopes of lines, and no trace of padding."""

import pytest
import torch
from scipy.fft import dct

from unlabeled import encoders
from unlabeled.data.audio.data import from_waveforms
from unlabeled.evaluation.controls import mfcc


@pytest.mark.parametrize("bins", [40, 13])
def test_cepstra_are_the_cosine_transform_of_scipy(bins: int) -> None:
    bands = torch.randn(2, 7, bins)
    expected = torch.from_numpy(dct(bands.numpy(), type=2, norm="ortho"))[:, :, :20]
    assert torch.allclose(mfcc.cepstra(bands), expected, atol=1e-5)


def test_slopes_of_a_line_are_its_slope() -> None:
    line = 3 * torch.arange(9.0)[None, :, None] + 1
    inner = mfcc.slopes(line, torch.tensor([9]))[0, 2:-2, 0]
    assert torch.allclose(inner, torch.full((5,), 3.0))


def test_slopes_equal_fitted_lines_and_repeat_the_ends() -> None:
    values = torch.randn(1, 6, 1, dtype=torch.float64)
    repeated = torch.cat([values[:, :1], values[:, :1], values, values[:, -1:], values[:, -1:]], 1)[0, :, 0]
    design = torch.stack([torch.arange(-2.0, 3.0), torch.ones(5)], 1).double()
    expected = [torch.linalg.lstsq(design, repeated[start : start + 5, None])[0][0, 0] for start in range(6)]
    assert torch.allclose(mfcc.slopes(values, torch.tensor([6]))[0, :, 0], torch.stack(expected))


def test_statistics_are_those_of_the_real_frames() -> None:
    values = torch.randn(2, 5, 3)
    found = mfcc.statistics(values, torch.tensor([5, 2])).view(2, 4, 3)
    for rows, one in zip((values[0], values[1, :2]), found):
        expected = [rows.mean(0), rows.std(0, correction=0), rows.amin(0), rows.amax(0)]
        assert torch.allclose(one, torch.stack(expected), atol=1e-6)


def test_longer_sounds_in_a_batch_do_not_matter() -> None:
    sounds = 0.1 * torch.randn(4, 4000)
    lengths = torch.tensor([1500, 4000, 900, 2100])
    data = from_waveforms(sounds, 8000, lengths=lengths)
    features = mfcc.make(encoders.build("audio-conv", kind="audio", sample_rate=8000), data)
    together = features.features(data)
    for row in range(4):
        alone = features.features(data.subset(torch.tensor([row])))
        assert torch.allclose(alone[0], together[row], atol=1e-3)


def test_every_number_is_standardised_over_the_training_sounds() -> None:
    data = from_waveforms(0.1 * torch.randn(30, 3000), 8000)
    values = mfcc.make(encoders.build("audio-conv", kind="audio", sample_rate=8000), data).features(data)
    assert torch.allclose(values.std(0, correction=0), torch.ones(values.shape[1]), atol=1e-3)
