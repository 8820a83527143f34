"""The protocol: every number beside its controls, on the same labels and the same test samples."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from unlabeled.evaluation import controls as controlled
from unlabeled.evaluation import seen, verdict
from unlabeled.evaluation.features import Reader, Representation
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel, frozen, method_around, pick_device
from unlabeled.evaluation.plan import Cell, Request, cells
from unlabeled.evaluation.probe import Augment, Prediction, Probe, Settings
from unlabeled.evaluation.probes import PROBES
from unlabeled.evaluation.progress import telling
from unlabeled.evaluation.results import Results
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.sources import Source
from unlabeled.evaluation.tasks import TASKS
from unlabeled.evaluation.verdict import OURS
from unlabeled.kernels import heap
from unlabeled.run import fingerprint
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["evaluate"]


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
    save: Callable[[Scores], None] | None = None,
) -> Scores:
    """Measure frozen features on labelled data, with the controls on the same labels and test samples.

    No choice sees the test set: all training samples standardise features, and training labels choose penalties.

    Args:
        run: A run or its folder, a method or an encoder; it is not changed.
        data: What `open_splits` takes, with labels, or a pair of training and test data, opened or not.
        probe: Any of `PROBES`, which need labels, and of `TASKS`, which need none and have controls of their own.
        labels_per_class: Numbers of training labels, fractions of each class such as "1%", "all", or several.
        controls: Any of raw (the input without a network), random (the network untrained), rescaled (of images: the
            same, its channels made alike) and supervised (trained on the same labels only; always beside finetune).
        draws: Random balanced choices of the labels, where not all are used.
        seed: Seed of the draws, of random weights and of trainings.
        device: auto, cpu or cuda.
        test: Test data, if `data` is training data only: the test split of a source that has one, else all of it.
        label: Column of the labels; None takes that of the run, or else looks for a usual name.
        text_column: Column of the texts, as in `open_data`; None takes that of the run.
        encoding: Encoding of texts, as in `open_data`; None takes that of the run.
        k: Neighbours that vote in knn.
        temperature: Temperature of their votes.
        steps: Optimizer steps of finetune and supervised; None lets held-out labels end them, after 20 passes at most.
        augment: Random view of a batch for finetune and supervised, such as a `Views`; None takes mild crops.
        group: What says which samples are dependent, as in `open_data`; None takes that of the run on its own data.
        progress: Called with a line on what is measured next, and every few seconds on how far it is.
        save: Called after every column with the scores so far, marked as `unfinished`.

    Returns:
        The scores. Their note counts the test samples that the run was trained on or the training part holds too.

    Raises:
        ValueError: There are no labels, a class has fewer than requested, or a word or number is not allowed.
    """
    settings = Settings(seed, k, temperature, steps, augment)
    request = Request(
        _several(probe), _several(controls), _several(labels_per_class), draws, settings, progress, save
    )
    reading = {"label": label, "text_column": text_column, "encoding": encoding, "group": group}
    with telling(progress):
        return _evaluate(opened_run(run), data, test, reading, request, pick_device(device))


def _evaluate(
    run: Any, data: Any, test: Any, reading: dict[str, Any], request: Request, device: torch.device
) -> Scores:
    """Open the model and the data, and measure tasks first, then probes."""
    encoder, reader = frozen(run, device)
    source = Source.of(run, encoder, data, test, reading=reading)
    options = {"source": source.name, **request.options, **source.reading}
    about = {"encoder": fingerprint(encoder.state_dict()), "seed": request.settings.seed, "options": options}
    results = Results({"data": source.name} | about, request.save)
    _measure_tasks(run, encoder, source, request, device, results)
    if len(request.tasks) == len(request.probes):
        return results.scores()
    parts = source.open()
    labelled = Labelled.of(*parts.views(encoder, device))
    for note in (*labelled.notes, *labelled.label_sources):
        request.report(note)
    results.about |= labelled.facts
    # As opened, not as the encoder reads it: a scene is many images.
    results.accounts += [seen.account(run, parts), *({"note": note} for note in labelled.notes)]
    _measure_probes(encoder, reader, labelled, request, results)
    return results.scores()


def _measure_tasks(
    run: Any, encoder: "Encoder", source: Source, request: Request, device: torch.device, results: Results
) -> None:
    """What the tasks measure, and accounts of the test samples of each."""
    if not request.tasks:
        return
    model = EvaluatedModel(encoder, method_around(encoder, run, device), request.settings.seed, device)
    for name in request.tasks:
        request.report(name)
        task = TASKS.load(name)
        parts = task.open(source)
        if parts.test is not None:
            results.accounts.append(seen.account(run, parts))
        results.add(task.measure(model, parts))


def _measure_probes(
    encoder: "Encoder", reader: Reader, labelled: Labelled, request: Request, results: Results
) -> None:
    """What the probes measure on labels, each beside its controls."""
    settings = request.settings
    plan = cells(request, encoder, labelled.rarest)
    draws = {cell.count: labelled.draw(cell.count, request.draws, settings.seed) for cell in plan}
    ours = Representation(OURS, reader, encoder)
    beside = controlled.representations(request.controls, encoder, labelled.train, settings.seed)

    @cache
    def supervised(count: int | str) -> list[Prediction]:
        request.report(f"supervised with {verdict.labels([count])}")
        return controlled.supervised(encoder, labelled, draws[count][:1], settings)

    for name, group in groupby(plan, key=lambda cell: cell.probe):
        probe, columns = PROBES.load(name), list(group)
        request.report(f"{name} with {verdict.labels([*dict.fromkeys(cell.count for cell in columns)])}")
        for cell in columns:
            measured = []
            for features in [ours] if probe.trains_encoder else [*beside, ours]:
                predictions = [
                    probe.predict(features, labelled, rows, cell.layer, settings)
                    for rows in draws[cell.count]
                ]
                measured.append(_measurement(cell, features.name, predictions, labelled, features.detail))
            results.add(measured)
    # Trainings take longest, so they come last, one for each number of labels: its margin allows for other draws.
    for cell in plan:
        if cell.layer is None and _has_supervised(PROBES.load(cell.probe), request):
            results.add([_measurement(cell, "supervised", supervised(cell.count), labelled)])


def _has_supervised(probe: Probe, request: Request) -> bool:
    """Whether training on the same labels only stands beside a probe: always where that trains the encoder too."""
    return "supervised" in request.controls or (probe.trains_encoder and bool(request.controls))


def _measurement(
    cell: Cell, features: str, predictions: Sequence[Prediction], labelled: Labelled, detail: str = ""
) -> Measurement:
    """Accuracy of the predictions of all draws."""
    values = torch.stack([(classes == labelled.answers).float().cpu() for classes, _ in predictions])
    details = dict.fromkeys([detail, *(settings for _, settings in predictions)])
    return Measurement(
        cell.probe,
        features,
        values,
        layer=cell.layer,
        labels_per_class=cell.count,
        detail="; ".join(filter(None, details)),
        groups=labelled.test.groups,
        counted=group_unit(labelled.test),
    )


def _several(words: Any) -> list[Any]:
    return [words] if isinstance(words, str | int | float) else list(words)
