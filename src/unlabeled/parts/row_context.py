"""A context network over a grid of codes that sees the row of a code and those above, never those below.

Source: Hénaff et al., "Data-Efficient Image Recognition with Contrastive Predictive Coding", 2019,
https://arxiv.org/abs/1905.09272, appendix
"""

from torch import Tensor, nn

__all__ = ["RowContext"]


class RowContext(nn.Module):
    """Summary of each patch's row and all rows above, by residual convolutions that never look down.

    Args:
        dim: Width of the code of a patch, and of the summary.
        hidden: Width of the hidden layers of the blocks.
        blocks: Number of blocks; each sees one row farther up.
    """

    def __init__(self, dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, hidden, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, hidden, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(hidden, hidden, (2, 1)),
                nn.ReLU(inplace=True),
                nn.Conv2d(hidden, dim, 1),
            )
            for _ in range(blocks)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Float, shape (batch, dim, rows, columns), of codes of the same shape."""
        for block in self.blocks:
            codes = codes + block(codes)
        return codes.relu()
