"""Training an encoder without labels: from what the user asks for to a run."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from unlabeled import check, encoders
from unlabeled.check import UserError
from unlabeled.data import STORE_SIZE, Data, open_data, store_size
from unlabeled.data.notes import note
from unlabeled.data.opening import kind_of, name_of
from unlabeled.data.samples import was_meant
from unlabeled.data.streaming.data import Streamed, default_workers
from unlabeled.data.streaming.opening import open_streamed
from unlabeled.encoders import Encoder, lora
from unlabeled.encoders.fit_time import TRIED, fit_seconds
from unlabeled.encoders.readout import SAMPLES as MOST_FITTED
from unlabeled.encoders.readout import Spec, fit_readout
from unlabeled.files import printable
from unlabeled.kernels import heap
from unlabeled.method import Method
from unlabeled.options import READING
from unlabeled.parts import gather
from unlabeled.progress import telling
from unlabeled.run import CHECKPOINT, CONFIG, ENCODER, FEATURES, Run, read_config, read_position
from unlabeled.trackers import COLUMNS, Trackers, parse, require
from unlabeled.training import auto, building, duration, holdout, processes, sharding
from unlabeled.training import folder as folders
from unlabeled.training import plan as plans
from unlabeled.training.auto import Choice
from unlabeled.training.building import Built
from unlabeled.training.checkpoints import Checkpoints
from unlabeled.training.folder import Claim
from unlabeled.training.layer_rates import adaptation
from unlabeled.training.loop import Loop
from unlabeled.training.plan import Plan
from unlabeled.training.progress import Progress, counted, skipped_words
from unlabeled.training.progress import duration as in_words
from unlabeled.training.settings import BUDGET, Settings
from unlabeled.training.watch import Watch

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["pretrain", "preview", "train"]

LISTED = 5
"""Skipped files that a preview names."""


def pretrain(
    method: str | type[Method] | Method,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    quiet: bool = False,
    on_step: Callable[[int], None] | None = None,
    **settings: Any,
) -> Run:
    """Train an encoder without labels.

    Args:
        method: Name of a method, auto for the choice of `auto.choose`, a class, or an instance with its encoder inside.
        data: What `open_data` takes, of the kind that the method learns from.
        out: Folder of the run; `runs/METHOD-DATA` if None, for auto `runs/auto-DATA`.
        resume: Whether to continue the run in `out` from its checkpoint, or start it where there is none. With more
            `epochs` or `steps` it is trained longer: after its own schedule another one climbs to `lr` and falls to 0.
            With fewer, or other `minutes` from now on, its learning rate falls from where it is to 0 at the new end.
        config: A run.toml to repeat; settings and options named here override it.
        quiet: Whether to print nothing.
        on_step: Called before each step with the number of steps done. A KeyboardInterrupt ends the training as Ctrl-C
            does, after the step and with a checkpoint; any other error ends it at once.
        **settings: Fields of `Settings` and options of the method; `encoder` may also be a network of your own, from
            (batch, channels, height, width) to (batch, dim) or (batch, dim, height, width).

    Returns:
        The run: its folder, its encoder, its log.

    Raises:
        ValueError: A setting, an option or the data is bad; the message names it, the rule and the value.
        FloatingPointError: More losses or gradients than `skip_nan` were infinite or NaN; the message says which
            state is kept.
        OSError: A file of the run cannot be written, as on a full disk; the last checkpoint stays as it was.
        ConnectionError: Another of the processes that train together has ended.
    """
    return train(
        method, data, {}, out=out, resume=resume, config=config, quiet=quiet, on_step=on_step, **settings
    )


def train(
    method: str | type[Method] | Method,
    data: Any,
    defaults: Mapping[str, Any],
    /,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    quiet: bool = False,
    on_step: Callable[[int], None] | None = None,
    **settings: Any,
) -> Run:
    """`pretrain` with other defaults of settings, which give way to what is stored of a run that is resumed."""
    method, choice = _chosen(method, data, settings, config)
    others = {name: value for name, value in defaults.items() if name not in settings}
    choice = choice._replace(settings=others | choice.settings)
    source = name_of(data) if isinstance(data, str | os.PathLike) else ""
    plan = plans.make(
        method, settings | choice.settings, source=source, out=out, resume=resume, config=config
    )
    with (
        torch.random.fork_rng(),
        processes.joined(plan.settings) as fabric,
        Progress(quiet or fabric.global_rank > 0) as progress,
        ExitStack() as claims,
    ):
        dataset = processes.in_turn(fabric, lambda: _open(data, plan, progress))
        # The folder that auto writes must not depend on the machine: the next command names it.
        claiming = folders.claimed(out, auto.AUTO if choice.reason else plan.name, dataset.name, resume)
        claim = processes.first(fabric, lambda: claims.enter_context(claiming))
        if claim.resumes:
            processes.refuse_unshared(claim.path / CHECKPOINT)
            request = {key: value for key, value in plan.request.items() if key not in choice.settings}
            plan = plans.resumed(replace(plan, request=request), claim.path)
        elif choice.reason:
            note(choice.reason)
        plan = replace(plan, resume=claim.resumes)
        encoder = _train(fabric, plan, dataset, claim, progress, on_step)
    return _opened(claim.path, plan, method, encoder)


def _opened(folder: Path, plan: Plan, method: str | type[Method] | Method, encoder: Any) -> Run:
    """The run, with what was brought along: networks of the user's own are not built again from a file."""
    run = Run(folder)
    own = plan.network is not None or encoders.is_named(plan.request.get("encoder"))
    if own or isinstance(method, Method):
        run.encoder = encoder.eval()
    if isinstance(method, Method):
        run.method = method.eval()
    return run


