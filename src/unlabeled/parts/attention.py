"""Attention to a memory of which only a part is visible."""

from torch import Tensor, nn

__all__ = ["Attention"]


class Attention(nn.Module):
    """Attention to a memory, then a small network at every item, each with a residual connection.

    Args:
        dim: Width of items and memory.
        heads: Heads of the attention, a divisor of the width.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(inplace=True), nn.Linear(2 * dim, dim))

    def forward(self, items: Tensor, memory: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Items after attending to the visible part of the memory, and the weights of the attention.

        Args:
            items: Float, shape (batch, items, dim).
            memory: Float, shape (batch, memory, dim).
            visible: bool, shape (batch, memory).

        Returns:
            Float, shape (batch, items, dim), and float, shape (batch, items, memory).
        """
        memory = self.before(memory)
        # The mask of torch marks what is ignored.
        output, weights = self.attention(self.before(items), memory, memory, key_padding_mask=~visible)
        items = items + output
        return items + self.layers(self.between(items)), weights
