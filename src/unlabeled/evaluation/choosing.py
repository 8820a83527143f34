"""Choose a method for some data within a time: successive halving over candidates.

All candidates are trained for the same short time and scored; a third of them is trained on, and so again, until at
most three are left, of which the best is chosen. Scores are the accuracy of a linear probe, cross-validated on few
labels, or without labels a criterion that looks at the features alone. No test sample is looked at. What is finished is
kept in the folder: the same command goes on after an interruption. A candidate that fails is left out, with the reason.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled import check, encoders
from unlabeled.check import UserError
from unlabeled.data import open_data
from unlabeled.data.opening import called, kind_of, refuse_missing
from unlabeled.evaluation import candidates, subsets
from unlabeled.evaluation.candidate_scores import CRITERIA, Score, by_criterion, by_labels
from unlabeled.evaluation.choice import Choice, Entry, Round, Terms
from unlabeled.evaluation.model import frozen, pick_device
from unlabeled.evaluation.sources import Source
from unlabeled.files import atomic, locked, printable
from unlabeled.progress import duration, report, telling
from unlabeled.run import CHECKPOINT, Run, load, read_position
from unlabeled.training.train import pretrain

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["RESULT", "choose", "rounds"]

RESULT = "choice.json"
KEEP, LAST = 3, 3
"""One in so many candidates is trained on, and so many are compared in the last round."""
TRAINING = 0.85
"""Fraction of the time that is planned for training; the rest is for reading data and for scoring."""
MOST_LABELS = 2000
"""Most labels that a score looks at."""

clock = time.monotonic


def choose(
    data: Any,
    *,
    labels: Any = None,
    labels_per_class: int | str | None = None,
    minutes: float = 20.0,
    methods: tuple[str, ...] = (),
    criterion: str | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    quiet: bool = True,
    progress: Callable[[str], None] | None = None,
    reading: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Choice:
    """Train candidates for a short time, go on with the best, and say which to train longer and how sure that is.

    Args:
        data: What to train on, as in `pretrain`; of parts only the training part is read.
        labels: Labelled samples to choose by, a few of each class: a name, a path or opened data, of which the training
            part is read. None takes those of `data` if `labels_per_class` says how many.
        labels_per_class: Labels of each class that are used, a percentage of each, or "all"; None uses all of `labels`,
            and none without these: a criterion that needs no labels decides.
        minutes: Time for all of it.
        methods: Candidates: METHOD, METHOD:recipe or METHOD:SETTING=VALUE, and auto; empty for the usual ones.
        criterion: Without labels, any of `CRITERIA`; None for lidar of images and rankme of others.
        seed: Seed of all random numbers.
        device: auto, cpu or cuda.
        out: Folder, in which a choice with the same terms goes on; `runs/choose-DATA` if None.
        quiet: Whether trainings print nothing.
        progress: Called with lines on the progress.
        reading: label, text_column, encoding, group and fold, as in `open_data`.
        **settings: Run settings that all candidates share, such as the encoder.

    Returns:
        The choice: `.lines()` says what was chosen, by what margin and how sure that is.

    Raises:
        ValueError: A term is bad, the folder holds another choice, or every candidate failed.
    """
    check.positive(minutes=minutes)
    refuse_missing(data)
    refuse_missing(labels, "labels")
    kind, cuda = kind_of(data), pick_device(device).type == "cuda"
    shared = {name: value for name, value in {**settings, **(reading or {})}.items() if value is not None}
    if isinstance(network := shared.get("encoder"), str) and not encoders.is_named(network):
        encoders.require_name(network)
    field_ = candidates.parse(tuple(methods), kind, cuda, shared, minutes)
    count, criterion = _decides(labels, labels_per_class, criterion, kind)
    named = None if labels is None else _called(labels)
    words = [one.word for one in field_]
    terms = Terms(_called(data), named, count, criterion, minutes, words, seed, shared)
    folder = Path("runs") / f"choose-{Path(terms.data).name}".replace(":", "-") if out is None else Path(out)
    with telling(progress), locked(folder):
        choice = _opened(folder, terms, field_)
        _Halving(choice, data, labels, device, quiet, reading or {}).play()
        return choice


def _decides(
    labels: Any, labels_per_class: int | str | None, criterion: str | None, kind: str
) -> tuple[int | str | None, str | None]:
    """What decides: labels of each class, or a criterion; the other is None."""
    if labels is None and labels_per_class is None:
        criterion = criterion or ("lidar" if kind == "image" else "rankme")
        check.choice(CRITERIA, criterion=criterion)
        return None, criterion
    if criterion is not None:
        raise UserError(f"criterion must be left out with labels, which decide then, got {criterion}")
    return subsets.counts([labels_per_class or "all"])[0], None


def rounds(count: int) -> list[int]:
    """Number of candidates in each round, such as 8 and 3."""
    sizes = [count]
    while sizes[-1] > LAST:
        sizes.append(math.ceil(sizes[-1] / KEEP))
    return sizes


def _called(data: Any) -> str:
    return printable(data) if isinstance(data, str | os.PathLike) else called(data)


def _opened(folder: Path, terms: Terms, field_: list[candidates.Candidate]) -> Choice:
    """The choice in a folder, or a new one; refuses one with other terms."""
    file = folder / RESULT
    entries = [Entry(one.title, one.method, dict(one.settings), folder / one.folder) for one in field_]
    choice = Choice(folder, terms, entries)
    if not file.is_file():
        return choice
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        choice.load(stored)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"out must hold a choice that can be read, got {file} ({check.reason(error)})"
        ) from error
    for name, value in terms.as_json().items():
        if stored["terms"].get(name) != value:
            raise UserError(
                f"out must be a new folder, got {folder}, which holds a choice with {name} "
                f"{stored['terms'].get(name)}, not {value}"
            )
    return choice


@dataclass
class _Halving:
    """Trains and scores candidates; what is in the folder already is not done again."""

    choice: Choice
    data: Any
    labels: Any
    device: str
    quiet: bool
    reading: Mapping[str, Any]
    opened: "dict[str, Data]" = field(default_factory=dict)

    def play(self) -> None:
        """All rounds that are left."""
        sizes = rounds(len(self.choice.entries))
        for number, size in enumerate(sizes):
            left = self._players(number, size)
            if all(one.failure for one in left):
                break
            share = self._share(number, len(sizes), len(left))
            report(
                f"round {number + 1} of {len(sizes)}: {len(left)} candidates, {duration(60 * share)} of training each, "
                "but at least 10 steps"
            )
            for entry in left:
                if len(entry.rounds) <= number and not entry.failure:
                    self._play(entry, number, share)
                    if not number and entry.rounds and sum(bool(one.rounds) for one in left) == 1:
                        self._warn(entry.rounds[0], sizes)
        if all(one.failure for one in self.choice.entries):
            self._keep()
            reasons = "; ".join(f"{one.name}: {one.failure}" for one in self.choice.entries)
            raise UserError(f"methods must hold a candidate that can be trained, but all failed: {reasons}")
        self._keep()

    def _warn(self, first: Round, sizes: list[int]) -> None:
        """Say how long all of it will take, by the first candidate, where that is clearly more than was asked for."""
        asked = 60 * self.choice.terms.minutes
        rest = max(asked - sizes[0] * first.seconds, 0.1 * asked) if sizes[1:] else 0.0
        total = sizes[0] * first.seconds + TRAINING * rest + sum(sizes[1:]) * first.scoring_seconds
        if total > 1.2 * asked:
            report(
                f"this will take about {duration(total)}, not {duration(asked)}: by the first, each of {sizes[0]} "
                f"candidates takes {duration(first.seconds)} for its first {first.steps} steps and its score"
            )

    def _players(self, number: int, size: int) -> list[Entry]:
        """Candidates of a round: the best of the one before, also those that have failed since."""
        if not number:
            return self.choice.entries
        before = [one for one in self.choice.entries if len(one.rounds) >= number]
        return sorted(before, key=lambda one: one.rounds[number - 1].score, reverse=True)[:size]

    def _share(self, number: int, count: int, size: int) -> float:
        """Minutes of training of each candidate of a round, the same for all, and after an interruption."""
        if number == len(self.choice.shares):
            spent = sum(one.seconds for entry in self.choice.entries for one in entry.rounds) / 60
            rest = max(self.choice.terms.minutes - spent, 0.1 * self.choice.terms.minutes)
            self.choice.shares.append(TRAINING * rest / (count - number) / size)
            self._keep()
        return self.choice.shares[number]

    def _play(self, entry: Entry, number: int, share: float) -> None:
        """Train a candidate on and score it; what fails is written down, and the others go on."""
        began = clock()
        try:
            run, step_seconds = self._trained(entry, number, share)
            trained = clock()
            score = self._score(run)
        except Exception as error:  # whatever a method, a network or a library raises
            entry.failure = check.reason(error)
            report(f"{entry.name} failed and is skipped: {entry.failure}")
            return self._keep()
        score.write(self.choice.score_file(entry, number))
        steps = read_position(run.path / CHECKPOINT)["step"]
        entry.rounds.append(Round(steps, clock() - began, clock() - trained, step_seconds, score.value))
        entry.target = None
        self._keep()
        words = self.choice.terms.number(score.value)
        report(f"{entry.name}: {words} after {steps:,} steps, {entry.rounds[-1].seconds:.0f} s")

    def _trained(self, entry: Entry, number: int, share: float) -> tuple[Run, float]:
        """Train a candidate for so many minutes more, or to where it was to end before an interruption.

        Returns:
            The run, and the seconds of one of its steps.
        """
        begun = (entry.folder / CHECKPOINT).is_file()
        more: dict[str, Any] = {"minutes": share} if not begun else {}
        if number:
            if entry.target is None:  # said before it begins, so that it ends there after an interruption
                last = entry.rounds[-1]
                entry.target = last.steps + max(1, round(60 * share / max(last.step_seconds, 1e-9)))
                self._keep()
            more = {"steps": entry.target}
            if read_position(entry.folder / CHECKPOINT)["step"] >= entry.target:
                return load(entry.folder), entry.rounds[-1].step_seconds
        if not begun:
            settings = {
                "holdout": 0.0,
                "seed": self.choice.terms.seed,
                **self.choice.terms.settings,
                **entry.settings,
            }
            more |= settings
        times: list[float] = []
        run = pretrain(
            entry.method, self.data, out=entry.folder, resume=begun, quiet=self.quiet, device=self.device,
            on_step=lambda step: times.append(clock()), **more,
        )  # fmt: skip
        times.append(clock())
        pace = (times[-1] - times[0]) / max(1, len(times) - 1)
        return run, pace if len(times) > 1 else 60 * share

    def _score(self, run: Run) -> Score:
        terms = self.choice.terms
        encoder, reader = frozen(run, pick_device(self.device))
        data = encoder.evaluation_view(self._samples(run, encoder)).to(pick_device(self.device))
        if terms.criterion is not None:
            return by_criterion(terms.criterion, encoder, reader, data, terms.seed)
        return by_labels(reader, data, terms.seed)

    def _samples(self, run: Run, encoder: Any) -> "Data":
        """The samples that candidates are scored on, opened once for all networks that read them alike."""
        terms = self.choice.terms
        named = self.data if self.labels is None else self.labels
        source = Source.of(run, encoder, named, reading=self.reading)
        key = repr(sorted(source.options.items()))
        if key not in self.opened:
            data = open_data(named, **source.options)
            if terms.criterion is not None and data.labels is not None:
                report(f"labels of {data.name} are not used; --labels-per-class lets them decide")
            self.opened[key] = data if terms.criterion is not None else self._labelled(data)
        return self.opened[key]

    def _labelled(self, data: "Data") -> "Data":
        """The samples whose labels are used."""
        terms = self.choice.terms
        rows = torch.arange(0) if data.labels is None else (data.labels >= 0).nonzero()[:, 0]
        if not len(rows):
            raise UserError(
                f"labels must be those of some samples, got {data.name} without any in its training part"
            )
        assert data.labels is not None and terms.labels_per_class is not None
        labels, total = data.labels[rows].long(), len(rows)
        classes = labels.unique(return_inverse=True)[1]
        rows = rows[subsets.draw(classes, terms.labels_per_class, classes=int(classes.max()) + 1, draws=1)[0]]
        if len(rows) > MOST_LABELS:
            generator = torch.Generator().manual_seed(terms.seed)
            rows = rows[torch.randperm(len(rows), generator=generator)[:MOST_LABELS].sort().values]
        self.choice.labels_used = f"{len(rows):,} of {total:,} labels of {data.name}"
        report(f"candidates are scored by {self.choice.labels_used}, cross-validated")
        return data.subset(rows)

    def _keep(self) -> None:
        with atomic(self.choice.path / RESULT) as path:
            path.write_text(json.dumps(self.choice.as_json(), indent=1), encoding="utf-8")