def preview(
    method: str | type[Method] | Method, data: Any, *, config: str | Path | None = None, **settings: Any
) -> list[str]:
    """What `pretrain` would train, every setting in a line, and how long it would take; nothing is trained or kept.

    Args:
        method: As in `pretrain`.
        data: As in `pretrain`.
        config: As in `pretrain`.
        **settings: As in `pretrain`.
    """
    method, choice = _chosen(method, data, settings, config)
    if choice.reason:
        note(choice.reason)
    source = name_of(data) if isinstance(data, str | os.PathLike) else ""
    plan = plans.make(method, settings | choice.settings, source=source, config=config)
    with (
        torch.random.fork_rng(),
        processes.joined(plan.settings) as fabric,
        Progress(fabric.global_rank > 0) as progress,
        TemporaryDirectory() as folder,
    ):
        dataset = processes.in_turn(fabric, lambda: _open(data, plan, progress))
        train, held_out, held = holdout.divide(dataset, plan.settings.holdout, plan.settings.seed)
        began = duration.clock()
        built, checkpoints = building.build(plan, train, fabric.device), Checkpoints(fabric, Path(folder))
        spec = _features(plan.settings, built.method.encoder, train)
        times = began, partial(_fit_seconds, built.method.encoder, spec, train, fabric.device)
        _, chosen, seconds, ending = _ended(fabric, plan, built, held_out, checkpoints, progress, *times)
        if seconds is None:
            samples = len(built.samples)
            costs = duration.costs(fabric, built, held_out, checkpoints)
            seconds = duration.seconds_of(chosen.total_steps(samples), chosen.steps_per_epoch(samples), costs)
            ending.append(f"about {in_words(seconds)}")
    choices = chosen.choices(plan.settings) | built.method.chosen
    named = {**asdict(chosen), **plan.options, **built.method.chosen}
    values = {name: value for name, value in named.items() if value is not None}
    lines = [f"{name} {value}{' (chosen)' if name in choices else ''}" for name, value in values.items()]
    head = f"{plan.name} on {dataset.name}: {counted(built.samples, train)}{skipped_words(built.samples)}"
    notes = _unread(dataset), held, *ending, *_notes(built.method, train, chosen)
    return [head, *lines, *filter(None, notes), *_skipped(built.samples)]


def _skipped(data: Data) -> list[str]:
    """The first files that were not read, each with the reason, those that were meant to be samples first."""
    skipped = sorted(data.skipped, key=lambda skip: not was_meant(skip.reason))
    lines = [f"skipped {printable(skip.path)}: {check.one_line(skip.reason)}" for skip in skipped[:LISTED]]
    more = len(skipped) - len(lines)
    return [*lines, *([f"and {more:,} more"] if more else [])]


def _chosen(
    method: str | type[Method] | Method, data: Any, settings: dict[str, Any], config: str | Path | None
) -> tuple[str | type[Method] | Method, Choice]:
    """The method, and what else is chosen where auto stands for it: nothing that the user or a run.toml names."""
    nothing = Choice("", {}, "")
    if method != auto.AUTO:
        return method, nothing
    if config is not None:
        return read_config(Path(config), ("method",))["method"], nothing
    device = settings.get("device", "auto")
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    named = [name for name, value in settings.items() if value is not None]
    choice = auto.choose(kind_of(data), cuda, named, settings.get("minutes"))
    return choice.method, choice


