"""Band-pass filters with learned cut-offs, against scipy's, and what a step of training may change of them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import firwin, freqz

from unlabeled import encoders
from unlabeled.encoders.pase import SIZES, PASENetwork
from unlabeled.encoders.sinc import Sinc


def cutoffs(bank: Sinc) -> np.ndarray:
    """Lower and upper ends in cycles per sample, shape (filters, 2)."""
    return torch.stack(bank.cutoffs(), 1).detach().double().numpy()


@pytest.mark.parametrize(("rate", "taps"), [(16_000, 251), (8_000, 125)])
def test_filters_are_those_of_scipy(rate: int, taps: int) -> None:
    bank = Sinc(12, taps, rate)
    for found, (low, high) in zip(bank.filters().detach().numpy(), cutoffs(bank), strict=True):
        high = min(high, 0.5 - 1e-9)
        expected = firwin(taps, [low, high], window="hamming", pass_zero=False, scale=False, fs=1)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(found, found[::-1], atol=1e-7)


def test_a_band_passes_and_what_is_far_from_it_does_not() -> None:
    bank = Sinc(8, 251, 16_000)
    grid = np.linspace(0, 0.5, 2_001)
    for taps, (low, high) in zip(bank.filters().detach().numpy(), cutoffs(bank), strict=True):
        gain = np.abs(freqz(taps, worN=grid, fs=1)[1])
        step = max(high - low, 4 / 251)
        assert (gain[(grid > low) & (grid < high)] > 0.45).all()
        assert (gain[(grid < low - step) | (grid > high + step)] < 0.01).all()


def test_bands_start_equally_wide_in_mel_and_reach_almost_half_the_rate() -> None:
    bank = Sinc(10, 251, 16_000)
    low = bank.low.detach().double().numpy() * 1000
    ends = np.append(low, low[-1] + bank.width[-1].item() * 1000)
    mels = 1127 * np.log1p(ends / 700)
    np.testing.assert_allclose(np.diff(mels), (mels[-1] - mels[0]) / 10, rtol=1e-3)
    assert ends[0] == pytest.approx(30, abs=0.01) and ends[-1] == pytest.approx(7_900, abs=0.1)
    np.testing.assert_allclose(cutoffs(bank)[:, 0] * 16_000, low + 50, rtol=1e-5)


def test_output_is_the_correlation_with_each_filter() -> None:
    torch.manual_seed(0)
    bank, waveform = Sinc(3, 25, 8_000), torch.randn(2, 60)
    found, taps = bank(waveform), bank.filters()
    assert found.shape == (2, 3, 36)
    for place in (0, 17, 35):
        torch.testing.assert_close(found[:, :, place], waveform[:, place : place + 25] @ taps.T)


def test_only_the_cutoffs_are_learned_and_they_find_the_band_of_a_tone() -> None:
    torch.manual_seed(0)
    bank = Sinc(1, 125, 8_000)
    assert {name: tuple(p.shape) for name, p in bank.named_parameters()} == {"low": (1,), "width": (1,)}
    with torch.no_grad():
        bank.low.fill_(0.6)
        bank.width.fill_(0.25)
    tone = torch.sin(2 * math.pi * 950 * torch.arange(800) / 8_000)[None]
    target = F.conv1d(
        tone[:, None],
        torch.from_numpy(firwin(125, [900, 1_000], pass_zero=False, fs=8_000)).float()[None, None],
    )
    before = (bank(tone) - target).square().mean()
    optimizer = torch.optim.Adam(bank.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (bank(tone) - target).square().mean().backward()
        optimizer.step()
    assert (bank(tone) - target).square().mean() < 0.1 * before
    low, high = cutoffs(bank)[0] * 8_000
    assert low < 950 < high


def test_cutoffs_stay_in_order_and_below_half_the_rate() -> None:
    bank = Sinc(4, 125, 8_000)
    with torch.no_grad():
        bank.low.copy_(torch.tensor([-3.0, 0.0, 9.0, 3.99]))
        bank.width.copy_(torch.tensor([-1.0, 0.0, 1.0, 5.0]))
    ends = cutoffs(bank)
    assert (ends[:, 0] <= ends[:, 1]).all() and (ends <= 0.5).all() and (ends * 8_000 >= 49.9).all()
    assert bank.filters().isfinite().all()


@pytest.mark.parametrize(("rate", "hop", "receptive"), [(16_000, 160, 2_370), (8_000, 80, 1_184)])
def test_a_frame_is_10_ms_and_hears_148(rate: int, hop: int, receptive: int) -> None:
    network = PASENetwork(SIZES["pase-tiny"], rate)
    assert (network.hop, network.receptive, network.gap) == (hop, receptive, 15)
    waveform = torch.randn(1, rate, requires_grad=True)
    layers, frames = network.layers(waveform, torch.tensor([rate]))
    assert layers["code"].shape == (1, int(frames), 16) and int(frames) == (rate - receptive) // hop + 1
    places = []
    for place in (5, 5 + network.gap):
        (slope,) = torch.autograd.grad(layers["conv"][0, place].sum(), waveform, retain_graph=True)
        heard = slope[0].nonzero()[:, 0]
        places.append((int(heard.min()), int(heard.max())))
        assert heard.min() >= place * hop and heard.max() < place * hop + receptive
        assert heard.max() - heard.min() > 0.9 * receptive
    assert places[0][1] < places[1][0], "frames that far apart have no sample in common"


def test_base_has_the_sizes_of_the_paper() -> None:
    network = encoders.build("pase-base", kind="audio", sample_rate=16_000).trunk
    assert network.sinc.filters().shape == (64, 251) and network.map_dims == {"conv": 512, "code": 100}
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in network.convolutions] == [
        (64, 20, 10), (64 * 2, 11, 2), (128, 11, 1), (256, 11, 2), (256, 11, 1), (512, 11, 2), (512, 11, 2),
    ]  # fmt: skip


def test_codes_have_mean_0_and_variance_1_in_each_frame() -> None:
    codes = PASENetwork(SIZES["pase-tiny"], 8_000).layers(
        torch.randn(2, 4_000), torch.tensor([4_000, 2_000])
    )[0]["code"]
    torch.testing.assert_close(codes.mean(2), torch.zeros(codes.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.var(2, correction=0), torch.ones(codes.shape[:2]), atol=1e-2, rtol=0)
