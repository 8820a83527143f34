"""GPT: nothing looks ahead, every piece is predicted once, parity with transformers, honest sampling."""

import math

import pytest
import torch
from torch import Tensor

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, fitted
from unlabeled.methods.gpt import GPT

WORDS = ["cat", "dog", "tree", "river", "stone", "bird", "house", "road", "field", "lake"]


def texts(documents: int = 8, sentences: int = 12) -> Texts:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(WORDS), (documents, sentences, 2), generator=generator).tolist()
    return Texts(
        [" ".join(f"The {WORDS[a]} is near the {WORDS[b]}." for a, b in document) for document in draws]
    )


def encoder(length: int = 32) -> TextEncoder:
    torch.manual_seed(0)
    return fitted("gpt-tiny", texts(), length=length)


def batch_of(method: GPT, size: int = 8) -> dict[str, Tensor]:
    return method.training_view(texts()).sample(size)


def test_later_pieces_change_no_bit_of_earlier_predictions() -> None:
    method = GPT(encoder()).eval()
    x = method.encoder.inputs(batch_of(method))
    logits = method.logits(method.encoder.states(x))
    for place in (1, 7, 30):
        other = x.tokens.clone()
        other[:, place:] = (other[:, place:] + 5) % method.encoder.vocabulary
        changed = method.logits(method.encoder.states(x._replace(tokens=other)))
        assert torch.equal(changed[:, :place], logits[:, :place])
        assert not torch.allclose(changed[:, place:], logits[:, place:])


def test_loss_equals_that_of_transformers_on_the_same_weights() -> None:
    from transformers import GPT2LMHeadModel

    method = GPT(encoder()).eval()
    batch = batch_of(method)
    other = GPT2LMHeadModel(method.encoder.trunk.model.config).eval()
    other.transformer.load_state_dict(method.encoder.trunk.model.state_dict())
    other.tie_weights()
    x = method.encoder.inputs(batch)
    theirs = other(input_ids=x.tokens, labels=x.tokens.where(x.mask, -100)).loss
    assert method(batch).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_loss_is_the_mean_over_real_pieces_of_what_each_costs() -> None:
    method = GPT(encoder()).eval()
    data = method.training_view(texts())
    batch = data.batch(torch.arange(len(data)))
    assert not batch["mask"].all()
    costs = method.surprise(batch)
    assert not costs[~batch["mask"][:, 1:]].any()
    assert method(batch).item() == pytest.approx(
        costs.sum().item() / int(batch["mask"][:, 1:].sum()), rel=1e-5
    )


def test_padding_costs_nothing_and_changes_nothing() -> None:
    method = GPT(encoder()).eval()
    data = method.training_view(texts())
    last = len(data) - 1
    alone, together = (method.surprise(data.batch(torch.tensor(rows))) for rows in ([last], [last, 0]))
    torch.testing.assert_close(together[0, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-5)


def test_first_loss_is_the_log_of_the_vocabulary() -> None:
    method = GPT(encoder())
    assert method(batch_of(method)).item() == pytest.approx(math.log(method.encoder.vocabulary), abs=0.1)
    assert method.chance(8) == pytest.approx(math.log(method.encoder.vocabulary))


def test_chance_is_the_entropy_of_the_pieces_once_they_are_counted() -> None:
    method = GPT(encoder())
    data = method.training_view(texts())
    method.prepare(data)
    pieces = torch.cat([batch["tokens"][:, 1:][batch["mask"][:, 1:]] for batch in data.batches(8)])
    shares = pieces.bincount().double() / len(pieces)
    expected = -(shares[shares > 0] * shares[shares > 0].log()).sum().item()
    assert method.chance(8) == pytest.approx(expected, rel=1e-5), "only of what is predicted"


def test_head_is_the_encoders_own_vectors() -> None:
    method = GPT(encoder())
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"encoder"}
    states = torch.randn(3, method.encoder.dim)
    torch.testing.assert_close(method.logits(states), states @ method.encoder.embeddings.weight.T)


def test_one_batch_is_learned_by_heart() -> None:
    """Of six seeds the loss was 0.06 after 40 steps; with larger steps it goes up and down."""
    method = GPT(encoder(16))
    batch = batch_of(method, 4)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        method(batch).backward()
        optimizer.step()
    assert method(batch).item() < 0.3 and method.metrics["accuracy"] > 0.9


def test_continuation_is_what_a_step_by_step_forward_says_whatever_the_length_of_the_prompt() -> None:
    method = GPT(encoder(), temperature=0.0).eval()
    batch = batch_of(method, 3)
    lengths = torch.tensor([3, 9, 6])
    added = method.generate(batch["tokens"], lengths, 5)
    for row, length in enumerate(lengths.tolist()):
        tokens = batch["tokens"][row : row + 1, :length]
        for step in range(5):
            x = method.encoder.inputs({"tokens": tokens, "mask": tokens >= 0, "sentence": tokens})
            best = method.logits(method.encoder.states(x))[:, -1].argmax(1)
            assert best.item() == added[row, step].item()
            tokens = torch.cat([tokens, best[:, None]], dim=1)


def test_continuation_runs_on_beyond_the_window() -> None:
    method = GPT(encoder(16), temperature=0.0).eval()
    batch = batch_of(method, 2)
    added = method.generate(batch["tokens"], torch.tensor([16, 12]), 10)
    assert added.shape == (2, 10)
    shorter = torch.cat([batch["tokens"], added[:, :1]], dim=1)[:1, 1:17]
    x = method.encoder.inputs({"tokens": shorter, "mask": shorter >= 0, "sentence": shorter})
    assert method.logits(method.encoder.states(x))[0, -1].argmax().item() == added[0, 1].item()


def test_pictures_are_prompts_with_their_continuations_and_the_truth() -> None:
    method = GPT(encoder()).eval()
    pictures = method.pictures(batch_of(method, 4))
    assert list(pictures) == ["prompt", "continued", "true"]
    assert all(len(rows) == 4 and all(isinstance(row, str) for row in rows) for rows in pictures.values())
    whole = method.encoder.decode(method.encoder.inputs(batch_of(method, 4)).tokens[0])
    assert whole.startswith(pictures["prompt"][0] + pictures["true"][0])


def test_unfit_encoders_and_values_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="encoder must be causal, such as gpt-mini, got bert-t"):
        GPT(fitted("bert-tiny", texts()))
    for name, value in (
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 1.5),
    ):
        with pytest.raises(ValueError, match=name):
            GPT(encoder(), **{name: value})  # type: ignore[arg-type]


def test_training_step_in_bfloat16_is_finite() -> None:
    method = GPT(encoder())
    with torch.autocast("cpu", torch.bfloat16):
        value = method(batch_of(method))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