def _open(data: Any, plan: Plan, progress: Progress) -> Data:
    kind, settings = plan.method.kind, plan.settings
    if gather.rank() == 0:  # which alone tracks; before what takes long
        require(parse(settings.track))
    if settings.stream:
        return _open_streamed(data, plan, progress)
    return open_data(
        data,
        kind=kind,
        store_size=settings.store_size or store_size(kind, settings.image_size),
        workers=settings.workers,
        max_broken=settings.max_broken,
        levels=settings.levels,
        pages=settings.pages or "first",
        **{name: getattr(settings, name) for name in READING},
        segmenter=settings.segmenter,
        progress=progress.decoding,
    )


def _open_streamed(data: Any, plan: Plan, progress: Progress) -> Streamed:
    kind, settings = plan.method.kind, plan.settings
    if not isinstance(data, str | os.PathLike):
        raise UserError(f"data must be a path or an address to be streamed, got {type(data).__name__}")
    for name in ("group", "pages", "encoding", "segmenter"):
        if (value := getattr(settings, name)) is not None:
            raise UserError(f"{name} must be left out with stream, got {value}")
    side = settings.store_size or store_size("image", settings.image_size) or STORE_SIZE
    readings: dict[str, dict[str, Any]] = {
        "image": {"side": side, "levels": settings.levels},
        "text": {"text_column": settings.text_column},
    }
    return open_streamed(
        os.fspath(data),
        kind,
        workers=settings.workers or default_workers(settings.devices),
        cache_size=settings.cache_size,
        max_broken=settings.max_broken,
        progress=progress.decoding,
        **readings.get(kind, {}),
    )


def _train(
    fabric: "Fabric",
    plan: Plan,
    dataset: Data,
    claim: Claim,
    progress: Progress,
    on_step: Callable[[int], None] | None,
) -> Encoder:
    """Build the method, write down what it is trained with, and train it; the encoder with the features of the run."""
    folder = claim.path
    train, held_out, note = holdout.divide(dataset, plan.settings.holdout, plan.settings.seed)
    if plan.resume:
        folders.refuse_other_data(
            folder, dataset, train
        )  # in every process, each of which has opened its own
    stored = folder / ENCODER if plan.resume else None
    began = duration.clock()
    built = building.build(plan, train, fabric.device, stored)
    method, samples, *_ = built
    spec = _features(plan.settings, method.encoder, train)
    checkpoints = Checkpoints(fabric, folder)
    times = began, partial(_fit_seconds, method.encoder, spec, train, fabric.device)
    plan, settings, seconds, ending = _ended(fabric, plan, built, held_out, checkpoints, progress, *times)
    choices = settings.choices(plan.settings)
    # Who resumes a run for so many minutes wants them, but to begin with time is a limit.
    may_stop = plan.length_chosen or (plan.before is None and not choices.keys().isdisjoint(BUDGET))
    watch = Watch(fabric, method, held_out, settings, len(samples), may_stop)
    schedule = plan.schedule(settings, len(samples))
    trackers = Trackers(progress.say)
    loop = Loop(fabric, method, samples, settings, watch, checkpoints, progress, schedule, trackers)
    if not plan.resume:
        config = plans.record(plan, settings, dataset, len(dataset) - len(train), method)
        processes.first(fabric, lambda: folders.write(folder, config, dataset, train, samples))
        processes.refuse_unshared(folder / CONFIG)
    progress.start(plan.name, samples, settings, choices | method.chosen, folder, seconds, train)
    for line in filter(
        None, [claim.note, _unread(dataset), note, *ending, *_notes(method, train, settings), watch.note]
    ):
        progress.say(line)
    processes.first(fabric, lambda: _track(trackers, plan, settings, folder))
    with trackers, heap.retain_freed_memory():
        loop.run(plan.resume, on_step or (lambda step: None))
        if parse(settings.track):
            with loop.placed.gathered():
                _track_pictures(trackers, method, samples)
        encoder = method.encoder
        if settings.lora:
            lora.merge(encoder)
        if sharding.shards(settings):  # all that comes now is for whole networks
            name = plan.request.get("encoder")  # only what is named now is imported
            encoder = encoders.load(folder / ENCODER, name if encoders.is_named(name) else None)
        if spec is None:
            return encoder
        progress.say(
            f"fitting features {settings.features} to at most {MOST_FITTED:,} training {train.unit}, without labels"
        )
        readout = _fitted(fabric, encoder.to(fabric.device), spec, train, settings.seed, progress)
        processes.first(fabric, lambda: readout.save(folder / FEATURES))
    return readout


