"""Zone retrieval: hand-made cases, and the task with its controls."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.trajectories import Trajectories, from_trajectories
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.tasks.zones import TASK, _hits, _walks, top_one
from unlabeled.methods.trajectory_unmasking import TrajectoryUnmasking
from unlabeled.worlds import rooms


def walks(**options: Any) -> Trajectories:
    return from_trajectories(rooms.make(6, 4, frames=20, size=16, **options))


def model() -> EvaluatedModel:
    torch.manual_seed(0)
    encoder = encoders.build("conv4", image_size=16)
    tiny: dict[str, Any] = {
        "zones": 4,
        "zone_frames": 2,
        "stride": 2,
        "masked": 2,
        "projection_dim": 8,
        "heads": 2,
    }
    method = TrajectoryUnmasking(encoder, **tiny).eval()
    return EvaluatedModel(method.encoder, method)


def test_zones_are_found_by_direction_alone() -> None:
    predictions = torch.tensor([[2.0, 0.1], [0.1, 5.0], [-1.0, 0.2]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.1], [-9.0, 0.0]])
    assert top_one(predictions, targets).tolist() == [1, 1, 1]
    assert top_one(predictions, targets[[1, 0, 2]]).tolist() == [0, 0, 1]


def test_equally_near_zones_count_as_guessing() -> None:
    ones = torch.ones(8, 3)
    assert top_one(ones, ones).tolist() == [0.125] * 8
    pairs = torch.eye(4).repeat_interleave(2, 0)
    assert top_one(pairs, pairs).tolist() == [0.5] * 8


def test_task_measures_ours_and_its_controls_on_the_same_zones() -> None:
    measured = TASK(model(), walks())
    assert [m.features for m in measured] == ["unlabeled", "poses set to zero", "random", "guessing"]
    assert all(m.values.shape == (1, 3 * 6 * 4) for m in measured)
    assert float(measured[-1].values.mean()) == pytest.approx(1 / 12)
    again = TASK(model(), walks())
    assert all(torch.equal(one.values, other.values) for one, other in zip(measured, again))
    assert Scores.of(measured).verdict()


def test_a_method_that_knows_the_answer_finds_all_and_one_that_sees_a_still_world_guesses() -> None:
    oracle = model()
    assert oracle.method is not None
    predict: Any = oracle.method.predict

    def answer(batch: dict[str, Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        targets = predict(batch, hidden)[1]
        return targets, targets

    oracle.method.predict = answer
    assert float(TASK(oracle, walks())[0].values.mean()) > 0.98
    # Trajectories that stand still differ from each other, but the zones of one walk do not.
    still = float(TASK(oracle, walks(still=True))[0].values.mean())
    assert still == pytest.approx(0.5, abs=0.05)
    one = from_trajectories(
        {"video": torch.zeros(4, 20, 3, 16, 16, dtype=torch.uint8), "pose": torch.zeros(4, 20, 3)}
    )
    assert float(TASK(model(), one)[0].values.mean()) == pytest.approx(1 / 8)


def test_other_methods_and_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be trajectory_unmasking for zones, got an encoder alone"):
        TASK(EvaluatedModel(model().encoder), walks())
    with pytest.raises(ValueError, match="must be of kind trajectory for zones, got image"):
        TASK(model(), walks().frames())


def test_walks_are_the_independent_units() -> None:
    """Each zone belongs to the walk that it was hidden in, or to the group of that walk."""
    data = walks()
    measured = TASK(model(), data)
    groups = measured[0].groups
    assert groups is not None and measured[0].counted == "trajectories"
    assert groups.bincount().tolist() == [3 * 4] * 6  # draws, and zones of each walk
    assert {r["units"] for r in Scores.of(measured)} == {6}
    data.groups = torch.tensor([4, 4, 4, 7, 7, 7])
    grouped = TASK(model(), data)[0].groups
    assert grouped is not None and torch.equal(grouped, torch.where(groups < 3, 4, 7))


def test_zones_of_one_walk_stand_under_its_number() -> None:
    """A method that finds the zones of one walk alone."""

    class OneWalk:
        def draw(self, batch: Any) -> Tensor:
            return torch.arange(4).view(1, 2, 2).expand(len(batch["index"]), -1, -1)

        def predict(self, batch: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
            rows, groups, zones = hidden.shape
            targets = torch.eye(rows * zones).view(rows, zones, -1)[:, None].expand(-1, groups, -1, -1)
            right = (batch["index"] == 2)[:, None, None, None]
            return torch.where(right, targets, targets.roll(1, -1)), targets

    batch, method = {"index": torch.arange(5)}, OneWalk()
    hidden = method.draw(batch)
    batches = [(batch, hidden)]
    right, numbers = _hits(method, batches), _walks(batches, None)
    assert right.bool().tolist() == (numbers == 2).tolist() and right.sum() == 4
