"""Samples held out of the training: which they are, and the loss on them."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unlabeled.data import Data
from unlabeled.data.splits import units
from unlabeled.data.streaming.data import Streamed
from unlabeled.method import Method
from unlabeled.parts import gather
from unlabeled.training import guard, seeds

__all__ = ["Divided", "HeldOut", "divide"]

SMALLEST_DATA = 50
"""Samples below which nothing is held out: training needs them all, and the loss on a few would say nothing."""
FEWEST = 4
MOST_MEASURED = 1024
LONG_TEXT = 2000
"""Characters of a text that says enough alone, where there are few."""
LARGEST_FRACTION = 0.1
"""Fraction of the samples that whole groups may take where they do not fit the fraction asked for, and of the
characters that one of few texts may."""


class Divided(NamedTuple):
    """Data for training, data that is held out of it, and one line about that, which may be empty."""

    train: Data
    held_out: Data | None
    note: str


def divide(data: Data, fraction: float, seed: int) -> Divided:
    """Hold samples out of the training; the same ones for the same seed, number of samples and groups.

    Samples of one group, texts of one document, and equal samples are held out together. Texts that all come from one
    or few documents are held out at the end of the data, where they follow each other. Of fewer than 50 texts one is
    held out, if it is long.

    Args:
        data: All samples, as they were opened.
        fraction: Fraction of the samples to hold out, 0..1; at least 4 samples, unless it is 0.
        seed: Seed of the choice.
    """
    samples = len(data)
    if fraction == 0:
        return Divided(data, None, "")
    if isinstance(data, Streamed):
        return _divide_streamed(data, fraction)
    order, count = seeds.order(seeds.mix(seed, samples, -3), samples), max(FEWEST, round(fraction * samples))
    small = samples < SMALLEST_DATA
    groups = None if small and data.kind != "text" else _groups(data)
    if small:
        rows = _long_text(data, groups, order) if data.kind == "text" else order[:0]
    elif groups is None:
        rows = order[:count]
    else:
        rows = _whole_groups(groups, order, count)
        if not len(rows) and data.kind == "text":
            rows = torch.arange(samples - count, samples)
    if not len(rows):
        smallest = int(groups.unique(return_counts=True)[1].min()) if groups is not None else 0
        why = f"the smallest group has {smallest:,} of {samples:,} {data.unit}"
        why = f"that takes {SMALLEST_DATA} {data.unit}, got {samples}" if small else why
        return Divided(data, None, f"nothing is held out to monitor the loss: {why}")
    mask = torch.zeros(samples, dtype=torch.bool)
    mask[rows] = True
    verb = "is" if len(rows) == 1 else "are"
    note = f"{len(rows):,} of {samples:,} {data.unit} {verb} held out to monitor the loss"
    return Divided(data.subset(~mask), data.subset(mask), note)


def _divide_streamed(data: Streamed, fraction: float) -> Divided:
    """Hold out samples of a few shards; no more than are measured, as they are kept decoded."""
    samples = len(data)
    count = min(MOST_MEASURED, max(FEWEST, round(fraction * samples))) if samples >= SMALLEST_DATA else 0
    if (parts := data.hold_out(count)) is None:
        return Divided(data, None, "nothing is held out to monitor the loss: the shards are too small")
    train, held_out = parts
    note = (
        f"{len(held_out):,} of {samples:,} {data.unit} are held out to monitor the loss, from {len(data.near)} of "
        f"{data.identity['shards']:,} shards; equal ones elsewhere are not looked for"
    )
    return Divided(train, held_out, note)


def _groups(data: Data) -> Tensor | None:
    """Numbers of what must stay together, int64, shape (samples,), from 0; None where each sample stands alone."""
    numbers = units(data)
    return numbers if int(numbers.max()) + 1 < len(data) else None


def _long_text(data: Any, groups: Tensor | None, order: Tensor) -> Tensor:
    """A random row of those whose text stands alone, is long, and has at most a tenth of all characters; or none."""
    sizes = torch.tensor([len(text) for text in data.texts])
    suits = (sizes >= LONG_TEXT) & (sizes <= LARGEST_FRACTION * sizes.sum())
    if groups is not None:
        suits &= groups.bincount()[groups] == 1
    return order[suits[order]][:1]


def _whole_groups(groups: Tensor, order: Tensor, count: int) -> Tensor:
    """Rows of random groups that together have about `count` samples; none where every group is too large."""
    sizes = groups.bincount().tolist()
    picks: list[int] = []
    for most in (2 * count, int(LARGEST_FRACTION * len(groups))):
        total = 0
        for group in dict.fromkeys(groups[order].tolist()):
            if total < count and total + sizes[group] <= most:
                picks.append(group)
                total += sizes[group]
        if picks:
            break
    return torch.isin(groups, torch.tensor(picks, dtype=groups.dtype)).nonzero().flatten()


class HeldOut:
    """Measures the loss on held-out samples and leaves the method as it was.

    Each time it takes the same samples in the same batches with the same random numbers, so that only the weights make
    a difference. All batches have one size, at most that of training: losses that compare samples depend on it.

    Args:
        data: The held-out samples as training reads them, on the device.
        method: The method that is trained.
        batch_size: Samples of a training batch, over all processes.
        seed: Seed of the random numbers.
        context: What the forward pass runs in, such as mixed precision.
    """

    def __init__(
        self,
        data: Data,
        method: Method,
        batch_size: int,
        seed: int,
        context: Callable[[], AbstractContextManager] = torch.no_grad,
    ) -> None:
        self.data, self.method, self.seed, self.context = data, method, seed, context
        count = min(len(data), MOST_MEASURED)
        batches = -(-count // batch_size) if count else 0
        self.size = count // max(1, batches) // gather.processes() * gather.processes()
        order = seeds.order(seeds.mix(seed, len(data), -4), len(data))
        self.batches = (
            order[: batches * self.size].view(batches, self.size) if self.size else order.new_zeros(0, 0)
        )

    @property
    def reason(self) -> str:
        """Why no loss can be measured; empty where it can."""
        if self.method.held_out == "undefined":
            return "the targets of the method exist for its training samples only"
        if self.size < (2 if self.method.compares_samples else 1):
            return f"{len(self.data)} {self.data.unit} are too few for a batch"
        return ""

    @torch.no_grad()
    def loss(self, moves_itself: bool = False) -> float | None:
        """Mean loss in nats over the held-out samples; None where it is not finite.

        Networks are in evaluation mode, but the task is that of training, which `method.training` decides. Buffers
        that the forward pass changes are restored.

        Args:
            moves_itself: Whether the forward pass moves the weights unless the method is in evaluation mode.
        """
        method, size = self.method, self.size // gather.processes()
        undo, metrics = guard.Undo(method), method.metrics
        undo.hold()
        modes = [(module, module.training) for module in method.modules()]
        method.eval()
        method.training = not moves_itself
        values = []
        with torch.random.fork_rng(devices=_gpus(self.data.device)), self.context():
            for number, rows in enumerate(self.batches):
                seeds.seed_device(self.data.device, seeds.mix(self.seed, number, -5 - gather.rank()))
                own = rows[gather.rank() * size :][:size]
                losses = method(self.data.batch(own.to(self.data.device)))
                total = reduce(torch.add, losses.values()) if isinstance(losses, dict) else losses
                values.append(total.detach())
        for module, training in modes:
            module.training = training
        undo.undo()
        method.metrics = metrics
        mean = gather.mean_over_processes(torch.stack(values).mean()).item()
        return mean if math.isfinite(mean) else None


def _gpus(device: torch.device) -> list[int]:
    return [torch.cuda.current_device()] if device.type == "cuda" else []
