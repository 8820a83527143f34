"""The protocol: every number beside its controls, on the same labels and the same test samples."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from unlabeled.data.options import refuse_unknown
from unlabeled.encoders import ImageEncoder, Unreachable
from unlabeled.encoders.readout import Readout, Spec, bare, fit_readout, one_unit
from unlabeled.evaluation import readouts, seen, starting_weights, supervised_pretraining, verdict
from unlabeled.evaluation.controls import CONTROLS, public, supervised
from unlabeled.evaluation.features import Reader, Representation, of_encoder
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.measurement import Measurement, group_unit
from unlabeled.evaluation.model import EvaluatedModel, Transfer, frozen, method_around, pick_device
from unlabeled.evaluation.plan import OF_TASKS, Cell, Request, cells, controls_for
from unlabeled.evaluation.probe import Augment, Prediction, Probe, Settings
from unlabeled.evaluation.probes import PROBES, layers
from unlabeled.evaluation.results import Results
from unlabeled.evaluation.scores import Scores
from unlabeled.evaluation.sources import Source
from unlabeled.evaluation.supervised_pretraining import WITH_LABELS
from unlabeled.evaluation.tasks import TASKS
from unlabeled.evaluation.verdict import OURS, PUBLIC
from unlabeled.kernels import heap
from unlabeled.options import Reading
from unlabeled.progress import telling
from unlabeled.run import Run, fingerprint, held_out_rise
from unlabeled.run import opened as opened_run

if TYPE_CHECKING:
    from unlabeled.encoders import Encoder

__all__ = ["evaluate"]

LABELS = 2000
"""Most labels by which a control chooses its map."""


@heap.retain_freed_memory()
def evaluate(
    run: Any,
    data: Any,
    *,
    probe: str | Sequence[str] = ("knn", "linear"),
    labels_per_class: int | str | Sequence[int | str] = ("all",),
    controls: str | Sequence[str] = "default",
    draws: int = 5,
    seed: int = 0,
    device: str = "auto",
    test: Any = None,
    k: int = 20,
    temperature: float = 0.07,
    steps: int | None = None,
    features: str | None = None,
    public_weights: Any = None,
    size: int | None = None,
    clips: int | None = None,
    crops: int | None = None,
    augment: Augment | None = None,
    transfer: Transfer | None = None,
    progress: Callable[[str], None] | None = None,
    save: Callable[[Scores], None] | None = None,
    **reading: Unpack[Reading],
) -> Scores:
    """Measure frozen features on labelled data, with the controls on the same labels and test samples.

    No choice sees the test set: all training samples standardise features, and training labels choose penalties.

    Args:
        run: A run or its folder, a method or an encoder; it is not changed.
        data: What `open_splits` takes, with labels, or a pair of training and test data, opened or not.
        probe: Any of `PROBES`, and of `TASKS`, which have controls of their own; `probes_for` has words for several.
        labels_per_class: Numbers of training labels, fractions of each class such as "1%", "all", or several.
        controls: Any of `CONTROLS` that suit the data; or default, baselines, all (as `controls_for` has them), none.
        draws, seed: Random balanced choices of the labels where not all are used; seed of all random numbers.
        device, test: auto, cpu, cuda, mps; test data, if `data` is training data only: its test split, else all of it.
        k, temperature: Neighbours that vote in knn, and the temperature of their votes.
        steps: Optimizer steps of whatever trains on labels; None lets held-out labels end it, after 20 passes at most.
        features: Those that probes read, such as layer2:2x2:whiten, or choose, by cross-validation of each probe and
            draw on its own labels. None as the method declares, else the output.
        public_weights: Weights of the control public, as `encoders.find`; None takes those that the run started from.
        size: Shorter side in pixels of frames for propagation, of images for detection and segmentation; None: theirs.
        clips, crops: Views of a test video that recognition averages; None takes 5, fewer of short videos, and 1.
        augment, transfer: Random view for finetune and supervised, as `Views`, None for mild crops; how tasks train.
        progress, save: Called with lines on the progress; after every column with the scores, marked as `unfinished`.
        **reading: label, text_column, encoding, group and fold, as in `open_data`; None takes those of the run.

    Returns:
        The scores; their note counts test samples that the run was trained on or the training part holds too.

    Raises:
        ValueError: There are no labels, a class has fewer than requested, or a word or number is not allowed.
    """
    settings, run = Settings(seed, k, temperature, steps, augment), opened_run(run)
    words = _several(probe), [] if controls == "none" else _several(controls), _several(labels_per_class)
    named, own = readouts.named(run, features), (size, clips, crops, transfer, public_weights)
    request = Request(*words, draws, settings, progress, named, save, *own)
    with telling(progress):
        return _evaluate(run, data, test, reading, request, pick_device(device))


def _evaluate(
    run: Any, data: Any, test: Any, reading: Reading, request: Request, device: torch.device
) -> Scores:
    """Open the model and the data, and measure tasks first, then probes."""
    refuse_unknown(evaluate, reading)
    encoder, reader = frozen(run, device)
    for name in request.tasks:
        TASKS.load(name).refuse(name, encoder.kind)
    weights = starting_weights.of(run, request.public_weights)
    words = [*request.controls, *([] if request.public_weights is None else [PUBLIC])]
    request.controls = controls_for(words, encoder.kind, weights.named)
    request.control_weights = weights.named
    source = Source.of(run, encoder, data, test, reading=reading)
    options = {"source": source.name, **request.options, **source.reading}
    about = {"encoder": fingerprint(encoder.state_dict()), "seed": request.settings.seed, "options": options}
    about |= {"step": step} if (step := getattr(run, "step", None)) is not None else {}
    about |= {"snapshot": True} if getattr(run, "at", None) is not None else {}
    about |= {"public": weights.about} if PUBLIC in request.controls else {}
    results = Results({"data": source.name} | about, request.save)
    if rise := "" if "snapshot" in about else held_out_rise(getattr(run, "history", [])):
        results.accounts.append({"note": rise})
    if len(request.tasks) == len(request.probes):
        _measure_tasks(run, bare(encoder), source, request, device, results)
        return results.scores()
    # Before tasks, which may take long: labels that are lacking, or too few, are refused at once.
    parts = source.open()
    labelled = Labelled.of(*parts.views(encoder, device))
    request.counts = labelled.by_size(request.counts)
    for note in (*labelled.notes, *labelled.label_sources):
        request.report(note)
    _measure_tasks(run, bare(encoder), source, request, device, results)
    results.about |= labelled.facts
    ours, note = _ours(encoder, reader, labelled, request)
    results.accounts += [{"note": note}] if note else []
    # As opened, not as the encoder reads it: a scene is many images.
    results.accounts += [seen.account(run, parts), *({"note": note} for note in labelled.notes)]
    twin = _twin(run, request)
    if twin is not None:
        results.accounts.append(supervised_pretraining.account(run, twin, parts))
    _measure_probes(ours, twin, labelled, request, results)
    return results.scores()


def _twin(run: Any, request: Request) -> Run | None:
    """The run pre-trained with labels; None where that is not asked for or cannot be had."""
    if WITH_LABELS not in request.controls:
        return None
    try:
        return supervised_pretraining.of_run(run)
    except supervised_pretraining.NoTwin as error:
        request.report(f"the control {WITH_LABELS} is skipped: {error}")
        return None


def _public(encoder: "Encoder", request: Request) -> "tuple[Encoder, str] | None":
    """The network of public weights, to be trained on labels, and what they are called; None where there is none."""
    if PUBLIC not in request.controls:
        return None
    reason = "only networks of images are trained from public weights"
    if isinstance(encoder, ImageEncoder):
        try:
            if (network := public.network_of(encoder, request.control_weights)) is not None:
                return network
            reason = "it does not suit these images"
        except Unreachable as error:
            reason = str(error)
    request.report(f"the control {PUBLIC} is skipped where it would be trained: {reason}")
    return None


def _measure_tasks(
    run: Any, encoder: "Encoder", source: Source, request: Request, device: torch.device, results: Results
) -> None:
    """What the tasks measure, and accounts of the test samples of each."""
    if not request.tasks:
        return
    method = method_around(encoder, run, device)
    settings, own = request.settings, (request.size, request.clips, request.crops, request.settings.steps)
    model = EvaluatedModel(encoder, method, settings.seed, device, *own, request.transfer or Transfer())
    twin, others = None, dict[str, "Encoder"]()
    if {*OF_TASKS["transfer"]} & {*request.tasks}:
        if (twin := _twin(run, request)) is not None:
            others[WITH_LABELS] = frozen(bare(twin.encoder), device)[0]
        if (weights := _public(encoder, request)) is not None:
            others[PUBLIC] = weights[0]
    model.controlled, model.others = bool(request.controls), others
    for number, name in enumerate(request.tasks):
        request.report(name)
        # Which columns a task or probe has is not known before it begins.
        later = [*request.tasks[number + 1 :], *(one for one in request.probes if one in PROBES)]
        task = TASKS.load(name)
        parts = task.parts(source, request.size)
        if parts.test is not None:
            results.accounts.append(seen.account(run, parts))
            if twin is not None and name in OF_TASKS["transfer"]:
                results.accounts.append(supervised_pretraining.account(run, twin, parts))
        measured = task.measure(model, parts)
        results.expected = [(one, None, None, OURS) for one in later]
        if isinstance(measured, list):
            results.add(measured)
            continue
        results.expected = [(name, None, None, None), *results.expected]
        for one in measured:
            results.add([one])


def _ours(
    encoder: "Encoder", reader: Reader, labelled: Labelled, request: Request
) -> tuple[Representation, str]:
    """Our features as they are asked for, and what the scores say of them."""
    if request.features is None:
        ours = Representation(OURS, reader, encoder, one_unit=one_unit(encoder))
        return ours, _without_twin(ours, request)
    network = bare(encoder)
    if request.features == readouts.CHOOSE:
        note = (
            "features were chosen for every row and draw by held-out training labels, never by test samples"
        )
        request.report(note)
        return Representation(OURS, of_encoder(network), network), note
    spec = Spec.parse(request.features)
    whole = all(PROBES.load(name).whole_maps for name in request.probes if name in PROBES)
    spec = Spec(spec.layer) if whole else spec
    network = fit_readout(network, spec, labelled.train, request.settings.seed)
    note = f"the features are {spec.layer}" if whole else readouts.account(network, labelled.train)
    request.report(note)
    ours = Representation(OURS, of_encoder(network), network, one_unit=spec.one_unit)
    return ours, "; ".join(filter(None, [note, _without_twin(ours, request)]))


def _learning_readout(features: Representation) -> str:
    """The readout of features, where it is one that learns; else empty."""
    encoder = features.encoder
    return "contrast" if isinstance(encoder, Readout) and encoder.spec.scaling == "contrast" else ""


def _without_twin(ours: Representation, request: Request) -> str:
    """What no control says where contrast is read, which learns, but not on top of random weights."""
    if not _learning_readout(ours) or not request.controls or "contrast" in request.controls:
        return ""
    return "the control contrast (the same on top of random weights) was not measured; add it with --controls contrast"


def _measure_probes(
    ours: Representation, twin: Run | None, labelled: Labelled, request: Request, results: Results
) -> None:
    """What the probes measure on labels, each beside its controls."""
    settings, encoder = request.settings, ours.encoder
    assert encoder is not None
    plan = cells(request, encoder, labelled.rarest)
    draws = {cell.count: labelled.draw(cell.count, request.draws, settings.seed) for cell in plan}
    amounts = {
        count: labelled.amount(rows) for count, (rows, *_) in draws.items() if str(count).endswith("%")
    }
    for count, amount in amounts.items():
        request.report(f"{count} of the labels: {amount}")
    results.about |= {"label_amounts": amounts} if amounts else {}
    frozen_features = any(not PROBES.load(cell.probe).trains_encoder for cell in plan)
    with_labels = _with_labels(encoder, twin, labelled, settings.seed)
    beside = [*(_controls(encoder, labelled, request) if frozen_features else []), *with_labels]
    trained = [*with_labels]
    if any(PROBES.load(cell.probe).trains_encoder for cell in plan) and (
        weights := _public(bare(encoder), request)
    ):
        network = weights[0].to(labelled.train.device)
        trained.append(Representation(PUBLIC, of_encoder(network), network, detail=weights[1]))
    choosers = {}
    if request.features == readouts.CHOOSE:
        rows = [rows for draw in draws.values() for rows in draw]
        about = labelled.train, labelled.labels, len(labelled.classes), rows, settings
        size = readouts.view_size(encoder)
        choosers = {
            one.name: readouts.Chooser(one, *about, size) for one in [*beside, ours] if not one.chooses
        }

    jobs = {
        cell: [
            features
            for features in [*(trained if PROBES.load(cell.probe).trains_encoder else beside), ours]
            if not features.chooses or cell.layer is None
        ]
        for cell in plan
    }
    trainings = [
        cell for cell in plan if cell.layer is None and _has_supervised(PROBES.load(cell.probe), request)
    ]
    results.expected = [
        (cell.probe, cell.layer, cell.count, name)
        for cell in plan
        for name in [*(one.name for one in jobs[cell]), *(["supervised"] if cell in trainings else [])]
    ]
    _measure_columns(ours, labelled, request, results, jobs, draws, choosers)
    # Trainings take longest, so they come last, one for each number of labels, for all probes at once: an interruption
    # must not hide from one probe what another lost to. Their margin allows for other draws.
    for count in dict.fromkeys(cell.count for cell in trainings):
        request.report(f"supervised with {verdict.labels([count])}")
        trained = supervised.predictions(encoder, labelled, draws[count][:1], settings)
        results.add(
            _measurement(cell, "supervised", trained, labelled, draws[count])
            for cell in trainings
            if cell.count == count
        )


def _measure_columns(
    ours: Representation,
    labelled: Labelled,
    request: Request,
    results: Results,
    jobs: Mapping[Cell, Sequence[Representation]],
    draws: Mapping[int | str, Any],
    choosers: Mapping[str, readouts.Chooser],
) -> None:
    """What the probes measure, column by column, each beside its controls but those that are trained."""
    settings = request.settings
    without_layers: dict[tuple[str, str, int | str], list[Prediction]] = {}
    for name, group in groupby(jobs, key=lambda cell: cell.probe):
        probe, columns = PROBES.load(name), list(group)
        request.report(f"{name} with {verdict.labels([*dict.fromkeys(cell.count for cell in columns)])}")
        for cell in columns:
            measured = []
            for features in jobs[cell]:
                chooser = choosers.get(features.name) if cell.layer is None else None
                key = name, features.name, cell.count
                predictions = without_layers.get(key) or [
                    _predict(probe, features, chooser, labelled, rows, cell.layer, settings)
                    for rows in draws[cell.count]
                ]
                if features.encoder is None:  # what has no layers is the same beside every layer
                    without_layers[key] = predictions
                about = features.detail, _learning_readout(features) if cell.layer is None else ""
                measured.append(
                    _measurement(cell, features.name, predictions, labelled, draws[cell.count], *about)
                )
                if probe.tells == "all" or (probe.tells == "ours" and features is ours):
                    request.report(f"{name} of {verdict.name(features.name)}: {measured[-1].detail}")
            results.add(measured)


def _with_labels(encoder: "Encoder", twin: Run | None, labelled: Labelled, seed: int) -> list[Representation]:
    """The features of the run pre-trained with labels, where there is one."""
    if twin is None:
        return []
    return [supervised_pretraining.representation(twin, encoder, labelled.train, seed)]


def _controls(encoder: "Encoder", labelled: Labelled, request: Request) -> list[Representation]:
    """Other features of the same samples, as far as they suit the encoder."""
    beside = []
    for name in request.controls:
        if (make := (control := CONTROLS.load(name)).make) is None:
            continue
        own = {"weights": request.control_weights} if control.needs_weights else {}
        try:
            made = make(encoder, labelled.train, request.settings.seed, **own)
        except Unreachable as error:
            request.report(f"the control {name} is skipped: {error}")
            continue
        if made is not None:
            beside.append(made)
        else:
            request.report(f"the control {name} is skipped: it does not suit this network and these features")
    return beside


def _predict(
    probe: Probe,
    features: Representation,
    chooser: readouts.Chooser | None,
    labelled: Labelled,
    rows: Tensor,
    layer: str | None,
    settings: Settings,
) -> Prediction:
    """What a probe predicts, from the map or the features that the labels at hand choose, where they are to."""
    words = ""
    if features.chooses:
        layer, reason = layers.chosen_layer(features, labelled, rows, settings.seed, LABELS)
        words = f"; map {layer}, {reason}"
    elif chooser is not None:
        features, choice = chooser.pick(rows, probe.chosen_by)
        words = f"; {choice}"
    classes, detail = probe.predict(features, labelled, rows, layer, settings)
    return classes, detail + words


def _has_supervised(probe: Probe, request: Request) -> bool:
    """Whether training on the same labels only stands beside a probe: always where that trains the encoder too."""
    return "supervised" in request.controls or (probe.trains_encoder and bool(request.controls))


def _measurement(
    cell: Cell,
    features: str,
    predictions: Sequence[Prediction],
    labelled: Labelled,
    draws: Sequence[Tensor],
    detail: str = "",
    readout: str = "",
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
        labels=len(draws[0]),
        detail="; ".join(filter(None, details)),
        groups=labelled.test.groups,
        counted=group_unit(labelled.test),
        readout=readout,
    )


def _several(words: Any) -> list[Any]:
    return [words] if isinstance(words, str | int | float) else list(words)
