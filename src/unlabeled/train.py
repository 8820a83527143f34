"""The one training loop. It knows no method by name."""

import atexit
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

# Large pages for large tensors: getting fresh small ones for every step takes a third of a small network's time on a
# CPU. torch reads this at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn

from unlabeled import check, plan
from unlabeled.data import BUILT_IN, Data, open_data, store_size
from unlabeled.files import atomic, sweep
from unlabeled.method import Method
from unlabeled.parts import gather, meters, norm
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
    from lightning_fabric import Fabric

__all__ = ["learning_rate", "pretrain"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0
PROBE_SAMPLES = {"image": 512}
"""Samples whose features are looked at after each epoch; of other kinds, where one is larger, 128."""
SHOWN_ROWS = 8
"""Samples that the message about a bad step names."""

Result = TypeVar("Result")
Held = tuple[nn.Module, str, Tensor, Tensor]
"""A module's buffer by name, and a copy of its values."""


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
    fabric = _fabric(planned.settings)
    with torch.random.fork_rng(), Progress(quiet or fabric.global_rank > 0) as progress:
        source = str(data) if isinstance(data, str | Path) else ""
        if resume and (out is not None or Path(source).exists()):
            planned = plan.reopened(planned, plan.choose_folder(out, planned.name, source, resume))
        if gather.processes() > 1:  # the first process decodes, the others find what it left
            _first(fabric, lambda: len(_open(data, planned, progress)))
        opened = _open(data, planned, progress)
        _say_which(source, progress)
        folder = _first(fabric, lambda: plan.choose_folder(out, planned.name, opened.name, resume))
        if resume:
            _refuse_unshared(folder / CHECKPOINT)
            planned = plan.resumed(planned, folder, opened)
        wanted, before = planned.settings, asdict(planned.settings)
        cuda = fabric.device.type == "cuda"
        pictures = (planned.kind.encoder_kind or planned.kind.kind) == "image"
        wanted.choose_network(opened.shape["image_size"] if pictures else None, cuda, planned.kind.defaults)
        torch.manual_seed(wanted.seed)
        built = plan.build(planned, opened, folder / ENCODER if resume else None)
        built_as = getattr(built.encoder, "config", {})
        wanted.encoder = wanted.encoder or built_as.get("name")
        wanted.image_size = wanted.image_size or built_as.get("image_size")
        samples = built.reads(opened).to(fabric.device)
        wanted.complete(len(samples), cuda, gather.processes())
        chosen = {name: value for name, value in asdict(wanted).items() if before[name] != value}
        _refuse_empty_task(built, wanted)
        if not resume:
            _first(fabric, lambda: _write(planned, folder, source, opened, chosen, built))
            _refuse_unshared(folder / CONFIG)
        progress.start(planned.name, samples, wanted, chosen, folder)
        if built.compares_samples and wanted.accumulate > 1:
            size = wanted.batch_size
            progress.say(
                f"each of the accumulated batches compares only its own {size} samples: not one large batch"
            )
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
        self.fabric, self.data, self.settings = fabric, data, settings
        self.folder, self.progress = folder, progress
        assert settings.batch_size
        self.total_steps = settings.total_steps(len(data))
        self.steps_per_epoch = settings.steps_per_epoch(len(data))
        if gather.processes() > 1:
            norm.synchronize(method)
        torch.manual_seed(settings.seed)
        method.to(fabric.device)
        method.prepare(data)
        if all(
            parameter.ndim < 5 for parameter in method.parameters()
        ):  # kernels of 3D convolutions refuse it
            method.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            method.to(fabric.device)
        self.method = method
        self.optimizer = _optimizer(method, settings)
        self.module, self.wrapped = fabric.setup(method, self.optimizer)
        self.step, self.weights, self.sums, self.seconds = 0, None, {}, 0.0
        self.skipped, self.counted = 0, 0  # steps left out of the whole training, and those in the sums
        self.saved_step: int | None = None
        self.descends = True
        self.infinite = _infinite(method)  # such as masks of attention, which may stay so
        self.probe = data.sample(PROBE_SAMPLES.get(data.kind, 128))
        self.bad_epochs, self.saved_at = 0, time.monotonic()
        self.spread = float(meters.spread(self._look()[0]))

    def run(self, resume: bool) -> None:
        if self.fabric.global_rank == 0:
            for name in (CHECKPOINT, ENCODER):
                sweep(self.folder / name)
        if resume:
            self._resume()
        with self._together(), _stop_signals() as stop:
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
        torch.manual_seed(_mix(self.settings.seed, epoch, -1))
        weights = self.method.begin_epoch(self.data)
        self.weights = None if weights is None else weights.detach().cpu()
        self.sums, self.counted, self.seconds = {}, 0, 0.0
        self.method.train()

    def _order(self, epoch: int) -> Tensor:
        """Order of the samples in an epoch; a function of seed and epoch, whatever the process."""
        generator = torch.Generator().manual_seed(_mix(self.settings.seed, epoch, -2))
        if self.weights is None:
            return torch.randperm(len(self.data), generator=generator)
        return torch.multinomial(self.weights.double(), len(self.data), replacement=True, generator=generator)

    def _step(self) -> None:
        settings, rank, processes = self.settings, gather.rank(), gather.processes()
        assert settings.batch_size
        epoch, within = divmod(self.step, self.steps_per_epoch)
        if within == 0 or not hasattr(self, "order"):
            self.order = self._order(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.step, self.total_steps, settings.lr or 0.0)
        self.method.train()
        share = settings.batch_size // processes
        held = _held(self.method) if self.descends else []
        added: dict[str, float] = {}
        for micro in range(settings.accumulate):
            position = within * settings.accumulate + micro
            rows = self.order[position * settings.batch_size :][: settings.batch_size]
            index = rows[rank * share :][:share]
            _seed(self.fabric.device, _mix(settings.seed, self.step * settings.accumulate + micro, rank))
            batch = self.data.batch(index.to(self.fabric.device))
            last = micro == settings.accumulate - 1
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                losses = self.module(batch)
                named = losses if isinstance(losses, dict) else {"loss": losses}
                total = torch.stack(list(named.values())).sum()
                self.descends = total.requires_grad  # else the method has moved its weights itself
                if gather.any_process(not bool(torch.isfinite(total)))[0]:
                    means = {name: gather.mean_over_processes(loss.detach()) for name, loss in named.items()}
                    values = ", ".join(f"{name} {value.item()}" for name, value in means.items())
                    return self._leave_out(f"loss must be finite, got {values}", rows, held)
                if self.descends:
                    self.fabric.backward(total / settings.accumulate)
            # A loss of several players has no single value to hold against chance, but their sum can be watched.
            for name, value in (
                {"loss": total} | (named if len(named) > 1 else {}) | self.method.meters
            ).items():
                added[name] = added.get(name, 0.0) + value.item() / settings.accumulate
        if not _finite_gradients(self.method):  # after DDP's mean they are the same in all processes
            size = settings.batch_size * settings.accumulate
            rows = self.order[within * size :][:size]
            return self._leave_out("gradients must be finite, got infinite or NaN ones", rows, held)
        if processes > 1:  # all hold the same sums, so that a checkpoint of the first holds those of all
            values = torch.tensor(list(added.values()), device=self.fabric.device)
            added = dict(zip(added, gather.mean_over_processes(values).tolist(), strict=True))
        for name, value in added.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.counted += 1
        self.wrapped.step()
        self.wrapped.zero_grad(set_to_none=True)
        self.step += 1
        self.method.after_step(self.step / self.total_steps)
        self.progress.step(
            self.step, settings.batch_size * settings.accumulate, self.sums["loss"] / self.counted
        )

    def _end_epoch(self) -> None:
        if not self.counted:  # every step was left out: there is no loss to tell
            return
        steps = self.counted
        sums = torch.tensor(list(self.sums.values()), device=self.fabric.device)
        means = dict(zip(self.sums, (sums / steps).tolist(), strict=True))
        loss = means.pop("loss")
        assert self.settings.batch_size
        samples = steps * self.settings.batch_size * self.settings.accumulate
        chance = self.method.chance(self.settings.batch_size)
        features, embedding = self._look()
        if not features.isfinite().all():
            raise FloatingPointError(
                f"features must be finite, got infinite or NaN ones after step {self.step}; "
                f"lower lr ({self.settings.lr:g}); {self._kept()}"
            )
        code, sentence = meters.verdict(features, loss, chance, self.spread)
        if code == "healthy" and embedding is not features:  # heads collapse before encoders do
            deeper, words = meters.verdict(embedding, loss, chance)
            code, sentence = (
                (deeper, f"In what the loss compares: {words}") if deeper == "collapsed" else (code, sentence)
            )
        # One bad epoch is noise; the alarm needs two in a row.
        self.bad_epochs = 0 if code == "healthy" else self.bad_epochs + 1
        entry = {
            "epoch": -(-self.step // self.steps_per_epoch),
            "step": self.step,
            "loss": loss,
            "chance": chance,
            "spread": float(meters.spread(features)),
            "rank": float(meters.rank(features)),
            "cosine": float(meters.mean_cosine(features)),
            "samples_per_second": samples / max(self.seconds, 1e-9),
            "verdict": sentence if self.bad_epochs != 1 else "",
            "skipped_steps": self.skipped,
            "meters": means,
        }
        _first(self.fabric, lambda: self._log(entry))
        self.progress.epoch(entry, alarm=self.bad_epochs > 1, last=self.step == self.total_steps)

    def _log(self, entry: dict[str, Any]) -> None:
        with self._writing(LOG), (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @torch.no_grad()
    def _look(self) -> tuple[Tensor, Tensor]:
        """Features of the probe and what the loss compares, in evaluation mode; the training mode is restored."""
        self.method.eval()
        features = self.method.features(self.probe).float()
        same = type(self.method).embedding is Method.embedding  # the encoder need not run twice to say so
        embedding = features if same else self.method.embedding(self.probe).float()
        self.method.train()
        # One long text has one vector, but many words.
        return features if len(features) > 1 else embedding, embedding

    def _save(self) -> None:
        infinite = _infinite(self.method) - self.infinite
        if gather.any_process(bool(infinite))[0]:
            raise FloatingPointError(
                f"weights must be finite, got infinite or NaN ones in {', '.join(sorted(infinite)[:3]) or 'others'} "
                f"after step {self.step}; {self._kept()}"
            )
        _first(self.fabric, self._write_state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def _write_state(self) -> None:
        slots = self.optimizer.state_dict()["state"]
        state = {
            "method": self.method.state_dict(),
            "optimizer": {
                f"{slot}.{name}": value for slot, values in slots.items() for name, value in values.items()
            },
        }
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
        with self._writing(CHECKPOINT):
            write_checkpoint(self.folder / CHECKPOINT, state, position)
        with self._writing(ENCODER):
            self.method.encoder.save(self.folder / ENCODER)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Say of a file that cannot be written, as on a full disk, which it is and what is kept."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"{self.folder / name} cannot be written after step {self.step} ({check.reason(error)}); {self._kept()}"
            ) from error

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in words that another process has ended, of which only a broken connection is heard."""
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or "gloo/transport" in str(error)):
                raise
            lost = (
                f"lost another of the {gather.processes()} processes after step {self.step}, "
                f"which was killed or has said why itself; {self._kept()}"
            )
            # Commands let only the first process speak, which may be the lost one.
            if self.fabric.local_rank > 0:
                logging.getLogger(__name__).error("unlabeled: %s", lost)
            raise ConnectionError(lost) from error

    def _kept(self) -> str:
        if self.saved_step is None:
            return "nothing was saved before"
        return f"the state after step {self.saved_step} is kept in {self.folder}, --resume continues from it"

    def _resume(self) -> None:
        state, position = read_checkpoint(self.folder / CHECKPOINT)
        load_state(self.method, state["method"])
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.get("optimizer", {}).items():
            slot, _, name = key.partition(".")
            slots.setdefault(int(slot), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        self.weights = state.get("sampler", {}).get("weights")
        self.step, self.sums, self.seconds = position["step"], position["sums"], position["seconds"]
        self.counted = position.get("counted", self.step % self.steps_per_epoch)  # not yet kept by older runs
        self.skipped, self.saved_step = position.get("skipped", 0), self.step
        self.bad_epochs, self.spread = position["bad_epochs"], position["spread"]
        if self.fabric.global_rank == 0:  # the log may be ahead of the checkpoint
            entries = [entry for entry in Run(self.folder).history if entry["step"] <= self.step]
            with atomic(self.folder / LOG) as path:
                path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")

    def _leave_out(self, found: str, rows: Tensor, held: list[Held]) -> None:
        """Undo a step that is not finite and go on behind it, or stop where it is one too many."""
        for module, name, buffer, value in held:
            module._buffers[name] = buffer.copy_(value)
        self.wrapped.zero_grad(set_to_none=True)
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


def _held(method: Method) -> list[Held]:
    """Buffers, which a forward pass may change, and copies of their values: running statistics, queues, banks."""
    return [
        (module, name, buffer, buffer.clone())
        for module in method.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _infinite(method: Method) -> set[str]:
    """Names of weights and buffers that are not finite throughout."""
    return {name for name, value in method.state_dict().items() if not value.isfinite().all()}


def _finite_gradients(method: Method) -> bool:
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    # The norm is quick, but overflows before its parts do.
    return bool(nn.utils.get_total_norm(gradients).isfinite()) or all(
        bool(gradient.isfinite().all()) for gradient in gradients
    )


def learning_rate(step: int, total_steps: int, peak: float, warmup: float = 0.05) -> float:
    """Linear warm-up over a share of the steps, then a cosine down to 0.

    Args:
        step: Optimizer steps done, from 0.
        total_steps: Optimizer steps of the whole training.
        peak: The largest learning rate.
        warmup: Share of the steps that climb.

    Returns:
        Learning rate of the next step.
    """
    climb = max(1, round(warmup * total_steps))
    if step < climb:
        return peak * (step + 1) / climb
    return peak * (1 + math.cos(math.pi * (step - climb) / max(1, total_steps - climb))) / 2


def _optimizer(method: Method, settings: Settings) -> torch.optim.Optimizer:
    """Optimizer with weight decay on matrices only, and the method's own factors on the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            factor = method.learning_rates.get(name.partition(".")[0], 1.0)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    decay = settings.weight_decay or 0.0
    parameters = [
        {"params": members, "weight_decay": decay if decays else 0.0, "factor": factor}
        for (factor, decays), members in groups.items()
    ]
    lr = settings.lr or 0.0
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=lr)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    from timm.optim.lars import Lars

    return Lars(parameters, lr=lr, momentum=0.9)  # type: ignore[arg-type]


def _mix(seed: int, step: int, stream: int) -> int:
    """One number from (seed, step, stream) that differs wherever one of them does (splitmix64)."""
    mixed = seed
    for value in (step, stream):
        mixed = (mixed * 0x9E3779B97F4A7C15 + value + 0x632BE59BD9B4E019) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed ^= mixed >> 31
    return mixed % 2**63


def _seed(device: torch.device, seed: int) -> None:
    """Seed what draws on this device; `torch.manual_seed` writes a stack trace for every kind of device it lacks."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _fabric(settings: Settings) -> "Fabric":
    from lightning_fabric import Fabric

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be auto or cpu on a machine without a usable GPU, got cuda")
    if settings.device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device must be auto or cpu on a machine without Apple's GPU, got mps")
    if settings.devices * settings.nodes == 1 and "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun
        settings.devices = int(os.environ["LOCAL_WORLD_SIZE"])
        settings.nodes = int(os.environ["WORLD_SIZE"]) // settings.devices
    for name in ("lightning_fabric", "lightning.fabric"):  # its advice on strategies is not for our users
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.devices * settings.nodes > 1 else "auto",
        precision=_precision(settings),
    )
    try:
        fabric.launch()
    except RuntimeError as error:
        if "Gloo" not in str(error):
            raise
        raise ConnectionError(
            "the processes do not reach each other; GLOO_SOCKET_IFNAME must name the network interface that joins "
            f"them, got {os.environ.get('GLOO_SOCKET_IFNAME', 'none')}"
        ) from error
    if gather.processes() > 1:
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Close the connections to other processes, whose threads now and then abort a process that is done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _precision(settings: Settings) -> Any:
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    wanted = ("bf16" if cuda else "32") if settings.precision == "auto" else settings.precision
    return {"32": "32-true", "bf16": "bf16-mixed"}[wanted]


def _open(data: Any, planned: plan.Plan, progress: Progress) -> Data:
    kind, settings = planned.kind.kind, planned.settings
    return open_data(
        data,
        kind=kind,
        store_size=settings.store_size or store_size(kind, settings.image_size),
        workers=settings.workers,
        max_broken=settings.max_broken,
        progress=progress.decoding,
    )


def _say_which(source: str, progress: Progress) -> None:
    if source in BUILT_IN and Path(source).exists():
        progress.say(f"{source} is the built-in set; ./{source} would be the folder of that name")


def _first(fabric: "Fabric", act: Callable[[], Result]) -> Result:
    """Let the first process act; what it returns or refuses is what all of them get."""
    result, error = None, None
    if fabric.global_rank == 0:
        try:
            result = act()
        except (ValueError, OSError) as refused:
            error = refused
    if gather.processes() > 1:
        result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _write(
    planned: plan.Plan, folder: Path, source: str, data: Data, chosen: dict[str, Any], method: Method
) -> None:
    plan.write(planned, folder, source, data, chosen, method)
    write_skipped(folder, data.skipped)
    (folder / LOG).unlink(missing_ok=True)


def _refuse_unshared(file: Path) -> None:
    """All processes read the run where it is resumed and at its end, when a refusal would come too late."""
    if gather.any_process(not file.is_file())[0]:
        raise ValueError(
            f"out must be in a folder that all nodes share, got {file.parent}, which some do not see"
        )


def _refuse_empty_task(method: Method, settings: Settings) -> None:
    """A method that compares samples has nothing to learn from one."""
    if settings.batch_size == 1 and method.compares_samples:
        raise ValueError("batch_size must be at least 2 for a method that compares samples, got 1")


class _Stop:
    signal: int | None = None


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn Ctrl-C and SIGTERM into a wish that the loop grants after the step, with a checkpoint."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
