"""The protocol: every number beside its controls, on the same labels and the same test samples."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.data.labels import NO_LABELS
from unlabeled.data.opening import called
from unlabeled.evaluation import controls as controlled
from unlabeled.evaluation import features, opening, seen
from unlabeled.evaluation.features import Reader, Representation
from unlabeled.evaluation.probes import few_labels, finetune, knn, layers, linear
from unlabeled.evaluation.scores import Measurement, Scores, of_groups
from unlabeled.evaluation.tasks import TASKS, Subject, measure
from unlabeled.evaluation.verdict import CHOSEN
from unlabeled.files import printable
from unlabeled.kernels import heap
from unlabeled.method import Batch, Method
from unlabeled.run import Run, fingerprint
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.data import Data
    from unlabeled.encoders import Encoder

__all__ = ["CONTROLS", "PROBES", "evaluate"]

PROBES = ("knn", "linear", "few", "finetune", "layers")
CONTROLS = ("raw", "random", "rescaled", "supervised")
FEW = (1, 10)
"""Labels per class of the probe `few` where no number is given, if every class has as many."""

Augment = Callable[[Batch], Tensor]
Prediction = tuple[Tensor, str]
"""Predicted classes of the test samples, and the settings they depend on."""


@dataclass
class Labelled:
    """Training and test samples with their classes, all on one device."""

    train: "Data"
    test: "Data"
    labels: Tensor
    answers: Tensor
    classes: list[str]
    notes: list[str]
    """What a reader of the scores must know of them."""


@heap.retain_freed_memory()
def evaluate(
    run: Any,
    data: Any,
    *,
    probe: str | Sequence[str] = ("knn", "linear"),
    labels_per_class: int | str | Sequence[int | str] = ("all",),
    controls: str | Sequence[str] = ("raw", "random", "rescaled"),
    draws: int = 5,
    seed: int = 0,
    device: str = "auto",
    test: Any = None,
    label: str | None = None,
    text_column: str | None = None,
    encoding: str | None = None,
    k: int = 20,
    temperature: float = 0.07,
    steps: int | None = None,
    augment: Augment | None = None,
    group: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Scores:
    """Measure frozen features on labelled data, with the controls on the same labels and test samples.

    Standardisation uses all training samples, without their labels; the penalty of linear probes is chosen on
    a split of the labels at hand; no choice sees the test set.

    Args:
        run: A run or its folder, a method or an encoder; it is not changed.
        data: What `open_splits` takes, with labels, or a pair of training and test data, opened or not.
        probe: Any of knn, linear, few (linear, with 1 and 10 labels per class too where no number is given
            and every class has as many), finetune (the encoder moves too), layers (linear on every named map,
            and on the one that a split of the training labels chooses);
            or tasks that need no labels, each with controls of its own: alignment (of cameras), analogies and
            similarity (of words), factors (what else is known of the samples), localisation (of sounds),
            perplexity (of texts), propagation (of masks through videos), retrieval (across sight and sound),
            zones (of walks).
        labels_per_class: Numbers of training labels, shares of each class's labels such as "1%", "all", or several
            of them.
        controls: Any of raw (the input without a network), random (the same network untrained), rescaled (of
            images: the same, its channels made alike) and supervised (the same network trained on the same
            labels only; finetune has it beside it wherever there are controls).
        draws: Random balanced choices of the labels, where not all are used.
        seed: Seed of the draws, of the control's weights and of the bootstrap.
        device: auto, cpu or cuda.
        test: Test data, if `data` is training data only: the test split of a source that has one, else all.
        label: Column of the labels, where the data is a table or has one beside it; None takes that of the run, or
            else looks for a usual name.
        text_column: Column of the texts, as in `open_data`; None takes that of the run.
        encoding: Encoding of texts, as in `open_data`; None takes that of the run.
        k: Neighbours that vote in knn.
        temperature: Of the votes in knn.
        steps: Optimizer steps of finetune and supervised; None takes 20 passes over the labels, 300 at least.
        augment: Random view of a batch for finetune and supervised, such as a `Views`; None takes mild crops
            without flips.
        group: What says which samples are not independent, as in `open_data`; None takes that of the run on the data
            that it was trained on.
        progress: Called with a line on what is measured next.

    Returns:
        The scores. Their note says how many test samples the run was trained on, and how many are in the training
        part too.

    Raises:
        ValueError: There are no labels, a class has fewer than asked for, or a word or number is not allowed.
    """
    asked = _Asked(
        tuple(_several(probe)),
        tuple(_several(controls)),
        few_labels.counts(_several(labels_per_class)),
        draws,
        seed,
        k,
        temperature,
        steps,
        augment,
        progress or (lambda text: None),
    )
    where = features.pick_device(device)
    run = opened_run(run)
    encoder, reader = features.frozen(run, where)
    told = {"label": label, "text_column": text_column, "encoding": encoding, "group": group}
    told = seen.as_told(run, data) | {name: value for name, value in told.items() if value is not None}
    how = opening.options(run, encoder) | told
    about = {"encoder": fingerprint(encoder.state_dict()), "seed": seed}
    about["options"] = {"source": _source(data, test), **asked.options, **told}
    measured, met = _on_tasks(run, encoder, data, test, how, asked, where)
    if asked.probes and all(word in TASKS for word in asked.probes):
        return Scores.of(measured, {"data": str(getattr(data, "name", data)), **about, **seen.together(met)})
    both = opening.both(data, test, how)
    train, tested = map(encoder.evaluation_view, both)
    labelled = _labelled(train, tested, where)
    for note in (*labelled.notes, *_of_labels(train, tested)):
        asked.tell(note)
    measured += _on_labels(encoder, reader, labelled, asked)
    # As opened, not as the encoder reads it: a scene is many images.
    met.append(seen.account(run, opening.Opened(*both, how), data, test))
    met += [{"note": note} for note in labelled.notes]
    facts = {
        "data": train.name if train.name == tested.name else f"{train.name}, tested on {tested.name}",
        "training_samples": len(labelled.labels),
        "test_samples": len(labelled.answers),
    }
    return Scores.of(measured, facts | about | seen.together(met))


@dataclass(frozen=True)
class _Asked:
    """What is to be measured and how, as in `evaluate`."""

    probes: tuple[str, ...]
    controls: tuple[str, ...]
    counts: list[int | str]
    draws: int
    seed: int
    k: int
    temperature: float
    steps: int | None
    augment: Augment | None
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        for word in self.probes or ["nothing"]:
            check.choice((*PROBES, *TASKS), probe=word)
        for word in self.controls:
            check.choice(CONTROLS, controls=word)
        check.at_least(1, draws=self.draws)

    @property
    def options(self) -> dict[str, Any]:
        """What tells one evaluation from another on the same data."""
        options = {
            "probe": list(self.probes),
            "labels_per_class": self.counts,
            "controls": list(self.controls),
        }
        options |= {"draws": self.draws, "k": self.k, "temperature": self.temperature}
        return options | ({} if self.steps is None else {"steps": self.steps})


def _on_tasks(
    run: Any,
    encoder: "Encoder",
    data: Any,
    test: Any,
    how: dict[str, Any],
    asked: _Asked,
    where: torch.device,
) -> tuple[list[Measurement], list[dict[str, Any]]]:
    """What the tasks among the probes measure, and accounts of the test samples of each."""
    measured: list[Measurement] = []
    met: list[dict[str, Any]] = []
    words = [word for word in asked.probes if word in TASKS]
    subject = Subject(encoder, _method(run, encoder, where), asked.seed) if words else None
    for word in words:
        assert subject is not None
        asked.tell(word)
        opened = opening.for_task(word, data, test, how)
        given = data if opened is None else opening.given(word, data, opened)
        measured += measure(word, subject, given, seed=asked.seed, device=where)
        met += [] if opened is None else [seen.account(run, opened, data, test)]
    return measured, met


def _on_labels(encoder: "Encoder", reader: Reader, labelled: Labelled, asked: _Asked) -> list[Measurement]:
    """What the probes measure on labels, each beside its controls."""
    smallest = int(labelled.labels.unique(return_counts=True)[1].min())
    probes = [word for word in asked.probes if word not in TASKS]
    plan = _plan(probes, asked.counts, list(encoder.map_dims) if "layers" in probes else [], smallest)
    draws_of = {
        count: [torch.arange(len(labelled.labels))]
        if count == "all"
        else few_labels.subsets(
            labelled.labels, count, classes=labelled.classes, draws=asked.draws, seed=asked.seed
        )
        for count in dict.fromkeys(count for _, _, count in plan)
    }
    representations = _representations(encoder, reader, labelled, asked)
    measured: list[Measurement] = []
    trained: dict[int | str, list[Prediction]] = {}
    for name, layer, count in plan:
        about = f"{name}{f' {layer}' if layer else ''}, {count} labels per class"
        for shown in representations if name != "finetune" else representations[-1:]:
            asked.tell(f"{about}: {shown.name}")
            results = [
                _predicted(name, layer, encoder, shown, labelled, rows, asked) for rows in draws_of[count]
            ]
            measured.append(_measure(name, layer, count, shown.name, results, labelled, shown.detail))
        if name != "layers" and ("supervised" in asked.controls or (name == "finetune" and asked.controls)):
            if count not in trained:
                asked.tell(f"{about}: supervised, {len(draws_of[count])} trainings")
                trained[count] = [
                    _supervised(encoder, labelled, rows, asked.steps, asked.augment, asked.seed + draw)
                    for draw, rows in enumerate(draws_of[count])
                ]
            measured.append(_measure(name, layer, count, "supervised", trained[count], labelled))
    return measured


def _representations(
    encoder: "Encoder", reader: Reader, labelled: Labelled, asked: _Asked
) -> list[Representation]:
    """The controls that are asked for, and ours at the end."""
    made = []
    if "raw" in asked.controls:
        made.append(controlled.raw(encoder))
    if "random" in asked.controls:
        made.append(controlled.random(encoder, labelled.train, asked.seed))
    if "rescaled" in asked.controls and encoder.kind == "image":
        made.append(controlled.rescaled(encoder, labelled.train, asked.seed))
    return [*made, Representation("unlabeled", reader)]


def _predicted(
    name: str,
    layer: str | None,
    encoder: "Encoder",
    shown: Representation,
    labelled: Labelled,
    rows: Tensor,
    asked: _Asked,
) -> Prediction:
    """What one probe that learns from the labels of some rows predicts."""
    if layer == CHOSEN:
        return _on_chosen_layer(encoder, shown, labelled, rows, asked.seed)
    if name == "knn":
        return _knn(shown, labelled, rows, asked.k, asked.temperature)
    if name == "finetune":
        return _finetune(encoder, shown, labelled, rows, asked.steps, asked.augment, asked.seed)
    return _linear(shown, labelled, rows, layer, asked.seed)[:2]


def _method(run: Any, encoder: "Encoder", device: torch.device) -> Method | None:
    """A copy of the method around a frozen encoder; None where there is none, or it cannot be built again."""
    if isinstance(run, Run):
        try:
            run = run.method
        except ValueError:
            return None
    if not isinstance(run, Method):
        return None
    method = copy.deepcopy(run).eval().requires_grad_(False).to(device)
    method.encoder = encoder
    return method


def _plan(
    probes: list[str], counts: list[int | str], layers: list[str], smallest: int
) -> list[tuple[str, str | None, int | str]]:
    """What to measure: (name, layer, labels per class), each once; `smallest` is the rarest class's labels."""
    few = counts if counts != ["all"] else [*(count for count in FEW if count <= smallest), "all"]
    plan = []
    for probe in probes:
        name = "linear" if probe == "few" else probe
        for count in few if probe == "few" else counts:
            # Last, so that the features of every map are known by then.
            plan += [(name, layer, count) for layer in ([*layers, CHOSEN] if probe == "layers" else [None])]
    return list(dict.fromkeys(plan))


