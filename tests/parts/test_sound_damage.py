import pytest
import torch
from torch import Tensor

from unlabeled.parts.sound_damage import DITHER, Damage, add_noise, babble, clip_peaks, low_pass

LENGTHS = torch.tensor([4_000, 2_400, 801])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sounds() -> Tensor:
    return 0.3 * torch.randn(3, 4_000) * (torch.arange(4_000) < LENGTHS[:, None])


def only(**kind: object) -> Damage:
    """One kind of damage that every sound has."""
    return Damage(1.0, **({"noise": "none", "band": 1.0, "peak": 1.0, "drop": 0.0} | kind))  # type: ignore[arg-type]


def test_noise_has_the_ratio_asked_for_and_silence_gets_none() -> None:
    waveform, noise = sounds(), torch.rand(3, 4_000) * (torch.arange(4_000) < LENGTHS[:, None])
    waveform[1] = 0
    ratios = torch.tensor([-3.0, 5.0, 12.5])
    added = add_noise(waveform, noise, ratios) - waveform
    for row in (0, 2):
        decibels = 10 * (waveform[row].square().sum() / added[row].square().sum()).log10()
        assert decibels.item() == pytest.approx(ratios[row].item(), abs=0.01)
    assert not added[1].any()


def test_babble_is_another_sound_repeated_from_some_place_on() -> None:
    waveform, starts = sounds(), set()
    for _ in range(20):
        noise = babble(waveform, LENGTHS)
        for row in range(3):
            fitting = [
                (other, start)
                for other in range(3)
                for start in (waveform[other] == noise[row, 0]).nonzero().flatten().tolist()
                if start < LENGTHS[other]
            ]
            assert len(fitting) == 1
            ((other, start),) = fitting
            place = (start + torch.arange(4_000)) % LENGTHS[other]
            assert other != row and torch.equal(noise[row], waveform[other, place])
            starts.add((row, other))
    assert len(starts) == 6, "every other sound of the batch"
    assert babble(waveform[:1], LENGTHS[:1]).shape == (1, 4_000)


@pytest.mark.parametrize("size", [200, 201])
def test_low_pass_keeps_what_is_below_the_cutoff_and_nothing_above(size: int) -> None:
    time = torch.arange(size) / size
    low, high = (
        torch.sin(2 * torch.pi * turns * time + 1) for turns in (30, 70)
    )  # of 100, half the sample rate
    waveform = torch.stack([low + high, low + high])
    torch.testing.assert_close(
        low_pass(waveform, torch.tensor([0.5, 0.2])),
        torch.stack([low, torch.zeros(size)]),
        atol=1e-4,
        rtol=0,
    )
    torch.testing.assert_close(low_pass(waveform, torch.ones(2)), waveform, atol=1e-5, rtol=0)


def test_peaks_are_clipped_at_a_fraction_of_the_peak_and_the_rest_stays() -> None:
    waveform, level = sounds(), torch.tensor([0.5, 0.1, 1.0])
    clipped = clip_peaks(waveform, level)
    for row in range(3):
        limit = level[row] * waveform[row].abs().max()
        inside = waveform[row].abs() <= limit
        assert torch.equal(clipped[row, inside], waveform[row, inside])
        assert clipped[row, ~inside].abs().eq(limit).all()
        assert torch.equal(clipped[row].sign(), waveform[row].sign())


@pytest.mark.parametrize("damage", [Damage(0.5), Damage(1.0), only(noise="babble")])
def test_nothing_stands_behind_the_end_and_a_seed_repeats_it(damage: Damage) -> None:
    waveform, results = sounds(), []
    for _ in range(2):
        torch.manual_seed(4)
        results.append(damage(waveform, LENGTHS, 8_000))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second) and first.shape == (3, 4_000)
        assert not first[torch.arange(4_000) >= LENGTHS[:, None]].any()
    clean, damaged, _ = results[0]
    assert not torch.allclose(clean, damaged, atol=0.01)
    assert 0.9 < (clean - waveform)[0].std() / DITHER < 1.1


def test_without_any_damage_both_are_the_sound_with_the_same_dither() -> None:
    clean, damaged, dropped = only()(sounds(), LENGTHS, 8_000)
    assert torch.equal(clean, damaged) and not dropped.any()


def test_dropped_samples_are_dither_and_the_others_as_they_were() -> None:
    clean, damaged, dropped = only(drop=0.3)(sounds(), LENGTHS, 8_000)
    assert torch.equal(clean[~dropped], damaged[~dropped])
    assert damaged[dropped].abs().max() < 6 * DITHER < clean[dropped].abs().mean()


def test_spans_are_whole_frames_cover_the_share_and_are_at_least_one() -> None:
    lengths = torch.full((60,), 8_000)
    _, _, dropped = only(drop=0.15)(torch.ones(60, 8_000), lengths, 8_000)
    frames = dropped.view(60, 100, 80)
    assert torch.equal(frames.any(2), frames.all(2))
    assert 0.11 < dropped.float().mean() < 0.15, "spans overlap"
    short = only(drop=0.01)(torch.ones(60, 1_600), torch.full((60,), 1_600), 8_000)[2]
    assert short.sum(1).eq(7 * 80).all()


def test_kinds_of_damage_come_independently_with_the_probability() -> None:
    waveform = torch.sin(torch.arange(1_600) * 1.9).repeat(400, 1)  # at 0.6 of the band
    lengths = torch.full((400,), 1_600)
    _, damaged, dropped = Damage(0.5, noise="none", band=1e-6, peak=1e-6)(waveform, lengths, 8_000)
    gone = dropped.any(1)
    quiet = damaged.abs().amax(1) < 0.9  # clipped, or its band lost
    assert 0.42 < gone.float().mean() < 0.58
    both = (gone & quiet).float().mean()
    assert both == pytest.approx((gone.float().mean() * quiet.float().mean()).item(), abs=0.06)
