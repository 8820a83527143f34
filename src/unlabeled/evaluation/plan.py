"""What is to be measured: the request, and the columns of scores that follow from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.evaluation import subsets
from unlabeled.evaluation.controls import CONTROLS
from unlabeled.evaluation.model import Transfer
from unlabeled.evaluation.probe import Counts, Settings
from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.tasks import TASKS

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder
    from unlabeled.evaluation.scores import Scores

__all__ = ["SEMI_SUPERVISED", "Cell", "Request", "cells", "controls_for", "probes_for"]

GROUPS = ("default", "baselines", "all")
"""Words for several controls at once."""
SEMI_SUPERVISED = "semi_supervised"
"""Word for all probes that learn from unlabelled training samples too."""
OF_TASKS = {
    "size": ("propagation", "segmentation", "detection"),
    "clips": ("recognition",),
    "crops": ("recognition",),
    "transfer": ("multilabel", "segmentation", "detection"),
}
"""The tasks that each option is for."""


@dataclass
class Request:
    """What `evaluate` was called with, but for the model and the data.

    Attributes:
        probes: Names of probes and tasks; `semi_supervised` is replaced by its probes.
        controls: Names of controls, or default, baselines and all, which `controls_for` replaces.
        counts: Labels per class.
        draws: Random choices of the labels, where not all are used.
        settings: Settings of all probes.
        progress: Called with lines for the user; None for silence.
        features: As `readouts.named` gives it: which features of the encoder; None for its output.
        save: Called with the scores so far; None for nothing.
        size: Shorter side in pixels of the images or frames that a task looks at; None as the task has it.
        clips: Clips of a test video that recognition averages; None as it chooses.
        crops: Crops of each of these, likewise.
        transfer: How tasks train on labelled images; None as they have it.
        public_weights: Weights of the control public; None for those that the run started from, if any.
        control_weights: These, whoever named them.

    Raises:
        ValueError: There is no such probe, control or number of labels, no draw, or nothing that a size, clips or crops
            are for.
    """

    probes: Sequence[str]
    controls: Sequence[str]
    counts: Counts
    draws: int
    settings: Settings
    progress: Callable[[str], None] | None
    features: str | None = None
    save: "Callable[[Scores], None] | None" = None
    size: int | None = None
    clips: int | None = None
    crops: int | None = None
    transfer: Transfer | None = None
    public_weights: Any = None
    control_weights: Any = None

    def __post_init__(self) -> None:
        self.counts = subsets.counts(self.counts)
        self.probes = probes_for(self.probes)
        for name in self.controls:
            check.choice((*CONTROLS, *GROUPS), controls=name)
        check.at_least(1, draws=self.draws)
        if self.settings.steps is not None:  # a control that is not trained is none
            check.at_least(1, steps=self.settings.steps)
        for name, value in self.of_tasks.items():
            if not {*OF_TASKS[name]} & {*self.probes}:
                named = ", ".join(self.probes)
                raise UserError(
                    f"{name} is for the tasks {', '.join(OF_TASKS[name])}, got {value} with {named}"
                )
            if name != "transfer":
                check.at_least(1, **{name: value})
        if self.transfer is not None:
            subsets.counts(self.transfer.labels, "labels")
            check.at_least(1, seeds=self.transfer.seeds)

    @property
    def tasks(self) -> list[str]:
        """Those that need no labels."""
        return [name for name in self.probes if name in TASKS]

    @property
    def of_tasks(self) -> dict[str, Any]:
        """Those of `OF_TASKS` that are set."""
        values = {name: getattr(self, name) for name in OF_TASKS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """What distinguishes evaluations on the same data."""
        options = {
            "probe": list(self.probes),
            "labels_per_class": self.counts,
            "controls": list(self.controls),
            "draws": self.draws,
            "k": self.settings.k,
            "temperature": self.settings.temperature,
        }
        options |= {} if self.features is None else {"features": self.features}
        options |= {} if self.public_weights is None else {"public_weights": str(self.public_weights)}
        options |= self.of_tasks
        options |= {} if self.transfer is None else {"transfer": self.transfer.options}
        return options if self.settings.steps is None else options | {"steps": self.settings.steps}

    def report(self, line: str) -> None:
        """Show the user a line."""
        if self.progress is not None:
            self.progress(line)


@dataclass(frozen=True)
class Cell:
    """A column of the scores: a probe, the map that it reads (None: the encoder's output) and the labels per class."""

    probe: str
    layer: str | None
    count: int | str


def probes_for(words: Sequence[str]) -> list[str]:
    """Names of the probes and tasks that words stand for, each once, in the order of the words.

    Args:
        words: Names; `semi_supervised` for every probe that learns from unlabelled training samples too.

    Raises:
        ValueError: There is no such probe or task.
    """
    names: list[str] = []
    for word in words or ["nothing"]:
        check.choice((*PROBES, *TASKS, SEMI_SUPERVISED), probe=word)
        several = word == SEMI_SUPERVISED
        names += [name for name in PROBES if PROBES.load(name).semi_supervised] if several else [word]
    return list(dict.fromkeys(names))


def controls_for(words: Sequence[str], kind: str, weights: Any = None) -> list[str]:
    """Names of the controls that words stand for, each once, the plainest first.

    Args:
        words: Names; default for those that take seconds, baselines for what older methods make of the raw input, all
            for every one.
        kind: Kind of the encoder that they are beside.
        weights: What controls that need weights are made of; None leaves these out.

    Raises:
        ValueError: A control that was named is none for this kind, or lacks its weights.
    """
    suited = {name: control for name in CONTROLS if (control := CONTROLS.load(name)).suits(kind)}
    for word in words:
        if word not in suited and word not in GROUPS:
            raise UserError(f"controls must be of {', '.join(suited)} for {kind} encoders, got {word}")
    names = [
        name
        for name, control in suited.items()
        if name in words
        or (
            (
                "all" in words
                or ("default" in words and control.default)
                or ("baselines" in words and control.baseline)
            )
            and (weights is not None or not control.needs_weights)
        )
    ]
    if weights is None and (lacking := [name for name in names if suited[name].needs_weights]):
        raise UserError(
            f"public_weights must name the weights of the control {lacking[0]}, as timm:NAME, hf:OWNER/NAME or a file, "
            "for what did not start from any, got none"
        )
    return sorted(names, key=lambda name: suited[name].row)


def cells(request: Request, encoder: "Encoder", rarest: int) -> list[Cell]:
    """The columns to measure, each once.

    Args:
        request: Its tasks have no columns here.
        encoder: Whose layers are probed.
        rarest: Training labels of the rarest class.
    """
    columns = []
    for name in request.probes:
        if name in PROBES:
            probe = PROBES.load(name)
            for count in probe.counts(request.counts, rarest):
                columns += [Cell(probe.records_as or name, layer, count) for layer in probe.layers(encoder)]
    return list(dict.fromkeys(columns))
