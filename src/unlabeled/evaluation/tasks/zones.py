"""Task `zones`: whether hidden parts of walks are recognised among those of all held-out walks.

For each hidden zone the prediction is compared with the descriptions of all zones that are hidden at the same time:
right where its own is nearest. The controls are the same network with all poses set to zero, so that time alone says
where a zone was, the same method with random weights, and guessing.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data, open_splits
from unlabeled.evaluation.scores import Measurement, of_groups
from unlabeled.method import Batch

if TYPE_CHECKING:
    from unlabeled.evaluation.tasks import Subject

__all__ = ["measure", "retrieved"]

DRAWS = 3
"""Stretches of every walk that are tried."""
WALKS = 16
"""Walks whose zones are told apart at once."""


def retrieved(predictions: Tensor, targets: Tensor) -> Tensor:
    """Which zones are nearest to their own prediction.

    Args:
        predictions: Float, shape (zones, dim); only their directions count.
        targets: Float, shape (zones, dim).

    Returns:
        1 where right, else 0, and where targets are equally near the share of the right one, float, shape (zones,).
    """
    similarity = F.normalize(predictions.double(), dim=1) @ F.normalize(targets.double(), dim=1).T
    best = similarity >= similarity.amax(1, keepdim=True) - 1e-9
    return best.diagonal().float() / best.sum(1)


def measure(subject: "Subject", data: Any, *, seed: int = 0, device: torch.device) -> list[Measurement]:
    """Zone retrieval on the test walks: ours, without poses, with random weights, and guessing.

    Args:
        subject: What is measured; its method must be trajectory_unmasking.
        data: What the user named, or opened walks.
        seed: Seed of the stretches and of the zones that are hidden.
        device: Where to compute.

    Returns:
        Share of the zones that are found, one number for each hidden zone; walks are the independent units.

    Raises:
        ValueError: The method predicts no zones, or the data is of another kind.
    """
    method: Any = subject.method
    if not hasattr(method, "guess") or not hasattr(method, "draw"):
        got = "an encoder alone" if method is None else type(method).__name__
        raise UserError(f"method must be trajectory_unmasking for zones, got {got}")
    if isinstance(data, Data):
        data = (None, data)
    train, test = data if isinstance(data, tuple) else open_splits(data, kind="trajectory")
    if test.kind != "trajectory":
        raise UserError(f"data must be of kind trajectory for zones, got {test.kind}")
    # Where no other walks are known the norms of the control see those that are measured, without any answer.
    twin: Any = subject.untrained_method((test if train is None else train).to(device))
    walks = method.training_view(test).to(device)

    shown = [("unlabeled", method, True), ("poses set to zero", method, False), ("random", twin, True)]
    measured, pool = [], 0
    groups: list[Tensor] = []
    for features, judged, posed in shown:
        values, groups = [], []
        for batch, hidden in _batches(walks, method, seed):
            if not posed:
                batch = batch | {"pose": torch.zeros_like(batch["pose"])}
            values.append(_found(judged.to(device).eval(), batch, hidden))
            groups.append(_walks(batch, hidden, test.groups))
            pool = hidden.shape[0] * hidden.shape[2]
        row = torch.cat(values).cpu()[None]
        measured.append(_measurement(features, row, f"top 1 of {pool} zones", torch.cat(groups), test))
    guessing = torch.full_like(measured[0].values, 1 / pool)
    return [*measured, _measurement("guessing", guessing, f"1 of {pool}", torch.cat(groups), test)]


def _walks(batch: Batch, hidden: Tensor, groups: Tensor | None) -> Tensor:
    """Walk of each zone in the order of `_found`, or the group of that walk, int64, shape (zones,)."""
    walks = batch["index"].cpu() if groups is None else groups[batch["index"].cpu()]
    return walks.repeat_interleave(hidden.shape[2]).repeat(hidden.shape[1])


def _measurement(features: str, values: Tensor, detail: str, groups: Tensor, test: Data) -> Measurement:
    counted = "walks" if test.groups is None else of_groups(test)
    return Measurement(
        "zones", None, "all", features, values, detail, "zones found",
        groups=groups, counted=counted, bounds=(0.0, 1.0),
    )  # fmt: skip


def _batches(walks: Data, method: Any, seed: int) -> list[tuple[Batch, Tensor]]:
    """Stretches of walks and the zones to hide in them, the same for the same seed and for ours and controls."""
    drawn = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(DRAWS):
            for rows in torch.arange(len(walks)).split(WALKS):
                if len(rows) == min(WALKS, len(walks)):  # a smaller pool would be easier
                    batch = walks.batch(rows)
                    drawn.append((batch, method.draw(batch)))
    return drawn


@torch.no_grad()
def _found(method: Any, batch: Batch, hidden: Tensor) -> Tensor:
    """Which of the hidden zones are found, group by group, float, shape (zones,)."""
    predictions, targets = method.guess(batch, hidden)
    groups = zip(predictions.unbind(1), targets.unbind(1))
    return torch.cat([retrieved(p.flatten(0, 1), t.flatten(0, 1)) for p, t in groups])
