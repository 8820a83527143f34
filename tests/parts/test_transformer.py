"""Transformers over grids, against slow loops."""

import math

import pytest
import torch
from torch import Tensor, nn

from unlabeled.parts.token_masks import numbers, random_cells
from unlabeled.parts.transformer import Predictor, Transformer, positions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """With random weights everywhere, so that no bias, gain or last layer is trivial."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module.double()


def slow(transformer: Transformer, tokens: Tensor, heads: int) -> Tensor:
    """Tokens of one sample, (tokens, dim), through all blocks, one token and one head after the other."""

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        rows = [(row - row.mean()) / (row.var(unbiased=False) + layer.eps).sqrt() for row in x]
        return torch.stack(rows) * layer.weight + layer.bias

    for block in transformer.blocks:
        width = tokens.shape[1] // heads
        normed = norm(block.norm1, tokens)
        parts = normed @ block.attn.qkv.weight.T + block.attn.qkv.bias
        query, key, value = parts.split(tokens.shape[1], 1)
        outputs = []
        for token in range(len(tokens)):
            mixed = []
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                scores = [
                    query[token, part] @ key[other, part] / math.sqrt(width) for other in range(len(tokens))
                ]
                weights = torch.stack(scores).exp()
                mixed.append((weights / weights.sum()) @ value[:, part])
            outputs.append(block.attn.proj.weight @ torch.cat(mixed) + block.attn.proj.bias)
        tokens = tokens + torch.stack(outputs)
        hidden = norm(block.norm2, tokens) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        tokens = tokens + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return norm(transformer.norm, tokens)


def slow_positions(grid: tuple[int, ...], dim: int) -> Tensor:
    waves = dim // (2 * len(grid))
    cells = [[]]
    for side in grid:
        cells = [[*cell, place] for cell in cells for place in range(side)]
    rows = []
    for cell in cells:
        row: list[float] = []
        for place in cell:
            angles = [place / 10_000 ** (wave / waves) for wave in range(waves)]
            row += [*map(math.sin, angles), *map(math.cos, angles)]
        rows.append(row + [0.0] * (dim - len(row)))
    return torch.tensor(rows)


@pytest.mark.parametrize(("grid", "dim"), [((4, 3), 16), ((2, 3, 4), 32), ((5,), 6), ((2, 2), 4)])
def test_positions_are_those_of_a_slow_loop_and_all_different(grid: tuple[int, ...], dim: int) -> None:
    found = positions(grid, dim)
    torch.testing.assert_close(found, slow_positions(grid, dim), atol=1e-6, rtol=1e-5)
    assert len(found.unique(dim=0)) == math.prod(grid)


def test_transformer_and_its_gradient_are_those_of_a_slow_loop() -> None:
    transformer = Transformer(6, 2, 3)
    shaken(transformer)
    tokens = torch.randn(2, 4, 6).double().requires_grad_()
    fast, by_hand = transformer(tokens), torch.stack([slow(transformer, sample, 3) for sample in tokens])
    torch.testing.assert_close(fast, by_hand)
    weights, inputs = torch.randn_like(fast), [tokens, *transformer.parameters()]
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (fast, by_hand))):
        torch.testing.assert_close(one, other)
    states = transformer.states(tokens)
    assert len(states) == 2 and torch.equal(states[-1], fast)
    half = Transformer(6, 1, 3).double()
    half.load_state_dict({k: v for k, v in transformer.state_dict().items() if "blocks.1" not in k})
    torch.testing.assert_close(half(tokens), states[0])


@pytest.mark.parametrize("grid", [(3, 2), (2, 2, 2)])
def test_predictions_and_their_gradient_are_those_of_a_slow_loop(grid: tuple[int, ...]) -> None:
    predictor = Predictor(5, 3, width=32, blocks=1, kinds=2)
    cells = math.prod(grid)
    tokens = torch.randn(2, 2, 5).double().requires_grad_()
    mask = random_cells(2, cells, cells - 2, torch.device("cpu"))
    visible, hidden = numbers(~mask), numbers(mask)
    first = predictor.float()(tokens.float(), visible, hidden, grid)
    assert first.abs().max() < 0.03  # near 0 before training
    shaken(predictor)
    fast = predictor(tokens, visible, hidden, grid, kind=1)
    places, rows = slow_positions(grid, 32).double(), []
    for sample in range(2):
        sequence = [
            predictor.enter.weight @ token + predictor.enter.bias + places[number]
            for token, number in zip(tokens[sample], visible[sample])
        ]
        sequence += [predictor.hidden_tokens[1] + places[number] for number in hidden[sample]]
        states = slow(predictor.transformer, torch.stack(sequence), 1)[2:]
        rows.append(states @ predictor.leave.weight.T + predictor.leave.bias)
    by_hand = torch.stack(rows)
    torch.testing.assert_close(fast, by_hand, rtol=1e-6, atol=1e-6)  # positions are in float32
    weights, inputs = torch.randn_like(fast), [tokens, *predictor.parameters()]
    for one, other in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (fast, by_hand))):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_order_in_which_cells_are_asked_for_does_not_matter() -> None:
    predictor = shaken(Predictor(5, 3, width=32, blocks=2))
    tokens, visible, hidden = torch.randn(1, 2, 5).double(), torch.tensor([[0, 4]]), torch.tensor([[1, 2, 5]])
    order = torch.tensor([2, 0, 1])
    straight, mixed = (predictor(tokens, visible, asked, (2, 3)) for asked in (hidden, hidden[:, order]))
    torch.testing.assert_close(straight[:, order], mixed)
    flipped = predictor(tokens.flip(1), visible.flip(1), hidden, (2, 3))
    torch.testing.assert_close(flipped, straight)
    assert not torch.allclose(predictor(tokens, visible.flip(1), hidden, (2, 3)), straight)


def test_width_of_a_predictor_is_in_whole_heads() -> None:
    with pytest.raises(ValueError, match="multiple of 32, got 40"):
        Predictor(5, 3, width=40, blocks=1)
