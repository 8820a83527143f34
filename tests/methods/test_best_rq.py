"""BEST-RQ: codes of the clean sound, masked tokens that reach the predictions through nothing, and noise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods import best_rq
from unlabeled.methods.best_rq import BestRQ
from unlabeled.parts.spans import spans
from unlabeled.worlds import tones


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 24) -> Sounds:
    made = tones.make(count, 0)
    return from_waveforms(made["waveform"][:, :6_000], 8_000, lengths=made["length"].clamp(max=6_000))


def noise(count: int = 24, seed: int = 0) -> Sounds:
    waveform = torch.randn(count, 6_000, generator=torch.Generator().manual_seed(seed))
    return from_waveforms(waveform.mul(0.1).clamp(-1, 1), 8_000)


def build(data: Sounds | None = None, **options: Any) -> BestRQ:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"codes": 16, "span": 4} | options
    data = data or melodies()
    method = BestRQ(encoders.fitted("mel-transformer-tiny", data, kind="audio"), **settings)
    method.prepare(method.training_view(data))
    return method


def masking(monkeypatch: pytest.MonkeyPatch, masked: Tensor) -> None:
    def given(lengths: Tensor, size: int, *_: Any, **__: Any) -> Tensor:
        return F.pad(masked, (0, size - masked.shape[1]))

    monkeypatch.setattr(best_rq, "spans", given)


def test_loss_is_the_mean_over_masked_tokens_and_codebooks_of_the_codes_of_the_clean_sound() -> None:
    data = melodies(5)
    method = build(data, codebooks=2, noise=0.0).eval()
    batch, seed = data.sample(5), 3
    torch.manual_seed(seed)
    value = method(batch)
    bands, frames = method.bands(batch)
    clean, counts = method.encoder.trunk.tokens(bands, frames)
    torch.manual_seed(seed)
    masked = spans(counts, clean.shape[1], 0.4, 4, fewest=1, most=0.5)
    heard = method.encoder.trunk.tokens(bands, frames, masked)[0].masked_fill(masked[:, :, None], 0)
    context, losses = method.encoder.trunk.context(heard, counts)[-1], []
    for row, place in masked.nonzero().tolist():
        logits = method.head(context[row, place])
        for book, code in enumerate(method.quantizer(clean[row, place][None])[0].tolist()):
            own = logits[16 * book : 16 * (book + 1)]
            losses.append(own.logsumexp(0) - own[code])
    torch.testing.assert_close(value, torch.stack(losses).mean())


def test_what_is_masked_reaches_the_predictions_through_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(noise=0.0).eval()
    bands, frames = torch.randn(2, 60, 40), torch.tensor([60, 47])
    masked = spans(torch.tensor([15, 12]), 15, 0.4, 4, fewest=1, most=0.5)
    masking(monkeypatch, masked)
    columns = masked.repeat_interleave(4, 1)[:, :, None]
    others = 3 + 2 * torch.randn(2, 60, 40)
    said, codes = [], []
    for given in (bands, torch.where(columns, others, bands), torch.where(columns, bands, others)):
        monkeypatch.setattr(method, "bands", lambda _, given=given: (given, frames))
        tokens, _, _, logits = method.predict({})
        said.append(logits)
        codes.append(method.quantizer(tokens[masked]))
    torch.testing.assert_close(said[0], said[1], atol=1e-5, rtol=1e-5)
    assert not torch.isclose(said[0], said[2]).all(1).any()
    assert (codes[0] != codes[1]).float().mean() > 0.5, "while the truth is another"


def test_masked_tokens_are_weak_noise() -> None:
    data, seen = melodies(8), []
    method = build(data)
    method.encoder.trunk.project.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    _, real, masked, _ = method.predict(data.sample(8))
    tokens = seen[0]
    assert tokens[masked].std().item() == pytest.approx(0.1, rel=0.05)
    assert tokens[real & ~masked].std().item() > 0.5
    assert 0.2 < (masked.sum() / real.sum()).item() < 0.45 and not masked[~real].any()


def test_quantizer_is_neither_trained_nor_lost_and_loudness_changes_no_code() -> None:
    data = melodies(8)
    method = build(data)
    before = {name: value.clone() for name, value in method.quantizer.state_dict().items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    method(data.sample(8)).backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in method.quantizer.state_dict().items())
    assert {"quantizer.projections", "quantizer.words", "baseline"} <= method.state_dict().keys()
    batch = data.sample(8)
    quieter = batch | {"waveform": 0.2 * batch["waveform"]}
    first, second = (method.encoder.trunk.tokens(*method.bands(given)) for given in (batch, quieter))
    real = torch.arange(first[0].shape[1]) < first[1][:, None]
    assert (method.quantizer(first[0][real]) == method.quantizer(second[0][real])).float().mean() > 0.99


def test_chance_is_the_entropy_of_the_codes() -> None:
    data = melodies()
    method = build(data, codebooks=3)
    tokens, counts = method.encoder.trunk.tokens(*method.bands(data.sample(24)))
    codes = method.quantizer(torch.cat([row[:count] for row, count in zip(tokens, counts.tolist())]))
    shares = [torch.bincount(book) / len(book) for book in codes.T]
    expected = sum(-(share[share > 0] * share[share > 0].log()).sum() for share in shares) / 3
    assert method.chance(8) == pytest.approx(float(expected), rel=1e-5)
    assert 1.5 < float(expected) < math.log(16)


def test_padding_changes_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    data = melodies(3)
    method, found = build(data, noise=0.0).eval(), []
    batch = data.sample(3)
    longer = batch | {"waveform": F.pad(batch["waveform"], (0, 4_100))}
    _, counts = method.encoder.trunk.tokens(*method.bands(batch))
    masking(monkeypatch, spans(counts, int(counts.max()), fewest=1))
    for given in (batch, longer):
        method.zero_grad()
        value = method(given)
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-3)


def trained(method: BestRQ, data: Callable[[int], Sounds]) -> float:
    """Loss of the last of 60 steps, as a fraction of chance."""
    optimizer, values = torch.optim.AdamW(method.parameters(), lr=3e-3), []
    for step in range(60):
        optimizer.zero_grad()
        value = method(data(step).sample(16, seed=step))
        value.backward()
        optimizer.step()
        values.append(value.item() / method.chance(8))  # type: ignore[operator]
    return sum(values[-10:]) / 10


def test_learns_melodies_and_nothing_in_noise() -> None:
    data = melodies()
    assert trained(build(data), lambda step: data) < 0.75
    assert 0.98 < trained(build(noise()), lambda step: noise(16, seed=1 + step)) < 1.1


def test_sounds_of_one_token_have_nothing_masked_and_silence_is_refused() -> None:
    value = build()({"waveform": torch.randn(2, 300), "length": torch.tensor([300, 10])})
    value.backward()
    assert value == 0
    with pytest.raises(
        ValueError, match="sounds of array must have tokens that differ, got one code for all"
    ):
        build(from_waveforms(torch.zeros(3, 4_000), 8_000))


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(melodies(4).sample(4))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


def test_pictures_show_masked_tokens_by_their_true_and_predicted_codes() -> None:
    data = melodies(3)
    pictures = build(data, codebooks=2).eval().pictures(data.sample(3))
    sound, hidden, true, predicted = (picture for picture in pictures.values() if isinstance(picture, Tensor))
    changed = (sound != hidden).any(2, keepdim=True)
    assert 0.1 < changed.float().mean() < 0.6
    for picture in (true, predicted):
        torch.testing.assert_close(torch.where(changed, 0, picture), torch.where(changed, 0, sound))
    assert not torch.equal(true, predicted)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, 0) for name in ("codes", "code_dim", "codebooks", "mask", "span")),
        *(("mask", 1.1), ("noise", -1.0), ("crop_seconds", math.nan), ("codes", 1)),
    ],
)
def test_nonsense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        build(**{option: value})


def test_other_encoders_are_refused() -> None:
    rule = "encoder must be a mel-transformer such as mel-transformer-mini, got gru3"
    with pytest.raises(ValueError, match=rule):
        BestRQ(encoders.build("gru3", kind="audio"))
