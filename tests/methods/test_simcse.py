"""SimCSE: a slow twin, dropout that is never off, texts that only compete with the others of the batch."""

import math

import pytest
import torch
from torch import Tensor, nn

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, TextInput, fitted
from unlabeled.methods.simcse import SimCSE, alignment, uniformity

WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]


def texts(count: int = 24) -> Texts:
    draws = torch.randint(len(WORDS), (count, 6), generator=torch.Generator().manual_seed(0)).tolist()
    return Texts(
        [" ".join(WORDS[word] for word in row[: 2 + number % 5]) for number, row in enumerate(draws)]
    )


def encoder(name: str = "bert-tiny") -> TextEncoder:
    torch.manual_seed(0)
    return fitted(name, texts(), length=16)


def batch_of(method: SimCSE, size: int = 6) -> dict[str, Tensor]:
    return method.training_view(texts()).batch(torch.arange(size))


both = pytest.mark.parametrize("name", ["bert-tiny", "bert-rotary-tiny"])


def slow_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """-log of the share that the second vector of a text has among all second ones, text by text."""
    losses = []
    for row in range(len(first)):
        cosines = [first[row] @ other / (first[row].norm() * other.norm()) for other in second]
        weights = [(cosine / temperature).exp() for cosine in cosines]
        losses.append(-(weights[row] / sum(weights)).log())
    return sum(losses) / len(first)  # type: ignore[return-value]


def slow_head(method: SimCSE, features: Tensor) -> Tensor:
    layer = method.head[0]
    rows = [
        [(weight @ row + bias).tanh() for weight, bias in zip(layer.weight, layer.bias)] for row in features
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_loss_and_its_gradient_are_those_of_a_slow_twin(temperature: float) -> None:
    method = SimCSE(encoder(), temperature=temperature).double()
    given = torch.randn(2, 5, method.encoder.dim).double().requires_grad_()
    method.two_passes = lambda x: (given[0], given[1])  # type: ignore[method-assign]
    fast = method(batch_of(method, 5))
    slow = slow_loss(slow_head(method, given[0]), slow_head(method, given[1]), temperature)
    torch.testing.assert_close(fast, slow)
    inputs = [given, *method.head.parameters()]
    for one, other in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs)):
        torch.testing.assert_close(one, other)


@both
def test_each_row_of_each_pass_has_its_own_dropout_in_evaluation_too(name: str) -> None:
    method = SimCSE(encoder(name))
    x = method.encoder.inputs(batch_of(method, 1))
    same = TextInput(*(part.expand(4, -1) for part in x))
    for mode in (True, False):
        method.train(mode)
        rows = torch.cat(method.two_passes(same))
        assert torch.pdist(rows).min() > 1e-3 and method.encoder.training == mode
        torch.manual_seed(5)
        first = method(batch_of(method))
        torch.manual_seed(5)
        assert torch.equal(method(batch_of(method)), first), "by the seed alone"
    assert torch.equal(method.encoder(x), method.encoder(x)), "features are without it"
    method.encoder.trunk.set_dropout(0.0)
    first, second = method.two_passes(same)
    assert torch.equal(first, second) and torch.pdist(first).max() == 0, "nothing else differs"


@both
def test_networks_without_dropout_get_it_everywhere(name: str) -> None:
    network = encoder(name)
    assert {part.p for part in network.modules() if isinstance(part, nn.Dropout)} == {0.0}
    SimCSE(network, dropout=0.3)
    assert {part.p for part in network.modules() if isinstance(part, nn.Dropout)} == {0.3}
    attention = [part for part in network.modules() if type(part).__name__.endswith("SelfAttention")]
    rotary = [part.attention_dropout for part in network.modules() if hasattr(part, "attention_dropout")]
    assert rotary == [0.3, 0.3] if name == "bert-rotary-tiny" else len(attention) == 2
    for wrong in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="dropout must be above 0 and below 1, got"):
            SimCSE(network, dropout=wrong)


def test_loss_at_chance_alone_and_of_perfect_vectors() -> None:
    method = SimCSE(encoder())
    batch = batch_of(method, 6)
    same, units = torch.ones(6, method.encoder.dim).double(), torch.eye(6, method.encoder.dim).double()
    method.head = nn.Sequential(nn.Identity())
    method.two_passes = lambda x: (same, same)  # type: ignore[method-assign]
    assert method(batch).item() == pytest.approx(math.log(6)) == method.chance(6)
    method.two_passes = lambda x: (units, units)  # type: ignore[method-assign]
    assert method(batch).item() == pytest.approx(5 * math.exp(-20), rel=0.1)
    half = units + torch.eye(1, method.encoder.dim).double()[0].roll(50)
    method.two_passes = lambda x: (half, half)  # type: ignore[method-assign]
    assert method(batch).item() == pytest.approx(
        math.log1p(5 * math.exp(-10)), rel=1e-2
    )  # cosines of one half
    method.two_passes = lambda x: (units[:1], same[:1])  # type: ignore[method-assign]
    assert method(batch).item() == 0, "a text alone has no competitor"


