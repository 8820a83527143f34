"""The candidates among which `choose` chooses: methods with some of their settings, written as words."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from unlabeled import check, methods
from unlabeled.check import UserError
from unlabeled.training import auto
from unlabeled.training.settings import BUDGET, Settings

__all__ = ["RECIPE", "USUAL", "Candidate", "parse"]

RECIPE = "recipe"
"""The word for what a method declares for small budgets."""
USUAL: dict[str, tuple[str, ...]] = {
    "image": (
        auto.AUTO,
        "simclr:recipe",
        "moco:recipe",
        "byol:recipe",
        "barlow_twins:recipe",
        "vicreg",
        "rotnet:recipe",
        "denoising:recipe",
    ),
    "text": (auto.AUTO, "skipgram", "bert", "simcse", "gpt"),
    "audio": (auto.AUTO, "apc", "audio_restoration", "best_rq", "cpc_audio", "wav2vec2"),
    "video": (auto.AUTO, "arrow_of_time", "temporal_sorting", "frame_prediction", "videomae"),
}
"""Candidates where the user names none; of other kinds of data, all methods."""


@dataclass(frozen=True)
class Candidate:
    """A method with settings.

    Attributes:
        word: As it was written, such as simclr:recipe:temperature=0.5.
        method: Name of the method.
        settings: Run settings and options that differ from its defaults.
    """

    word: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        return re.sub(r"[^\w.+-]+", "-", self.word)

    @property
    def title(self) -> str:
        """What tables call it."""
        return f"{self.word} ({self.method})" if self.word == auto.AUTO else self.word


def parse(
    words: Sequence[str], kind: str, cuda: bool, given: Mapping[str, Any], minutes: float | None = None
) -> list[Candidate]:
    """Read candidates from words.

    Args:
        words: Each a method or auto, which may be followed by recipe and by settings, joined by colons; empty for the
            usual ones of this kind of data.
        kind: Kind of the data.
        cuda: Whether there is a GPU.
        given: Run settings that all candidates share, which win over those of auto and of recipes.
        minutes: Time for all of them, of which auto expects an equal share.

    Returns:
        At least two, each once.

    Raises:
        ValueError: A method or setting does not exist, is for another kind of data, or too few candidates are left.
    """
    usual = USUAL.get(kind) or [name for name in methods.names() if methods.describe(name).kind == kind]
    if not words and given.get("encoder") is not None:  # auto chooses a network too
        usual = [word for word in usual if word != auto.AUTO]
    share = None if minutes is None else minutes / len(words or usual)
    candidates = [_candidate(word, kind, cuda, given, share) for word in words or usual]
    for one in candidates:
        if [other.folder for other in candidates].count(one.folder) > 1:
            raise UserError(f"methods must name every candidate once, got {one.word} again")
    if len(candidates) < 2:
        raise UserError(
            f"methods must be at least 2 to choose among, got {', '.join(words) or f'only {usual[0]} for {kind}'}"
        )
    return candidates


def _candidate(
    word: str, kind: str, cuda: bool, given: Mapping[str, Any], minutes: float | None
) -> Candidate:
    name, *parts = word.split(":")
    if name == auto.AUTO:
        if parts:
            raise UserError(f"methods must name auto alone, as it chooses its settings, got {word}")
        choice = auto.choose(kind, cuda, list(given), minutes)
        return Candidate(word, choice.method, choice.settings)
    described = methods.describe(name)
    if described.kind != kind:
        raise UserError(f"methods must learn from data of kind {kind}, got {name}, for {described.kind}")
    settings: dict[str, Any] = {}
    for part in parts:
        if part == RECIPE:
            settings |= {key: value for key, value in described.recipe.items() if key not in BUDGET}
        else:
            key, value = _setting(part, word)
            settings[key] = value
    names = {one.name for one in (*fields(Settings), *described.options)} - {*BUDGET}
    for key in settings:
        check.choice(sorted(names), **{f"a setting in {word}": key})
    return Candidate(word, name, {key: value for key, value in settings.items() if key not in given})


def _setting(part: str, word: str) -> tuple[str, Any]:
    key, equals, value = part.partition("=")
    if not equals or not value:
        raise UserError(
            f"methods must be written as METHOD:recipe:SETTING=VALUE, with recipe and settings as you like, got {word}"
        )
    try:
        return key.replace("-", "_"), json.loads(value)
    except ValueError:
        return key.replace("-", "_"), value
