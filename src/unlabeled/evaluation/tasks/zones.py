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
from unlabeled.evaluation.sources import Opened, Source
from unlabeled.evaluation.task import Task
from unlabeled.method import Batch

__all__ = ["TASK", "ZonePredictor", "measure", "retrieved"]

DRAWS = 3
"""Stretches of every walk that are tried."""
WALKS = 16
"""Walks whose zones are compared at once."""


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


def retrieved(predictions: Tensor, targets: Tensor) -> Tensor:
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


def measure(model: EvaluatedModel, opened: Opened) -> list[Measurement]:
    """Zone retrieval on the test walks: ours, without poses, with random weights, and chance.

    Args:
        model: What is measured; its method must be a `ZonePredictor`, its seed draws the zones.
        opened: Walks.

    Returns:
        Fraction of the zones that are found, one number for each masked zone; walks are the independent units.

    Raises:
        ValueError: The method predicts no zones, or the data is of another kind.
    """
    method: Any = model.method
    if not isinstance(model.method, ZonePredictor):
        name = "an encoder alone" if method is None else type(method).__name__
        raise UserError(f"method must be trajectory_unmasking for zones, got {name}")
    test = opened.test
    assert test is not None
    if test.kind != "trajectory":
        raise UserError(f"data must be of kind trajectory for zones, got {test.kind}")
    twin: Any = model.untrained_method(opened.calibration.to(model.device))
    batches = _batches(method.training_view(test).to(model.device), method, model.seed)
    measurements = []
    for features, network, posed in (
        ("unlabeled", method, True),
        ("poses set to zero", method, False),
        ("random", twin, True),
    ):
        network = network.to(model.device).eval()
        values = [
            _hits(network, batch if posed else _without_poses(batch), masked) for batch, masked in batches
        ]
        measurements.append(_measurement(features, torch.cat(values).cpu(), batches, test))
    pool = _pool(batches)
    chance = torch.full_like(measurements[0].values[0], 1 / pool)
    return [*measurements, _measurement("guessing", chance, batches, test, f"1 of {pool}")]


def _measurement(
    features: str,
    values: Tensor,
    batches: list[tuple[Batch, Tensor]],
    test: Data,
    detail: str = "",
) -> Measurement:
    return Measurement(
        "zones", features, values[None], detail=detail or f"top 1 of {_pool(batches)} zones", unit="zones found",
        groups=torch.cat([_walks(batch, masked, test.groups) for batch, masked in batches]),
        counted="walks" if test.groups is None else group_unit(test), bounds=(0.0, 1.0),
    )  # fmt: skip


def _pool(batches: list[tuple[Batch, Tensor]]) -> int:
    """Zones that are compared at once."""
    masked = batches[-1][1]
    return masked.shape[0] * masked.shape[2]


def _without_poses(batch: Batch) -> Batch:
    return batch | {"pose": torch.zeros_like(batch["pose"])}


def _walks(batch: Batch, masked: Tensor, groups: Tensor | None) -> Tensor:
    """Walk of each zone in the order of `_hits`, or the group of that walk, int64, shape (zones,)."""
    walks = batch["index"].cpu() if groups is None else groups[batch["index"].cpu()]
    return walks.repeat_interleave(masked.shape[2]).repeat(masked.shape[1])


def _batches(walks: Data, method: ZonePredictor, seed: int) -> list[tuple[Batch, Tensor]]:
    """Stretches of walks and the zones to mask in them, the same for the same seed and for ours and controls."""
    batches = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(DRAWS):
            for rows in torch.arange(len(walks)).split(WALKS):
                if len(rows) == min(WALKS, len(walks)):  # a smaller pool would be easier
                    batch = walks.batch(rows)
                    batches.append((batch, method.draw(batch)))
    return batches


@torch.no_grad()
def _hits(method: ZonePredictor, batch: Batch, masked: Tensor) -> Tensor:
    """Which of the masked zones are found, group by group, float, shape (zones,)."""
    predictions, targets = method.predict(batch, masked)
    groups = zip(predictions.unbind(1), targets.unbind(1))
    return torch.cat([retrieved(p.flatten(0, 1), t.flatten(0, 1)) for p, t in groups])


def _open(source: Source) -> Opened:
    return source.of_kind("trajectory").open(whole=True)


TASK = Task(measure, _open)