def _source(data: Any, test: Any) -> str:
    """What the data was called by whoever named it: folders of one name are told apart by their paths."""
    parts = data if isinstance(data, tuple) else (data,) if test is None else (data, test)
    names = [printable(part) if isinstance(part, str | Path) else called(part) for part in parts]
    return ", tested on ".join(dict.fromkeys(names))


def _several(words: Any) -> list[Any]:
    return [words] if isinstance(words, str | int | float) else list(words)


def _labelled(train: "Data", test: "Data", device: torch.device) -> Labelled:
    """Keep the samples whose class is known, and say what is left out or cannot be known."""
    known, notes = [], []
    for part, split in (("training", train), ("test", test)):
        rows = torch.arange(0) if split.labels is None else (split.labels >= 0).nonzero()[:, 0]
        if not len(rows):
            raise UserError(_without_labels(part, split))
        if unknown := len(split) - len(rows):
            notes.append(f"{unknown} of {len(split)} {part} {split.unit} have no label and are left out")
        known.append(split.subset(rows) if unknown else split)
    train, tested = known
    assert train.labels is not None and tested.labels is not None
    labels, answers, classes = train.labels.long(), tested.labels.long(), train.classes or tested.classes
    if not classes:  # numbers of any size, or truth values
        values = torch.cat([labels, answers]).unique()
        labels, answers = torch.searchsorted(values, labels), torch.searchsorted(values, answers)
        classes = [str(value) for value in values.tolist()]
    if (most := int(max(labels.max(), answers.max()))) >= len(classes):
        raise UserError(f"labels of {train.name} must be below its {len(classes)} classes, got {most}")
    learnt = labels.unique()
    if len(learnt) < 2:
        raise UserError(
            f"data must have at least 2 classes to evaluate on, got {train.name}, whose "
            f"{len(labels)} labelled training {train.unit} are all of class {classes[int(learnt)]}"
        )
    notes += _of_classes(learnt, answers, classes, tested)
    return Labelled(
        train.to(device), tested.to(device), labels.to(device), answers.to(device), list(classes), notes
    )


