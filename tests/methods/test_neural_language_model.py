"""Neural language model: the formula by hand, a window that ends before its target, chance where none can know."""

import math

import pytest
import torch
from torch import Tensor, nn

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, fitted
from unlabeled.methods.gpt import GPT
from unlabeled.methods.neural_language_model import NeuralLanguageModel

WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]
WINDOW = 4


def texts(documents: int = 8, sentences: int = 12) -> Texts:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(WORDS), (documents, sentences, 2), generator=generator).tolist()
    return Texts(
        [" ".join(f"The {WORDS[a]} is near the {WORDS[b]}." for a, b in document) for document in draws]
    )


def encoder(length: int = 24) -> TextEncoder:
    torch.manual_seed(0)
    return fitted("nplm-tiny", texts(), length=length)


def batch_of(method: NeuralLanguageModel, size: int = 8) -> dict[str, Tensor]:
    return method.training_view(texts()).sample(size)


def of_tokens(tokens: Tensor) -> dict[str, Tensor]:
    """A batch of rows without padding."""
    real = torch.ones_like(tokens, dtype=torch.bool)
    return {"tokens": tokens, "mask": real, "sentence": real.long()}


def slow(method: NeuralLanguageModel, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient by the formulas, one prediction after the other."""
    trunk, output, direct = method.encoder.trunk, method.output, method.direct
    assert direct is not None
    weights = {
        "C": trunk.embeddings.weight,
        "H": trunk.hidden.weight,
        "d": trunk.hidden.bias,
        "U": output.weight,
        "b": output.bias,
        "W": direct.weight,
    }
    weights = {name: weight.detach() for name, weight in weights.items()}
    total, count = 0.0, 0
    gradient = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for row, real in zip(batch["tokens"].tolist(), batch["mask"].sum(1).tolist()):
        for place in range(WINDOW, real):
            seen, truth = row[place - WINDOW : place], row[place]
            x = torch.cat([weights["C"][token] for token in seen])
            a = torch.tanh(weights["d"] + weights["H"] @ x)
            y = weights["b"] + weights["W"] @ x + weights["U"] @ a
            error = y.softmax(0)
            total, count = total - math.log(error[truth]), count + 1
            error[truth] -= 1
            slope = (weights["U"].T @ error) * (1 - a * a)
            back = weights["H"].T @ slope + weights["W"].T @ error
            for name, change in {
                "b": error,
                "U": torch.outer(error, a),
                "W": torch.outer(error, x),
                "d": slope,
                "H": torch.outer(slope, x),
            }.items():
                gradient[name] += change
            for number, token in enumerate(seen):
                gradient["C"][token] += back.view(WINDOW, -1)[number]
    return total / count, {name: value / count for name, value in gradient.items()}


def test_loss_and_gradient_are_those_of_the_formulas() -> None:
    method = NeuralLanguageModel(encoder(12), direct=True).double()
    for weight in method.parameters():
        nn.init.normal_(weight, std=0.3)
    data = method.training_view(texts(1, 3))
    batch = data.batch(torch.arange(len(data)))
    assert not batch["mask"].all(), "one block is shorter than the others"
    x = method.encoder.inputs(batch)
    context, truth = method.task(x, method.predicted(x))
    trunk, direct = method.encoder.trunk, method.direct
    assert direct is not None
    logits = method.output(trunk.layer(context)) + direct(context)
    value = nn.functional.cross_entropy(logits, truth)
    value.backward()
    expected, gradient = slow(method, batch)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert method(batch).item() == pytest.approx(expected, rel=1e-5), "float32 logits"
    found = {
        "C": trunk.embeddings.weight,
        "H": trunk.hidden.weight,
        "d": trunk.hidden.bias,
        "U": method.output.weight,
        "b": method.output.bias,
        "W": direct.weight,
    }
    for name, weight in found.items():
        torch.testing.assert_close(weight.grad, gradient[name], rtol=1e-9, atol=1e-12)


def test_surprise_is_what_each_piece_costs_and_its_mean_the_loss() -> None:
    method = NeuralLanguageModel(encoder()).eval()
    data = method.training_view(texts())
    batch = data.batch(torch.arange(len(data)))
    costs, real = method.surprise(batch).detach(), batch["mask"][:, WINDOW:]
    assert not real.all() and not costs[~real].any() and (costs[real] > 0).all()
    assert method(batch).item() == pytest.approx(float(costs.sum() / real.sum()), rel=1e-5)


@pytest.mark.parametrize("direct", [False, True])
def test_a_prediction_depends_on_the_window_before_it_and_on_nothing_else(direct: bool) -> None:
    method = NeuralLanguageModel(encoder(), direct=direct).eval()
    for weight in method.parameters():
        nn.init.normal_(weight, std=0.3)
    tokens = torch.randint(1, method.encoder.vocabulary, (3, 16))

    def logits(tokens: Tensor) -> Tensor:
        x = method.encoder.inputs(of_tokens(tokens))
        return method.logits(method.task(x, method.predicted(x))[0]).view(3, 16 - WINDOW, -1)

    before = logits(tokens)
    for place in range(16):
        other = tokens.clone()
        other[:, place] = other[:, place] % (method.encoder.vocabulary - 1) + 1
        changed = (logits(other) != before).flatten(2).any(2).any(0)
        seen_by = [WINDOW + row for row in range(16 - WINDOW) if row <= place < row + WINDOW]
        assert (changed.nonzero()[:, 0] + WINDOW).tolist() == seen_by
    swapped = tokens.clone()
    swapped[:, [0, 3]] = tokens[:, [3, 0]]
    assert not torch.allclose(logits(swapped)[:, 0], before[:, 0]), "order matters"


class Leaky(NeuralLanguageModel):
    """The same with a window that reaches one piece too far."""

    def task(self, x, predicted):
        context = self.encoder.trunk.context(x)[:, self.encoder.overlap :]
        return context[predicted], x.tokens[:, self.encoder.overlap :][predicted]


def loss_after_training(method: NeuralLanguageModel, train: Tensor, test: Tensor, steps: int = 60) -> float:
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        method(of_tokens(train[32 * step : 32 * (step + 1)])).backward()
        optimizer.step()
    with torch.no_grad():
        return method.eval()(of_tokens(test)).item()


def test_what_cannot_be_known_is_predicted_at_chance_unless_the_window_reaches_too_far() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(10, 18, (60 * 32 + 256, 16), generator=generator)
    train, test = noise[:-256], noise[-256:]
    chance = math.log(8)
    assert abs(loss_after_training(NeuralLanguageModel(encoder()), train, test) - chance) < 0.03
    assert loss_after_training(Leaky(encoder()), train, test) < chance / 2
    start = torch.randint(8, (len(noise), 1), generator=generator)
    order = 10 + (start + 3 * torch.arange(16)) % 8
    assert loss_after_training(NeuralLanguageModel(encoder()), order[:-256], order[-256:]) < chance / 2


def test_first_loss_is_the_log_of_the_vocabulary_and_chance_the_entropy_of_what_is_predicted() -> None:
    method = NeuralLanguageModel(encoder(), direct=True)
    every = math.log(method.encoder.vocabulary)
    assert method(batch_of(method)).item() == pytest.approx(every, abs=0.01)
    assert method.chance(8) == pytest.approx(every)
    data = method.training_view(texts())
    method.prepare(data)
    pieces = torch.cat([batch["tokens"][:, WINDOW:][batch["mask"][:, WINDOW:]] for batch in data.batches(8)])
    shares = pieces.bincount().double() / len(pieces)
    expected = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
    assert method.chance(8) == pytest.approx(expected, rel=1e-5)


def test_parameters_are_as_many_as_the_paper_counts() -> None:
    network = encoder()
    pieces, width, hidden = network.vocabulary, 32, 64
    count = pieces * (1 + width + hidden) + hidden * (1 + WINDOW * width)
    for direct in (False, True):
        weights = NeuralLanguageModel(network, direct=direct).parameters()
        assert sum(weight.numel() for weight in weights) == count + direct * pieces * WINDOW * width


def test_every_piece_of_every_text_is_predicted_once_from_the_pieces_before_it() -> None:
    method, data = NeuralLanguageModel(encoder()), texts()
    blocks = method.training_view(data)
    for number, text in enumerate(data.texts):
        pieces = [0] * WINDOW + method.encoder.encode([text])[0]
        expected = [(pieces[place - WINDOW : place], pieces[place]) for place in range(WINDOW, len(pieces))]
        found = []
        for row in (blocks.documents == number).nonzero()[:, 0].tolist():
            batch = blocks.batch(torch.tensor([row]))
            tokens = batch["tokens"][0, : int(batch["mask"].sum())].tolist()
            found += [(tokens[at - WINDOW : at], tokens[at]) for at in range(WINDOW, len(tokens))]
        assert found == expected


def test_features_are_means_of_the_hidden_layer_or_of_the_vectors() -> None:
    network = encoder().eval()
    batch = network.evaluation_view(texts()).batch(torch.arange(8))
    x = network.inputs(batch)
    for row in range(8):
        pieces = [0] * (WINDOW - 1) + x.tokens[row][x.mask[row]].tolist()
        vectors = network.embeddings.weight[pieces]
        layer = [
            torch.tanh(network.trunk.hidden(vectors[place : place + WINDOW].flatten()))
            for place in range(len(pieces) - WINDOW + 1)
        ]
        torch.testing.assert_close(network(x)[row], torch.stack(layer).mean(0))
        torch.testing.assert_close(network.features(x, "hidden")[row], torch.stack(layer).mean(0))
        torch.testing.assert_close(network.features(x, "embedding")[row], vectors[WINDOW - 1 :].mean(0))


def test_continuation_is_what_a_step_by_step_forward_says_also_beyond_the_block() -> None:
    method = NeuralLanguageModel(encoder(12), temperature=0.0).eval()
    for weight in method.parameters():
        nn.init.normal_(weight, std=0.3)
    tokens, lengths = torch.randint(1, 100, (2, 12)), torch.tensor([12, 2])
    added = method.generate(tokens, lengths, 6)
    for row, length in enumerate(lengths.tolist()):
        pieces = [0] * WINDOW + tokens[row, :length].tolist()
        for step in range(6):
            window = method.encoder.embeddings.weight[pieces[-WINDOW:]].flatten()
            pieces.append(int(method.logits(window[None])[0].argmax()))
            assert pieces[-1] == added[row, step].item()


def test_pictures_are_prompts_with_their_continuations_and_the_truth() -> None:
    method = NeuralLanguageModel(encoder()).eval()
    batch = batch_of(method, 4)
    pictures = method.pictures(batch)
    assert list(pictures) == ["prompt", "continued", "true"]
    for row in range(4):
        whole = method.encoder.decode(batch["tokens"][row][batch["mask"][row]][WINDOW - 1 :])
        assert whole.startswith(pictures["prompt"][row] + pictures["true"][row])


def test_encoders_of_other_methods_are_refused_both_ways() -> None:
    message = "encoder must see a window of few tokens, such as nplm-small, got gpt-tiny"
    with pytest.raises(ValueError, match=message):
        NeuralLanguageModel(fitted("gpt-tiny", texts()))
    with pytest.raises(ValueError, match="encoder must be causal, such as gpt-mini, got nplm"):
        GPT(encoder())
