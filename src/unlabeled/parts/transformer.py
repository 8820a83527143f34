"""Transformers over the cells of a grid, some of which are hidden: positions, blocks, a predictor of what is hidden.

A grid has any number of axes: rows and columns of an image, or times, rows and columns of a clip. Its cells are counted
along the last axis first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.parts.heads import near_zero

__all__ = ["Predictor", "Transformer", "positions"]

HEAD = 32
"""Width of an attention head of a predictor."""


def positions(grid: Sequence[int], dim: int) -> Tensor:
    """Sine and cosine positions of the cells of a grid; every axis has an equal part of the numbers.

    Args:
        grid: Cells along each axis.
        dim: Numbers of a position; those that cannot be divided evenly are 0.

    Returns:
        Float, shape (cells, dim).
    """
    waves = dim // (2 * len(grid))
    rates = 10_000 ** -(torch.arange(waves) / max(1, waves))
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(-1, len(grid), 1)
    angles = places * rates
    codes = torch.cat([angles.sin(), angles.cos()], 2).flatten(1)
    return F.pad(codes, (0, dim - codes.shape[1]))


class Transformer(nn.Module):
    """Blocks of attention with the norms first, then a norm.

    Args:
        dim: Width of a token, a multiple of the heads.
        blocks: Number of blocks.
        heads: Heads of the attention.
    """

    def __init__(self, dim: int, blocks: int, heads: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens after all blocks and the norm, float, shape (batch, tokens, dim), of the same shape."""
        return self.states(x)[-1]

    def states(self, x: Tensor) -> list[Tensor]:
        """Tokens after each block and the norm."""
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return [self.norm(state) for state in states]


class Predictor(nn.Module):
    """A narrow transformer that predicts what is in hidden cells from tokens of visible ones.

    A hidden cell enters as its position and a learned token, 0 at first; all predictions start near 0.

    Args:
        dim: Width of the tokens of visible cells.
        out: Numbers to predict of each hidden cell.
        width: Width of the transformer, a multiple of 32.
        blocks: Number of its blocks.
        kinds: Number of learned tokens, where cells are hidden in different ways.

    Raises:
        UserError: The width does not fit.
    """

    def __init__(self, dim: int, out: int, *, width: int, blocks: int, kinds: int = 1) -> None:
        super().__init__()
        if width % HEAD:
            raise UserError(f"width of a predictor must be a multiple of {HEAD}, got {width}")
        self.enter, self.leave = nn.Linear(dim, width), near_zero(nn.Linear(width, out))
        self.hidden_tokens = nn.Parameter(torch.zeros(kinds, width))
        self.transformer = Transformer(width, blocks, width // HEAD)

    def forward(
        self, tokens: Tensor, visible: Tensor, hidden: Tensor, grid: Sequence[int], kind: int = 0
    ) -> Tensor:
        """Predict.

        Args:
            tokens: Of the visible cells, float, shape (batch, visible, dim).
            visible: Their numbers, int64, shape (batch, visible).
            hidden: Numbers of the cells to predict, int64, shape (batch, hidden).
            grid: Cells along each axis.
            kind: Index of the learned token.

        Returns:
            Float, shape (batch, hidden, out).
        """
        tokens = self.enter(tokens)
        places = positions(grid, tokens.shape[2]).to(tokens)
        queries = self.hidden_tokens[kind] + places[hidden]
        states = self.transformer(torch.cat([tokens + places[visible], queries], 1))
        return self.leave(states[:, visible.shape[1] :])
