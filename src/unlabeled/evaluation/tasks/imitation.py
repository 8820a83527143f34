"""Imitation of demonstrations: joint angles of a simulated arm that follows what it sees of another by embeddings.

The arm sees the demonstration through one camera and itself through another, and takes at every frame the pose within
reach in which the embedding of its own picture is nearest to that of the demonstration (see `evaluation.imitation`).
Measured is the mean error of its joints in degrees, when it stands in the demonstrated scene itself, and when it stands
in the next one, which has another floor, other cameras and an arm of other colours. The controls are pixels, the same
network with random weights, the first pose held, and the middle of all demonstrated poses.
"""

import math

import torch
from torch import Tensor

from unlabeled.evaluation.frame_readers import frame_readers
from unlabeled.evaluation.imitation import STEPS, degrees, demonstration, follow, grid, joints_of
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.task import Task
from unlabeled.progress import watched

__all__ = ["TASK", "measure"]

HELD, MIDDLE = "first pose held", "middle pose"


def measure(model: EvaluatedModel, parts: Parts) -> list[Measurement]:
    """Joint errors on the test scenes: ours, the method's embedding, raw pixels, random twins and constant poses.

    Args:
        model: What is measured; the embedding that the method compares is measured where it has one.
        parts: Scenes with joint angles and a simulator, such as the built-in arm.

    Raises:
        ValueError: The data is not of several cameras, or its arm cannot be moved.
    """
    scenes = parts.require_test("cameras", "imitation")
    joints = joints_of(scenes)  # type: ignore[arg-type]
    poses, readers = grid(joints), frame_readers(model, parts)
    errors: dict[tuple[str, str, str | None], list[Tensor]] = {}
    looks = {"another camera": 0, **({"another scene": 1} if len(scenes) > 1 else {})}
    pairs = [(row, look) for row in range(len(scenes)) for look in looks]
    for row, look in watched(pairs, len(pairs), "imitation", "demonstrations"):
        shown = demonstration(scenes, row, (row + looks[look]) % len(scenes), poses, joints)  # type: ignore[arg-type]
        true = joints[row, : len(shown.frames)]
        paths = {
            (one.features, one.layer): poses[
                follow(one.embed(shown.frames), one.embed(shown.own), poses, shown.start)
            ]
            for one in readers
        }
        for layer in dict.fromkeys(one.layer for one in readers):
            paths[HELD, layer] = poses[shown.start].expand_as(true)
            paths[MIDDLE, layer] = joints.flatten(0, 1).mean(0).expand_as(true)
        for (features, layer), path in paths.items():
            errors.setdefault((look, features, layer), []).append(degrees(path, true))
    details = {(one.features, one.layer): one.detail for one in readers}
    return [
        Measurement(
            "imitation", features, torch.stack(values)[None], layer=layer, better="lower",
            unit=f"degrees through {look}" if look == "another camera" else f"degrees in {look}",
            detail=", ".join(filter(None, [details.get((features, layer)), f"{STEPS} poses along each joint"])),
            groups=scenes.groups, counted="demonstrations" if scenes.groups is None else group_unit(scenes),
            bounds=(0.0, math.inf),
        )
        for (look, features, layer), values in errors.items()
    ]  # fmt: skip


def _open(source: Source) -> Parts:
    return source.of_kind("cameras").open(whole=True)


TASK = Task(measure, _open)
