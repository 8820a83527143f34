"""The built-in sets: images, and what the modules of `unlabeled.worlds` make, as data of each kind.

Each is the same every time, and no sample of its training part is in its test part.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.audio import Sounds, from_waveforms
from unlabeled.data.audio_visual import Pairs, from_pairs
from unlabeled.data.cache import available_memory
from unlabeled.data.cameras import Scenes, from_views
from unlabeled.data.image.arrays import from_array
from unlabeled.data.image.builtin import load
from unlabeled.data.image.data import Images
from unlabeled.data.samples import Data
from unlabeled.data.text import Texts
from unlabeled.data.trajectories import Trajectories, from_trajectories
from unlabeled.data.video import Videos, from_videos
from unlabeled.worlds import (
    arm,
    balls,
    blobs,
    chiming_shapes,
    moving_digits,
    orbit,
    pans,
    puzzles,
    rooms,
    seasons,
    tones,
    topics,
)

__all__ = ["PANS", "built_in", "pans_over"]

SIZES = {
    "tones": (1_000, 500),
    "videos": (2_000, 500),
    "blobs": (240, 60),
    "chiming_shapes": (3_000, 800),
    "orbit": (120, 20),
    "arm": (120, 20),
    "puzzles": (2_000, 200),
    "rooms": (64, 16),
    "seasons": (400, 100),
}
"""Samples for training and for testing."""
_VIDEOS: dict[str, tuple[Any, dict[str, Any], str | None]] = {
    "moving_digits": (moving_digits, {}, "digit"),
    "moving_digits:direction": (moving_digits, {"size": 24}, "direction"),
    "moving_digits:two": (moving_digits, {"digits": 2, "size": 32}, "digit"),
    "balls": (balls, {"mode": "gravity"}, "direction"),
    "balls:reversible": (balls, {"mode": "elastic"}, "direction"),
    "balls:static": (balls, {"mode": "static"}, None),
    "blobs": (blobs, {}, "shape_2"),
}
"""The world of each set, its options, and the factor that is the label."""
PANS = ("", "photos", "blank")
"""Variants of pans over built-in images."""
FRAMES = 8
"""Frames of each trajectory of pans."""
_CLASSES = {
    "digit": [str(digit) for digit in range(10)],
    "direction": moving_digits.HEADINGS,
    "shape_2": ["disc", "square"],
}


def built_in(name: str, split: str, channels: int | None = None) -> Data:
    """Open a built-in set.

    Args:
        name: One of `opening.BUILT_IN`, perhaps with a variant after a colon: tones:pitch, tones:timbre or tones:voice
            for labels other than the rhythm; moving_digits:direction for the heading instead of the digit;
            moving_digits:two for two digits; balls:reversible; balls:static; chiming_shapes:distractor with a second
            shape that makes no sound; orbit:still, where nothing moves; orbit:free with cameras anywhere; arm:still,
            where the arm stands still; rooms:still, where the walker does; seasons:unrelated, where no two pictures
            show the same place; puzzles:copying and puzzles:alphabet for questions without their answers, which are
            the labels; pans:photos over photos instead of digits; pans:blank with empty frames. What else follows
            pans: is a path of images, which `opening` opens.
        split: train or test.
        channels: Of images, 1 or 3 to convert to; None leaves digits grey and photos in colour.

    Raises:
        ValueError: There is no such set, variant or split.
    """
    check.choice(("train", "test"), split=split)
    word, _, variant = name.partition(":")
    if word in ("digits", "photos"):
        return load(name, split, channels)
    if word == "seasons":
        return _seasons(name, variant, split, channels)
    return _OPENED_BY.get(word, _videos)(name, variant, split)


def _seeded(name: str, split: str) -> tuple[int, int]:
    """Number of samples and seed of a part of a set."""
    test = int(split == "test")
    return SIZES[name][test], test


def _topics(name: str, variant: str, split: str) -> Texts:
    check.choice(("topics",), data=name)
    passages = topics.make(split)
    documents = torch.tensor(passages.documents)
    return Texts(
        passages.texts,
        name=name,
        paths=[f"topics/{topic}[{row}]" for row, topic in enumerate(passages.topics)],
        labels=torch.tensor(passages.labels),
        classes=list(topics.GROUPS),
        factors={"topic": documents},
        documents=documents,
    )


def _puzzles(name: str, variant: str, split: str) -> Texts:
    check.choice(("", *puzzles.KINDS), variant=variant)
    if not variant:
        count, seed = _seeded("puzzles", split)
        return Texts(puzzles.documents(count, split, seed), name=name)
    questions, classes = puzzles.questions(variant, split), puzzles.KINDS[variant]
    labels = torch.tensor([classes.index(answer) for _, answer in questions])
    return Texts([text for text, _ in questions], name=name, labels=labels, classes=list(classes))


def _tones(name: str, variant: str, split: str) -> Sounds:
    label = variant or tones.LABELS[0]
    check.choice(tones.LABELS, label=label)
    content = tones.make(*_seeded("tones", split))
    waveforms, lengths, labels = (content.pop(key) for key in ("waveform", "length", label))
    about = {"labels": labels, "classes": tones.CLASSES[label], "factors": content, "name": name}
    return from_waveforms(waveforms, tones.SAMPLE_RATE, lengths=lengths, **about)


def _videos(name: str, variant: str, split: str) -> Videos:
    """Videos; factors that differ from frame to frame are those of the middle one."""
    check.choice(_VIDEOS, data=name)
    world, options, label = _VIDEOS[name]
    if world is moving_digits:
        options = {**options, "glyphs": split}
    content = world.make(*_seeded("blobs" if world is blobs else "videos", split), **options)
    video, masks = content.pop("video"), content.pop("masks", None)
    labels = classes = None
    if label is not None:
        numbers, labels = content[label].unique(return_inverse=True)
        classes = [_CLASSES[label][number] for number in numbers.tolist()]
    middle = video.shape[1] // 2
    factors = {key: values if values.ndim == 1 else values[:, middle] for key, values in content.items()}
    return from_videos(video, labels, name=name, classes=classes, factors=factors, masks=masks)


def _chiming_shapes(name: str, variant: str, split: str) -> Pairs:
    check.choice(("chiming_shapes", "chiming_shapes:distractor"), name=name)
    options = {"distractor": variant == "distractor", "image_size": 64}
    content = chiming_shapes.make(*_seeded("chiming_shapes", split), **options)
    image, waveform, masks, labels = (content.pop(key) for key in ("image", "waveform", "masks", "labels"))
    about = {"name": name, "masks": masks, "labels": labels, "classes": [*chiming_shapes.CLASSES]}
    return from_pairs(image, waveform, sample_rate=chiming_shapes.SAMPLE_RATE, factors=content, **about)


def _orbit(name: str, variant: str, split: str) -> Scenes:
    check.choice(("", "still", "free"), variant=variant)
    options = {variant: True} if variant else {}
    content = orbit.make(*_seeded("orbit", split), frames=24, **options)
    return from_views(content.pop("views"), name=name, factors=content)


def _arm(name: str, variant: str, split: str) -> Scenes:
    check.choice(("", "still"), variant=variant)
    options = {"still": variant == "still"}
    content = arm.make(*_seeded("arm", split), **options)
    data = from_views(content.pop("views"), name=name, factors=content)
    data.simulator = partial(arm.draw, arm.stage(*_seeded("arm", split), **options))
    return data


def _rooms(name: str, variant: str, split: str) -> Trajectories:
    check.choice(("", "still"), variant=variant)
    content = rooms.make(*_seeded("rooms", split), frames=128, size=32, still=variant == "still")
    return from_trajectories(content, name=name)


def _seasons(name: str, variant: str, split: str, channels: int | None) -> Images:
    """Pictures, place by place: a group is a place."""
    check.choice(("", "unrelated"), variant=variant)
    content = seasons.make(*_seeded("seasons", split), unrelated=variant == "unrelated")
    places, times = content["cover"].shape
    flat = {key: values.flatten(0, 1) for key, values in content.items()}
    data = from_array(flat.pop("image"), flat.pop("cover"), name, channels, seasons.COVERS)
    data.factors, data.group_unit = flat, "places"
    data.groups = torch.arange(places).repeat_interleave(times)
    return data


def _pans(name: str, variant: str, split: str) -> Trajectories:
    check.choice(PANS, variant=variant)
    images = load("photos" if variant == "photos" else "digits", split)
    return pans_over(images, name, split, blank=variant == "blank")


def pans_over(images: Images, name: str, split: str, size: int = 32, blank: bool = False) -> Trajectories:
    """Trajectories over images, one each; the classes of these, if all are known, stand for the rooms.

    Args:
        images: What is looked at.
        name: What the trajectories are called.
        split: The motions of "test" differ from all others.
        size: Height and width of a frame in pixels; motions are the same fractions of it whatever it is.
        blank: Whether the frames are empty.

    Raises:
        ValueError: The frames would not fit into the memory.
    """
    needed = len(images) * FRAMES * images.channels * size**2
    if needed > (available := available_memory()) // 2:
        raise UserError(
            f"images of pans must be few enough for half of the {available / 1e9:.3g} GB of free memory, got "
            f"{len(images):,} of {images.name}, whose frames of {size} pixels take {needed / 1e9:.3g} GB; --store-size "
            "makes them smaller"
        )
    motions: dict[str, Any] = {"size": size, "shift": 3 * size / 32, "blank": blank, "frames": FRAMES}
    pictures = [
        images.batch(torch.tensor([row]))["image"][0, :, :height, :width]
        for row, (height, width) in enumerate(images.sizes.tolist())
    ]
    content = pans.make(len(images), int(split == "test"), pictures=pictures, **motions)
    number, labels = content.pop("picture"), images.labels
    if labels is not None and bool((labels >= 0).all()):
        content["room"] = labels[number][:, None].expand(content["video"].shape[:2])
    return from_trajectories(content, name=name)


_OPENED_BY: dict[str, Callable[[str, str, str], Data]] = {
    "topics": _topics,
    "puzzles": _puzzles,
    "tones": _tones,
    "chiming_shapes": _chiming_shapes,
    "orbit": _orbit,
    "arm": _arm,
    "rooms": _rooms,
    "pans": _pans,
}
