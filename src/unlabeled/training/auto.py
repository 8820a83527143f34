"""Which method, network and features suit data and a machine: the choice of `pretrain auto`.

The measurements behind it are in docs/benchmarks.md: on a CPU, minutes of a deep method were worse there than a patch
dictionary with a small contrastive network on top. With a GPU, nothing has been measured yet.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from unlabeled import check

__all__ = ["AUTO", "Choice", "choose"]

AUTO = "auto"
"""The name of a method that asks for an automatic choice."""


class Choice(NamedTuple):
    """What suits some data.

    Attributes:
        method: Name of the method.
        settings: Run settings that differ from the defaults of the method.
        reason: Why it was chosen, for the log.
    """

    method: str
    settings: dict[str, Any]
    reason: str


MEASURED = {
    "image": Choice(
        "patch_dictionary",
        {"features": "contrast", "encoder": "dictionary2-400"},
        "a patch dictionary with a small contrastive network on top beat every deep method on CIFAR-10 within minutes "
        "on two cores",
    ),
    "audio": Choice(
        "mel_dictionary",
        {},
        "a spectrogram dictionary was at least as good as MFCC on spoken digits, within seconds",
    ),
    "text": Choice(
        "lsa",
        {},
        "latent topics combined with word vectors beat either alone on small sets of texts, in seconds",
    ),
}
"""Choices by kind of data on a CPU that are backed by measurements."""
SHORT = 5.0
"""Minutes below which the choices of `IN_SHORT` are made."""
IN_SHORT = {
    "image": Choice(
        "patch_dictionary",
        {"encoder": "dictionary-400"},
        f"in less than {SHORT:g} minutes there is time for a dictionary of one layer, which beat every deep method on "
        "CIFAR-10",
    ),
}
"""Choices on a CPU for which those of `MEASURED` would take longer than is given."""
USUAL = {
    "image": Choice("simclr", {}, "it is the usual choice on a GPU, where nothing has been measured yet"),
    "text": Choice("skipgram", {}, "word vectors learn from little text in minutes"),
    "audio": Choice("apc", {}, "it learns from spectrograms in minutes"),
    "video": Choice("shuffle_and_learn", {}, "it trains an encoder of single frames in minutes"),
    "audio-visual": Choice("audio_visual_correspondence", {}, "it is the only method for such pairs"),
    "cameras": Choice("time_contrastive", {}, "it is the only method for such scenes"),
    "trajectory": Choice(
        "trajectory_unmasking", {}, "it learns from what an agent saw and where it was, in minutes"
    ),
}
"""Choices by kind of data that are not backed by measurements."""


def choose(kind: str, cuda: bool, named: Collection[str] = (), minutes: float | None = None) -> Choice:
    """The choice for a kind of data, with a reason that names the kind and the machine.

    Args:
        kind: Kind of the data.
        cuda: Whether there is a GPU.
        named: Names of the settings that the user gives, which are not chosen.
        minutes: Time for the training, where it is limited.
    """
    check.choice(USUAL, kind=kind)
    short = IN_SHORT if minutes is not None and minutes < SHORT else {}
    choice = USUAL[kind] if cuda else {**USUAL, **MEASURED, **short}[kind]
    place = "a GPU" if cuda else "a CPU"
    settings = {name: value for name, value in choice.settings.items() if name not in named}
    words = "".join(f", {name} {value}" for name, value in settings.items())
    reason = f"auto: {choice.method}{words} for {kind} on {place}, as {choice.reason}"
    return Choice(choice.method, settings, reason)
