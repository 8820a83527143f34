"""The built-in scenes."""

from typing import Any

from unlabeled import check
from unlabeled.data.cameras.data import Scenes, from_views
from unlabeled.worlds import orbit

__all__ = ["built_in"]

SCENES = {"train": 120, "test": 20}
FRAMES = 24
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "still": {"still": True}, "free": {"free": True}}


def built_in(name: str, split: str) -> Scenes:
    """Open `orbit`.

    Args:
        name: orbit, `orbit:still`, where nothing moves, or `orbit:free`, with cameras anywhere.
        split: train or test.

    Raises:
        ValueError: There is no such variant.
    """
    variant = name.partition(":")[2]
    check.choice(VARIANTS, variant=variant)
    made = orbit.make(SCENES[split], int(split == "test"), frames=FRAMES, **VARIANTS[variant])
    return from_views(made.pop("views"), name=name, factors=made)
