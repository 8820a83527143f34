"""Training an encoder without labels: from what the user asks for to a run."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unlabeled import encoders
from unlabeled.data import Data, open_data, store_size
from unlabeled.data.opening import name_of
from unlabeled.kernels import heap
from unlabeled.method import Method
from unlabeled.run import CHECKPOINT, CONFIG, ENCODER, Run
from unlabeled.training import building, folder, holdout, plan, processes
from unlabeled.training.checkpoints import Checkpoints
from unlabeled.training.loop import Loop
from unlabeled.training.progress import Progress
from unlabeled.training.settings import BUDGET, READING, Settings
from unlabeled.training.watch import Watch

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["pretrain"]


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
        method: Name of a method, a class of your own, or an instance with its encoder inside.
        data: Built-in name, folder, file, array of shape (samples, channels, height, width), or a `Data`, of
            the kind that the method learns from.
        out: Folder of the run; `runs/METHOD-DATA` if None.
        resume: Whether to continue the run in `out` from its checkpoint; with more `epochs` or `steps` than it had it
            is trained longer: once its own schedule is done, another one climbs to `lr` and falls to 0.
        config: A run.toml to repeat; what is given beside it wins.
        quiet: Whether to print nothing.
        on_step: Called before each step with the number of steps done. A KeyboardInterrupt that it raises ends the
            training as Ctrl-C does, after the step and with a checkpoint; any other error ends it at once.
        **settings: Fields of `Settings` and options of the method; `encoder` may also be a network of your own,
            from (batch, channels, height, width) to (batch, dim) or (batch, dim, height, width).

    Returns:
        The run: its folder, its encoder, its log.

    Raises:
        ValueError: A setting, an option or the data is bad; the message names it, the rule and the value.
        FloatingPointError: More losses or gradients than `skip_nan` were infinite or NaN; the message says which
            state is kept.
        OSError: A file of the run cannot be written, as on a full disk; the last checkpoint stays as it was.
        ConnectionError: Another of the processes that train together has ended.
    """
    source = name_of(data) if isinstance(data, str | os.PathLike) else ""
    planned = plan.make(method, settings, source=source, out=out, resume=resume, config=config)
    fabric = processes.join(planned.settings)
    with (
        torch.random.fork_rng(),
        Progress(quiet or fabric.global_rank > 0) as progress,
        processes.together(fabric, lambda: "before the training began"),
        ExitStack() as claims,
    ):
        opened = processes.in_turn(fabric, lambda: _opened(data, planned, progress))
        claim = folder.claimed(out, planned.name, opened.name, resume)
        claimed = processes.first(fabric, lambda: claims.enter_context(claim))
        if resume:
            processes.refuse_unshared(claimed.path / CHECKPOINT)
            planned = plan.resumed(planned, claimed.path)
        trained = _train(fabric, planned, opened, source, claimed, resume, progress, on_step)
    run = Run(claimed.path)
    if planned.network is not None or encoders.is_named(planned.request.get("encoder")):
        run.encoder = (
            trained.encoder.eval()
        )  # a network of the user's own is not built again from what a file says
    if isinstance(method, Method):
        run.encoder, run.method = method.encoder.eval(), method.eval()
    return run


def _opened(data: Any, planned: plan.Plan, progress: Progress) -> Data:
    kind, settings = planned.method.kind, planned.settings
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


def _train(
    fabric: "Fabric",
    planned: plan.Plan,
    opened: Data,
    source: str,
    claimed: folder.Claim,
    resume: bool,
    progress: Progress,
    on_step: Callable[[int], None] | None,
) -> Method:
    """Build the method, write down what it is trained with, and train it."""
    path = claimed.path
    train, held_out, note = holdout.divide(opened, planned.settings.holdout, planned.settings.seed)
    if resume:
        processes.first(fabric, lambda: folder.refuse_other_data(path, opened, train))
    method, samples, settings = building.build(
        planned, train, fabric.device, path / ENCODER if resume else None
    )
    chosen = settings.chosen_beside(planned.settings)
    notes = [claimed.note, note]
    if planned.before is not None:
        planned = plan.lengthened(planned, path, len(samples))
        processes.refuse_unshared(path / CONFIG)  # all have read it
        processes.first(fabric, lambda: folder.write_config(path, plan.longer_record(planned, path)))
        notes.append(
            f"training continues from step {planned.ends[-1]:,} to {settings.total_steps(len(samples)):,} with a new "
            f"schedule: the learning rate climbs to {settings.lr:.4g} and falls to 0 again"
        )
    may_stop = planned.length_chosen or not chosen.keys().isdisjoint(BUDGET)
    watch = Watch(fabric, method, held_out, settings, len(samples), may_stop)
    loop = Loop(fabric, method, samples, settings, watch, Checkpoints(fabric, path), progress, planned.ends)
    if not resume:
        config = plan.record(planned, settings, source, opened, len(opened) - len(train), method)
        processes.first(fabric, lambda: folder.write(path, config, opened, train, samples))
        processes.refuse_unshared(path / CONFIG)
    progress.start(planned.name, samples, settings, chosen, path)
    for line in filter(None, [*notes, *_notes(method, train, settings), watch.note]):
        progress.say(line)
    with heap.retain_freed_memory():
        loop.run(resume, on_step or (lambda step: None))
    return method


def _notes(method: Method, train: Data, settings: Settings) -> list[str]:
    """What the user may not expect of this encoder, these images and these batches, a line each."""
    notes = list(getattr(method.encoder, "notes", []))
    if train.kind == "image" and (channels := train.shape["channels"]) not in (1, 3):
        notes.append(f"{channels} channels: saturation, hue and graying, which need 3, are left out of views")
    if method.compares_samples and settings.accumulate > 1:
        each = f"compares only its own {settings.batch_size} samples"
        notes.append(f"each of the accumulated batches {each}: not one large batch")
    return notes
