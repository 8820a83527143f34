"""ELECTRA: a slow twin, labels that are right for lucky replacements, gradients that stay apart, chance where nothing
can be known."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, TextInput, fitted
from unlabeled.methods.electra import ELECTRA, roc_area

WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]


def texts(order: str = "random", seed: int = 0, count: int = 48, length: int = 24) -> Texts:
    """Ten words, drawn independently or always in the same order."""
    numbers = torch.randint(10, (count, length), generator=torch.Generator().manual_seed(seed))
    if order == "known":
        numbers = torch.arange(length).expand(count, -1) % 10
    return Texts([" ".join(WORDS[number] for number in row) for row in numbers.tolist()])


def encoder(name: str = "bert-tiny") -> TextEncoder:
    torch.manual_seed(0)
    return fitted(name, texts(), length=26)


def batch_of(method: ELECTRA, size: int = 6) -> dict[str, Tensor]:
    """Texts of several lengths."""
    batch = dict(method.training_view(texts()).batch(torch.arange(size)))
    kept = torch.arange(24) < (24 - 3 * torch.arange(size))[:, None]
    padding = {"tokens": 0, "sentence": -1, "mask": False}
    return batch | {name: batch[name].where(kept, value) for name, value in padding.items()}


def always(method: ELECTRA, token: int) -> None:
    """Let the generator fill in one piece everywhere."""
    method.sample = lambda logits: torch.full((len(logits),), token)  # type: ignore[method-assign]


both = pytest.mark.parametrize("name", ["bert-tiny", "bert-rotary-tiny"])


@both
def test_loss_and_its_gradient_are_those_of_a_slow_twin(name: str) -> None:
    """Of the two networks' outputs on: cross-entropies of the chosen pieces, binary ones of all real pieces."""
    method = ELECTRA(encoder(name), detection_weight=7.0).double()
    batch = batch_of(method, 3)
    torch.manual_seed(1)
    fast = method(batch)
    torch.manual_seed(1)
    x = method.encoder.inputs(batch)
    filled, chosen, logits = method.fill(x)
    states, (first, _, last) = method.encoder.states(filled), method.detector
    imitation, detection, rows = [], [], iter(logits)
    for text, wanted, shown, real, picked in zip(states, x.tokens, filled.tokens, x.mask, chosen):
        for state, true, seen, counts, hidden in zip(text, wanted, shown, real, picked):
            if not counts:
                assert not hidden
                continue
            inner = first.weight @ state + first.bias
            inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
            fake = 1 / (1 + (-(last.weight[0] @ inner + last.bias[0])).exp())
            detection.append(-(fake if seen != true else 1 - fake).log())
            if hidden:
                imitation.append(-next(rows).softmax(0)[true].log())
    slow = sum(imitation) / len(imitation) + 7 * sum(detection) / len(detection)
    torch.testing.assert_close(fast, slow)
    weights = [weight for weight in method.parameters() if weight.ndim > 1]
    pairs = zip(*(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (fast, slow)))
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_a_replacement_that_is_the_original_counts_as_original() -> None:
    method = ELECTRA(encoder())
    batch = batch_of(method)
    x = method.encoder.inputs(batch)
    for token in range(5, 12):
        always(method, token)
        filled, chosen, _ = method.fill(x)
        assert (filled.tokens[chosen] == token).all() and torch.equal(
            filled.tokens[~chosen], x.tokens[~chosen]
        )
    truth = x.tokens.clone()
    torch.manual_seed(3)
    chosen = method.fill(x)[1]
    method.sample = lambda logits: truth[chosen]  # type: ignore[method-assign]
    torch.manual_seed(3)
    loss = method(batch)
    assert method.metrics["replaced"] == 0 and method.metrics["roc_area"] == 0.5 and loss.isfinite()


