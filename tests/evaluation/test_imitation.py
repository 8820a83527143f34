"""Following demonstrations: paths by hand, perfect and empty embeddings, and the task on the built-in arm."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.data.cameras import Scenes, from_views
from unlabeled.evaluation.frame_readers import FrameReader
from unlabeled.evaluation.imitation import REACH, degrees, demonstration, follow, grid, joints_of
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.tasks import imitation
from unlabeled.evaluation.tasks.imitation import TASK
from unlabeled.methods.time_contrastive import TimeContrastive
from unlabeled.worlds import arm


@pytest.fixture
def few_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlabeled.evaluation.imitation.STEPS", 9)


POSES = torch.linspace(0, 1, 9)[:, None]


def scenes(n: int = 3, **options: bool) -> Scenes:
    made = arm.make(n, 3, frames=8, size=16, **options)
    data = from_views(made.pop("views"), name="arm", factors=made)
    data.simulator = partial(arm.draw, arm.stage(n, 3, frames=8, **options), size=16)
    return data


def model() -> EvaluatedModel:
    torch.manual_seed(0)
    method = TimeContrastive(encoders.build("conv4", image_size=16), moments=4).eval()
    return EvaluatedModel(method.encoder, method)


def test_an_embedding_of_the_pose_is_followed_as_far_as_the_arm_reaches() -> None:
    shown = torch.tensor([0.0, 0.1, 0.3, 1.0, 1.0, 1.0])[:, None]
    assert follow(shown, POSES, POSES, 0).tolist() == [0, 1, 2, 4, 6, 8]
    assert REACH == 0.25, "two of eight steps"
    assert follow(shown, POSES, POSES, 8).tolist() == [8, 6, 4, 6, 8, 8]


def test_an_embedding_that_ignores_the_image_stays_where_it_is() -> None:
    shown, own = torch.zeros(6, 3), torch.zeros(9, 3)
    for start in (0, 4, 8):
        assert follow(shown, own, POSES, start).tolist() == [start] * 6
    ones = torch.ones(9, 3)
    assert follow(shown, ones, POSES, 5).tolist() == [5] * 6, "equally far is as good"


def test_a_slow_search_finds_the_same_path() -> None:
    generator = torch.Generator().manual_seed(0)
    poses = torch.cartesian_prod(torch.linspace(-1, 1, 7), torch.linspace(0, 4, 7))
    shown, own = torch.randn(12, 5, generator=generator), torch.randn(49, 5, generator=generator)
    here, path = 24, [24]
    for frame in shown[1:]:
        near = [
            p for p in range(49) if all((poses[p] - poses[here]).abs() <= torch.tensor([0.5, 1.0]) + 1e-5)
        ]
        here = min(near, key=lambda pose: float((own[pose] - frame).norm()))
        path.append(here)
    assert follow(shown, own, poses, 24).tolist() == path and len(set(path)) > 4


def test_degrees_are_means_over_joints_and_frames_but_the_first() -> None:
    true = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    taken = torch.tensor([[9.0, 9.0], [0.1, -0.3], [0.0, 0.4]])
    assert degrees(taken, true).item() == pytest.approx(0.2 * 180 / math.pi)


def test_the_grid_spans_the_range_of_every_joint() -> None:
    joints = joints_of(scenes())
    poses = grid(joints)
    assert poses.shape == (21 * 21, 2)
    torch.testing.assert_close(poses.amin(0), joints.flatten(0, 1).amin(0))
    torch.testing.assert_close(poses.amax(0), joints.flatten(0, 1).amax(0))


def test_the_demonstration_is_what_the_first_camera_saw_and_the_arm_is_elsewhere() -> None:
    data = scenes()
    joints, stage = joints_of(data), arm.stage(3, 3, frames=8)
    shown = demonstration(data, 1, 2, joints[1], joints)
    assert torch.equal(shown.frames, arm.draw(stage, 1, 0, joints[1], 16))
    assert torch.equal(shown.own, arm.draw(stage, 2, 1, joints[1], 16)) and shown.start == 0
    part = data.subset(torch.tensor([2, 0]))
    kept = demonstration(part, 0, 1, joints[2], joints_of(part))
    assert torch.equal(kept.frames, arm.draw(stage, 2, 0, joints[2], 16))
    assert torch.equal(kept.own, arm.draw(stage, 0, 1, joints[2], 16)), "scenes keep their numbers"


def found(measured: list[Measurement]) -> dict[tuple[str, str | None, str], float]:
    return {(m.features, m.layer, m.unit): float(m.values.mean()) for m in measured}


UNITS = "degrees through another camera", "degrees in another scene"


@pytest.mark.usefixtures("few_poses")
def test_the_task_measures_ours_pixels_random_twins_and_constant_poses() -> None:
    measured = TASK(model(), scenes())
    names = ("unlabeled", "raw", "random", "first pose held", "middle pose")
    assert {*found(measured)} == {
        (n, layer, u) for n in names for layer in (None, "embedding") for u in UNITS
    }
    assert all(m.values.shape == (1, 3) and m.better == "lower" and (m.values >= 0).all() for m in measured)
    assert Scores.of(measured).verdict()


def read_poses(data: Scenes, batch: dict[str, Tensor]) -> Tensor:
    """The pose that a picture shows, looked up among all pictures of all cameras and scenes."""
    joints = joints_of(data)
    poses = torch.cat([grid(joints), joints.flatten(0, 1)])
    assert data.simulator is not None
    table = {
        image.numpy().tobytes(): pose
        for row in range(len(data)) for camera in range(2)
        for image, pose in zip(data.simulator(row, camera, poses), poses)
    }  # fmt: skip
    return torch.stack([table[image.numpy().tobytes()] for image in batch["image"]])


@pytest.mark.usefixtures("few_poses")
def test_who_reads_the_pose_follows_and_who_ignores_the_image_is_no_better_than_a_constant_pose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, device = scenes(2), torch.device("cpu")
    readers = [
        FrameReader("unlabeled", None, "", partial(read_poses, data), device),
        FrameReader("raw", None, "", lambda batch: torch.ones(len(batch["image"]), 4), device),
    ]
    monkeypatch.setattr(imitation, "frame_readers", lambda model, parts: readers)
    values = found(TASK(model(), data))
    for unit in UNITS:
        assert values["raw", None, unit] == values["first pose held", None, unit] > 10
        assert values["unlabeled", None, unit] < 8, "the grid has a pose every 15 degrees"


@pytest.mark.usefixtures("few_poses")
def test_nothing_is_gained_where_the_arm_stands_still() -> None:
    values = found(TASK(model(), scenes(still=True)))
    assert all(values["first pose held", None, unit] <= values["unlabeled", None, unit] for unit in UNITS)


def test_other_data_is_refused() -> None:
    data = scenes()
    with pytest.raises(ValueError, match="must be of kind cameras for imitation, got image"):
        TASK(model(), data.frames())
    data.simulator = None
    with pytest.raises(
        ValueError, match="data must show an arm that can be moved, such as arm, for imitation"
    ):
        TASK(model(), data)
