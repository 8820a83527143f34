"""The built-in set of pictures with their sound."""

from unlabeled import check
from unlabeled.data.audio_visual.data import Pairs, from_pairs
from unlabeled.worlds import chiming_shapes

__all__ = ["built_in"]

_PAIRS = {"train": 3000, "test": 800}


def built_in(name: str, split: str) -> Pairs:
    """Open `chiming_shapes`.

    Args:
        name: `chiming_shapes`, or `chiming_shapes:distractor` with a second shape that makes no sound.
        split: train or test.

    Raises:
        ValueError: There is no such set.
    """
    check.choice(("chiming_shapes", "chiming_shapes:distractor"), name=name)
    check.choice(_PAIRS, split=split)
    distractor = name.endswith(":distractor")
    made = chiming_shapes.make(_PAIRS[split], int(split == "test"), distractor=distractor, image_size=64)
    image, waveform, masks, labels = (made.pop(key) for key in ("image", "waveform", "masks", "labels"))
    return from_pairs(
        image,
        waveform,
        sample_rate=chiming_shapes.SAMPLE_RATE,
        name=name,
        masks=masks,
        labels=labels,
        classes=list(chiming_shapes.CLASSES),
        factors=made,
    )
