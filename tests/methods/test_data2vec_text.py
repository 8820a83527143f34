"""data2vec for texts: targets and loss as a slow loop computes them, what is masked, and a language without rules."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.data.text.data import Texts
from unlabeled.encoders import text as text_encoders
from unlabeled.encoders.text import TextInput
from unlabeled.methods.data2vec_text import Data2VecText, explained, targets
from unlabeled.parts.hidden_patches import zero_loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


NAMES = ["cat", "dog", "bird", "fish", "horse", "mouse", "snake", "goose"]


def texts(count: int = 24, rules: bool = True) -> Texts:
    """Chants of one animal each; without rules of a random animal at every place."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randint(len(NAMES), (count, 1 if rules else 20), generator=generator).expand(-1, 20)
    return Texts([" ".join(NAMES[number] for number in row) for row in numbers.tolist()])


def build(name: str = "bert-tiny", **options: Any) -> Data2VecText:
    torch.manual_seed(0)
    return Data2VecText(text_encoders.fitted(name, texts(), length=24), **options)


def read(method: Data2VecText, data: Texts | None = None, count: int = 4) -> TextInput:
    return method.encoder.inputs(method.training_view(data or texts()).batch(torch.arange(count)))


@pytest.mark.parametrize(("name", "layers"), [("bert-tiny", 2), ("bert-tiny", 1), ("bert-rotary-tiny", 2)])
def test_loss_and_its_gradient_are_those_of_a_slow_loop(name: str, layers: int) -> None:
    method = build(name, layers=layers, beta=0.7).double().eval()
    with torch.no_grad():
        for parameter in (*method.teacher.parameters(), *method.head.parameters()):
            parameter += 0.05 * torch.randn_like(parameter)
    batch = method.training_view(texts()).batch(torch.arange(3))
    x = method.encoder.inputs(batch)
    masked = method.mask(x)
    method.mask = lambda x: masked  # type: ignore[method-assign]
    model = method.teacher.network.model
    states = model(input_ids=x.tokens, attention_mask=x.mask.long(), output_hidden_states=True).hidden_states
    parts = []
    for number in range(len(states) - 1):
        if name == "bert-tiny":
            layer = model.encoder.layer[number]
            bias = torch.where(x.mask, 0.0, -1e9).double()[:, None, None]
            attended = layer.attention(states[number], bias)[0]
            parts.append(layer.output.dense(layer.intermediate(attended)))
        else:  # the state after a layer is that before its feed-forward part plus what this gives
            layer, held = model.layers[number], []
            hook = layer.mlp_norm.register_forward_pre_hook(lambda _, given, held=held: held.append(given[0]))
            model(input_ids=x.tokens, attention_mask=x.mask.long())
            hook.remove()
            parts.append(layer.mlp(layer.mlp_norm(held[0])))
    seen = x.tokens.masked_fill(masked, method.encoder.special("[MASK]"))
    answers = method.head(method.encoder.states(x._replace(tokens=seen)))
    terms = []
    for row, place in masked.nonzero().tolist():
        vectors = [part[row, place].detach() for part in parts[-layers:]]
        mean = sum((v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() for v in vectors) / layers
        true = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt()  # type: ignore[union-attr]
        error = (answers[row, place] - true).abs()
        terms.append(torch.where(error < 0.7, error**2 / 1.4, error - 0.35).mean())
    fast, slow = method(batch), torch.stack(terms).mean()
    torch.testing.assert_close(fast, slow, atol=1e-7, rtol=1e-6)
    weights = [p for p in method.parameters() if p.requires_grad]
    for ours, theirs in zip(*(torch.autograd.grad(x, weights, allow_unused=True) for x in (fast, slow))):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-5)


