"""Which method, network and features suit data and a machine: the choice of `pretrain auto`.

The table behind it is measured in docs/benchmarks.md. Without a GPU no deep method there was better than a dictionary
with a contrastive network on its view directions after ten minutes; with one, nothing has been measured yet.
"""

from typing import Any, NamedTuple

from unlabeled import check

__all__ = ["AUTO", "Choice", "choose"]

AUTO = "auto"
"""The word that stands for a method."""


class Choice(NamedTuple):
    """What suits some data.

    Attributes:
        method: Name of the method.
        settings: Run settings, where they differ from the defaults of the method.
        reason: Why.
    """

    method: str
    settings: dict[str, Any]
    reason: str


MEASURED = {
    "image": Choice(
        "patch_dictionary",
        {"features": "contrast", "encoder": "dictionary-800"},
        "a dictionary of patches with a contrastive network on its view directions beat every deep method that was "
        "measured for ten minutes on two cores",
    ),
    "audio": Choice(
        "mel_dictionary", {}, "a dictionary of spectrograms beat statistics of log-mel and MFCC after seconds"
    ),
}
"""Choices by kind of data on a CPU that measurements stand behind."""
USUAL = {
    "image": Choice("simclr", {}, "it is the usual start on a GPU, where no choice has been measured yet"),
    "text": Choice("skipgram", {}, "word vectors learn from little text in minutes"),
    "audio": Choice("apc", {}, "it learns from spectrograms in minutes"),
    "video": Choice("shuffle_and_learn", {}, "it trains an encoder of single frames in minutes"),
    "audio-visual": Choice("audio_visual_correspondence", {}, "it is the one method for such pairs"),
    "cameras": Choice("time_contrastive", {}, "it is the one method for such scenes"),
    "trajectory": Choice("trajectory_unmasking", {}, "it is the one method for trajectories"),
}
"""Choices by kind of data where none is measured."""


def choose(kind: str, cuda: bool) -> Choice:
    """The choice for a kind of data, with a reason that says for what it was made.

    Args:
        kind: Kind of the data.
        cuda: Whether there is a GPU.
    """
    check.choice(USUAL, kind=kind)
    choice = USUAL[kind] if cuda else MEASURED.get(kind, USUAL[kind])
    place = "a GPU" if cuda else "a CPU"
    settings = "".join(f", {name} {value}" for name, value in choice.settings.items())
    return choice._replace(
        reason=f"auto: {choice.method}{settings} for {kind} on {place}, as {choice.reason}"
    )
