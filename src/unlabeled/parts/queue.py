"""A first-in, first-out queue of a fixed number of rows."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Queue"]


class Queue(nn.Module):
    """The last `size` rows that were pushed, part of the state dict; random unit vectors at first.

    Args:
        size: Number of rows, 0 or more; need not be a multiple of what is pushed.
        dim: Width of a row.
        may_shrink: Whether it becomes smaller to fit the data, as nobody asked for this size.
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int, may_shrink: bool = False) -> None:
        super().__init__()
        self.may_shrink = may_shrink
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def fit(self, count: int, unit: str) -> None:
        """Before training, shrink to the number of samples, or warn that there are fewer where this size is a must.

        Args:
            count: Number of samples that are trained on.
            unit: What they are called, a plural.
        """
        size = len(self.rows)
        if size <= count:
            return
        if self.may_shrink:
            self.rows = self.rows[:count].clone()
            return
        warnings.warn(
            f"queue ({size}) is larger than the number of {unit} ({count}), so earlier keys of one serve as its own "
            "negatives; choose a smaller queue",
            stacklevel=3,
        )

    @property
    def full(self) -> bool:
        """Whether pushed rows have replaced all random ones."""
        return bool(self.pushed >= len(self.rows))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Replace the oldest rows.

        Args:
            rows: Float, shape (count, dim), oldest first; of more than `size` rows only the last remain.
        """
        positions = self.pushed + torch.arange(len(rows), device=rows.device)
        last = slice(max(0, len(rows) - len(self.rows)), None)
        self.rows[positions[last] % max(1, len(self.rows))] = rows[last].to(self.rows.dtype)
        self.pushed += len(rows)
