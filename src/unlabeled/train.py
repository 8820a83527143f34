"""The one training loop. It knows no method by name."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import Tensor

from unlabeled import check, guard, judge, optimizers, plan, processes, seeds
from unlabeled.data import BUILT_IN, Data, open_data, store_size
from unlabeled.files import atomic, sweep
from unlabeled.method import Method
from unlabeled.optimizers import learning_rate
from unlabeled.parts import gather, heap, meters, norm
from unlabeled.progress import Progress
from unlabeled.run import (
    CHECKPOINT,
    CONFIG,
    ENCODER,
    LOG,
    Run,
    load_state,
    read_checkpoint,
    write_checkpoint,
    write_skipped,
)
from unlabeled.settings import Settings

if TYPE_CHECKING:
    from unlabeled.processes import Fabric

__all__ = ["learning_rate", "pretrain"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0
SHOWN_ROWS = 8
"""Samples that the message about a bad step names."""


def pretrain(
    method: str | type[Method] | Method,
    data: Any,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    config: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train an encoder without labels.

    Args:
        method: Name of a method, a class of your own, or an instance with its encoder inside.
        data: Built-in name, folder, file, array of shape (samples, channels, height, width), or a `Data`, of
            the kind that the method learns from.
        out: Folder of the run; `runs/METHOD-DATA` if None.
        resume: Whether to continue the run in `out` from its checkpoint.
        config: A run.toml to repeat; what is given beside it wins.
        quiet: Whether to print nothing.
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
    ):
        source = str(data) if isinstance(data, str | Path) else ""
        if resume and (out is not None or Path(source).exists()):
            planned = plan.reopened(planned, plan.choose_folder(out, planned.name, source, resume))
        if gather.processes() > 1:  # the first process decodes, the others find what it left
            processes.first(fabric, lambda: len(_open(data, planned, progress)))
        with processes.at_once():  # a node without the first one's cache decodes too
            opened = _open(data, planned, progress)
        if source in BUILT_IN and Path(source).exists():
            progress.say(f"{source} is the built-in set; ./{source} would be the folder of that name")
        folder = processes.first(fabric, lambda: plan.choose_folder(out, planned.name, opened.name, resume))
        if resume:
            processes.refuse_unshared(folder / CHECKPOINT)
            planned = plan.resumed(planned, folder, opened)
        wanted, before = planned.settings, asdict(planned.settings)
        cuda = fabric.device.type == "cuda"
        pictures = (planned.kind.encoder_kind or planned.kind.kind) == "image"
        wanted.choose_network(opened.shape["image_size"] if pictures else None, cuda, planned.kind.defaults)
        torch.manual_seed(wanted.seed)
        built = plan.build(planned, opened, folder / ENCODER if resume else None)
        built_as = getattr(built.encoder, "config", {})
        if levels := getattr(opened, "levels", None):  # what is read for this encoder later is mapped alike
            built_as["levels"] = levels
        if built_as.get("kind") == "image" and opened.shape["channels"] not in (1, 3):
            progress.say(
                f"{opened.shape['channels']} channels: saturation, hue and graying, which need 3, are left out of views"
            )
        wanted.encoder = wanted.encoder or built_as.get("name")
        wanted.image_size = wanted.image_size or built_as.get("image_size")
        samples = built.reads(opened).to(fabric.device)
        wanted.complete(len(samples), cuda, gather.processes())
        chosen = {name: value for name, value in asdict(wanted).items() if before[name] != value}
        if wanted.batch_size == 1 and built.compares_samples:  # one sample has nothing to be compared with
            raise ValueError("batch_size must be at least 2 for a method that compares samples, got 1")
        if not resume:
            processes.first(fabric, lambda: _write(planned, folder, source, opened, chosen, built))
            processes.refuse_unshared(folder / CONFIG)
        progress.start(planned.name, samples, wanted, chosen, folder)
        if built.compares_samples and wanted.accumulate > 1:
            each = f"compares only its own {wanted.batch_size} samples"
            progress.say(f"each of the accumulated batches {each}: not one large batch")
        with heap.kept():
            _Loop(fabric, built, samples, wanted, folder, progress).run(resume)
    run = Run(folder)
    if planned.network is not None:
        run.encoder = built.encoder.eval()  # a network of the user's own cannot be built again from its name
    if isinstance(method, Method):
        run.encoder, run.method = method.encoder.eval(), method.eval()
    return run


class _Loop:
    """Steps, epochs, checkpoints and meters of one run."""

    def __init__(
        self,
        fabric: "Fabric",
        method: Method,
        data: Data,
        settings: Settings,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.fabric, self.device, self.data, self.settings = fabric, fabric.device, data, settings
        self.folder, self.progress = folder, progress
        assert settings.batch_size
        self.total_steps = settings.total_steps(len(data))
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
        self.spread = float(meters.spread(judge.look(method, self.probe)[0]))

    def run(self, resume: bool) -> None:
        if self.fabric.global_rank == 0:
            for name in (CHECKPOINT, ENCODER, CONFIG, LOG, "skipped.csv"):
                sweep(self.folder / name)
        if resume:
            self._resume()
        with processes.together(self.fabric, self._when), processes.stop_signals() as stop:
            while self.step < self.total_steps:
                if self.step % self.steps_per_epoch == 0:
                    self._begin_epoch()
                began = time.perf_counter()
                self._step()
                self.seconds += time.perf_counter() - began
                if self.step % self.steps_per_epoch == 0 or self.step == self.total_steps:
                    self._end_epoch()
                due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS
                # Processes that disagreed here would wait for each other for ever.
                stopped, due = gather.any_process(stop.signal is not None, due)
                if stopped or due or self.step == self.total_steps:
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

    def _step(self) -> None:
        settings, rank, size = self.settings, gather.rank(), self.settings.batch_size
        assert size
        epoch, within = divmod(self.step, self.steps_per_epoch)
        if within == 0 or not hasattr(self, "order"):
            self.order = self._order(epoch)
        lr = learning_rate(self.step, self.total_steps, settings.lr or 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * lr
        share = size // gather.processes()
        self.undo.hold() if self.descends else self.undo.forget()
        added: dict[str, float] = {}
        for micro in range(settings.accumulate):
            begin = (within * settings.accumulate + micro) * size
            own = begin + rank * share
            index = self.order[own : own + share]
            seeds.sow(self.device, seeds.mix(settings.seed, self.step * settings.accumulate + micro, rank))
            batch = self.data.batch(index.to(self.device))
            with nullcontext() if micro == settings.accumulate - 1 else self.partly():
                losses = self.module(batch)
                named = losses if isinstance(losses, dict) else {"loss": losses}
                total = reduce(torch.add, named.values())
                if total.numel() != 1:
                    raise ValueError(f"loss must be one number, got shape {tuple(total.shape)}")
                self.descends = total.requires_grad  # else the method has moved its weights itself
                # A loss of several players has no single value to hold against chance, but their sum can be watched.
                shown = (named if len(named) > 1 else {}) | self.method.meters | {"loss": total}
                values = {name: value.item() for name, value in shown.items()}
                if gather.any_process(not math.isfinite(values["loss"]))[0]:
                    means = {name: gather.mean_over_processes(loss.detach()) for name, loss in named.items()}
                    found = ", ".join(f"{name} {value.item()}" for name, value in means.items())
                    rows = self.order[begin : begin + size]
                    return self._leave_out(f"loss must be finite, got {found}", rows)
                if self.descends:
                    self.backward(total if settings.accumulate == 1 else total / settings.accumulate)
            for name, value in values.items():
                added[name] = added.get(name, 0.0) + value / settings.accumulate
        if not guard.finite_gradients(self.moved):  # after DDP's mean they are the same in all processes
            rows = self.order[within * settings.accumulate * size :][: settings.accumulate * size]
            return self._leave_out("gradients must be finite, got infinite or NaN ones", rows)
        if gather.processes() > 1:  # so that a checkpoint of the first holds the sums of all
            means = gather.mean_over_processes(torch.tensor(list(added.values()), device=self.device))
            added = dict(zip(added, means.tolist(), strict=True))
        for name, value in added.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.method.after_step(self.step / self.total_steps)
        self.progress.step(self.step, size * settings.accumulate, self.sums["loss"] / self.counted)

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
            **verdict,
            "samples_per_second": samples / max(self.seconds, 1e-9),
            "skipped_steps": self.skipped,
            "meters": means,
        }
        processes.first(self.fabric, lambda: self._log(entry))
        self.progress.epoch(entry, alarm=self.bad_epochs > 1, last=self.step == self.total_steps)

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
        position = {
            "step": self.step,
            "sums": self.sums,
            "counted": self.counted,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "bad_epochs": self.bad_epochs,
            "spread": self.spread,
        }
        write = partial(write_checkpoint, state=state, position=position)
        save = {CHECKPOINT: write, ENCODER: self.method.encoder.save}
        # The encoder comes before the first checkpoint, which cannot be resumed without it.
        for name in (ENCODER, CHECKPOINT) if self.saved_step is None else (CHECKPOINT, ENCODER):
            with self._writing(name):
                save[name](self.folder / name)

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
        if self.fabric.global_rank == 0:  # the log may be ahead of the checkpoint
            entries = [entry for entry in Run(self.folder).history if entry["step"] <= self.step]
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


def _open(data: Any, planned: plan.Plan, progress: Progress) -> Data:
    kind, settings = planned.kind.kind, planned.settings
    return open_data(
        data,
        kind=kind,
        store_size=settings.store_size or store_size(kind, settings.image_size),
        workers=settings.workers,
        max_broken=settings.max_broken,
        levels=settings.levels,
        pages=settings.pages or "first",
        progress=progress.decoding,
    )


def _write(
    planned: plan.Plan, folder: Path, source: str, data: Data, chosen: dict[str, Any], method: Method
) -> None:
    plan.write(planned, folder, source, data, chosen, method)
    write_skipped(folder, data.skipped)
    (folder / LOG).unlink(missing_ok=True)
