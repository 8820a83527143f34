"""wav2vec 2.0 against transformers on the same weights, masks and negatives; its loss in closed form."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.methods import wav2vec2
from unlabeled.methods.wav2vec2 import ANNEALED, Wav2Vec2, diversity, loss, negatives, scores
from unlabeled.parts.spans import even, spans
from unlabeled.worlds import tones

transformers = pytest.importorskip("transformers")

SMALL = {"negatives": 8, "codes": 12, "code_dim": 16}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def melodies(count: int = 12, samples: int | None = None) -> Sounds:
    made = tones.make(count, 0)
    waveform = made["waveform"][:, : samples or 99_999]
    return from_waveforms(waveform, 8_000, lengths=made["length"].clamp(max=waveform.shape[1]))


def build(**options: Any) -> Wav2Vec2:
    torch.manual_seed(0)
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=8_000)
    return Wav2Vec2(encoder, **(SMALL | options))


def twin(method: Wav2Vec2) -> Any:
    """The model of transformers with the same weights."""
    config = method.encoder.trunk.model.config
    quantizer = method.quantizer
    for name, value in {
        "num_codevector_groups": quantizer.words.shape[0],
        "num_codevectors_per_group": quantizer.words.shape[1],
        "codevector_dim": method.target_head.in_features,
        "proj_codevector_dim": method.target_head.out_features,
        "num_negatives": method.negatives,
    }.items():
        setattr(config, name, value)
    other = transformers.Wav2Vec2ForPreTraining(config)
    other.wav2vec2.load_state_dict(method.encoder.trunk.model.state_dict())
    other.quantizer.weight_proj.load_state_dict(quantizer.logits.state_dict())
    other.project_q.load_state_dict(method.target_head.state_dict())
    other.project_hid.load_state_dict(method.context_head.state_dict())
    other.quantizer.codevectors.data = quantizer.words.data.flatten(0, 1)[None]
    return other.eval()


def test_losses_and_their_gradients_equal_those_of_transformers() -> None:
    method = build().eval()
    other = twin(method)
    # There, in evaluation mode, no gradient passes the choice of a code.
    method.quantizer.logits.register_forward_hook(lambda module, given, output: output.detach())
    x = method.encoder.adapt(method.encoder.inputs(melodies(4, samples=5_000).sample(4)))
    maps, frames = method.encoder.trunk.convolve(*x)
    masked = even(spans(frames, maps.shape[1], span=4))
    count, context, targets, chosen, _ = method.compare(maps, frames, masked)
    drawn = negatives(count, int(count.max()), 8)
    contrast = loss(scores(context, targets, chosen.argmax(3), drawn, 0.1), count)

    places = torch.stack([row.nonzero().flatten() for row in masked])
    theirs = torch.zeros(*masked.shape, 8, dtype=torch.int64)
    for row in range(4):
        theirs[row, places[row]] = places[row][drawn[row]] + row * masked.shape[1]
    given = other(x[0], mask_time_indices=masked, sampled_negative_indices=theirs)
    hidden = int(count.sum())
    assert contrast.item() * hidden == pytest.approx(given.contrastive_loss.item(), rel=1e-5)
    unused = diversity(chosen.flatten(0, 1))
    assert unused.item() * hidden == pytest.approx(given.diversity_loss.item(), rel=1e-5)
    total = hidden * (contrast + 0.1 * unused)
    assert total.item() == pytest.approx(given.loss.item(), rel=1e-5)

    contrast.mul(hidden).backward()
    given.contrastive_loss.backward()
    ours, expected = method.encoder.trunk.model, dict(other.wav2vec2.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("others", [1, 8, 100])
def test_loss_of_candidates_that_fit_alike_is_the_logarithm_of_their_number(others: int) -> None:
    count = torch.tensor([5, 3])
    value = loss(torch.full((2, 5, 1 + others), 0.7), count)
    assert value.item() == pytest.approx(math.log(1 + others), rel=1e-5)
    assert build(negatives=others).chance(4) == pytest.approx(math.log(1 + others))


def test_negatives_that_equal_the_truth_do_not_count() -> None:
    context, targets = torch.randn(1, 4, 3), torch.randn(1, 1, 3).expand(1, 4, 3)
    drawn = negatives(torch.tensor([4]), 4, 6)
    logits = scores(context, targets, torch.zeros(1, 4, 2, dtype=torch.int64), drawn, 0.1)
    assert (logits[:, :, 1:] == -torch.inf).all()
    assert loss(logits, torch.tensor([4])).item() == 0


def test_loss_equals_a_slow_loop() -> None:
    context, targets = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    codes, count = torch.randint(2, (2, 4, 2)), torch.tensor([4, 3])
    drawn = negatives(count, 4, 5)
    losses = []
    for row, hidden in enumerate(count.tolist()):
        for place in range(hidden):
            own = torch.cosine_similarity(context[row, place], targets[row, place], dim=0) / 0.3
            fits = [own]
            for other in drawn[row, place].tolist():
                if not torch.equal(codes[row, other], codes[row, place]):
                    fits.append(
                        torch.cosine_similarity(context[row, place], targets[row, other], dim=0) / 0.3
                    )
            losses.append(torch.stack(fits).logsumexp(0) - own)
    value = loss(scores(context, targets, codes, drawn, 0.3), count)
    torch.testing.assert_close(value, torch.stack(losses).mean())


def test_sounds_with_a_single_hidden_frame_do_not_count() -> None:
    logits = torch.randn(2, 3, 5)
    torch.testing.assert_close(loss(logits, torch.tensor([3, 1])), loss(logits[:1], torch.tensor([3])))
    assert loss(logits, torch.tensor([1, 0])).item() == 0


@pytest.mark.parametrize(("used", "value"), [(640, 0.0), (1, (640 - 2) / 640)])
def test_diversity_is_0_for_codes_used_alike_and_largest_for_one(used: int, value: float) -> None:
    probabilities = torch.full((5, 2, 320), 1 / 320)
    if used == 1:
        probabilities = torch.zeros(5, 2, 320).index_fill(2, torch.tensor([7]), 1.0)
    assert diversity(probabilities).item() == pytest.approx(value, abs=1e-5)


def test_temperature_of_the_codes_falls_as_in_the_paper_and_is_saved() -> None:
    method = build()
    for step in (0, 1_000, 100_000, 277_259, 400_000):
        method.after_step(step / 400_000)
        assert method.softened.item() == pytest.approx(max(2 * 0.999995**step, 0.5), rel=1e-4)
    assert pytest.approx(math.log(4) / -math.log(0.999995) / 400_000, rel=1e-5) == ANNEALED
    resumed = build()
    resumed.load_state_dict(method.state_dict())
    assert resumed.softened.item() == 0.5


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_gradient_of_the_convolutions_is_the_wanted_part(factor: float) -> None:
    found = {}
    for given in (factor, 1.0):
        method = build(convolution_gradient=given).train()
        torch.manual_seed(1)
        method(melodies(4).sample(4)).backward()
        model = method.encoder.trunk.model
        found[given] = (
            [p.grad for p in model.feature_extractor.parameters()],
            [p.grad for p in [*model.feature_projection.parameters(), *model.encoder.parameters()]],
        )
    for reduced, whole in zip(found[factor][0], found[1.0][0]):
        torch.testing.assert_close(reduced, factor * whole, atol=1e-8, rtol=1e-4)
    for same, whole in zip(found[factor][1], found[1.0][1]):
        torch.testing.assert_close(same, whole)


def test_hidden_frames_reach_the_predictions_through_nothing() -> None:
    method = build().eval()
    maps, frames = torch.randn(2, 40, 32), torch.tensor([40, 33])
    masked = spans(frames, 40)
    other = torch.where(masked[:, :, None], torch.randn(2, 40, 32), maps)
    first, second = (method.compare(given, frames, masked) for given in (maps, other))
    real = torch.arange(first[1].shape[1]) < first[0][:, None]
    torch.testing.assert_close(first[1][real], second[1][real], atol=1e-6, rtol=1e-5)
    assert not torch.isclose(first[2], second[2]).all(), "while the truth is another"


def test_padding_changes_neither_loss_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build().eval()
    batch = melodies(3).sample(3)
    longer = batch | {"waveform": torch.nn.functional.pad(batch["waveform"], (0, 4_000))}
    frames = method.encoder.trunk.frames(batch["length"])
    masked = spans(frames, int(frames.max()))
    count = masked.sum(1)
    drawn = negatives(count, int(count.max()), 8)

    def hide(frames: Tensor, size: int) -> Tensor:
        return torch.nn.functional.pad(masked, (0, size - masked.shape[1]))

    monkeypatch.setattr(method, "hide", hide)
    monkeypatch.setattr(wav2vec2, "negatives", lambda *_: drawn)
    found = []
    for given in (batch, longer):
        method.zero_grad()
        value = method(given)
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-3)


def test_sounds_of_one_length_hide_equally_many_frames() -> None:
    method = build()
    assert len(method.hide(torch.full((8,), 60), 60).sum(1).unique()) == 1
    assert len(method.hide(torch.tensor([60, 60, 20]), 60).sum(1).unique()) > 1


def test_learns_to_tell_frames_of_melodies_apart_and_those_of_noise_less() -> None:
    noise = from_waveforms(torch.randn(16, 4_000).mul(0.1).clamp(-1, 1), 8_000)
    found = {}
    for data in (melodies(16, samples=4_000), noise):
        method = build(negatives=10, span=6, convolution_gradient=1.0)
        optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
        values = []
        for step in range(60):
            optimizer.zero_grad()
            value = method(data.sample(12, seed=step))
            value.backward()
            optimizer.step()
            values.append(value.item() / method.chance(12))
        found[data] = sum(values[-20:]) / 20
        assert method.metrics["codes"] > 4
    music, hiss = found.values()
    assert music < 0.9
    assert hiss > music + 0.05


def test_sounds_too_short_to_hide_anything_give_a_finite_loss() -> None:
    method = build().train()
    value = method({"waveform": torch.randn(2, 500).mul(0.1), "length": torch.tensor([300, 500])})
    value.backward()
    assert value.isfinite() and all(metric.isfinite() for metric in method.metrics.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_training_step_in_bfloat16_is_finite() -> None:
    method = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        value = method(melodies(4).sample(4))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()


def test_penalty_is_the_mean_square_of_the_maps() -> None:
    batch, found = melodies(4).sample(4), {}
    for penalty in (0.0, 10.0):
        method = build(penalty=penalty).eval()
        torch.manual_seed(3)
        found[penalty] = method(batch)
    maps, frames = method.encoder.trunk.convolve(*method.encoder.adapt(method.encoder.inputs(batch)))
    real = torch.arange(maps.shape[1]) < frames[:, None]
    torch.testing.assert_close(
        (found[10.0] - found[0.0]) / 10, maps[real].square().mean(), rtol=1e-4, atol=1e-6
    )


def test_pictures_show_half_of_the_sound_hidden() -> None:
    pictures = build().eval().pictures(melodies(3).sample(3))
    sound, hidden, alike = (picture for picture in pictures.values() if isinstance(picture, Tensor))
    assert sound.shape == hidden.shape and alike.shape[:2] == (3, 1) and alike.shape[2] == alike.shape[3]
    share = (sound != hidden).any(2).float().mean()
    assert 0.3 < share < 0.8


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((name, 0) for name in ("mask", "span", "negatives", "groups", "codes", "code_dim", "temperature")),
        *((name, math.nan) for name in ("mask", "diversity", "penalty", "softness", "convolution_gradient")),
        *(("code_dim", 15), ("span", 2.5), ("crop_seconds", 0.0), ("mask", 1.1)),
    ],
)
def test_nonsense_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{option} must"):
        build(**{option: value})


def test_encoders_without_a_transformer_are_refused() -> None:
    with pytest.raises(ValueError, match="encoder must be a wav2vec2 such as wav2vec2-mini, got gru3"):
        Wav2Vec2(encoders.build("gru3", kind="audio"))


def test_sounds_and_pieces_too_short_to_hide_two_frames_are_refused() -> None:
    frame = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=8_000).trunk.receptive
    for samples, most in ((10, 1), (frame + 160, 2)):
        with pytest.raises(
            ValueError, match=rf"must have at least 3 frames, of which 2 .* got {most} at most"
        ):
            build().prepare(melodies(4, samples=samples))
    build().prepare(melodies(4, samples=frame + 320))
    method = build(crop_seconds=0.01)
    with pytest.raises(ValueError, match=r"in pieces of crop_seconds=0.01, must"):
        method.prepare(method.training_view(melodies(4)))


def test_a_single_hidden_frame_is_no_question_that_the_accuracy_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, batch = build().eval(), melodies(3).sample(3)
    frames = method.encoder.trunk.frames(batch["length"])
    masked = spans(frames, int(frames.max()), 0.65, 10)
    masked[1] = torch.arange(masked.shape[1]) == 3
    monkeypatch.setattr(method, "hide", lambda frames, size: masked[: len(frames), :size])
    torch.manual_seed(1)
    method(batch)
    accuracy = float(method.metrics["accuracy"])
    asked = int(masked[[0, 2]].sum())
    assert accuracy * asked == pytest.approx(round(accuracy * asked), abs=1e-3)
    assert accuracy * (asked + 1) != pytest.approx(round(accuracy * (asked + 1)), abs=1e-3)