@both
def test_special_pieces_and_padding_are_never_replaced_and_counts_are_exact(name: str) -> None:
    method = ELECTRA(encoder(name), hidden_ratio=0.3)
    x = method.encoder.inputs(batch_of(method))
    _, chosen, logits = method.fill(x)
    lengths = x.mask.sum(1).tolist()
    assert chosen.sum(1).tolist() == [max(1, round(0.3 * n)) for n in lengths] and len(logits) == chosen.sum()
    assert not chosen[~x.mask].any() and not (x.tokens[chosen] < 5).any()


def test_padding_neither_counts_nor_changes_anything() -> None:
    method = ELECTRA(encoder()).eval()
    x = method.encoder.inputs(batch_of(method))
    row = int(x.mask.sum(1).argmin())
    alone = TextInput(*(part[[row], : int(x.mask[row].sum())] for part in x))
    torch.testing.assert_close(method.detect(alone)[0], method.detect(x)[row][x.mask[row]], rtol=0, atol=1e-5)
    chosen = torch.zeros_like(x.mask)
    chosen[row, 2] = True
    vectors = method.encoder.embeddings.weight
    whole = method.generator(x, chosen, vectors)
    cut = method.generator(alone, chosen[[row], : alone.tokens.shape[1]], vectors)
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-5)


@both
def test_hidden_pieces_reach_neither_network(name: str) -> None:
    method = ELECTRA(encoder(name)).eval()
    x = method.encoder.inputs(batch_of(method))
    seen: list[Tensor] = []
    forward = method.generator.forward

    def watched(shown: TextInput, *others: Tensor) -> Tensor:
        seen.append(shown.tokens)
        return forward(shown, *others)

    method.generator.forward = watched  # type: ignore[method-assign]
    torch.manual_seed(2)
    filled, chosen, logits = method.fill(x)
    hidden = chosen & (seen[0] == method.encoder.special("[MASK]"))
    assert 0.6 < hidden.sum() / chosen.sum() <= 1
    changed = x._replace(tokens=torch.where(hidden, 5 + (x.tokens - 4) % 10, x.tokens))
    assert (changed.tokens != x.tokens)[hidden].all()
    torch.manual_seed(2)
    again, same, others = method.fill(changed)
    assert (
        torch.equal(chosen, same) and torch.equal(filled.tokens, again.tokens) and torch.equal(logits, others)
    )


def test_85_percent_of_the_chosen_are_masked_and_the_others_are_as_they_were() -> None:
    method = ELECTRA(encoder(), hidden_ratio=0.9)
    seen: list[Tensor] = []

    def zeros(shown: TextInput, chosen: Tensor, vectors: Tensor) -> Tensor:
        seen.append(shown.tokens)
        return torch.zeros(int(chosen.sum()), len(vectors))

    method.generator.forward = zeros  # type: ignore[method-assign]
    x = method.encoder.inputs(method.training_view(texts(count=400)).batch(torch.arange(400)))
    chosen = method.fill(x)[1]
    masked = seen[0] == method.encoder.special("[MASK]")
    assert torch.equal(seen[0][~masked], x.tokens[~masked]) and not masked[~chosen].any()
    count = int(chosen.sum())
    assert abs(masked.sum() / count - 0.85) < 4 * math.sqrt(0.85 * 0.15 / count)


def test_samples_follow_the_generators_own_softmax() -> None:
    method, shares = ELECTRA(encoder()), torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = method.sample(shares.log().expand(20_000, -1)).bincount(minlength=4) / 20_000
    assert ((drawn - shares).abs() < 4 * (shares * (1 - shares) / 20_000).sqrt()).all()


def test_the_discriminators_loss_gives_the_generator_no_gradient_and_both_share_the_vectors() -> None:
    method = ELECTRA(encoder())
    batch, own = batch_of(method), list(method.generator.parameters())
    vectors = method.encoder.embeddings.weight
    gradients = []
    for weight in (0.0, 50.0):
        method.detection_weight = weight
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(method(batch), [*own, vectors]))
    for one, other in zip(gradients[0][:-1], gradients[1][:-1]):
        assert torch.equal(one, other) and one.abs().sum() > 0
    assert gradients[0][-1].abs().sum() > 0 and not torch.allclose(gradients[0][-1], gradients[1][-1])
    assert vectors.shape not in [weight.shape for weight in own], "no table of its own"
    assert not set(map(id, own)) & set(map(id, method.encoder.parameters()))