def test_random_vectors_are_at_chance() -> None:
    """Nothing tells which second vector belongs to a first one that is unrelated to all."""
    method = SimCSE(encoder(), temperature=1.0)
    generator = torch.Generator().manual_seed(1)
    pairs = [torch.randn(2, 64, method.encoder.dim, generator=generator) for _ in range(20)]
    batch = batch_of(method)
    losses = []
    for pair in pairs:
        method.two_passes = lambda x, pair=pair: tuple(pair)  # type: ignore[method-assign]
        losses.append(method(batch).item())
    assert sum(losses) / 20 == pytest.approx(math.log(64), abs=0.02)


def test_the_order_of_the_texts_does_not_matter() -> None:
    method = SimCSE(encoder())
    first, second = torch.randn(2, 6, method.encoder.dim)
    order, losses = torch.randperm(6), []
    for rows in (torch.arange(6), order):
        method.two_passes = lambda x, rows=rows: (first[rows], second[rows])  # type: ignore[method-assign]
        losses.append(method(batch_of(method)).item())
    assert losses[0] == pytest.approx(losses[1])
    method.two_passes = lambda x: (first, second[order])  # type: ignore[method-assign]
    assert abs(method(batch_of(method)).item() - losses[0]) > 0.01, "partners have the same row"


def test_padding_of_longer_texts_in_the_batch_changes_no_vector() -> None:
    method = SimCSE(encoder())
    method.encoder.trunk.set_dropout(0.0)
    x = method.encoder.inputs(batch_of(method))
    assert not x.mask.all()
    vectors, row = method.two_passes(x)[0], int(x.mask.sum(1).argmin())
    alone = TextInput(*(part[[row], : int(x.mask[row].sum())] for part in x))
    torch.testing.assert_close(method.two_passes(alone)[0][0], vectors[row], rtol=0, atol=1e-5)


def test_alignment_and_uniformity_are_those_of_slow_loops() -> None:
    first, second = nn.functional.normalize(torch.randn(2, 5, 8).double(), dim=2)
    distances = [float(((a - b) ** 2).sum()) for a, b in zip(first, second)]
    assert alignment(first, second).item() == pytest.approx(sum(distances) / 5)
    pairs = [float(((first[i] - first[j]) ** 2).sum()) for i in range(5) for j in range(5) if i != j]
    expected = math.log(sum(math.exp(-2 * pair) for pair in pairs) / 20)
    assert uniformity(first).item() == pytest.approx(expected)
    assert uniformity(first[:1].expand(3, -1)) == 0 == uniformity(first[:1]), (
        "of equal vectors, and of no pair"
    )
    opposite = torch.stack([first[0], -first[0]])
    assert uniformity(opposite).item() == pytest.approx(-8)
    method = SimCSE(encoder())
    method(batch_of(method))
    assert 0 < method.metrics["alignment"] < 1 and -8 < method.metrics["uniformity"] < 0


def test_training_spreads_texts_and_keeps_passes_together() -> None:
    method = SimCSE(encoder())
    batch, metrics = batch_of(method, 8), []
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    for step in range(10):
        torch.manual_seed(step)
        loss = method(batch)
        metrics.append({name: float(value) for name, value in method.metrics.items()} | {"loss": loss.item()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert metrics[-1]["uniformity"] < metrics[0]["uniformity"] - 0.2


def test_what_is_evaluated_is_before_the_head() -> None:
    method = SimCSE(encoder()).eval()
    batch = batch_of(method)
    features = method.encoder(method.encoder.inputs(batch))
    assert torch.equal(method.features(batch), features)
    torch.testing.assert_close(method.embedding(batch), slow_head(method, features))


def test_pictures_show_the_most_similar_other_text() -> None:
    method = SimCSE(encoder()).eval()
    data = method.training_view(Texts(["the cat", "dog river", "the cat the cat", "lake"] * 2))
    pictures = method.pictures(data.batch(torch.arange(8)))
    assert pictures["text"] == ["the cat", "dog river", "the cat the cat", "lake"] * 2
    assert pictures["most similar"] == pictures["text"], "each has a twin"


def test_other_encoders_are_refused_and_bfloat16_is_finite() -> None:
    with pytest.raises(ValueError, match="encoder must be bidirectional, such as bert-mini, got gpt"):
        SimCSE(fitted("gpt-tiny", texts()))
    method = SimCSE(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch_of(method))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