def test_spans_are_masked_but_no_special_piece_and_no_padding() -> None:
    method = build()
    data = Texts(["cat dog " * 8, "cat dog fish", "cat"] * 100)
    x = read(method, data, 300)
    masked = method.mask(x)
    special = (x.tokens == method.encoder.special("[CLS]")) | (x.tokens == method.encoder.special("[SEP]"))
    assert not (masked & (special | ~x.mask)).any() and not masked[:, 0].any()
    share = masked[::3].sum() / (x.mask[::3].sum() - 200)
    assert 0.2 < share < 0.4 and masked.any(1).all()
    assert (masked[:, 1:] & masked[:, :-1]).any()


def test_masked_pieces_reach_no_prediction_but_set_the_targets() -> None:
    method = build().eval()
    x = read(method)
    masked = method.mask(x)
    other = x._replace(tokens=torch.where(masked, x.tokens.flip(0).roll(1, 1) % 50 + 5, x.tokens))
    assert torch.equal(method.predict(x, masked), method.predict(other, masked))
    first, second = (method.targets(one)[masked] for one in (x, other))
    assert (first - second).abs().max() > 0.1 and not first.requires_grad


def test_targets_have_mean_0_and_variance_1_every_layer_counts_alike_and_0_has_the_chance_loss() -> None:
    outputs = [torch.randn(20, 30, 64) * 3 + 5 for _ in range(3)]
    made = targets(outputs)
    torch.testing.assert_close(made.mean(2), torch.zeros(20, 30), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.var(2, correction=0), torch.ones(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        targets([outputs[0], 9 * outputs[1] - 7, outputs[2]]), made, atol=1e-3, rtol=1e-3
    )
    assert torch.nn.functional.smooth_l1_loss(0 * made, made, beta=4.0).item() == pytest.approx(
        0.125, abs=0.002
    )
    assert build().chance(3) == zero_loss(4.0) == pytest.approx(0.125, abs=1e-3)


def trained(rules: bool) -> tuple[float, float]:
    """How much is explained, after a few steps, of how targets at a place differ between texts; their deviation."""
    method = build()
    data = method.training_view(texts(256, rules))
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    for step in range(60):
        optimizer.zero_grad()
        method(data.sample(8, seed=step)).backward()
        optimizer.step()
        method.after_step(step / 60)
    x = read(method.eval(), texts(256, rules), 64)
    masked = method.mask(x)[:1].expand(64, -1)
    with torch.no_grad():
        predicted, true = (y.view(64, -1) for y in (method.predict(x, masked), method.targets(x)[masked]))
    return explained(predicted, true).item(), method.metrics["target std"].item()


def test_what_the_rest_of_a_text_tells_is_predicted_and_of_random_pieces_only_the_place() -> None:
    chants, spread = trained(rules=True)
    random, _ = trained(rules=False)
    assert chants > 0.5 and random < 0.1 and spread > 0.02


def test_what_all_targets_have_in_common_explains_nothing() -> None:
    true = torch.randn(50, 8) + 9
    assert explained(true.mean(0).expand(50, -1), true).abs() < 1e-5
    assert explained(true, true) == 1
    half = true.mean(0) + (true - true.mean(0)) / 2
    assert explained(half, true).item() == pytest.approx(0.75)


def test_pictures_of_perfect_predictions_show_the_text_and_nonsense_is_refused() -> None:
    method = build().eval()
    batch = method.training_view(texts()).batch(torch.arange(3))
    x = method.encoder.inputs(batch)
    masked = method.mask(x)
    true: Tensor = method.targets(x)[masked]
    method.mask, method.predict = lambda x: masked, lambda *given: true  # type: ignore[method-assign]
    shown = method.pictures(batch)
    assert shown["best fit"] == shown["masked"] and "[" in shown["masked"][0]  # type: ignore[operator, index]
    with pytest.raises(ValueError, match="layers must be at most the 2 of the encoder, got 3"):
        build(layers=3)
    with pytest.raises(ValueError, match="be bidirectional, such as bert-mini, got gpt-tiny"):
        build("gpt-tiny")
