"""The one training loop. It knows no method by name."""

import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor

from unlabeled import check, encoders
from unlabeled.check import UserError
from unlabeled.data import Data, open_data, store_size
from unlabeled.data.opening import name_of
from unlabeled.files import atomic, sweep
from unlabeled.kernels import heap
from unlabeled.method import Method
from unlabeled.parts import gather
from unlabeled.run import (
    CHECKPOINT,
    CONFIG,
    ENCODER,
    LOG,
    SAMPLES,
    Run,
    load_state,
    read_checkpoint,
    write_checkpoint,
    write_samples,
    write_skipped,
)
from unlabeled.training import guard, holdout, judge, norm, optimizers, plan, processes, seeds
from unlabeled.training.optimizers import learning_rate
from unlabeled.training.progress import Progress
from unlabeled.training.settings import READING, Settings

if TYPE_CHECKING:
    from unlabeled.training.processes import Fabric

__all__ = ["learning_rate", "pretrain"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0
SHOWN_ROWS = 8
"""Samples that the message about a bad step names."""
MEASUREMENTS, FEWEST_BETWEEN = 20, 20
"""The held-out loss is measured about so often where epochs are long, but with at least so many steps between."""


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
        on_step: Called before each step with the number of steps done; what it raises ends the training.
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
    planned = plan.make(method, settings, config)
    fabric = processes.join(planned.settings)
    with (
        torch.random.fork_rng(),
        Progress(quiet or fabric.global_rank > 0) as progress,
        processes.together(fabric, lambda: "before the training began"),
        ExitStack() as claims,
    ):
        source = name_of(data) if isinstance(data, str | os.PathLike) else ""
        if resume and (out is not None or Path(source).exists()):
            planned = plan.reopened(planned, plan.stored_folder(out, planned.name, source))
        opened = _opened(fabric, data, planned, progress)
        claim = plan.claimed_folder(out, planned.name, opened.name, resume)
        folder = processes.first(fabric, lambda: claims.enter_context(claim))
        if resume:
            processes.refuse_unshared(folder / CHECKPOINT)
            planned = plan.resumed(planned, folder, opened)
        built = _train(
            fabric, planned, opened, source, folder, resume, progress, on_step or (lambda step: None)
        )
    run = Run(folder)
    if planned.network is not None or encoders.is_named(planned.given.get("encoder")):
        run.encoder = (
            built.encoder.eval()
        )  # a network of the user's own is not built again from what a file says
    if isinstance(method, Method):
        run.encoder, run.method = method.encoder.eval(), method.eval()
    return run


def _train(
    fabric: "Fabric",
    planned: plan.Plan,
    opened: Data,
    source: str,
    folder: Path,
    resume: bool,
    progress: Progress,
    on_step: Callable[[int], None],
) -> Method:
    """Build the method, write down what it is trained with, and train it."""
    wanted, before = planned.settings, asdict(planned.settings)
    train, held_out, note = holdout.divide(opened, wanted.holdout, wanted.seed)
    built, samples = _built(planned, train, fabric.device, folder / ENCODER if resume else None)
    chosen = {name: value for name, value in asdict(wanted).items() if before[name] != value}
    length_chosen = planned.chosen_length or not chosen.keys().isdisjoint(plan.BUDGET)
    notes = [note, *_longer(fabric, planned, folder, len(samples))]
    loop = _Loop(fabric, built, samples, wanted, folder, progress, planned.ends)
    if not resume:
        processes.first(
            fabric, lambda: _write(planned, folder, source, opened, train, samples, chosen, built)
        )
        processes.refuse_unshared(folder / CONFIG)
    progress.start(planned.name, samples, wanted, chosen, folder)
    notes += getattr(built.encoder, "notes", [])
    if train.kind == "image" and train.shape["channels"] not in (1, 3):
        bands = train.shape["channels"]
        notes.append(f"{bands} channels: saturation, hue and graying, which need 3, are left out of views")
    if built.compares_samples and wanted.accumulate > 1:
        each = f"compares only its own {wanted.batch_size} samples"
        notes.append(f"each of the accumulated batches {each}: not one large batch")
    notes.append(loop.watch(held_out, length_chosen))
    for line in filter(None, notes):
        progress.say(line)
    with heap.kept():
        loop.run(resume, on_step)
    return built


def _built(planned: plan.Plan, train: Data, device: torch.device, stored: Path | None) -> tuple[Method, Data]:
    """The method, and the data as it reads it for training; settings that were open are filled."""
    wanted, cuda = planned.settings, device.type == "cuda"
    pictures = (planned.kind.encoder_kind or planned.kind.kind) == "image"
    wanted.choose_network(train.shape["image_size"] if pictures else None, cuda, planned.kind.defaults)
    torch.manual_seed(wanted.seed)
    built = plan.build(planned, train, stored)
    built_as = getattr(built.encoder, "config", {})
    if levels := getattr(train, "levels", None):  # what is read for this encoder later is mapped alike
        built_as["levels"] = levels
    wanted.encoder = wanted.encoder or built_as.get("name")
    wanted.image_size = wanted.image_size or built_as.get("image_size")
    samples = built.training_view(train).to(device)
    wanted.complete(len(samples), cuda, gather.processes(), built.most_epochs)
    if wanted.batch_size == 1:
        _refuse_single(planned.name, built, samples)
    return built, samples


class _Loop:
    """Steps, epochs, checkpoints and metrics of one run."""

    def __init__(
        self,
        fabric: "Fabric",
        method: Method,
        data: Data,
        settings: Settings,
        folder: Path,
        progress: Progress,
        ends: list[int],
    ) -> None:
        self.fabric, self.device, self.data, self.settings = fabric, fabric.device, data, settings
        self.folder, self.progress = folder, progress
        assert settings.batch_size
        self.total_steps, self.ends = settings.total_steps(len(data)), ends
        self.steps_per_epoch = settings.steps_per_epoch(len(data))
        if gather.processes() > 1:
            norm.synchronize(method)
        torch.manual_seed(settings.seed)
        method.to(fabric.device)
        method.prepare(data)
        method.to(fabric.device)  # what was made from the data too
        if all(weight.ndim < 5 for weight in method.parameters()):  # kernels of 3D convolutions refuse it
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = method
        self.optimizer = optimizers.make(method, settings)
        self.module, self.partly, self.backward = method, nullcontext, Tensor.backward
        # Where one process computes in one precision, Fabric's wrapper adds nothing but time.
        if gather.processes() > 1 or settings.precision != "32":
            self.module, self.backward = fabric.setup_module(method), fabric.backward
            self.partly = partial(fabric.no_backward_sync, self.module)
        self.moved = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        self.undo = guard.Undo(method)
        self.step, self.weights, self.sums, self.seconds = 0, None, {}, 0.0
        self.skipped, self.counted = 0, 0  # steps left out of the whole training, and those in the sums
        self.saved_step: int | None = None
        self.descends = True
        self.infinite = guard.infinite(method)  # such as masks of attention, which may stay so
        self.probe = judge.probe(data)
        self.bad_epochs, self.saved_at = 0, time.monotonic()
        self.spread = judge.spread(judge.look(method, self.probe)[0])
        self.held_out: holdout.HeldOut | None = None
        self.between = self.steps_per_epoch
        self.measured: list[holdout.Measured] = []
        self.since_measured = [0.0, 0]  # sum of the losses, and steps
        self.best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.turned = self.stops = False
        self.stopped: int | None = None

    def watch(self, held_out: Data | None, length_chosen: bool) -> str:
        """Measure the loss on held-out samples from now on.

        Args:
            held_out: The samples, as they were opened.
            length_chosen: Whether the number of steps was chosen for the user, so that fewer may be taken.

        Returns:
            One line on why there is no such loss, or what it cannot be compared with; else empty.
        """
        if held_out is None:
            return ""
        try:
            read = self.method.training_view(held_out).to(self.device)
        except ValueError as error:  # such as texts without a known word
            return f"no loss on held-out data: {check.reason(error)}"
        size = self.settings.batch_size or 1
        measures = holdout.HeldOut(read, self.method, size, self.settings.seed, self.fabric.autocast)
        if measures.reason:
            return f"no loss on held-out data: {measures.reason}"
        self.held_out, self.stops = measures, length_chosen and self.method.held_out == "stop"
        self.between = min(self.steps_per_epoch, max(FEWEST_BETWEEN, -(-self.total_steps // MEASUREMENTS)))
        if self.method.compares_samples and measures.size != size:
            return (
                f"the held-out loss compares {measures.size} {self.data.unit} at a time, the training loss {size}: "
                "only its trend is meaningful"
            )
        return ""

    def run(self, resume: bool, on_step: Callable[[int], None]) -> None:
        if self.fabric.global_rank == 0:
            for name in (CHECKPOINT, ENCODER, CONFIG, LOG, SAMPLES, "skipped.csv"):
                sweep(self.folder / name)
        if resume:
            self._resume()
        with processes.together(self.fabric, self._when), processes.stop_signals() as stop:
            if not resume:  # so that it can be resumed whenever it is killed
                self._save()
            while self.step < self.total_steps and self.stopped is None:
                within = self.step % self.steps_per_epoch
                if within == 0:
                    self._begin_epoch()
                on_step(self.step)
                began = time.perf_counter()
                self._step()
                self.seconds += time.perf_counter() - began
                within = self.step % self.steps_per_epoch
                ended = within == 0 or self.step == self.total_steps
                if self.held_out is not None and (ended or within % self.between == 0):
                    self._measure(self.held_out)
                if ended or self.stopped is not None:
                    self._end_epoch()
                if self.stopped is not None:
                    self._go_back()
                due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
                # Processes that disagreed here would wait for each other for ever.
                stopped, due = gather.any_process(stop.signal is not None, due)
                if stopped or due or self.step == self.total_steps or self.stopped is not None:
                    self._save()
                if stopped:
                    raise KeyboardInterrupt(
                        f"stopped after step {self.step}; --resume continues from {self.folder}"
                    )

    def _begin_epoch(self) -> None:
        epoch = self.step // self.steps_per_epoch
        torch.manual_seed(seeds.mix(self.settings.seed, epoch, -1))
        weights = self.method.begin_epoch(self.data)
        self.weights = None if weights is None else weights.detach().cpu()
        self.sums, self.counted, self.seconds = {}, 0, 0.0
        self.method.train()

    def _order(self, epoch: int) -> Tensor:
        return seeds.order(seeds.mix(self.settings.seed, epoch, -2), len(self.data), self.weights)

    def _phase(self) -> tuple[int, int]:
        """First step and end of the schedule that the next step is in; a run that was made longer has several."""
        begin = max(end for end in (0, *self.ends) if end <= self.step)
        return begin, min(end for end in (*self.ends, self.total_steps) if end > self.step)

    def _step(self) -> None:
        settings = self.settings
        epoch, within = divmod(self.step, self.steps_per_epoch)
        if within == 0 or not hasattr(self, "order"):
            self.order = self._order(epoch)
        begin, end = self._phase()
        lr = learning_rate(self.step - begin, end - begin, settings.lr or 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * lr
        if self.descends:
            self.undo.hold()
        else:
            self.undo.forget()
        assert settings.batch_size
        whole = settings.batch_size * settings.accumulate
        rows = self.order[within * whole :][:whole]
        added = self._accumulate(rows)
        if added is None:
            return
        if not guard.finite_gradients(self.moved):  # after DDP's mean they are the same in all processes
            return self._leave_out("gradients must be finite, got infinite or NaN ones", rows)
        if gather.processes() > 1:  # so that a checkpoint of the first holds the sums of all
            means = gather.mean_over_processes(torch.tensor(list(added.values()), device=self.device))
            added = dict(zip(added, means.tolist(), strict=True))
        for name, value in added.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1
        self.since_measured[0] += added["loss"]
        self.since_measured[1] += 1
        if settings.clip is not None:
            optimizers.clip(self.method, settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.method.after_step((self.step - begin) / (end - begin))
        self.progress.step(self.step, whole, self.sums["loss"] / self.counted)

    def _accumulate(self, rows: Tensor) -> dict[str, float] | None:
        """Losses and metrics of one step, whose gradients are added up; None where a loss was not finite."""
        settings, rank = self.settings, gather.rank()
        added: dict[str, float] = {}
        for micro, batch_rows in enumerate(rows.chunk(settings.accumulate)):
            index = batch_rows.chunk(gather.processes())[rank]
            seeds.sow(self.device, seeds.mix(settings.seed, self.step * settings.accumulate + micro, rank))
            batch = self.data.batch(index.to(self.device))
            with nullcontext() if micro == settings.accumulate - 1 else self.partly():
                losses = self.module(batch)
                named = losses if isinstance(losses, dict) else {"loss": losses}
                total = reduce(torch.add, named.values())
                if total.numel() != 1:
                    raise UserError(f"loss must be one number, got shape {tuple(total.shape)}")
                self.descends = total.requires_grad  # else the method has moved its weights itself
                # A loss of several players has no single value to hold against chance, but their sum can be watched.
                shown = (named if len(named) > 1 else {}) | self.method.metrics | {"loss": total}
                values = {name: value.item() for name, value in shown.items()}
                if gather.any_process(not math.isfinite(values["loss"]))[0]:
                    means = {name: gather.mean_over_processes(loss.detach()) for name, loss in named.items()}
                    found = ", ".join(f"{name} {value.item()}" for name, value in means.items())
                    self._leave_out(f"loss must be finite, got {found}", batch_rows)
                    return None
                if self.descends:
                    self.backward(total if settings.accumulate == 1 else total / settings.accumulate)
            for name, value in values.items():
                added[name] = added.get(name, 0.0) + value / settings.accumulate
        return added

    def _measure(self, held_out: holdout.HeldOut) -> None:
        """Measure the loss on held-out data, and say so, or stop, where it turns."""
        total, steps = self.since_measured
        loss = held_out.loss(moves_itself=not self.descends)
        if loss is None or not steps:
            return
        self.since_measured = [0.0, 0]
        self.measured.append(holdout.Measured(self.step, loss, total / steps))
        lowest = min(self.measured, key=lambda entry: entry.loss)
        if self.stops and lowest is self.measured[-1]:
            state = {name: value.detach().cpu().clone() for name, value in self.method.state_dict().items()}
            self.best = state, self._position()
        planned = self.total_steps / self.between
        turn = holdout.turn(self.measured, max(holdout.FEWEST_RISES, round(planned / MEASUREMENTS)))
        if turn is not None and self.stops:
            self.stopped = self.step
        if turn is not None and not self.turned:
            self.progress.say(self._turn_words(turn))
        self.turned = turn is not None

    def _turn_words(self, turn: holdout.Turn) -> str:
        best, now = turn.best, turn.now
        unit = "epochs" if self.between == self.steps_per_epoch else "measurements"
        words = (
            f"loss on held-out {self.data.unit} has risen for {turn.measurements} {unit} since step {best.step:,} "
            f"({best.loss:.4g} -> {now.loss:.4g}) while the training loss fell "
            f"({best.training_loss:.4g} -> {now.training_loss:.4g}): the model is memorising"
        )
        if self.stops:
            return (
                f"{words}; stopped at step {self.step:,} of the {self.total_steps:,} that were chosen, and the state "
                f"of step {best.step:,} is kept; set --epochs or --steps to train on"
            )
        return f"{words}; fewer steps or more data"

    def _go_back(self) -> None:
        """Take the state with the lowest loss on held-out data."""
        assert self.best is not None
        state, position = self.best
        load_state(self.method, {name: value.to(self.device) for name, value in state.items()})
        self.step, self.sums, self.counted = position["step"], position["sums"], position["counted"]
        self.seconds, self.since_measured = position["seconds"], position["since_measured"]
        self.best = None

    def _end_epoch(self) -> None:
        if not self.counted:  # every step was left out: there is no loss to tell
            return
        sums = torch.tensor(list(self.sums.values()), device=self.device)
        means = dict(zip(self.sums, (sums / self.counted).tolist(), strict=True))
        loss = means.pop("loss")
        assert self.settings.batch_size
        done = (self.step - 1) % self.steps_per_epoch + 1  # steps that were left out took their time too
        samples = done * self.settings.batch_size * self.settings.accumulate
        chance = self.method.chance(self.settings.batch_size)
        features, embedding = judge.look(self.method, self.probe)
        if not features.isfinite().all():
            raise FloatingPointError(
                f"features must be finite, got infinite or NaN ones after step {self.step}; "
                f"lower lr ({self.settings.lr:g}); {self._kept()}"
            )
        healthy, verdict = judge.judge(features, embedding, loss, chance, self.spread)
        # One bad epoch is noise; the alarm needs two in a row.
        self.bad_epochs = 0 if healthy else self.bad_epochs + 1
        if self.bad_epochs == 1:
            verdict["verdict"] = ""
        entry = {
            "epoch": -(-self.step // self.steps_per_epoch),
            "step": self.step,
            "loss": loss,
            "chance": chance,
            **self._held_out_entry(),
            **verdict,
            "samples_per_second": samples / max(self.seconds, 1e-9),
            "skipped_steps": self.skipped,
            "metrics": means,
        }
        processes.first(self.fabric, lambda: self._log(entry))
        last = self.step == self.total_steps or self.stopped is not None
        self.progress.epoch(entry, alarm=self.bad_epochs > 1, last=last)

    def _held_out_entry(self) -> dict[str, Any]:
        """What the log says of held-out data: the last loss, all of the epoch by step where there are more, a turn."""
        begins = (self.step - 1) // self.steps_per_epoch * self.steps_per_epoch
        recent = [entry for entry in self.measured if entry.step > begins]
        if not recent:
            return {}
        entry: dict[str, Any] = {"holdout_loss": recent[-1].loss}
        assert self.held_out is not None
        if (
            self.held_out.size != self.settings.batch_size
        ):  # a loss that compares samples is lower among fewer
            entry["holdout_chance"] = self.method.chance(self.held_out.size)
        if len(recent) > 1:
            entry["holdout_losses"] = {str(each.step): each.loss for each in recent}
        if self.turned:
            entry["holdout_lowest_at"] = min(self.measured, key=lambda each: each.loss).step
        return entry

    def _log(self, entry: dict[str, Any]) -> None:
        with self._writing(LOG), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _save(self) -> None:
        infinite = guard.infinite(self.method) - self.infinite
        if gather.any_process(bool(infinite))[0]:
            raise FloatingPointError(
                f"weights must be finite, got infinite or NaN ones in {', '.join(sorted(infinite)[:3]) or 'others'} "
                f"after step {self.step}; {self._kept()}"
            )
        processes.first(self.fabric, self._write_state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def _write_state(self) -> None:
        state = {"method": self.method.state_dict(), "optimizer": optimizers.state(self.optimizer)}
        if self.weights is not None:
            state["sampler"] = {"weights": self.weights}
        position = self._position() | {
            "measured": self.measured,
            "turned": self.turned,
            "stopped": self.stopped,
        }
        if self.best is not None:
            state["best"], position["best"] = self.best
        write = partial(write_checkpoint, state=state, position=position)
        save = {CHECKPOINT: write, ENCODER: self.method.encoder.save}
        # The encoder comes before the first checkpoint, which cannot be resumed without it.
        for name in (ENCODER, CHECKPOINT) if self.saved_step is None else (CHECKPOINT, ENCODER):
            with self._writing(name):
                save[name](self.folder / name)

    def _position(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "sums": dict(self.sums),
            "counted": self.counted,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "bad_epochs": self.bad_epochs,
            "spread": self.spread,
            "since_measured": list(self.since_measured),
        }

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Say of a file that cannot be written, as on a full disk, which it is and what is kept."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"{self.folder / name} cannot be written after step {self.step} ({check.reason(error)}); {self._kept()}"
            ) from error

    def _when(self) -> str:
        with suppress(ValueError):  # the last checkpoint may have been written before all knew of it
            self.saved_step = read_checkpoint(self.folder / CHECKPOINT)[1]["step"]
        return f"after step {self.step}; {self._kept()}"

    def _kept(self) -> str:
        if self.saved_step is None:
            return "nothing was saved before"
        return f"the state after step {self.saved_step} is kept in {self.folder}, --resume continues from it"

    def _resume(self) -> None:
        state, position = read_checkpoint(self.folder / CHECKPOINT)
        load_state(self.method, state["method"])
        optimizers.load(self.optimizer, state.get("optimizer", {}))
        self.weights = state.get("sampler", {}).get("weights")
        self.step, self.sums, self.seconds = position["step"], position["sums"], position["seconds"]
        self.counted = position.get("counted", self.step % self.steps_per_epoch)  # not yet kept by older runs
        self.skipped, self.saved_step = position.get("skipped", 0), self.step
        self.bad_epochs, self.spread = position["bad_epochs"], position["spread"]
        self.since_measured = position.get("since_measured", [0.0, 0])
        if self.step not in self.ends:  # else it is trained longer
            self.stopped = position.get("stopped")
        reached = self.step if self.stopped is None else self.stopped
        self.measured = [
            holdout.Measured(*entry) for entry in position.get("measured", ()) if entry[0] <= reached
        ]
        self.turned = position.get("turned", False)
        if self.stops and "best" in position:
            self.best = state["best"], position["best"]
        if self.stopped is not None:
            self.progress.say(
                f"stopped at step {self.stopped:,} before, as the loss on held-out {self.data.unit} had risen since "
                f"step {self.step:,}; set --epochs or --steps to train on"
            )
        if self.fabric.global_rank == 0:  # the log may be ahead of the checkpoint
            entries = [entry for entry in Run(self.folder).history if entry["step"] <= reached]
            with atomic(self.folder / LOG) as path:
                path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    def _leave_out(self, found: str, rows: Tensor) -> None:
        """Undo a step that is not finite and go on behind it, or stop where it is one too many."""
        self.undo.undo()
        self.optimizer.zero_grad()
        more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
        found = f"{found} at step {self.step} on samples {rows[:SHOWN_ROWS].tolist()}{more}"
        if not self.descends or self.skipped >= self.settings.skip_nan:
            self._fail(found)
        self.skipped, self.step = self.skipped + 1, self.step + 1
        self.progress.say(f"step left out, {self.skipped} of at most {self.settings.skip_nan}: {found}")

    def _fail(self, found: str) -> NoReturn:
        with suppress(FloatingPointError):  # where the method has moved its weights itself they may be bad
            self._save()
        raise FloatingPointError(f"{found}; {self._kept()}; lower lr, or leave such steps out with skip_nan")


def _opened(fabric: "Fabric", data: Any, planned: plan.Plan, progress: Progress) -> Data:
    """The data in every process: the first one decodes, the others find what it left."""
    kind, settings = planned.kind.kind, planned.settings

    def read() -> Data:
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

    if gather.processes() > 1:
        processes.first(fabric, lambda: len(read()))
    with processes.at_once():  # a node without the first one's cache decodes too
        return read()


def _longer(fabric: "Fabric", planned: plan.Plan, folder: Path, samples: int) -> list[str]:
    """Write down that the run is trained longer, where that was asked for; what to say of it."""
    if planned.before is None:
        return []
    begin, end = plan.lengthen(planned, folder, samples), planned.settings.total_steps(samples)
    processes.refuse_unshared(folder / CONFIG)  # all have read it
    processes.first(fabric, lambda: plan.write_longer(planned, folder))
    return [
        f"training continues from step {begin:,} to {end:,} with a new schedule: the learning rate climbs to "
        f"{planned.settings.lr:.4g} and falls to 0 again"
    ]


def _refuse_single(name: str, method: Method, data: Data) -> None:
    """Refuse batches of one sample where the loss, or a norm, needs others to compare it with."""
    what = f"batch_size must be at least 2 for {name}, got 1"
    if len(data) == 1:
        what = f"data must have at least 2 {data.unit} for {name}, got 1"
    if method.compares_samples:
        raise UserError(f"{what}: its loss compares samples")
    if gather.processes() > 1:
        return
    trial = copy.deepcopy(method).to(data.device)
    with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come once more
        trial.prepare(data)
        trial.to(data.device).train().begin_epoch(data)
        try:
            trial(data.batch(torch.zeros(1, dtype=torch.int64, device=data.device)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(f"{what}: it has norms over the samples of a batch") from error


def _write(
    planned: plan.Plan,
    folder: Path,
    source: str,
    data: Data,
    train: Data,
    samples: Data,
    chosen: dict[str, Any],
    method: Method,
) -> None:
    plan.write(planned, folder, source, data, chosen, method, len(data) - len(train))
    write_skipped(folder, list(dict.fromkeys([*data.skipped, *samples.skipped])))
    write_samples(folder, train, planned.settings.weights)
    (folder / LOG).unlink(missing_ok=True)
