"""Text encoders with rotary positions: a slow twin, only distances count, windows reach equally far to both sides."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.data.text.data import Texts
from unlabeled.encoders.text import TextEncoder, TextInput, fitted
from unlabeled.encoders.text_trunks import NAMES

DATA = Texts(["The cat sat on the mat. A dog saw it.", "Where is the dog?", "Rain fell on the mat."] * 3)
THETA = {"full": 160_000, "local": 10_000}


def encoder(name: str = "bert-rotary-tiny", seed: int = 0) -> TextEncoder:
    """With large random weights, so that positions matter and no gain is trivial."""
    torch.manual_seed(seed)
    network = fitted(name, DATA).eval()
    with torch.no_grad():
        for weight in network.trunk.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return network


def given(*lengths: int, seed: int = 0) -> TextInput:
    """Random tokens, padded at the end."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, 30, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TextInput(tokens.where(mask, 0), mask, torch.zeros_like(tokens))


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * weight


def turned(x: Tensor, place: int, theta: float) -> Tensor:
    """A vector whose pairs (i, i + half) are turned as complex numbers by place / theta^(2i / width)."""
    half = len(x) // 2
    pairs = torch.complex(x[:half], x[half:])
    angles = place / theta ** (2 * torch.arange(half).double() / len(x))
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([pairs.real, pairs.imag])


def slow(model: nn.Module, tokens: list[int], heads: int, reach: int) -> Tensor:
    """States of one text, written from the paper: one token, one head and one pair at a time."""
    weights = dict(model.named_parameters())
    states = [
        norm(weights["embeddings.tok_embeddings.weight"][t], weights["embeddings.norm.weight"])
        for t in tokens
    ]
    layers, width = len(model.layers), len(states[0])
    size = width // heads
    for layer in range(layers):
        kind = "full" if layer % 3 == 0 else "local"
        part = {key.removeprefix(f"layers.{layer}."): value for key, value in weights.items()}
        inputs = [norm(x, part["attn_norm.weight"]) if layer else x for x in states]
        query, key, value = zip(*((part["attn.Wqkv.weight"] @ x).chunk(3) for x in inputs))
        after = []
        for i, state in enumerate(states):
            mixed = []
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                seen = [j for j in range(len(tokens)) if kind == "full" or abs(i - j) <= reach]
                q = turned(query[i][cut], i, THETA[kind])
                scores = [q @ turned(key[j][cut], j, THETA[kind]) / math.sqrt(size) for j in seen]
                shares = torch.stack(scores).softmax(0)
                mixed.append(sum(share * value[j][cut] for share, j in zip(shares, seen)))
            x = state + part["attn.Wo.weight"] @ torch.cat(mixed)
            up, gate = (part["mlp.Wi.weight"] @ norm(x, part["mlp_norm.weight"])).chunk(2)
            after.append(x + part["mlp.Wo.weight"] @ (F.gelu(up) * gate))
        states = after
    return torch.stack([norm(x, weights["final_norm.weight"]) for x in states])


def test_states_and_gradients_are_those_of_a_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "bert-rotary-tiny", (2, 8, 2))
    monkeypatch.setattr("unlabeled.encoders.text_trunks.TRANSFORMERS", NAMES)
    network = encoder().double()
    model, x = network.trunk.model, given(7)
    model.config.sliding_window = 2  # that of 64 tokens would see everything here
    fast, by_hand = network.states(x)[0], slow(model, x.tokens[0].tolist(), 2, 2)
    torch.testing.assert_close(fast, by_hand, rtol=0, atol=2e-6)  # angles are in float32
    wide = slow(model, x.tokens[0].tolist(), 2, 7)
    assert (wide - by_hand).abs().max() > 1e-3, "the window matters"
    signs, weights = torch.randn_like(fast), list(model.parameters())
    pairs = zip(*(torch.autograd.grad((y * signs).sum(), weights) for y in (fast, by_hand)))
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def shifted(x: TextInput, by: int) -> TextInput:
    """The same texts after so many tokens that do not count."""
    return TextInput(*(F.pad(part, (by, 0)) for part in x))


@pytest.mark.parametrize("by", [1, 37])
def test_only_distances_count(by: int) -> None:
    x, network = given(20, 11), encoder()
    torch.testing.assert_close(network(shifted(x, by)), network(x), rtol=0, atol=1e-4)
    moved = network.states(shifted(x, by))[:, by:]
    torch.testing.assert_close(moved[x.mask], network.states(x)[x.mask], rtol=0, atol=1e-4)
    learned = encoder("bert-tiny")
    assert (learned(shifted(x, by)) - learned(x)).abs().max() > 0.05, "learned positions are absolute"


def test_order_counts() -> None:
    x, network = given(20), encoder()
    assert (network(x._replace(tokens=x.tokens.flip(1))) - network(x)).abs().max() > 0.01


def test_a_local_layer_sees_64_tokens_to_each_side() -> None:
    network, x = encoder(), given(200)
    layer = network.trunk.model.layers[1]
    seen: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        seen.append(inputs[0].detach().requires_grad_())
        return (seen[0],)

    layer.register_forward_pre_hook(cut)
    network.states(x)[0, 100, 0].backward()
    reached = seen[0].grad[0].abs().sum(1).nonzero().flatten()
    assert reached.tolist() == list(range(36, 165))


def test_longer_texts_take_no_more_weights_and_segments_change_nothing() -> None:
    network = encoder()
    assert network.length == 512 and fitted("bert-rotary-tiny", DATA, length=64).length == 64
    sizes = [
        sum(w.numel() for w in fitted("bert-rotary-tiny", DATA, length=n).parameters()) for n in (64, 512)
    ]
    assert sizes[0] == sizes[1]
    x = given(9)
    assert torch.equal(network(x), network(x._replace(segment=torch.ones_like(x.segment))))


def test_the_largest_is_modernbert_base() -> None:
    from transformers import ModernBertConfig, ModernBertModel

    layers, width, heads = NAMES["bert-rotary-base"]
    config = ModernBertConfig()
    published = config.num_hidden_layers, config.hidden_size, config.num_attention_heads
    assert (layers, width, heads) == published and config.intermediate_size == 3 * width // 2
    ours = encoder().trunk.model.config  # beyond these sizes they are the same
    sizes = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    own = {"max_position_embeddings", "layer_types", "dtype", "architectures", "transformers_version"}
    for key, value in config.to_dict().items():
        if key not in sizes | own and not key.endswith("token_id"):
            assert getattr(ours, key) == value, key
    with torch.device("meta"):
        assert sum(w.numel() for w in ModernBertModel(config).parameters()) == 149_014_272
