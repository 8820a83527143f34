"""Workers of PASE: targets computed by other means, losses by slow loops, and what pairs of sounds have in common."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts import ragged
from unlabeled.parts.mfcc import MFCC
from unlabeled.parts.prosody import Prosody
from unlabeled.parts.spectrogram import LogMel
from unlabeled.parts.workers import Discrimination, Regression, Targets, chunks


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("rate", "hop", "receptive"), [(8_000, 80, 1_184), (16_000, 160, 2_370), (96_000, 160, 2_370)]
)
def test_targets_are_of_windows_around_the_middle_of_each_frame(rate: int, hop: int, receptive: int) -> None:
    targets = Targets(rate, hop, receptive)
    samples, count = receptive + 6 * hop + 11, 7
    waveform = 0.1 * torch.randn(2, samples)
    found = targets(waveform, torch.tensor([count, count]))
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        name: (2, count, dim) for name, dim in targets.dims.items()
    }
    mel, prosody = LogMel(rate, 23, hop_seconds=hop / rate), Prosody(rate, hop)
    quiet = F.pad(waveform, (9_999, 9_999))
    for frame in (0, 3, 6):

        def around(window: int, frame: int = frame) -> Tensor:
            begin = 9_999 + frame * hop - (window - receptive) // 2
            return quiet[:, begin : begin + window]

        assert torch.equal(found["waveform"][:, frame], around(hop))
        power = torch.fft.rfft(_shaped(around(mel.window) * 2**15, mel), mel.fft_size).abs().square()
        expected = power.clamp(min=2**-23).log()
        torch.testing.assert_close(found["spectrum"][:, frame], expected, atol=2e-3, rtol=1e-4)
        whole = torch.full((2,), prosody.window)
        alone = prosody(around(prosody.window), whole)[:, 0]
        torch.testing.assert_close(found["prosody"][:, frame, 1:], alone[:, 1:], atol=1e-3, rtol=1e-3)
        cepstra = MFCC(rate)(around(mel.window), torch.full((2,), mel.window))[0][:, 0, :13]
        torch.testing.assert_close(found["mfcc"][:, frame, :13], cepstra, atol=1e-2, rtol=1e-3)


def _shaped(window: Tensor, mel: LogMel) -> Tensor:
    """Centred, pre-emphasised and shaped, sample by sample."""
    window = window - window.mean(1, keepdim=True)
    emphasised = window.clone()
    emphasised[:, 1:] -= 0.97 * window[:, :-1]
    emphasised[:, 0] *= 0.03
    return emphasised * torch.hann_window(mel.window, periodic=False) ** 0.85


def test_power_is_that_of_the_short_time_fourier_transform() -> None:
    mel = LogMel(8_000, 23, preemphasis=0.0, window="hann")
    waveform = torch.randn(2, 1_000)
    waveform = waveform - waveform.mean(1, keepdim=True)
    windows = waveform.unfold(1, 200, 80)
    removed = windows.mean(2)  # each window is centred, which the transform does not do
    shape = torch.hann_window(200, periodic=False)
    spectrum = torch.stft(
        waveform, 256, 80, 200, F.pad(shape, (28, 28))[28:-28], center=False, return_complex=True
    )[:, :, : windows.shape[1]]
    assert spectrum.shape[1] == 129 and mel.power(waveform).shape == (2, 11, 129)
    direct = torch.fft.rfft((windows - removed[:, :, None]) * shape, 256).abs().square() * 2.0**30
    torch.testing.assert_close(mel.power(waveform), direct, rtol=1e-3, atol=1e3)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_regression_begins_at_1_whatever_the_unit_and_equals_a_slow_loop(absolute: bool) -> None:
    target = torch.randn(3, 9, 4) * torch.tensor([1e-2, 1.0, 300.0, 0.0]) + torch.tensor(
        [5.0, 0.0, -900.0, 2.0]
    )
    frames = torch.tensor([9, 4, 6])
    real, codes = ragged.real(frames, 9), torch.randn(3, 9, 5)
    target[~real] = 1e6
    worker = Regression(5, 4, 8, absolute)
    worker.fit(target, real)
    torch.nn.init.zeros_(worker.head[-1].weight)  # type: ignore[arg-type]
    assert worker(codes, target, real).item() == pytest.approx(1, abs=1e-3)
    torch.nn.init.normal_(worker.head[-1].weight)  # type: ignore[arg-type]
    values = target[real].double()
    spread = values.std(0, correction=0)
    spread[3] = 1
    total, constant = 0.0, 0.0
    for row, frame, number in torch.cartesian_prod(
        torch.arange(3), torch.arange(9), torch.arange(4)
    ).tolist():
        if frame < frames[row]:
            z = ((target[row, frame, number] - values.mean(0)[number]) / spread[number]).item()
            miss = worker.head(codes[row, frame])[number].item() - z
            total, constant = (
                (total + abs(miss), constant + abs(z)) if absolute else (total + miss**2, constant + z**2)
            )
    assert worker(codes, target, real).item() == pytest.approx(total / constant, rel=1e-3)


def test_targets_that_never_vary_have_a_finite_loss() -> None:
    worker, target, real = Regression(5, 2, 8), torch.full((2, 3, 2), 7.0), torch.ones(2, 3, dtype=torch.bool)
    worker.fit(target, real)
    assert worker(torch.randn(2, 3, 5), target, real).item() < 1e-2


@pytest.mark.parametrize("pooled", [False, True])
def test_pairs_begin_at_1_and_equal_a_slow_loop(pooled: bool) -> None:
    parts, count = [torch.randn(3, 5, 4) for _ in range(3)], torch.tensor([5, 0, 2])
    worker = Discrimination(4, 8, pooled)
    assert worker(*parts, count)[0].item() == pytest.approx(1, abs=0.01)
    torch.nn.init.normal_(worker.head[-1].weight)  # type: ignore[arg-type]
    losses, right = [], []
    for row, frames in enumerate(count.tolist()):
        pieces = [part[row, :frames] for part in parts]
        if pooled and frames:
            pieces = [piece.mean(0, keepdim=True) for piece in pieces]
        for anchor, same, other in zip(*pieces):
            for truth, candidate in ((1.0, same), (0.0, other)):
                logit = worker.head(torch.cat([anchor, candidate]))
                losses.append(F.binary_cross_entropy_with_logits(logit, torch.tensor([truth])).item())
                right.append((logit.item() > 0) == bool(truth))
    loss, accuracy = worker(*parts, count)
    assert len(losses) == (4 if pooled else 14)
    assert loss.item() == pytest.approx(sum(losses) / len(losses) / math.log(2), rel=1e-4)
    assert accuracy.item() == pytest.approx(sum(right) / len(right))


def test_a_logit_of_0_is_at_chance_and_without_pairs_there_is_no_loss() -> None:
    worker, parts = Discrimination(4, 8, True), [torch.randn(2, 3, 4) for _ in range(3)]
    torch.nn.init.zeros_(worker.head[-1].weight)  # type: ignore[arg-type]
    assert worker(*parts, torch.tensor([3, 1]))[0].item() == pytest.approx(1)
    assert [value.item() for value in worker(*parts, torch.tensor([0, 0]))] == [0, 0]


def test_chunks_share_no_frame_and_have_equal_lengths_and_places() -> None:
    """Codes that name their sound and frame show what is compared with what."""
    frames, gap, other = torch.tensor([40, 26, 16, 15, 31]), 15, torch.tensor([1, 2, 3, 4, 0])
    codes = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(40), indexing="ij"), 2).float()
    anchors, same, different, count = chunks(codes, frames, other, gap)
    common = [26, 16, 15, 15, 31]
    assert count.tolist() == [(least + 1 - gap) // 2 for least in common] == [6, 1, 0, 0, 8]
    for row, frames_of_chunk in enumerate(count.tolist()):
        first, second, third = (part[row, :frames_of_chunk] for part in (anchors, same, different))
        assert (
            (first[:, 0] == row).all() and (second[:, 0] == row).all() and (third[:, 0] == other[row]).all()
        )
        assert torch.equal(second[:, 1], third[:, 1]), "at the same place"
        if frames_of_chunk:
            assert first[0, 1] == 0 and second[0, 1] - first[-1, 1] == gap
            assert common[row] - 2 <= second[-1, 1] < common[row]


def test_padding_and_frames_that_no_chunk_has_change_nothing() -> None:
    frames, other = torch.tensor([30, 22, 28]), torch.tensor([2, 0, 1])
    codes = torch.randn(3, 30, 4)
    longer = F.pad(codes, (0, 0, 0, 9), value=7.0)
    first, second = (chunks(given, frames, other, 5) for given in (codes, longer))
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)
