"""Masked zones of trajectories: whether they are recognised among those of all held-out trajectories.

For each masked zone the prediction is compared with the descriptions of all zones that are masked at the same time:
correct where its own is nearest. The controls are the same network with all poses set to zero, so that time alone says
where a zone was, the same method with random weights, and chance.
"""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.check import UserError
from unlabeled.data import Data
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.method import Batch
from unlabeled.progress import watched

__all__ = ["TASK", "ZonePredictor", "measure", "top_one"]

DRAWS = 3
"""Stretches of every trajectory that are tried."""
TRAJECTORIES = 16
"""Trajectories whose zones are compared at once."""


@runtime_checkable
class ZonePredictor(Protocol):
    """What this task needs of a method, such as trajectory_unmasking."""

    zones: int
    """Zones of a stretch."""

    def draw(self, batch: Batch) -> Tensor:
        """Zones to mask, int64, shape (batch, groups, masked)."""
        ...

    def predict(self, batch: Batch, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and descriptions of masked zones, float, shape (batch, groups, masked, dim) each."""
        ...


def top_one(predictions: Tensor, targets: Tensor) -> Tensor:
    """Which zones are nearest to their own prediction.

    Args:
        predictions: Float, shape (zones, dim); only their directions count.
        targets: Float, shape (zones, dim).

    Returns:
        1 where it is, else 0; where several targets are equally near, one over their number, float, shape (zones,).
    """
    similarity = F.normalize(predictions.double(), dim=1) @ F.normalize(targets.double(), dim=1).T
    best = similarity >= similarity.amax(1, keepdim=True) - 1e-9
    return best.diagonal().float() / best.sum(1)


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Zone retrieval on the test trajectories: ours, without poses, with random weights, and chance.

    Args:
        model: What is measured; its method must be a `ZonePredictor`, its seed draws the zones.
        parts: Trajectories.

    Returns:
        Fraction of the zones that are found, one number for each masked zone; trajectories are the independent units.

    Raises:
        ValueError: The method predicts no zones, or the data is of another kind.
    """
    method: Any = model.method
    if not isinstance(model.method, ZonePredictor):
        name = "an encoder alone" if method is None else type(method).__name__
        raise UserError(f"method must be trajectory_unmasking for zones, got {name}")
    test = parts.require_test("trajectory", "zones")
    twin: Any = model.untrained_method(parts.calibration.to(model.device))
    batches = _batches(method.training_view(test).to(model.device), method, model.seed)
    blind = [(batch | {"pose": torch.zeros_like(batch["pose"])}, masked) for batch, masked in batches]
    hits = {
        "unlabeled": _hits(method.to(model.device).eval(), batches),
        "poses set to zero": _hits(method, blind),
        "random": _hits(twin.to(model.device).eval(), batches),
    }
    pool = batches[-1][1].shape[0] * batches[-1][1].shape[2]
    details = dict.fromkeys(hits, f"top 1 of {pool} zones") | {"guessing": f"1 of {pool}"}
    hits["guessing"] = torch.full_like(hits["unlabeled"], 1 / pool)
    groups = _walks(batches, test.groups)
    return [
        Measurement(
            "zones", features, values[None], detail=details[features], unit="zones found", groups=groups,
            counted="trajectories" if test.groups is None else group_unit(test), bounds=(0.0, 1.0),
        )
        for features, values in hits.items()
    ]  # fmt: skip


def _batches(trajectories: Data, method: ZonePredictor, seed: int) -> list[tuple[Batch, Tensor]]:
    """Stretches of trajectories and the zones to mask in them, the same for the same seed and for ours and controls."""
    batches = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(DRAWS):
            for rows in torch.arange(len(trajectories)).split(TRAJECTORIES):
                if len(rows) == min(TRAJECTORIES, len(trajectories)):  # a smaller pool would be easier
                    batch = trajectories.batch(rows)
                    batches.append((batch, method.draw(batch)))
    return batches


@torch.no_grad()
def _hits(method: ZonePredictor, batches: list[tuple[Batch, Tensor]]) -> Tensor:
    """Which of the masked zones are found, batch by batch and group by group, float, shape (zones,)."""
    hits = []
    for batch, masked in watched(batches, len(batches), "zones", "batches"):
        groups = zip(*(vectors.unbind(1) for vectors in method.predict(batch, masked)))
        hits += [top_one(p.flatten(0, 1), t.flatten(0, 1)) for p, t in groups]
    return torch.cat(hits).cpu()


def _walks(batches: list[tuple[Batch, Tensor]], groups: Tensor | None) -> Tensor:
    """Trajectory of each zone in the order of `_hits`, or the group of that trajectory, int64, shape (zones,)."""
    trajectories = [
        batch["index"].cpu().repeat_interleave(masked.shape[2]).repeat(masked.shape[1])
        for batch, masked in batches
    ]
    return torch.cat(trajectories) if groups is None else groups[torch.cat(trajectories)]


def _open(source: Source) -> Parts:
    return source.of_kind("trajectory").open(whole=True)


TASK = Task(measure, _open)