def _without_labels(part: str, split: "Data") -> str:
    """Why a part without labels cannot be judged on, and what would help."""
    hints = [skip.reason for skip in split.skipped if skip.reason.startswith(NO_LABELS)]
    message = f"data must have labels to evaluate on, got {split.name} without any in its {part} part"
    if len(split):
        message += f", such as of {split.paths[0]}"
    if hints:
        return f"{message} ({'; '.join(dict.fromkeys(hints))})"
    if part == "test":
        message += "; give the labelled part alone to have it divided"
    return (
        f"{message}. Put the files into one folder for each class, or their names and labels into a labels.csv "
        "beside them" + (", or evaluate the task factors instead" if split.factors else "")
    )


def _of_labels(train: "Data", test: "Data") -> list[str]:
    """Where the labels are from, where that was not plain."""
    entries = [
        skip for split in (train, test) for skip in split.skipped if skip.reason.startswith("labels: ")
    ]
    return list(dict.fromkeys(f"{skip.path}: {skip.reason}" for skip in entries))


def _of_classes(learnt: Tensor, answers: Tensor, classes: list[str], tested: "Data") -> list[str]:
    """What a score depends on: test samples of classes without a training label, and a test part of one class."""
    notes = []
    unlearnt = ~torch.isin(answers, learnt)
    if count := int(unlearnt.sum()):
        if count == len(answers):
            named = ", ".join(classes[number] for number in answers.unique().tolist()[:5])
            raise UserError(
                f"test {tested.unit} must be of classes that have a training label, got {tested.name} with none but "
                f"{named}"
            )
        names = [classes[number] for number in answers[unlearnt].unique().tolist()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        notes.append(
            f"{count} of {len(answers)} test {tested.unit} count as wrong because no training label is of their "
            f"class ({', '.join(names[:5])}{more})"
        )
    if len(answers.unique()) == 1:
        notes.append(
            f"all test {tested.unit} are of class {classes[int(answers[0])]}, which a constant guess gets right"
        )
    return notes


def _knn(shown: Representation, data: Labelled, rows: Tensor, k: int, temperature: float) -> Prediction:
    rows = rows.to(data.labels.device)
    train, test = shown.features(data.train), shown.features(data.test)
    center = train.mean(0)  # of all training samples: pixels and untrained features all point the same way
    predicted = knn.predict(
        train[rows] - center,
        data.labels[rows],
        test - center,
        len(data.classes),
        k=k,
        temperature=temperature,
    )
    return predicted, f"k={min(k, len(rows))}, T={temperature:g}, centred"


def _linear(
    shown: Representation, data: Labelled, rows: Tensor, layer: str | None, seed: int
) -> tuple[Tensor, str, linear.Linear]:
    rows = rows.to(data.labels.device)
    train, statistics = shown.features(data.train, layer), shown.statistics(data.train, layer)
    fitted = linear.fit(train[rows], data.labels[rows], len(data.classes), statistics=statistics, seed=seed)
    return (
        fitted(shown.features(data.test, layer)).argmax(1),
        f"penalty {fitted.penalty:g} {fitted.chosen}",
        fitted,
    )


def _on_chosen_layer(
    encoder: "Encoder", shown: Representation, data: Labelled, rows: Tensor, seed: int
) -> Prediction:
    """The linear probe on the map that the labels at hand, and nothing of the test data, say is best."""
    if shown.name == "raw":  # the input has no layers
        return _linear(shown, data, rows, None, seed)[:2]
    names, rows = list(encoder.map_dims), rows.to(data.labels.device)
    groups = None if data.train.groups is None else data.train.groups[rows.cpu()]

    def loss(layer: str) -> float:
        read = shown.features(data.train, layer)[rows], data.labels[rows], len(data.classes)
        return layers.held_out_loss(
            *read, statistics=shown.statistics(data.train, layer), groups=groups, seed=seed
        )

    layer, how = layers.choose(names, loss)
    predicted, _, _ = _linear(shown, data, rows, layer, seed)
    return predicted, f"{layer}, {how}"


def _finetune(
    encoder: "Encoder",
    shown: Representation,
    data: Labelled,
    rows: Tensor,
    steps: int | None,
    augment: Augment | None,
    seed: int,
) -> Prediction:
    """Fine-tune from the linear probe, or from a random classifier where a method reads other features."""
    head = _linear(shown, data, rows, None, seed)[2]
    return finetune.predict(
        encoder,
        data.train,
        rows,
        data.labels,
        data.test,
        len(data.classes),
        head=head if len(head.weight) == encoder.dim else None,
        encoder_factor=0.1,
        steps=steps,
        augment=augment,
        seed=seed,
    )


def _supervised(
    encoder: "Encoder", data: Labelled, rows: Tensor, steps: int | None, augment: Augment | None, seed: int
) -> Prediction:
    return finetune.predict(
        controlled.untrained(encoder, seed),
        data.train,
        rows,
        data.labels,
        data.test,
        len(data.classes),
        steps=steps,
        augment=augment,
        seed=seed,
    )


def _measure(
    probe: str,
    layer: str | None,
    count: int | str,
    name: str,
    results: list[Prediction],
    data: Labelled,
    about: str = "",
) -> Measurement:
    values = torch.stack([(predicted == data.answers).float().cpu() for predicted, _ in results])
    details = dict.fromkeys([about, *(detail for _, detail in results)])
    return Measurement(
        probe, layer, count, name, values, "; ".join(filter(None, details)),
        groups=data.test.groups, counted=of_groups(data.test),
    )  # fmt: skip
