"""The built-in sets of videos."""

from typing import Any

from unlabeled import check
from unlabeled.data.video.data import Videos, from_videos
from unlabeled.worlds import balls, blobs, moving_digits

__all__ = ["built_in"]

_WORLDS: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "moving_digits": (moving_digits, {}, "digit"),
    "moving_digits:direction": (moving_digits, {"size": 24}, "direction"),
    "moving_digits:two": (moving_digits, {"digits": 2, "size": 32}, "digit"),
    "balls": (balls, {"mode": "gravity"}, "direction"),
    "balls:reversible": (balls, {"mode": "elastic"}, "direction"),
    "balls:static": (balls, {"mode": "static"}, None),
    "blobs": (blobs, {}, "shape_2"),
}
"""The world of each set, its options, and the factor that is the label."""
_CLASSES = {
    "digit": [str(digit) for digit in range(10)],
    "direction": moving_digits.HEADINGS,
    "shape_2": ["disc", "square"],
}
_COUNTS = {"train": 2000, "test": 500}
_BLOBS = {"train": 240, "test": 60}


def built_in(name: str, split: str) -> Videos:
    """Open a procedural set: see `unlabeled.worlds`. Factors of every frame are those of the middle one.

    Args:
        name: moving_digits, balls or blobs, perhaps with a variant after a colon: moving_digits:direction (labelled
            with the heading instead of the digit), moving_digits:two, balls:reversible or balls:static.
        split: "train" or "test".

    Raises:
        ValueError: There is no such set or variant.
    """
    check.choice(_WORLDS, data=name)
    check.choice(_COUNTS, split=split)
    world, options, label = _WORLDS[name]
    if world is moving_digits:
        options = {**options, "glyphs": split}
    counts = _BLOBS if world is blobs else _COUNTS
    made = world.make(counts[split], int(split == "test"), **options)
    video, masks = made.pop("video"), made.pop("masks", None)
    labels = classes = None
    if label is not None:
        numbers, labels = made[label].unique(return_inverse=True)
        classes = [_CLASSES[label][number] for number in numbers.tolist()]
    middle = video.shape[1] // 2
    factors = {key: values if values.ndim == 1 else values[:, middle] for key, values in made.items()}
    return from_videos(video, labels, name=name, classes=classes, factors=factors, masks=masks)
