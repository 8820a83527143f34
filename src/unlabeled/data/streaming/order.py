"""The order of an epoch over shards, as a function of the seed alone: any batch of it can be computed at once.

Shards are permuted, and the sequence of their rows is cut into equal pieces (the canonical nodes of MosaicML's
StreamingDataset). Rows are shuffled within windows of each piece, and every batch takes equally many rows of every
piece. So a batch mixes as many places of the data as there are pieces, what is in it depends on the number of pieces
but not on that of processes or workers, and a process that takes the rows of some pieces reads their shards only.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unlabeled.check import UserError

__all__ = ["MOST_PIECES", "WINDOW", "EpochOrder", "pieces_for", "shards_at_once"]

WINDOW = 1024
"""Rows within which a piece is shuffled."""
MOST_PIECES = 64


class EpochOrder:
    """Rows of an epoch, of which slices of whole batches are computed when they are asked for.

    Args:
        lengths: Rows of each shard, int64, shape (shards,).
        seed: Differs from epoch to epoch.
        batch_size: Rows of a batch, over all processes.
        pieces: Pieces that each batch mixes, which divide the batch.
    """

    def __init__(self, lengths: np.ndarray, seed: int, batch_size: int, pieces: int) -> None:
        if batch_size % pieces:
            raise UserError(f"pieces must divide the batch of {batch_size}, got {pieces}")
        self.seed, self.batch_size, self.pieces = seed, batch_size, pieces
        self.shards = np.random.Generator(np.random.PCG64(seed)).permutation(len(lengths))
        """Numbers of the shards in the order of this epoch."""
        self.ends = np.cumsum(lengths[self.shards])
        """Where each of these ends in the sequence of rows."""
        offsets = np.cumsum(lengths) - lengths
        self.shifts = (offsets + lengths)[self.shards] - self.ends
        """What to add to a place in the sequence for the row in the data, for each of these."""
        self.share = batch_size // pieces
        """Rows of a batch from each piece."""
        self.batches = int(self.ends[-1]) // batch_size if len(lengths) else 0
        self.length = self.batches * self.share
        """Rows of each piece; the rest, less than a batch, is left for another epoch."""
        self._window = lru_cache(2)(self._places)

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, part: slice) -> Tensor:
        """Rows of some batches in the order of the pieces, int64; the slice begins and ends with a batch."""
        start, stop, step = part.indices(len(self))
        if step != 1 or start % self.batch_size or stop % self.batch_size:
            raise ValueError(
                f"a slice must begin and end with a batch of {self.batch_size}, got {start}:{stop}:{step}"
            )
        batches = range(start // self.batch_size, stop // self.batch_size)
        rows = [self._batch(number) for number in batches] or [np.zeros(0, np.int64)]
        return torch.from_numpy(np.concatenate(rows))

    def _batch(self, number: int) -> np.ndarray:
        start, parts = number * self.share, []
        while start < (number + 1) * self.share:
            window, begin = divmod(start, WINDOW)
            stop = min((number + 1) * self.share, (window + 1) * WINDOW)
            parts.append(self._window(window)[:, begin : begin + stop - start])
            start = stop
        return np.concatenate(parts, axis=1).ravel()

    def _places(self, window: int) -> np.ndarray:
        """Rows of a window of every piece in their order, int64, shape (pieces, rows)."""
        start = window * WINDOW
        within = np.arange(start, min(start + WINDOW, self.length))
        generator = np.random.Generator(np.random.PCG64([self.seed, window]))
        places = np.arange(self.pieces)[:, None] * self.length + within
        places = generator.permuted(places, axis=1)
        return places + self.shifts[np.searchsorted(self.ends, places, "right")]


def shards_at_once(lengths: np.ndarray) -> int:
    """Shards of one piece that are in use at a time: those of a window and of the next one that is fetched ahead."""
    return 2 + -(-WINDOW // max(1, int(np.mean(lengths))))


def pieces_for(batch_size: int, processes: int, most: int = MOST_PIECES) -> int:
    """Into how many pieces an epoch is cut: as many as possible, a power of two where the processes are one.

    Args:
        batch_size: Rows of a batch, over all processes, which divide it.
        processes: Processes, each of which takes equally many pieces.
        most: Pieces for which there is room, see `shards_at_once`.

    Raises:
        ValueError: There is no room for a piece for each process.
    """
    if most < processes:
        raise UserError(f"pieces must be at least {processes}, one for each process, got room for {most}")
    most = max(processes, min(most, MOST_PIECES, batch_size))
    fitting = [count for count in range(processes, most + 1, processes) if batch_size % count == 0]
    powers = [count for count in fitting if count & (count - 1) == 0]
    return max(powers or fitting)
