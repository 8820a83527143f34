"""The bet: whether pre-training without labels is as good for another task as pre-training with labels.

The same network is pre-trained on the same images twice, with and without their labels, with the same budgets: steps,
images in each, and random views. Both, and the network with random weights and with these rescaled, then learn the
target from the same labelled samples; beside them stands a guess that looks at no image, where the task has one. What
is finished is kept in the folder of the bet: the same command continues after an interruption.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unlabeled import check, encoders, methods
from unlabeled.check import UserError
from unlabeled.data import open_data, store_size
from unlabeled.data.opening import refuse_missing
from unlabeled.encoders.readout import bare
from unlabeled.evaluation import bet_data, cells, seen, transfer
from unlabeled.evaluation.bet_words import SUPERVISED, Bet, Key, Terms, called
from unlabeled.evaluation.features import Representation, of_encoder
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel, Transfer, frozen, pick_device
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import finetune, linear
from unlabeled.evaluation.sources import Parts, Source
from unlabeled.evaluation.supervised_pretraining import NoLabels, beside, classes_of, is_finished
from unlabeled.evaluation.tasks import TASKS
from unlabeled.evaluation.verdict import OURS, counted
from unlabeled.files import atomic, locked, printable
from unlabeled.progress import report, telling
from unlabeled.run import CHECKPOINT, Run, load
from unlabeled.training.train import pretrain

__all__ = ["bet"]

CONFIG = "bet.toml"
GUESSES = {"multilabel": "class frequency", "segmentation": "most frequent class"}
"""What can be said of the target without looking at an image, by task: a control that nothing is trained for."""
SCRATCH = "supervised"
"""Control of classification by fine-tuning: from random weights at the full rate, which few labels may not suit."""


def bet(
    pretraining: str | Path | None = None,
    target: str | Path | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    quiet: bool = True,
    progress: Callable[[str], None] | None = None,
    **terms: Any,
) -> Bet:
    """Pre-train with and without labels on the same images with equal budgets, and see which transfers better.

    Args:
        pretraining: Images with labels to pre-train on, a name or a path.
        target: Labelled images of the task, likewise; images with boxes, masks or classes.
        out: Folder, in which a bet with the same terms is continued; `runs/bet-TASK-METHOD-PRETRAINING-TARGET` if None.
        config: A bet.toml to repeat; terms given here override it.
        quiet: Whether pre-training prints nothing.
        progress: Called with lines on the progress.
        **terms: Fields of `Terms`; run settings and options of the method.

    Returns:
        What was measured: `.lines()` says who won, by how much and what else there is to say.

    Raises:
        ValueError: A term is bad, the data does not suit it, or the folder holds another bet.
    """
    agreed = _terms(config, {"pretraining": pretraining, "target": target, **terms})
    folder = Path(out) if out is not None else _folder(agreed)
    with telling(progress), locked(folder):
        _keep(folder, agreed)
        players = _Players(agreed, folder, quiet)
        keys = players.play()
        measurements: dict[Key, list[Measurement]] = {}
        for key, file in dict.fromkeys(keys):  # "all" and a number may be the same labels
            measurements.setdefault(key, []).append(cells.read(file))
        return Bet(
            folder, agreed, {key: cells.together(own) for key, own in measurements.items()}, players.notes
        )


def _terms(config: str | Path | None, given: Mapping[str, Any]) -> Terms:
    """The terms: those of a file, with those that are given on top."""
    known = [one.name for one in fields(Terms) if one.name != "settings"]
    stored: dict[str, Any] = {}
    if config is not None:
        if not Path(config).is_file():
            raise UserError(f"config must be the {CONFIG} of a bet, got {config}, which is no file")
        try:
            stored = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"config must be a bet.toml, got {config} ({check.reason(error)})") from error
        for name in stored:
            check.choice((*known, "settings"), **{f"term in {config}": name})
    values = {name: value for name, value in given.items() if value is not None}
    settings = stored.pop("settings", {}) | {
        name: list(value) if isinstance(value, tuple) else value  # as the file gives them back
        for name, value in values.items()
        if name not in known
    }
    named: dict[str, Any] = stored | {
        name: printable(value) if isinstance(value, os.PathLike) else value
        for name, value in values.items()
        if name in known
    }
    for name in ("pretraining", "target"):
        if not isinstance(named.get(name), str):
            raise UserError(f"{name} must be a name or a path, got {named.get(name, 'none')}")
        refuse_missing(named[name], name)
    if isinstance(network := settings.get("encoder"), str) and not encoders.is_named(network):
        encoders.require_name(network)
    described = methods.describe(named.get("method", Terms.method))
    if described.kind != "image":
        raise UserError(
            f"method must learn from images for a bet, got {described.name}, for {described.kind}"
        )
    return Terms(**named, settings=settings)


def _folder(terms: Terms) -> Path:
    names = (Path(source).name for source in (terms.pretraining, terms.target))
    return Path("runs") / "-".join(["bet", terms.task, terms.method, *names]).replace(":", "-")


def _keep(folder: Path, terms: Terms) -> None:
    """Write the terms down, or see that the same stand there."""
    import tomli_w

    file = folder / CONFIG
    words = {name: value for name, value in asdict(terms).items() if value not in (None, [], {})}
    if file.is_file():
        try:
            stored = tomllib.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"out must hold a bet that can be read, got {file} ({check.reason(error)})"
            ) from error
        old_terms, new_terms = (one | one.get("settings", {}) for one in (stored, words))
        for name in {**old_terms, **new_terms}:
            if name not in ("device", "settings") and old_terms.get(name) != new_terms.get(name):
                raise UserError(
                    f"out must be a new folder, got {folder}, which holds a bet with {name} {old_terms.get(name)}, not "
                    f"{new_terms.get(name)}"
                )
        return
    with atomic(file) as path:
        path.write_text(tomli_w.dumps(words), encoding="utf-8")


@dataclass
class _Players:
    """Pre-trains networks and lets each learn the target; what is in the folder already is not done again."""

    terms: Terms
    folder: Path
    quiet: bool
    notes: list[str] = field(default_factory=list)
    parts: Parts | None = None
    data: Any = None
    """Target as it is measured: `Labelled` for classification."""

    def play(self) -> list[tuple[Key, Path]]:
        """Do what is left, the smallest budget first; all scores with their files."""
        has_labels, done = self._check(), []
        for number, budget in enumerate(self.terms.budgets):
            run = self._pretrained(budget)
            self._open(run, has_labels)
            done += self._cells(OURS, budget, bare(run.encoder))
            if has_labels:
                out = self.folder / f"labels-{budget}"
                if not is_finished(out, budget):
                    report(f"pre-training with labels, {counted(budget, 'steps')}")
                twin = beside(run, self.terms.pretraining, out, quiet=self.quiet)
                done += self._cells(SUPERVISED, budget, bare(twin.encoder))
            for features in self._controls() if number == 0 else ():
                done += self._cells(features, 0, bare(run.encoder))
        return done

    def _controls(self) -> list[str]:
        task = self.terms.task
        fine_tuned = task == "classification" and self.terms.train == "all"
        return [
            *([GUESSES[task]] if task in GUESSES else []),
            "random",
            "rescaled",
            *([SCRATCH] * fine_tuned),
        ]

    def _check(self) -> bool:
        """Whether there are labels to pre-train with; refuses what would otherwise fail after the first training."""
        size = store_size("image", self.terms.settings.get("image_size"))
        images = open_data(
            self.terms.pretraining, kind="image", store_size=size, label=self.terms.settings.get("label")
        )
        has_labels = True
        try:
            classes_of(images)
        except NoLabels:
            if not self.terms.labels:
                raise
            self.notes.append(f"{images.name} has no labels, so nothing was pre-trained with them.")
            report(self.notes[-1])
            has_labels = False
        target = self._opened(Source(self.terms.target, None, {"kind": "image", "store_size": size}))
        parts = {"pretraining": images, "target_training": target.train, "target_test": target.test}
        bet_data.refuse_other_data(
            self.folder, {name: data for name, data in parts.items() if data is not None}
        )
        return has_labels

    def _opened(self, source: Source) -> Parts:
        task = self.terms.task
        parts = source.open() if task == "classification" else TASKS.load(task).parts(source, self.terms.size)
        assert parts.train is not None and parts.test is not None
        labelled = Labelled.of(parts.train, parts.test) if task == "classification" else None
        samples = len(parts.train if labelled is None else labelled.train)
        for count in self.terms.labels:
            transfer.draw(samples, count, 0)
        return parts

    def _open(self, run: Run, has_labels: bool) -> None:
        """Open the target as the networks read it, once."""
        if self.parts is None:
            encoder, device = bare(run.encoder), pick_device(self.terms.device)
            self.parts = self._opened(Source.of(run, encoder, self.terms.target))
            about = seen.account(run, self.parts)
            self.notes += [f"{note[0].upper()}{note[1:]}." for note in [about.get("note")] if note]
            if has_labels and (about.get("seen_in_pretraining") or {}).get("samples"):
                self.notes.append(
                    "Pre-training with labels saw labels of these test images, so its scores on them do not measure "
                    "transfer."
                )
            if self.terms.task == "classification":
                self.data = Labelled.of(*self.parts.views(encoder, device))
                self.notes += [f"{note[0].upper()}{note[1:]}." for note in self.data.notes]

    def _pretrained(self, budget: int) -> Run:
        """The run without labels of so many steps."""
        terms, out = self.terms, self.folder / f"unlabeled-{budget}"
        if is_finished(out, budget):
            return load(out)
        report(f"{terms.method}, {counted(budget, 'steps')}")
        settings = {"seed": terms.seed, "device": terms.device, "holdout": 0.0, **terms.settings}
        resume = (out / CHECKPOINT).is_file()
        return pretrain(
            terms.method,
            terms.pretraining,
            out=out,
            resume=resume,
            quiet=self.quiet,
            steps=budget,
            **settings,
        )

    def _cells(self, features: str, budget: int, encoder: Any) -> Iterator[tuple[Key, Path]]:
        """Scores of a network with each number of labels and each seed, measured where they are not there yet."""
        assert self.parts is not None and self.parts.train is not None
        terms, train = self.terms, self.parts.train if self.data is None else self.data.train
        amounts = {count: len(transfer.draw(len(train), count, 0)) for count in terms.labels or ["all"]}
        most = max(amounts.values())
        for count, labels in amounts.items():
            for seed in range(terms.seed, terms.seed + terms.seeds):
                name = "-".join([features.replace(" ", "-"), str(budget), str(labels), str(seed)])
                file = self.folder / "cells" / f"{name}.json"
                if not cells.is_whole(file):
                    device = pick_device(terms.device)
                    model = EvaluatedModel(frozen(encoder, device)[0], seed=seed, device=device)
                    kind = OURS if budget else features if features == "rescaled" else "random"
                    if (network := transfer.start(model, kind, train, seed)) is None:  # type: ignore[arg-type]
                        break
                    measured = self._measured(network, features, budget, count, seed)
                    shows = seed == terms.seed and labels == most and budget in (0, terms.budgets[-1])
                    own = {
                        features if row == OURS else row: one
                        for row, one in measured.pictures.items()
                        if shows
                    }
                    cells.write(file, replace(measured, features=features, pictures=own))
                yield (features, budget, labels), file

    def _measured(self, network: Any, features: str, budget: int, count: int | str, seed: int) -> Measurement:
        """What a network, or a guess, scores after training on so many labelled samples of the target."""
        terms, place = self.terms, called(features, budget)
        if terms.task == "classification":
            measured = self._classified(
                network, count, Settings(seed, steps=terms.steps), features == SCRATCH
            )
            accuracy = f"{measured.unit} {100 * float(measured.values.mean()):.1f} %"
            report(f"classification, {measured.labels:,} labels, {place}, seed {seed}: {accuracy}")
            return measured
        assert self.parts is not None
        model = EvaluatedModel(
            frozen(network, pick_device(terms.device))[0], seed=seed, device=pick_device(terms.device),
            size=terms.size, steps=terms.steps, transfer=Transfer((count,), train=(terms.train,)), name=place,
        )  # fmt: skip
        # Guesses come first, then ours: the task's own controls are not trained.
        name = features if features in GUESSES.values() else OURS
        every: Any = TASKS.load(terms.task).measure(model, self.parts)
        with closing(every):
            return next(one for one in every if one.features == name)

    def _classified(self, network: Any, count: int | str, settings: Settings, scratch: bool) -> Measurement:
        """By a linear classifier on frozen features, by fine-tuning with it, or with a random one at the full rate."""
        data: Labelled = self.data
        rows = transfer.draw(len(data.labels), count, settings.seed)
        features = Representation(OURS, of_encoder(network), network)
        if self.terms.train == "frozen":
            predicted, detail = linear.probe(features, data, rows, None, settings)
        elif scratch:
            predicted, detail = finetune.train(network, data, rows, settings)
        else:
            predicted, detail = finetune.probe(features, data, rows, None, settings)
        right = (predicted == data.answers).float().cpu()[None]
        return Measurement(
            "classification", OURS, right, labels_per_class=count, labels=len(rows), detail=detail,
            groups=data.test.groups, counted=group_unit(data.test),
        )  # fmt: skip
