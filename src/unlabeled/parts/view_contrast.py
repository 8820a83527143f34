"""Features joined with their view directions and the output of a small contrastive network on these directions.

A contrastive network on top of frozen features sees few numbers instead of images, so that it trains in seconds.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled.parts.info_nce import nt_xent
from unlabeled.progress import watched

__all__ = ["ViewContrast", "fit_head"]

HIDDEN, OUT, DROPOUT = 1024, 256, 0.3
PASSES, BATCH, RATE, WEIGHT_DECAY, TEMPERATURE = 20, 512, 1e-3, 1e-2, 0.2
WARM_UP = 0.1
PLAIN = 0.6
"""Length of the standardised features; those of the directions and of the output of the network are 1."""


class ViewContrast(nn.Module):
    """Standardised features, their view directions and a network's output for these, concatenated at fixed lengths.

    Args:
        numbers: Dimension of the features.
        directions: Number of directions.
    """

    mean: Tensor
    factors: Tensor
    matrix: Tensor

    def __init__(self, numbers: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("factors", torch.ones(numbers))
        self.register_buffer("matrix", torch.zeros(numbers, directions))
        self.head = nn.Sequential(
            nn.Dropout(DROPOUT),
            nn.Linear(directions, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, OUT),
        )
        self.dim = numbers + directions + OUT

    def forward(self, features: Tensor) -> Tensor:
        """Float, shape (batch, numbers + directions + 256), of float, shape (batch, numbers)."""
        centred = features - self.mean
        directions = centred @ self.matrix
        parts = PLAIN * F.normalize(centred * self.factors, dim=1), directions, self.head(directions)
        return torch.cat([parts[0], *(F.normalize(part, dim=1) for part in parts[1:])], 1)


@torch.enable_grad()
def fit_head(head: nn.Sequential, views: Tensor) -> None:
    """Train a network so that views of one image are more similar than views of different images (NT-Xent).

    Args:
        head: Network of directions, trained in place and left in evaluation mode.
        views: Directions of views, float, shape (views, images, directions), of at least 2 views and images.
    """
    count, images, _ = views.shape
    size = min(BATCH, max(2, images // 4))
    steps = PASSES * (images // size)
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=WARM_UP)
    head.train()
    for rows in watched(_batches(images, size, views.device), steps, "fitting contrast", "steps"):
        pair = torch.rand(count, size, device=views.device).argsort(0)[:2]
        both = head(torch.cat([views[pair[0], rows], views[pair[1], rows]]).float())
        loss = nt_xent(*both.chunk(2), TEMPERATURE, False)  # one process fits alone
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()


def _batches(images: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Rows of each batch, in a new random order in each pass."""
    for _ in range(PASSES):
        yield from torch.randperm(images, device=device)[: images // size * size].split(size)
