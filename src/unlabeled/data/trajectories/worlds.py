"""The built-in trajectories."""

from typing import Any

from unlabeled import check
from unlabeled.data.trajectories.data import Walks, from_walks
from unlabeled.worlds import rooms

__all__ = ["built_in"]

WALKS, FRAMES, SIZE = {"train": 64, "test": 16}, 128, 32
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "still": {"still": True}}


def built_in(name: str, split: str) -> Walks:
    """Open `rooms`.

    Args:
        name: rooms, or `rooms:still`, where the walker stands still.
        split: train or test.

    Raises:
        ValueError: There is no such variant.
    """
    variant = name.partition(":")[2]
    check.choice(VARIANTS, variant=variant)
    made = rooms.make(WALKS[split], int(split == "test"), frames=FRAMES, size=SIZE, **VARIANTS[variant])
    return from_walks(made, name=name)
