"""The built-in set of sounds."""

from unlabeled import check
from unlabeled.data.audio.data import Sounds, from_waveforms
from unlabeled.worlds import tones

__all__ = ["built_in"]

_TONES = {"train": (1_000, 0), "test": (500, 1)}
"""Number of sounds, and seed."""


def built_in(name: str, split: str) -> Sounds:
    """Open `tones`, 1,000 sounds for training and 500 for testing, about 0.9 seconds each.

    Args:
        name: tones, or tones:NAME for labels other than the rhythm: pitch, timbre or voice.
        split: train or test.

    Raises:
        ValueError: The sounds have no labels of that name.
    """
    label = name.partition(":")[2] or tones.LABELS[0]
    check.choice(tones.LABELS, label=label)
    made = tones.make(*_TONES[split])
    waveforms, lengths, labels = (made.pop(key) for key in ("waveform", "length", label))
    return from_waveforms(
        waveforms,
        tones.SAMPLE_RATE,
        lengths=lengths,
        labels=labels,
        classes=tones.CLASSES[label],
        factors=made,
        name=name,
    )