def _fitted(
    fabric: "Fabric", encoder: Encoder, spec: Spec, train: Data, seed: int, progress: Progress
) -> Encoder:
    """The encoder with the features that were asked for, fitted to the data."""
    data = train.in_memory(MOST_FITTED, seed) if isinstance(train, Streamed) else train
    data = encoder.evaluation_view(data).to(fabric.device)
    with telling(progress.say):
        return fit_readout(encoder.eval(), spec, data, seed)


def _fit_seconds(encoder: Encoder, spec: Spec | None, train: Data, device: torch.device) -> float:
    """Seconds that fitting the features of a run will take, roughly."""
    if spec is None:
        return 0.0
    some = (
        train.in_memory(TRIED, 0)
        if isinstance(train, Streamed)
        else train.subset(torch.arange(min(TRIED, len(train))))
    )
    return fit_seconds(encoder, spec, encoder.evaluation_view(some).to(device), len(train))


def _track(trackers: Trackers, plan: Plan, settings: Settings, folder: Path) -> None:
    """Begin to track the run, or go on with what was tracked of it."""
    step = read_position(folder / CHECKPOINT)["step"] if plan.resume else None
    trackers.open(parse(settings.track), folder, read_config(folder / CONFIG), step)


@torch.no_grad()
def _track_pictures(trackers: Trackers, method: Method, samples: Data) -> None:
    """Track what the method predicts in the end; all processes compute it, as parts of it may talk to each other."""
    method.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            rows = method.pictures(samples.sample(COLUMNS, seed=0))
        except Exception as error:  # a picture is not worth a run
            return trackers.say(f"no pictures are tracked: {check.reason(error)}")
    trackers.pictures(rows)


def _features(settings: Settings, encoder: Encoder, train: Data) -> Spec | None:
    """The features that were asked for, None for the output; what cannot be is refused before the training."""
    if settings.features is None or (spec := Spec.parse(settings.features)) == Spec():
        return None
    spec.of(encoder)
    if len(train) < 2 and spec.scaling != "none":
        raise UserError(f"data must have at least 2 {train.unit} for features {spec}, got {len(train)}")
    return spec


def _ended(
    fabric: "Fabric",
    plan: Plan,
    built: Built,
    held_out: Data | None,
    checkpoints: Checkpoints,
    progress: Progress,
    began: float,
    fit_seconds: Callable[[], float],
) -> tuple[Plan, Settings, float | None, list[str]]:
    """Decide where the training ends: plan and settings, the seconds to there where they are known, and lines on it."""
    settings, minutes, folder, samples = built.settings, built.minutes, checkpoints.folder, len(built.samples)
    seconds, notes = None, []
    if minutes is not None:
        progress.say(f"timing a few steps to see how many fit into {minutes:g} min")
        with heap.retain_freed_memory():  # as in the training
            times: dict[str, float] = {"after": fit_seconds(), "began": began}
            settings, length = duration.fit(fabric, plan, built, held_out, checkpoints, **times)
        seconds = length.seconds
        notes.append(length.note)
    if plan.before is not None:
        plan, note = plans.rescheduled(plan, settings, folder, samples)
        processes.refuse_unshared(folder / CONFIG)  # all have read it
        config = partial(plans.record_anew, plan, settings, folder)
        processes.first(fabric, lambda: folders.write_config(folder, config()))
        notes.append(note)
    return plan, settings, seconds, notes


def _unread(data: Data) -> str:
    """Which part of the source is trained on, where it has others."""
    part, others = {"train": "training"}.get(data.split, data.split), ", ".join(data.other_splits)
    return f"training uses the {part} part of {data.name} only; not read: {others}" if others else ""


def _notes(method: Method, train: Data, settings: Settings) -> list[str]:
    """What the user may not expect of this encoder, these images and these batches, a line each."""
    notes = [adaptation(method, settings), *getattr(method.encoder, "notes", []), *method.notes]
    if train.kind == "image" and (channels := train.shape["channels"]) not in (1, 3):
        notes.append(f"{channels} channels: views do not change saturation, hue or gray, which need 3")
    if settings.strategy == "fsdp" and gather.processes() == 1:
        notes.append("strategy fsdp has no effect on one process, which keeps all weights")
    if method.compares_samples and settings.accumulate > 1:
        each = f"compares only its own {settings.batch_size} samples"
        notes.append(f"each of the accumulated batches {each}: not one large batch")
    return notes