def test_a_loss_of_detection_alone_starts_at_ln_2_and_chance_is_that_of_frequencies() -> None:
    method = ELECTRA(encoder())
    batch, losses = batch_of(method), []
    for weight in (0.0, 1.0):
        method.detection_weight = weight
        torch.manual_seed(0)
        losses.append(method(batch).item())
    assert losses[1] - losses[0] == pytest.approx(math.log(2), abs=0.01)
    assert losses[0] == pytest.approx(math.log(method.encoder.vocabulary), abs=0.15)
    method = ELECTRA(encoder(), detection_weight=3.0)
    assert method.chance(8) is None
    method.prepare(method.training_view(texts()))
    share = 0.15 * 0.9
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert method.chance(8) == pytest.approx(math.log(10) + 3 * entropy, rel=0.01)


@pytest.mark.parametrize(
    ("width", "sizes"), [(0.25, (1, 32)), (0.5, (1, 64)), (1.0, (2, 128)), (1e-6, (1, 2))]
)
def test_the_generator_is_narrower_with_fewer_heads(width: float, sizes: tuple[int, int]) -> None:
    config = ELECTRA(encoder(), generator_width=width).generator.model.config
    assert (config.num_attention_heads, config.hidden_size) == sizes and config.num_hidden_layers == 2


def test_roc_area_is_that_of_scikit_learn_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randint(6, (50,), generator=generator).float()
        labels = torch.rand(50, generator=generator) < 0.3
        expected = roc_auc_score(labels.numpy(), scores.numpy())
        assert roc_area(scores, labels).item() == pytest.approx(expected, abs=1e-6)
    assert roc_area(scores, labels.fill_(True)) == 0.5 == roc_area(scores, ~labels)


def area_after_training(order: str) -> float:
    """Of a discriminator of pieces that a fixed generator draws by their frequency, on new texts."""
    method = ELECTRA(encoder(), hidden_ratio=0.3)
    method.sample = lambda logits: numbers[torch.randint(10, (len(logits),))]  # type: ignore[method-assign]
    numbers = torch.tensor([method.encoder.encode([word])[0][0] for word in WORDS])
    train = method.training_view(texts(order, length=8))
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for step in range(40):
        torch.manual_seed(step)
        optimizer.zero_grad()
        method(train.batch(torch.randint(len(train), (32,)))).backward()
        optimizer.step()
    method.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        method(method.training_view(texts(order, 1, 200, 8)).batch(torch.arange(200)))
    return method.metrics["roc_area"].item()


def test_random_words_stay_at_chance_and_words_in_a_known_order_do_not() -> None:
    replaced = 200 * round(0.3 * 10) * 0.9
    assert abs(area_after_training("random") - 0.5) < 4 / math.sqrt(12 * replaced)
    assert area_after_training("known") > 0.7


def test_pictures_mark_what_was_replaced_and_what_is_detected() -> None:
    method = ELECTRA(encoder()).eval()
    always(method, method.encoder.encode(["lake"])[0][0])
    pictures = method.pictures(batch_of(method, 4))
    assert list(pictures) == ["replaced", "detected", "true"] and all(
        len(rows) == 4 for rows in pictures.values()
    )
    assert all(
        row.count("[lake]") == other.count("[") - 2
        for row, other in zip(pictures["replaced"], pictures["true"])
    )


def test_other_encoders_are_refused_and_bfloat16_is_finite() -> None:
    with pytest.raises(ValueError, match="encoder must be bidirectional, such as bert-mini, got gpt"):
        ELECTRA(fitted("gpt-tiny", texts()))
    method = ELECTRA(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch_of(method))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
